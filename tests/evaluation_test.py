"""evaluate_robustness against closed forms on linear models, brute force, and written-out
confidence intervals.
"""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from tf_robust_transfer.attacks import ThreatModel
from tf_robust_transfer.attacks.base import Attack
from tf_robust_transfer.errors import InputError
from tf_robust_transfer.evaluation import RobustnessResult, evaluate_robustness, robust_accuracy
from tf_robust_transfer.evaluation import result as result_module

N = 41  # not a multiple of any batch size below
THREAT = ThreatModel("linf", 0.1)


def linear_model(kernel, bias=0.0):
    """kernel: [pixels, classes]; images of shape [pixels, 1, 1]."""
    model = keras.Sequential(
        [keras.Input((len(kernel), 1, 1)), layers.Flatten(), layers.Dense(kernel.shape[1])]
    )
    model.layers[-1].set_weights([kernel, np.full(kernel.shape[1], bias)])
    return model


@pytest.fixture(scope="module")
def kernel():
    kernel = np.random.default_rng(0).normal(size=(12, 2)).astype(np.float32)
    return kernel - kernel.mean(
        axis=0
    )  # so that the images, grey on average, fall into both classes


@pytest.fixture(scope="module")
def model(kernel):
    return linear_model(kernel)


@pytest.fixture(scope="module")
def images():
    # So far from 0 and 1 that no perturbation below reaches them: the bounds never cut the ball.
    return np.random.default_rng(7).uniform(0.3, 0.7, (N, 12, 1, 1)).astype(np.float32)


@pytest.fixture(scope="module")
def labels(kernel, images):
    labels = np.argmax(images.reshape(N, -1) @ kernel, axis=1)
    labels[::10] = 1 - labels[::10]  # some that are wrong from the start
    return labels


def robust_margin(kernel, images, labels, norm, eps):
    """Smallest margin within the ball of a two-class linear model: w.x - eps * (the dual norm of
    w).
    """
    weights = kernel[:, labels] - kernel[:, 1 - labels]
    dual = np.linalg.norm(weights, 1 if norm == "linf" else 2, axis=0)
    return np.sum(images.reshape(N, -1).T * weights, axis=0) - eps * dual


class Scripted(Attack):
    """Fools the model on example k in restart falls_at[k] (-1: never), knowing each example by its
    first pixel.
    """

    def __init__(self, images, falls_at, restarts, move=0.05):
        self.first_pixels, self.falls_at, self.restarts, self.move = (
            images[:, 0, 0, 0],
            falls_at,
            restarts,
            move,
        )

    def start(self, problem, images, labels, round, noise):
        example = tf.argmin(tf.abs(images[:, 0, 0, 0, None] - self.first_pixels), axis=1)
        fooled = tf.gather(tf.constant(self.falls_at, tf.int32), example) == round
        # The last pixel alone decides in the model that goes with this attack; brighter is wrong.
        move = tf.where(fooled, self.move, self.move / (10.0 * (1.0 + tf.cast(round, tf.float32))))
        return {
            "found": tf.concat([images[:, :-1], images[:, -1:] + move[:, None, None, None]], axis=1)
        }

    def step(self, problem, images, labels, state, iteration, drawn):
        return state, images, problem.logits_of(images)

    def result(self, state):
        return state["found"]


@pytest.fixture()
def scripted(monkeypatch):
    """Function (falls_at, **options) -> (model, images, labels, attack); "scripted" is then the
    attack's name.
    """

    def make(falls_at, **options):
        images = np.full((len(falls_at), 3, 1, 1), 0.5, np.float32)
        images[:, 0, 0, 0] = np.linspace(0.2, 0.8, len(falls_at))
        model = linear_model(np.array([[0, 0], [1, 0], [0, 1]], np.float32) * 10)
        images[:, 1] += 0.02  # class 0 while the last pixel stays below 0.52
        attack = Scripted(images, np.array(falls_at), **options)
        monkeypatch.setattr(robust_accuracy, "parse_attack", lambda name, step_size: attack)
        return model, images, np.zeros(len(falls_at), int), attack

    return make


@pytest.mark.parametrize(
    "norm, eps, attacks",
    [("linf", 0.03, ("fgsm", "pgd20", "cw-pgd20x2")), ("l2", 0.1, ("fgsm", "pgd20"))],
)
def test_linear_model_in_closed_form(model, kernel, images, labels, norm, eps, attacks):
    margin = robust_margin(kernel, images, labels, norm, eps)
    assert np.abs(margin).min() > 1e-2, "no example may lie on the border"
    expected = margin > 0
    clean = robust_margin(kernel, images, labels, norm, 0.0) > 0
    assert 0 < expected.sum() < clean.sum() < N

    result = evaluate_robustness(
        model, images, labels, threat_model=ThreatModel(norm, eps), attacks=attacks, batch_size=16
    )
    assert result.attacks == ("clean", *attacks) and result.num_examples == N
    np.testing.assert_array_equal(result.correct["clean"], clean)
    for name in attacks:
        np.testing.assert_array_equal(result.correct[name], expected, err_msg=name)
        assert result.accuracy[name] == expected.mean() and result.seconds[name] > 0
    np.testing.assert_array_equal(result.worst_case.correct, expected)
    assert result.worst_case.accuracy == expected.mean()
    assert result.worst_case.confidence_interval_95 == result.confidence_interval_95["fgsm"]


@pytest.mark.parametrize("batch_size", [1, 7, 40, 41, 1000])
def test_batch_size_changes_nothing(model, kernel, images, labels, batch_size):
    result = evaluate_robustness(
        model,
        images,
        labels,
        threat_model=ThreatModel("linf", 0.03),
        attacks=["fgsm"],
        batch_size=batch_size,
        keep_adversarial=True,
    )
    expected = robust_margin(kernel, images, labels, "linf", 0.03) > 0
    np.testing.assert_array_equal(result.correct["fgsm"], expected)
    weights = (kernel[:, labels] - kernel[:, 1 - labels]).T.reshape(images.shape)
    attacked = result.correct["clean"][:, None, None, None]
    np.testing.assert_allclose(
        result.adversarial["fgsm"], images - 0.03 * np.sign(weights) * attacked, atol=1e-6
    )
    assert result.worst_case is None


def test_a_dataset_of_uneven_batches_is_the_same(model, images, labels):
    dataset = tf.data.Dataset.from_tensor_slices((images, labels)).batch(15)
    assert len(dataset) == 3
    options = {
        "threat_model": THREAT,
        "attacks": "fgsm,pgd3",
        "batch_size": 16,
        "keep_adversarial": True,
    }
    one, other = (
        evaluate_robustness(model, dataset, **options),
        evaluate_robustness(model, images, labels, **options),
    )
    assert one.accuracy == other.accuracy and one.num_examples == N
    np.testing.assert_array_equal(one.adversarial["pgd3"], other.adversarial["pgd3"])


def test_seeds(model, images, labels):
    def adversarial(seed):
        result = evaluate_robustness(
            model,
            images,
            labels,
            threat_model=ThreatModel("l2", 0.05),
            attacks=["pgd1x2"],
            seed=seed,
            batch_size=16,
            step_size=0.001,
            keep_adversarial=True,
        )
        assert result.seed == seed
        return result.adversarial["pgd1x2"]

    np.testing.assert_array_equal(adversarial(3), adversarial(3))
    assert np.any(adversarial(3) != adversarial(4))


def test_batches_draw_different_noise(model, images, labels):
    same = np.repeat(images[1:2], 4, axis=0)
    result = evaluate_robustness(
        model,
        same,
        labels[[1] * 4],
        threat_model=THREAT,
        attacks=["pgd1"],
        step_size=1e-4,
        batch_size=1,
        keep_adversarial=True,
    )
    assert len(np.unique(result.adversarial["pgd1"].reshape(4, -1), axis=0)) == 4


def test_restarts_attack_only_what_resists(scripted):
    falls_at = [2, 0, -1, 1, 1, 0, -1, 2, 0, 1, -1]
    model, images, labels, attack = scripted(falls_at, restarts=3)
    labels[4] = 1  # misclassified from the start
    result = evaluate_robustness(
        model,
        images,
        labels,
        threat_model=THREAT,
        attacks=["scripted"],
        batch_size=4,
        keep_adversarial=True,
    )
    # Brute force: robust is what the model gets right and no restart fools.
    expected = (labels == 0) & (np.array(falls_at) == -1)
    np.testing.assert_array_equal(result.correct["scripted"], expected)
    np.testing.assert_array_equal(result.correct["clean"], labels == 0)

    moved = result.adversarial["scripted"][:, -1, 0, 0] - images[:, -1, 0, 0]
    for example, restart in enumerate(falls_at):
        # What fell keeps the image that felled it; what never fell, the one with the largest margin
        # (the first here).
        expected_move = 0.0 if example == 4 else 0.05 if restart >= 0 else 0.05 / 10
        assert moved[example] == pytest.approx(expected_move, abs=1e-6), example


def test_nan_logits_are_wrong_and_spare_the_attack(kernel, images):
    model = linear_model(kernel * np.nan)
    result = evaluate_robustness(
        model, images, np.zeros(N, int), threat_model=THREAT, attacks=["fgsm"]
    )
    assert result.accuracy == {"clean": 0.0, "fgsm": 0.0}


# Clopper & Pearson (1934) at 95 %; where all or none are right, 1 - 0.025^(1/n) and 0.025^(1/n).
@pytest.mark.parametrize(
    "right, of, low, high",
    [
        (0, 10, 0.0, 0.308497),
        (9, 10, 0.554984, 0.997471),
        (10, 10, 0.691503, 1.0),
        (15, 20, 0.508954, 0.913429),
        (1, 1, 0.025, 1.0),
    ],
)
def test_confidence_intervals(right, of, low, high):
    model = linear_model(np.array([[-1.0, 1.0]]), bias=0.0)
    labels = np.array([1] * right + [0] * (of - right))
    result = evaluate_robustness(
        model, np.full((of, 1, 1, 1), 0.5), labels, threat_model=THREAT, attacks=[]
    )
    assert result.accuracy == {"clean": right / of}
    assert result.confidence_interval_95["clean"] == pytest.approx((low, high), abs=1e-6)


def test_json_form():
    flags = np.array([True, False])
    result = RobustnessResult(
        threat_model=ThreatModel("l2", 1),
        num_examples=2,
        seed=5,
        attacks=("clean", "fgsm", "pgd20"),
        correct=dict.fromkeys(("clean", "fgsm", "pgd20"), flags),
        accuracy={"clean": 1.0, "fgsm": 0.5, "pgd20": 0.5},
        confidence_interval_95={"clean": (0.1, 1.0), "fgsm": (0.0, 0.9), "pgd20": (0.0, 0.9)},
        seconds={"clean": 0.1, "fgsm": 0.2, "pgd20": 0.3},
        components={"pgd20": {"one": 1.0, "two": 0.5}},
        warnings=("odd",),
        worst_case=result_module.WorstCase(flags, 0.5, (0.0, 0.9)),
    )
    written = json.loads(
        json.dumps(result.to_json_dict(model="runs/a/model.keras", dataset="cifar10", split="test"))
    )
    versions = written.pop("versions")
    assert versions.pop("tf_robust_transfer")
    assert versions == {"tensorflow": tf.__version__, "keras": keras.__version__}
    assert written.pop("device") and written.pop("commit", "a checkout's")
    assert written == {
        "model": "runs/a/model.keras",
        "dataset": "cifar10",
        "split": "test",
        "num_examples": 2,
        "seed": 5,
        "threat_model": {"norm": "l2", "eps": 1.0},
        "accuracy": {"clean": 1.0, "fgsm": 0.5, "pgd20": 0.5},
        "confidence_interval_95": {"clean": [0.1, 1.0], "fgsm": [0.0, 0.9], "pgd20": [0.0, 0.9]},
        "seconds": {"clean": 0.1, "fgsm": 0.2, "pgd20": 0.3},
        "components": {"pgd20": {"one": 1.0, "two": 0.5}},
        "warnings": ["odd"],
        "worst_case": {"accuracy": 0.5, "confidence_interval_95": [0.0, 0.9]},
    }


def test_results_of_an_evaluation_are_plain_numbers(model, images, labels):
    result = evaluate_robustness(
        model, images, labels, threat_model=THREAT, attacks=["fgsm"], seed=np.int64(1)
    )
    assert result.adversarial == {} and result.correct["fgsm"].dtype == bool
    written = result.to_json_dict(model="m", dataset="d", split="s")
    assert json.loads(json.dumps(written)) == written
    assert "worst_case" not in written and list(written["accuracy"]) == ["clean", "fgsm"]


def test_the_result_has_the_full_name_of_each_attack(model, images, labels):
    threat = ThreatModel(eps=0.1)
    result = evaluate_robustness(
        model, images, labels, threat_model=threat, attacks=("fgsm", "pgd2"), check_model=False
    )
    written = result.to_json_dict(model="m", dataset="d", split="test")["settings"]
    assert written["fgsm"] == "fgsm[step_size=;random_start=false]"
    assert written["pgd2"].startswith("pgd[steps=2;") and "stop_when_fooled=true" in written["pgd2"]
    again = evaluate_robustness(
        model, images, labels, threat_model=threat, attacks=(written["pgd2"],), check_model=False
    )
    assert again.accuracy[written["pgd2"]] == result.accuracy["pgd2"]


def test_progress_goes_to_stderr(scripted, capsys):
    model, images, labels, _ = scripted([0, 1, -1, -1], restarts=2)
    for progress in (False, True):
        evaluate_robustness(
            model,
            images,
            labels,
            threat_model=THREAT,
            attacks=["scripted"],
            batch_size=2,
            progress=progress,
        )
        out, err = capsys.readouterr()
        assert out == ""
        assert ("scripted  robust 50.0%  in" in err) == progress


@pytest.mark.parametrize(
    "change, message",
    [
        ({"labels": None}, "labels are missing"),
        ({"labels": np.zeros(N - 1, int)}, "got .41, 12, 1, 1. and .40."),
        ({"labels": np.full(N, 2)}, "labels must lie in 0..1"),
        ({"images": np.full((N, 12, 1, 1), 127.0)}, "images must lie in"),
        ({"images": np.full((N, 12, 1, 1), 127, np.uint8)}, "divide by 255"),
        ({"images": np.zeros((0, 12, 1, 1)), "labels": np.zeros(0, int)}, "no examples"),
        ({"images": np.zeros((N, 5, 1, 1))}, "images must have shape"),
        ({"attacks": ["pdg20"]}, "nearest valid names: pgd20"),
        ({"batch_size": 0}, "batch_size must be positive"),
        ({"seed": -1}, "seed in 0"),
        (
            {"images": tf.data.Dataset.from_tensors(np.zeros((2, 12, 1, 1)))},
            "takes the place of images and labels",
        ),
        (
            {
                "images": tf.data.Dataset.from_tensors((np.zeros((2, 12, 1, 1)), [0, 1])).repeat(),
                "labels": None,
            },
            "never ends",
        ),
        (
            {"images": tf.data.Dataset.from_tensors((np.zeros((2, 12, 1, 1)), [0, 1]))},
            "takes the place of images and labels",
        ),
    ],
)
def test_bad_input_says_what_was_expected(model, images, labels, change, message):
    arguments = {
        "images": images,
        "labels": labels,
        "attacks": ["fgsm"],
        "threat_model": THREAT,
        **change,
    }
    with pytest.raises(InputError, match=message):
        evaluate_robustness(model, **arguments)
