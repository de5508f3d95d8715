"""Alignment and linearised robustness against NumPy's closed forms and float64 finite differences,
and where they show.
"""

import json
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from scipy import stats
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import tf_robust_transfer as rt
from tf_robust_transfer import evaluate
from tf_robust_transfer.analysis.alignment import Alignment, GradientAlignment
from tf_robust_transfer.command import run_command
from tf_robust_transfer.command_line import parse
from tf_robust_transfer.config import TrainConfig
from tf_robust_transfer.errors import InputError
from tf_robust_transfer.evaluate import EvaluateConfig
from tf_robust_transfer.runs import diagnostics, run_training

SHAPE, CLASSES, COUNT = (3, 4, 2), 4, 11


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).uniform(size=(COUNT, *SHAPE)).astype(np.float32)


@pytest.fixture(scope="module")
def labels():
    return np.random.default_rng(1).integers(0, CLASSES, COUNT)


def linear_model(seed, classes=CLASSES, bias=True):
    model = keras.Sequential(
        [keras.Input(SHAPE), layers.Flatten(), layers.Dense(classes, use_bias=bias)]
    )
    rng = np.random.default_rng(seed)
    model.set_weights([rng.normal(size=weight.shape) for weight in model.get_weights()])
    return model


def curved_model(seed):
    model = keras.Sequential(
        [
            keras.Input(SHAPE),
            layers.Flatten(),
            layers.Dense(7, activation="tanh"),
            layers.Dense(CLASSES),
        ]
    )
    rng = np.random.default_rng(seed)
    model.set_weights([rng.normal(size=weight.shape) for weight in model.get_weights()])
    return model


def curved_logits(model, points):
    """The same network in float64. points: [..., pixels]."""
    kernel, bias, last_kernel, last_bias = (
        weight.astype(np.float64) for weight in model.get_weights()
    )
    return np.tanh(points @ kernel + bias) @ last_kernel + last_bias


def slopes(function, point, step=1e-5):
    """Central differences of a function, [n, pixels] -> [n, ...]: [pixels, ...]."""
    moves = step * np.eye(len(point))
    return (function(point + moves) - function(point - moves)) / (2 * step)


def curved_cross_entropy(model, label):
    def loss(points):
        logits = curved_logits(model, points)
        return np.log(np.exp(logits).sum(axis=-1)) - logits[..., label]

    return loss


def test_a_linear_model_in_closed_form(images, labels):
    model = linear_model(15)
    found = rt.gradient_alignment(model, images, labels)
    kernel, bias = (weight.astype(np.float64) for weight in model.get_weights())
    nearest_is_not_the_runner_up = 0
    for number, x in enumerate(images.reshape(COUNT, -1).astype(np.float64)):
        logits = x @ kernel + bias
        first, second = np.argsort(-logits)[:2]
        g = kernel[:, first] - kernel[:, second]
        distances = {
            j: (logits[first] - logits[j]) / np.linalg.norm(kernel[:, first] - kernel[:, j])
            for j in range(CLASSES)
            if j != first
        }
        nearest_is_not_the_runner_up += min(distances, key=distances.get) != second
        alpha, rho = abs(x @ g) / np.linalg.norm(g), min(distances.values())
        np.testing.assert_allclose(found.alpha[number], alpha, rtol=1e-5)
        np.testing.assert_allclose(found.rho[number], rho, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(found.rho_minus_alpha[number], rho - alpha, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found.gradient_norm[number], np.linalg.norm(g), rtol=1e-6)
        # What is not homogeneous in x is the bias.
        np.testing.assert_allclose(
            found.constant[number], abs(bias[first] - bias[second]), rtol=1e-4, atol=1e-5
        )
    assert nearest_is_not_the_runner_up, "the minimum over the classes should matter here"
    assert found.cosine is None and found.l2_distance is None


def test_rho_of_a_linear_model_is_the_distance_to_the_decision_boundary(images, labels):
    """Along the direction in which another class is nearest, the prediction changes at rho and not
    before.
    """
    model = linear_model(2)
    found = rt.gradient_alignment(model, images, labels)
    kernel, bias = (weight.astype(np.float64) for weight in model.get_weights())
    for x, rho in zip(images.reshape(COUNT, -1).astype(np.float64), found.rho):
        first = np.argmax(x @ kernel + bias)
        directions = kernel - kernel[:, [first]]
        directions = (directions / np.maximum(np.linalg.norm(directions, axis=0), 1e-12)).T
        # Random directions too: no shorter way leads out.
        others = np.random.default_rng(3).normal(size=(2000, x.size))
        directions = np.concatenate(
            [directions, others / np.linalg.norm(others, axis=1, keepdims=True)]
        )
        inside = np.argmax((x + 0.999 * rho * directions) @ kernel + bias, axis=1)
        outside = np.argmax((x + 1.001 * rho * directions) @ kernel + bias, axis=1)
        assert np.all(inside == first) and np.any(outside != first)


def test_two_classes_without_a_bias_have_alpha_equal_to_rho(images):
    found = rt.gradient_alignment(
        linear_model(4, classes=2, bias=False), images, np.zeros(COUNT, int)
    )
    np.testing.assert_allclose(found.alpha, found.rho, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.constant, 0, atol=1e-5)
    summary = found.summary()
    assert summary["rho_at_most_alpha"] == 1 and summary["smallest_constant"] < 1e-5


def test_a_curved_model_by_finite_differences(images, labels):
    model, teacher = curved_model(5), curved_model(6)
    found = rt.gradient_alignment(model, images, labels, teacher=teacher)
    for number, x in enumerate(images.reshape(COUNT, -1).astype(np.float64)):
        logits, jacobian = curved_logits(model, x), slopes(lambda p: curved_logits(model, p), x)
        order = np.argsort(-logits)
        differences = jacobian[:, order[:1]] - jacobian[:, order[1:]]
        g = differences[:, 0]
        rho = np.min((logits[order[0]] - logits[order[1:]]) / np.linalg.norm(differences, axis=0))
        alpha = abs(x @ g) / np.linalg.norm(g)
        margin = logits[order[0]] - logits[order[1]]
        own, theirs = (slopes(curved_cross_entropy(m, labels[number]), x) for m in (model, teacher))
        np.testing.assert_allclose(found.alpha[number], alpha, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(found.rho[number], rho, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(
            found.constant[number], abs(margin - x @ g), rtol=1e-4, atol=1e-5
        )
        cosine = own @ theirs / np.linalg.norm(own) / np.linalg.norm(theirs)
        # A gradient of 0.01, what is left of terms of a few units, has float32 errors of 1e-5 of
        # its own length.
        rounding = 5e-7 / min(np.linalg.norm(own), np.linalg.norm(theirs))
        np.testing.assert_allclose(
            found.cosine[number], cosine, rtol=1e-3, atol=max(1e-6, rounding)
        )
        np.testing.assert_allclose(
            found.l2_distance[number], np.linalg.norm(own - theirs), rtol=1e-4
        )
    # Eq. 18 holds with each example's own constant, and with the smallest common one just so.
    assert np.all(found.rho <= found.alpha + found.constant / found.gradient_norm + 1e-6)
    common = found.summary()["smallest_constant"]
    slack = found.alpha + common / found.gradient_norm - found.rho
    assert common > 0 and abs(slack.min()) < 1e-9


@pytest.mark.parametrize("batch_size", [1, 4, 10, 100])
def test_the_batch_size_changes_nothing(images, labels, batch_size):
    model, teacher = curved_model(5), curved_model(6)
    whole = rt.gradient_alignment(model, images, labels, teacher=teacher, batch_size=COUNT)
    parts = rt.gradient_alignment(model, images, labels, teacher=teacher, batch_size=batch_size)
    for name, values in vars(whole).items():
        assert values.shape == (COUNT,) and values.dtype == np.float64
        # One of the teacher's gradients nearly cancels; see above.
        atol = 5e-5 if name == "cosine" else 1e-6
        np.testing.assert_allclose(getattr(parts, name), values, rtol=1e-4, atol=atol, err_msg=name)


def test_a_model_is_its_own_teacher(images, labels):
    model = curved_model(5)
    found = rt.gradient_alignment(model, images, labels, teacher=model)
    np.testing.assert_allclose(found.cosine, 1, rtol=1e-12)
    assert np.all(found.l2_distance == 0)


def test_a_constant_classifier_has_no_alpha(images, labels):
    model = linear_model(7)
    model.set_weights([np.zeros((24, CLASSES)), np.arange(CLASSES)])
    found = rt.gradient_alignment(model, images, labels, teacher=linear_model(2))
    assert (
        np.isnan(found.alpha).all() and np.isinf(found.rho).all() and np.isnan(found.cosine).all()
    )
    summary = found.summary()
    assert summary["alpha"] == {
        "mean": None,
        "confidence_interval_95": [None, None],
        "undefined": COUNT,
    }
    assert summary["rho_at_most_alpha"] is None and summary["smallest_constant"] is None
    json.dumps(summary, allow_nan=False)


def test_tiny_gradients_have_a_cosine(images):
    """Of a very sure model the cross-entropy's gradient is 1e-25: its square is no float32."""
    kernel = np.random.default_rng(8).normal(size=(24, 2))
    model, teacher = linear_model(0, classes=2), linear_model(0, classes=2)
    model.set_weights([kernel, np.array([57.0, 0.0])])
    teacher.set_weights([-kernel, np.array([57.0, 0.0])])
    found = rt.gradient_alignment(model, images, np.zeros(COUNT, int), teacher=teacher)
    np.testing.assert_allclose(found.cosine, -1, rtol=1e-6)


def test_the_summary_is_mean_and_students_interval():
    rho, alpha = np.array([1.0, 2.0, 4.0, np.inf]), np.array([2.0, 1.0, 1.0, np.nan])
    length = np.array([1.0, 3.0, 0.5, 0.0])
    summary = GradientAlignment(alpha, rho, rho - alpha, length, np.zeros(4)).summary()
    mean, error = 7 / 3, np.std([1, 2, 4], ddof=1) / np.sqrt(3)
    assert summary["rho"]["mean"] == pytest.approx(mean) and summary["rho"]["undefined"] == 1
    np.testing.assert_allclose(
        summary["rho"]["confidence_interval_95"], stats.t.interval(0.95, 2, mean, error)
    )
    assert summary["rho_at_most_alpha"] == pytest.approx(1 / 3)
    assert summary["smallest_constant"] == 3.0  # max of -1 * 1, 1 * 3 and 3 * 0.5
    assert summary["num_examples"] == 4 and "cosine" not in summary


def test_changed_weights_are_seen_without_compiling_again(images, labels):
    model, traced = linear_model(2), []
    alignment = Alignment(model, batch_size=4)
    measure = alignment._measured.python_function
    alignment._measured = type(alignment._measured)(
        lambda *a: (traced.append(1), measure(*a))[1], "counted"
    )
    before = alignment(images, labels).alpha
    model.set_weights(linear_model(3).get_weights())
    after = alignment(images, labels).alpha
    assert len(traced) == 1
    np.testing.assert_allclose(
        after, rt.gradient_alignment(linear_model(3), images, labels).alpha, rtol=1e-6
    )
    assert np.abs(before - after).max() > 0.01


def test_bad_input_says_what_was_expected(images, labels):
    with pytest.raises(InputError, match="the teacher has 3 classes, the student 4"):
        rt.gradient_alignment(linear_model(0), images, labels, teacher=linear_model(0, classes=3))
    with pytest.raises(InputError, match="batch_size must be positive"):
        rt.gradient_alignment(linear_model(0), images, labels, batch_size=0)
    with pytest.raises(InputError, match="images must have shape"):
        rt.gradient_alignment(linear_model(0), images[:, 1:], labels)
    with pytest.raises(InputError, match="at least 2 logits, got 1"):
        rt.gradient_alignment(linear_model(0, classes=1), images, labels)


@pytest.fixture
def call(monkeypatch, capsys):
    """Runs `evaluate` in this process. Returns (exit code, stdout, stderr)."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["evaluate", *map(str, arguments)])
        try:
            run_command(evaluate.run, EvaluateConfig)
            code = 0
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def saved(tmp_path):
    """Networks for the digits, untrained, and one for other images."""
    for seed, (name, shape) in enumerate(
        [("student", (8, 8, 1)), ("teacher", (8, 8, 1)), ("large", (9, 9, 1))]
    ):
        keras.utils.set_random_seed(seed)
        rt.save_model(rt.build_model("small_cnn", shape, 10), tmp_path / f"{name}.keras")
    return tmp_path


@pytest.mark.slow
def test_evaluate_prints_and_writes_the_diagnostics(call, saved):
    shared = (
        f"--model={saved}/student.keras",
        "--dataset=digits",
        "--max_examples=30",
        f"--output={saved}/results.json",
    )
    code, out, err = call(
        *shared, "--attacks=", "--diagnostics", f"--teacher={saved}/teacher.keras"
    )
    assert code == 0, err
    results = json.loads((saved / "results.json").read_text())
    assert list(results["accuracy"]) == ["clean"]
    written = results.pop("diagnostics")
    digits = rt.data.load_data("digits", "test", max_examples=30)
    shown = digits.images.astype(np.float32) / 255
    student, teacher = (rt.load_model(f"{saved}/{name}.keras") for name in ("student", "teacher"))
    expected = rt.gradient_alignment(student, shown, digits.labels, teacher=teacher)
    for name in (
        "alpha",
        "rho",
        "rho_minus_alpha",
        "gradient_norm",
        "constant",
        "cosine",
        "l2_distance",
    ):
        mean, (low, high) = (
            written["model"][name]["mean"],
            written["model"][name]["confidence_interval_95"],
        )
        assert np.isfinite([low, mean, high]).all() and low < mean < high
        assert mean == pytest.approx(getattr(expected, name).mean(), rel=1e-4, abs=1e-6)
        of_the_model = out.split("input gradients of the teacher")[0].splitlines()
        (line,) = (line for line in of_the_model if line.startswith(f"  {name:18s} "))
        assert f"{mean:.4g}" in line
    assert written["teacher"]["alpha"]["mean"] == pytest.approx(
        rt.gradient_alignment(teacher, shown, digits.labels).alpha.mean(), rel=1e-4
    )
    assert "cosine" not in written["teacher"]
    # Unasked, the results are what they were.
    code, out, _ = call(*shared, "--attacks=")
    assert code == 0 and "alpha" not in out
    assert set(json.loads((saved / "results.json").read_text())) == set(results)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ["--diagnostics", "--teacher={saved}/large.keras"],
            "the teacher takes images of shape (9, 9, 1), the student",
        ),
        (["--teacher={saved}/teacher.keras"], "is the model that --diagnostics compares with"),
        (
            ["--diagnostics", "--adversarial_examples={saved}/x.npy"],
            "--diagnostics are of clean images",
        ),
        (["--adversarial_examples={saved}/x.npy"], "leave out --output and --model_card"),
        (["--diagnostics", "--teacher=/nowhere.keras"], "no model at '/nowhere.keras'"),
    ],
)
def test_bad_flags_give_one_line(call, saved, arguments, says):
    given = (argument.format(saved=saved) for argument in arguments)
    code, out, err = call(
        f"--model={saved}/student.keras",
        "--dataset=digits",
        f"--output={saved}/results.json",
        *given,
    )
    assert code == 2 and not out
    (line,) = (line for line in err.splitlines() if line.startswith("error:"))
    assert says in line
    assert not (saved / "results.json").exists()


def train(folder, *arguments):
    run_training(
        parse(
            TrainConfig,
            [
                "--dataset=digits",
                "--batch_size=64",
                "--train_fraction=0.2",
                "--epochs=2",
                "--optimizer=adam",
                "--learning_rate=0.002",
                "--eps=0.1",
                "--attacks=fgsm",
                "--max_examples=20",
                "--watch_examples=20",
                "--watch_attack=fgsm",
                f"--run_dir={folder}",
                *arguments,
            ],
        )
    )
    return rt.load_model(str(folder))


def scalars(folder):
    found = {}
    for events in (folder / "tensorboard").rglob("events.out.tfevents.*"):
        accumulator = EventAccumulator(str(events), size_guidance={"tensors": 0}).Reload()
        for tag in accumulator.Tags()["tensors"]:
            if tag.startswith("diagnostics/"):
                points = accumulator.Tensors(tag)
                found[tag.partition("/")[2]] = [
                    (p.step, float(tf.make_ndarray(p.tensor_proto))) for p in points
                ]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("game", ["--lambda_adv=0", "--discriminator_channels=4,8"])
def test_tensorboard_has_them_and_the_training_does_not_see_them(
    saved, tmp_path, monkeypatch, game
):
    arguments = ["--method=igam", f"--teacher={saved}/teacher.keras", game, "--noise=0.1"]
    student = train(tmp_path / "watched", *arguments)
    found = scalars(tmp_path / "watched")
    assert set(found) == {
        "alpha",
        "rho",
        "rho_minus_alpha",
        "cosine",
        "l2_distance",
        "teacher_alpha",
        "teacher_rho",
    }
    # An epoch is four steps.
    assert all([step for step, _ in points] == [4, 8] for points in found.values())
    digits = rt.data.load_data("digits", "test", max_examples=20)
    shown, teacher = digits.images.astype(np.float32) / 255, rt.load_model(f"{saved}/teacher.keras")
    expected = rt.gradient_alignment(student, shown, digits.labels, teacher=teacher)
    for name in ("alpha", "rho", "rho_minus_alpha", "cosine", "l2_distance"):
        assert found[name][1][1] == pytest.approx(
            getattr(expected, name).mean(), rel=1e-4, abs=1e-6
        ), name
    theirs = rt.gradient_alignment(teacher, shown, digits.labels)
    assert [value for _, value in found["teacher_alpha"]] == pytest.approx(
        [theirs.alpha.mean()] * 2, rel=1e-4
    )

    monkeypatch.setattr(diagnostics.GradientDiagnostics, "on_epoch_end", lambda *_, **__: None)
    for one, other in zip(
        student.get_weights(), train(tmp_path / "unwatched", *arguments).get_weights(), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    assert not scalars(tmp_path / "unwatched")


@pytest.mark.slow
def test_without_a_teacher_there_are_alpha_and_rho(tmp_path):
    train(tmp_path / "natural", "--method=natural")
    assert set(scalars(tmp_path / "natural")) == {"alpha", "rho", "rho_minus_alpha"}
