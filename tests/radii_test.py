"""Several radii in one evaluation: against the closed form of a linear model, and against
evaluations of one radius each.
"""

import dataclasses
import json

import keras
import numpy as np
import pytest

from tf_robust_transfer.attacks import Attack, ThreatModel
from tf_robust_transfer.attacks.search import Search
from tf_robust_transfer.command_line import parse
from tf_robust_transfer.errors import InputError
from tf_robust_transfer.evaluate import EvaluateConfig
from tf_robust_transfer.evaluation import evaluate_robustness
from tf_robust_transfer.evaluation.result import at_each_radius
from tf_robust_transfer.evaluation.state import State
from tf_robust_transfer.reports.lines import accuracy_lines

RADII = (0.02, 0.05, 0.1)
N = 60


@pytest.fixture(scope="module")
def kernel():
    return np.random.default_rng(0).normal(size=(12, 2)).astype(np.float32)


@pytest.fixture(scope="module")
def model(kernel):
    images = keras.Input((4, 3, 1))
    model = keras.Model(images, keras.layers.Dense(2)(keras.layers.Flatten()(images)))
    model.layers[-1].set_weights([kernel, -0.5 * kernel.sum(axis=0)])
    return model


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).uniform(0.3, 0.7, (N, 4, 3, 1)).astype(np.float32)


@pytest.fixture(scope="module")
def labels(model, images):
    labels = np.argmax(model(images), axis=1)
    labels[::10] = 1 - labels[::10]
    return labels


def evaluated(model, images, labels, eps=RADII, attacks=("pgd5", "fgsm"), **options):
    threat_model = ThreatModel("linf", 0.3)  # its own radius is not looked at
    return evaluate_robustness(
        model,
        images,
        labels,
        threat_model=threat_model,
        eps=eps,
        attacks=attacks,
        check_model=False,
        **options,
    )


def test_the_closed_form_at_each_radius(model, kernel, images, labels):
    result = evaluated(model, images, labels, eps=RADII[::-1], keep_adversarial=True)
    logits = model(images).numpy()
    rows = np.arange(N)
    margin = logits[rows, labels] - logits[rows, 1 - labels]
    assert list(result.radii) == list(RADII) and result.threat_model.eps == max(RADII)
    for eps, at in result.radii.items():
        robust = margin > eps * np.abs(kernel[:, 0] - kernel[:, 1]).sum()
        np.testing.assert_array_equal(at.correct["pgd5"], robust)
        np.testing.assert_array_equal(at.worst_case.correct, robust)
        assert 0 < robust.sum() < N and at.threat_model.eps == eps
        assert np.abs(at.adversarial["pgd5"] - images).max() <= eps + 1e-6
    np.testing.assert_array_equal(result.correct["fgsm"], result.radii[0.1].correct["fgsm"])


class OnlyNear(Attack):
    """Finds what fools within 0.03, and nothing where the ball is larger."""

    def __init__(self, direction):
        self.direction = direction

    def start(self, problem, images, labels, round, noise):
        sign = 1.0 - 2.0 * keras.ops.cast(labels, "float32")[:, None, None, None]
        far = problem.eps > 0.03
        return {"x": keras.ops.where(far, images, images - sign * problem.eps * self.direction)}

    def step(self, problem, images, labels, state, iteration, drawn):
        return state, state["x"], problem.logits_of(state["x"])

    def result(self, state):
        return state["x"]


def test_what_fell_is_carried_over_and_not_attacked_again(
    model, kernel, images, labels, monkeypatch
):
    attacked = []
    run = Search.run

    def spy(self, images, labels, examples, **options):
        attacked.append(list(examples))
        return run(self, images, labels, examples, **options)

    monkeypatch.setattr(Search, "run", spy)
    direction = np.sign(kernel[:, 0] - kernel[:, 1]).reshape(1, 4, 3, 1)
    result = evaluated(
        model, images, labels, attacks={"near": OnlyNear(direction)}, keep_adversarial=True
    )
    first, *others = (at.correct["near"] for at in result.radii.values())
    assert first.sum() < result.correct["clean"].sum()
    for later, examples in zip(others, attacked[1:], strict=True):
        np.testing.assert_array_equal(later, first)
        np.testing.assert_array_equal(np.flatnonzero(first), examples)
    fell = result.correct["clean"] & ~first
    found = result.adversarial["near"][fell]
    assert (np.argmax(model(found), axis=1) != labels[fell]).all()


def test_the_smallest_radius_is_that_of_an_evaluation_of_its_own(model, images, labels):
    together, alone = (evaluated(model, images, labels, eps=eps) for eps in (RADII, RADII[0]))
    assert alone.radii == {} and alone.threat_model.eps == RADII[0]
    for name in alone.correct:
        np.testing.assert_array_equal(together.radii[RADII[0]].correct[name], alone.correct[name])


@pytest.mark.parametrize("writes", [2, 4, 6])
def test_a_killed_one_goes_on(model, images, labels, tmp_path, monkeypatch, writes):
    whole = evaluated(model, images, labels, keep_adversarial=True)
    write, left = State.write, [writes]

    def dying(self, *arguments, **options):
        write(self, *arguments, **options)
        left[0] -= options.get("now", True)
        if not left[0]:
            raise KeyboardInterrupt

    path = tmp_path / "state.npz"
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(State, "write", dying)
        evaluated(model, images, labels, keep_adversarial=True, state=path)
    rest = evaluated(model, images, labels, keep_adversarial=True, state=path)
    for eps, at in whole.radii.items():
        for name in at.attacks[1:]:
            np.testing.assert_array_equal(rest.radii[eps].correct[name], at.correct[name])
            np.testing.assert_array_equal(rest.radii[eps].adversarial[name], at.adversarial[name])
    with pytest.raises(InputError, match="another threat model"):
        evaluated(model, images, labels, eps=RADII[:2], keep_adversarial=True, state=path)


def test_what_is_written_and_printed(model, images, labels):
    result = evaluated(model, images, labels)
    written = json.loads(json.dumps(result.to_json_dict(model="m", dataset="d", split="test")))
    assert written["threat_model"]["eps"] == 0.1
    assert [at["eps"] for at in written["radii"]] == list(RADII)
    curve = [at["accuracy"]["pgd5"] for at in written["radii"]]
    assert curve == sorted(curve, reverse=True) and curve[-1] == written["accuracy"]["pgd5"]
    assert [at["worst_case"]["accuracy"] for at in written["radii"]] == curve
    lines = accuracy_lines(result).splitlines()
    assert [line.split("  ")[0] for line in lines[:3]] == [
        "clean", "pgd5 eps 0.02", "fgsm eps 0.02",
    ]  # fmt: skip
    assert len(lines) == 1 + 3 * 3
    assert "radii" not in evaluated(model, images, labels, eps=0.1).to_json_dict(
        model="m", dataset="d", split="test"
    )


def test_the_flag():
    config = parse(EvaluateConfig, ["--eps=2/255,4/255,8/255"])
    assert config.eps == (2 / 255, 4 / 255, 8 / 255) and config.threat_model.eps == 8 / 255
    assert parse(EvaluateConfig, ["--eps=0.1"]).eps == (0.1,)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"eps": ()}, "eps: expected one or several radii"),
        ({"eps": (0.1, 8)}, "cannot exceed it, got 8"),
        ({"eps": (-0.1, 0.1)}, "at least 0, got -0.1"),
        ({"eps": (0.1, "x")}, "eps must be a number of at least 0, got 'x'"),
        ({"batch_norm": "batch"}, "one radius"),
    ],
)
def test_bad_radii(model, images, labels, options, says):
    with pytest.raises(InputError, match=says):
        evaluated(model, images, labels, **options)


def test_warnings_of_other_bounds_are_of_their_radius(model, images, labels):
    """They are told in the units of the bounds, and stored in shares of the range."""
    result = evaluate_robustness(
        model,
        images,
        labels,
        threat_model=ThreatModel("linf", 0.3, bounds=(-1.0, 3.0)),
        eps=(0.08, 0.2),
        attacks=("pgd2",),
        check_model=False,
    )
    lines = ["eps 0.08: one", "eps 0.2: other", "of the model"]
    stored = dataclasses.replace(result, warnings=tuple(lines)).to_json_dict(
        model="m", dataset="d", split="test"
    )
    assert stored["warnings"] == ["eps 0.02: one", "eps 0.05: other", "of the model"]
    found = [at["warnings"] for at in at_each_radius(stored)]
    assert found == [["one", "of the model"], ["other", "of the model"]]
