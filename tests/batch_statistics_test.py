"""Evaluation on batch statistics, against the same attack written out in float64; the command's
flag and its mark.
"""

import json

import numpy as np
import pytest

from tests.igam_options_test import network, numpy_input_gradient, numpy_logits, weights64
from tf_robust_transfer import evaluate
from tf_robust_transfer.attacks import ThreatModel
from tf_robust_transfer.command_line import parse
from tf_robust_transfer.errors import InputError
from tf_robust_transfer.evaluate import EvaluateConfig
from tf_robust_transfer.evaluation import RobustnessWarning, evaluate_robustness
from tf_robust_transfer.models import build_model

COUNT, SIZE, EPS = 23, 5, 0.15


@pytest.fixture(scope="module")
def case():
    """A network with batch norm, whose moving averages are far from those of the images."""
    rng = np.random.default_rng(3)
    return (
        network(1),
        rng.uniform(0.2, 0.8, (COUNT, 2, 2, 1)).astype(np.float32),
        rng.integers(0, 3, COUNT),
    )


def written_out(model, images, labels, steps, step_size):
    """BIM on each batch of five, from the image, in float64: whether the last iterate is still
    right in its batch.
    """
    weights, right = weights64(model), []
    for start in range(0, COUNT, SIZE):
        x, y = images[start : start + SIZE].astype(np.float64), labels[start : start + SIZE]
        at = x.copy()
        for _ in range(steps):
            at = at + step_size * np.sign(
                numpy_input_gradient(weights, at, y, batch_statistics=True)
            )
            at = np.clip(np.clip(at, x - EPS, x + EPS), 0, 1)
        right.append(numpy_logits(weights, at, batch_statistics=True).argmax(axis=1) == y)
    return np.concatenate(right)


def test_each_batch_is_attacked_as_a_whole(case):
    model, images, labels = case
    with pytest.warns(
        RobustnessWarning, match="batch norm ran on the statistics of each batch of 5"
    ):
        result = evaluate_robustness(
            model,
            images,
            labels,
            threat_model=ThreatModel("linf", EPS),
            attacks=("fgsm", "bim3"),
            batch_size=SIZE,
            step_size=0.06,
            batch_norm="batch",
        )
    np.testing.assert_array_equal(result.correct["clean"], written_out(model, images, labels, 0, 0))
    np.testing.assert_array_equal(
        result.correct["fgsm"], written_out(model, images, labels, 1, EPS)
    )
    np.testing.assert_array_equal(
        result.correct["bim3"], written_out(model, images, labels, 3, 0.06)
    )
    moving = evaluate_robustness(
        model, images, labels, threat_model=ThreatModel("linf", EPS), attacks=("fgsm",)
    )
    assert (result.correct["fgsm"] != moving.correct["fgsm"]).any() and "batch_norm" not in mark(
        moving
    )
    assert mark(result)["batch_norm"] == "batch"
    before = model.get_weights()
    model.set_weights([*before[:-2], -before[-2], -before[-1]])
    try:
        with pytest.warns(RobustnessWarning):
            turned = evaluate_robustness(
                model,
                images,
                labels,
                threat_model=ThreatModel("linf", EPS),
                attacks=(),
                batch_size=SIZE,
                batch_norm="batch",
            )
        expected = written_out(model, images, labels, 0, 0)
    finally:
        model.set_weights(before)
    np.testing.assert_array_equal(turned.correct["clean"], expected)
    assert (expected != result.correct["clean"]).any()


def mark(result):
    return result.to_json_dict(model="a", dataset="b", split="test")


def test_restarts_can_only_lower_it(case):
    model, images, labels = case
    accuracy = []
    for attack in ("pgd1", "pgd1x8"):
        with pytest.warns(RobustnessWarning):
            result = evaluate_robustness(
                model,
                images,
                labels,
                threat_model=ThreatModel("linf", 0.05),
                batch_norm="batch",
                attacks=(attack,),
                batch_size=SIZE,
                step_size=0.02,
            )
        accuracy.append(result.correct[attack])
    assert not (accuracy[1] & ~accuracy[0]).any() and accuracy[1].sum() < accuracy[0].sum()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"attacks": ("autoattack",)},
            "batch_norm batch is for fgsm, bim, mim and pgd, got 'autoattack'",
        ),
        ({"keep_adversarial": True}, "keeps no adversarial examples"),
        ({"batch_norm": "running"}, "batch_norm"),
    ],
)
def test_what_does_not_go_together(case, options, message):
    with pytest.raises(InputError, match=message):
        evaluate_robustness(
            *case, threat_model=ThreatModel("linf", EPS), **{"batch_norm": "batch"} | options
        )


def test_the_flag_marks_the_results(tmp_path):
    build_model("small_cnn", (8, 8, 1), 10, width=1, batch_norm=True).save(tmp_path / "model.keras")
    arguments = [
        f"--model={tmp_path}/model.keras",
        "--dataset=digits",
        "--max_examples=20",
        "--batch_size=10",
        "--attacks=fgsm",
        "--batch_norm=batch",
        f"--output={tmp_path}/results.json",
    ]
    with pytest.warns(RobustnessWarning):
        evaluate.run(parse(EvaluateConfig, arguments))
    found = json.loads((tmp_path / "results.json").read_text())
    assert found["batch_norm"] == "batch" and "each batch of 10" in found["warnings"][0]
