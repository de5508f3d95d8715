"""Theorem 4.1 of the MixACM paper: on linear models, whose maxima over the ball are known, and the
command on digits.
"""

import itertools
import json
import math

import keras
import numpy as np
import pytest
import scipy.special
from scipy import stats

from tf_robust_transfer import theorem41 as command
from tf_robust_transfer.analysis import theorem41
from tf_robust_transfer.command_line import parse
from tf_robust_transfer.errors import InputError
from tf_robust_transfer.models import build_model
from tf_robust_transfer.theorem41 import Theorem41Config

SHAPE, EPS = (2, 2, 1), 0.1


def linear(kernel, bias):
    images = keras.Input(SHAPE)
    model = keras.Model(images, keras.layers.Dense(len(bias))(keras.layers.Flatten()(images)))
    model.set_weights([np.asarray(kernel, np.float32), np.asarray(bias, np.float32)])
    return model


def examples(count=30, seed=0, classes=2, low=0.2, high=0.8):
    """Inside the bounds by more than EPS, by default."""
    rng = np.random.default_rng(seed)
    return rng.uniform(low, high, (count, *SHAPE)).astype(np.float32), rng.integers(
        0, classes, count
    )


def two_linear(classes=2, seed=1, scale=2.0):
    rng = np.random.default_rng(seed)
    return [
        (scale * rng.standard_normal((4, classes)), rng.standard_normal(classes)) for _ in range(2)
    ]


def corners(images, eps, bounds=(0.0, 1.0)):
    """Every vertex of the allowed box around each image: float64 [16, num_examples, 4]. A convex
    function of the image is largest at one of them."""
    flat = images.reshape(len(images), -1).astype(np.float64)
    low, high = np.maximum(flat - eps, bounds[0]), np.minimum(flat + eps, bounds[1])
    return np.stack(
        [np.where(np.array(choice), high, low) for choice in itertools.product((0, 1), repeat=4)]
    )


class TestTheTermsOfTwoLinearModels:
    @pytest.mark.parametrize(
        "gamma", [1.0, *(pytest.param(gamma, marks=pytest.mark.slow) for gamma in (0.05, 10.0))]
    )
    def test_two_classes(self, gamma):
        """The loss rises with a linear function, so that PGD finds its maximum; so does |W x| where
        W has one row.
        """
        (kernel, bias), (other, _) = two_linear()
        other = np.stack([kernel[:, 0], other[:, 1]], axis=1)  # one logit differs
        test, (images, labels) = examples(40, 5), examples(30, 6)
        got = theorem41.measure(
            linear(kernel, bias),
            linear(other, bias),
            test,
            (images, labels),
            eps=EPS,
            gamma=gamma,
            batch_size=8,
        )
        logits = corners(images, EPS) @ kernel + bias
        own = np.take_along_axis(
            scipy.special.softmax(logits / gamma, axis=2), labels[None, :, None], 2
        )[..., 0]
        losses = (1 - own).max(axis=0)
        np.testing.assert_allclose(got.adversarial_loss.mean, losses.mean(), rtol=1e-4)
        distances = np.abs(corners(images, EPS) @ (kernel - other)[:, 1]).max(axis=0)
        np.testing.assert_allclose(got.distillation_loss.mean, distances.mean(), rtol=1e-4)
        np.testing.assert_allclose(
            got.weighted_sum, 2 * losses.mean() + 8 / gamma * distances.mean(), rtol=1e-4
        )
        # Two classes: fooled where the margin can turn.
        margin = (corners(test[0], EPS) @ kernel + bias) @ [1, -1] * np.where(test[1] == 0, 1, -1)
        error = (margin.min(axis=0) < 0).mean()
        assert 0 < error < 1 and got.robust_error.mean == error

    def test_intervals(self):
        (kernel, bias), (other, other_bias) = two_linear()
        test, train = examples(40, 5), examples(30, 6)
        models = linear(kernel, bias), linear(other, other_bias)
        got = theorem41.measure(*models, test, train, eps=EPS)
        wrong = round(got.robust_error.mean * 40)
        interval = stats.beta.ppf([0.025, 0.975], [wrong, wrong + 1], [40 - wrong + 1, 40 - wrong])
        np.testing.assert_allclose(got.robust_error.confidence_interval_95, interval, rtol=1e-6)
        logits = corners(train[0], EPS) @ kernel + bias
        own = np.take_along_axis(scipy.special.softmax(logits, axis=2), train[1][None, :, None], 2)[
            ..., 0
        ]
        losses = (1 - own).max(axis=0)
        half = stats.t(29).ppf(0.975) * losses.std(ddof=1) / math.sqrt(30)
        expected = losses.mean() - half, losses.mean() + half
        np.testing.assert_allclose(got.adversarial_loss.confidence_interval_95, expected, rtol=1e-3)

    @pytest.mark.parametrize(
        "norm, order", [("l2", 2), pytest.param("linf", np.inf, marks=pytest.mark.slow)]
    )
    def test_four_classes_are_found_from_below(self, norm, order):
        """A norm of linear functions is convex: PGD may end in the wrong corner, but never above
        the right one.
        """
        (kernel, bias), (other, other_bias) = two_linear(4, 3)
        train = examples(50, 8, 4)
        models = linear(kernel, bias), linear(other, other_bias)
        got = theorem41.measure(*models, train, train, eps=EPS, logit_norm=norm)
        differences = corners(train[0], EPS) @ (kernel - other) + bias - other_bias
        exact = np.linalg.norm(differences, ord=order, axis=2).max(axis=0).mean()
        assert 0.97 * exact < got.distillation_loss.mean <= exact * (1 + 1e-5)
        clean = np.linalg.norm(
            train[0].reshape(50, -1) @ (kernel - other) + bias - other_bias, ord=order, axis=1
        ).mean()
        assert got.distillation_loss.mean > 1.05 * clean

    def test_pixels_stay_in_their_bounds(self):
        (kernel, bias), _ = two_linear()
        images, labels = examples(30, 9, low=0.0, high=1.0)
        got = theorem41.measure(
            *[linear(kernel, bias)] * 2, (images, labels), (images, labels), eps=0.4
        )
        logits = corners(images, 0.4) @ kernel + bias
        own = np.take_along_axis(scipy.special.softmax(logits, axis=2), labels[None, :, None], 2)[
            ..., 0
        ]
        np.testing.assert_allclose(
            got.adversarial_loss.mean, (1 - own).max(axis=0).mean(), rtol=1e-4
        )

    def test_a_student_that_is_its_teacher(self):
        (kernel, bias), _ = two_linear()
        for norm in theorem41.LOGIT_NORMS:
            models = linear(kernel, bias), linear(kernel, bias)
            got = theorem41.measure(*models, examples(), examples(), eps=EPS, logit_norm=norm)
            assert (
                got.distillation_loss.mean == 0.0
                and got.distillation_loss.confidence_interval_95 == (0.0, 0.0)
            )

    def test_without_a_ball_it_is_what_the_images_give(self):
        (kernel, bias), (other, other_bias) = two_linear(3)
        images, labels = examples(classes=3)
        models = linear(kernel, bias), linear(other, other_bias)
        got = theorem41.measure(*models, (images, labels), (images, labels), eps=0.0, gamma=2.0)
        flat = images.reshape(30, -1).astype(np.float64)
        logits, theirs = flat @ kernel + bias, flat @ other + other_bias
        assert got.robust_error.mean == (logits.argmax(axis=1) != labels).mean()
        losses = 1 - scipy.special.softmax(logits / 2, axis=1)[np.arange(30), labels]
        np.testing.assert_allclose(got.adversarial_loss.mean, losses.mean(), rtol=1e-5)
        np.testing.assert_allclose(
            got.distillation_loss.mean, np.linalg.norm(logits - theirs, axis=1).mean(), rtol=1e-5
        )

    def test_same_seed_same_numbers(self):
        (kernel, bias), (other, other_bias) = two_linear(4, 3)
        models, train = (linear(kernel, bias), linear(other, other_bias)), examples(20, 8, 4)
        first = theorem41.measure(*models, train, train, eps=EPS, seed=3)
        assert first == theorem41.measure(*models, train, train, eps=EPS, seed=3)

    def test_a_saturated_loss_is_still_climbed(self):
        """At the images 1 - phi is e^-300: its gradient is 0 in float32, as at nearly all points of
        the ball.
        """
        kernel = np.array([[200.0, -200.0]] * 4)
        images, labels = np.full((3, *SHAPE), 0.55, np.float32), np.zeros(3, np.int64)
        model = linear(kernel, [-290.0, 290.0])
        got = theorem41.measure(model, model, (images, labels), (images, labels), eps=0.2)
        logits = 4 * 200 * 0.35 - 290
        np.testing.assert_allclose(
            got.adversarial_loss.mean, 1 - scipy.special.expit(2 * logits), rtol=1e-5
        )


def test_the_lemma_of_the_last_step():
    """|phi(a, y) - phi(b, y)| <= |a - b| / gamma in l2, and with half of that in linf."""
    rng = np.random.default_rng(0)
    a = rng.standard_normal((20000, 3)) * rng.uniform(0, 4, (20000, 1))
    b = a + rng.standard_normal((20000, 3)) * rng.uniform(0, 2, (20000, 1))
    for gamma in (0.3, 1.0, 10.0):
        change = np.abs(
            scipy.special.softmax(a / gamma, axis=1) - scipy.special.softmax(b / gamma, axis=1)
        ).max(axis=1)
        assert (change <= np.linalg.norm(a - b, axis=1) / gamma).all()
        assert (change <= np.abs(a - b).max(axis=1) / (2 * gamma) + 1e-12).all()


def test_other_terms():
    found = theorem41.other_terms(60000, 0.05)
    assert found["complexity"] is None
    np.testing.assert_allclose(
        [
            found[name]
            for name in (
                "examples",
                "confidence_printed",
                "confidence",
                "probability_printed",
                "probability",
            )
        ],
        [2.6667e-4, 0.109545, 0.033266, 0.95, 0.206373],
        rtol=1e-4,
    )


class TestErrors:
    def test_norm_gamma_and_models(self):
        (kernel, bias), _ = two_linear()
        model = linear(kernel, bias)
        for options, text in (
            ({"logit_norm": "l3"}, "unknown logit norm 'l3'"),
            ({"gamma": 0.0}, "gamma above 0"),
        ):
            with pytest.raises(InputError, match=text):
                theorem41.measure(model, model, examples(), examples(), eps=EPS, **options)
        three = linear(np.zeros((4, 3)), np.zeros(3))
        with pytest.raises(InputError, match="the teacher has 3 classes, the student 2"):
            theorem41.measure(model, three, examples(), examples(), eps=EPS)

    @pytest.mark.parametrize(
        "arguments, text",
        [
            ([], "give --models=A,B"),
            (["--models=a"], "give --models=A,B"),
            (["--models=a", "--teacher=b", "--output=nowhere/x.json"], "its folder does not exist"),
            (["--delta=5"], "--delta: expected a number above 0 and below 1"),
        ],
    )
    def test_flags(self, arguments, text):
        with pytest.raises(InputError, match=text):
            command.run(parse(Theorem41Config, arguments))

    @pytest.mark.parametrize("file", ["", "/model.keras"])
    def test_students_of_which_images_were_held_out(self, tmp_path, file):
        (tmp_path / "run").mkdir()
        build_model("small_cnn", (8, 8, 1), 10).save(tmp_path / "run" / "model.keras")
        (tmp_path / "run" / "flags.txt").write_text("--validation_fraction=0.2\n")
        spec = f"{tmp_path}/run{file}"
        with pytest.raises(InputError, match="without --validation_fraction=0.2 of its images"):
            parse(Theorem41Config, [f"--models={spec}", f"--teacher={spec}"]).verify()

    def test_the_working_folder_is_not_the_students(self, tmp_path, monkeypatch):
        """Of a SPEC that is no path."""
        (tmp_path / "flags.txt").write_text("--validation_fraction=0.2\n")
        monkeypatch.chdir(tmp_path)
        spec = "zoo:cifar10_preact_resnet_18"
        parse(Theorem41Config, [f"--models={spec}", f"--teacher={spec}"]).verify()

    @pytest.mark.parametrize("file", ["", "/model.keras"])
    @pytest.mark.parametrize("given", [(), ("--train_fraction=0.5",), ("--seed=2",)])
    def test_students_of_other_training_images(self, tmp_path, given, file):
        (tmp_path / "run").mkdir()
        build_model("small_cnn", (8, 8, 1), 3).save(tmp_path / "run" / "model.keras")
        (tmp_path / "run" / "flags.txt").write_text("--train_fraction=0.333\n--seed=2\n")
        specs = [f"--models={tmp_path}/run{file}", f"--teacher={tmp_path / 'run'}"]
        with pytest.raises(InputError, match=r"trained on --train_fraction=0.333 of --seed=2"):
            command.run(parse(Theorem41Config, [*specs, *given]))
        theirs = ["--train_fraction=0.333", "--seed=2"]
        parse(Theorem41Config, [*specs, *theirs]).verify()

    def test_a_model_of_other_classes(self, tmp_path):
        build_model("small_cnn", (8, 8, 1), 3).save(tmp_path / "three.keras")
        model = str(tmp_path / "three.keras")
        with pytest.raises(InputError, match="has 3 classes, digits has 10"):
            command.run(parse(Theorem41Config, [f"--models={model}", f"--teacher={model}"]))


@pytest.mark.slow
def test_the_command_on_digits(tmp_path, capsys):
    specs = []
    for seed, name in enumerate(("student", "teacher")):
        keras.utils.set_random_seed(seed)
        build_model("small_cnn", (8, 8, 1), 10).save(tmp_path / f"{name}.keras")
        specs.append(str(tmp_path / f"{name}.keras"))
    output = tmp_path / "found.json"
    arguments = [
        f"--models={specs[0]},{specs[1]}",
        f"--teacher={specs[1]}",
        "--max_examples=20",
        "--train_fraction=0.5",
        "--eps=0.1",
        f"--output={output}",
    ]
    command.run(parse(Theorem41Config, arguments))
    found = json.loads(output.read_text())
    assert (
        found["measured_examples"] == {"test": 20, "train": 20}
        and found["training_examples"] == 651  # half of each class of 1,297 images, rounded
    )
    assert found["other_terms"] == theorem41.other_terms(found["training_examples"], 0.05)
    assert list(found["students"]) == specs
    student, teacher = (found["students"][spec] for spec in specs)
    assert teacher["distillation_loss"]["mean"] == 0.0 < student["distillation_loss"]["mean"]
    low, high = student["adversarial_loss"]["confidence_interval_95"]
    assert 0 < low < student["adversarial_loss"]["mean"] < high < 1.1
    printed = capsys.readouterr().out.splitlines()
    assert printed[-2].endswith(specs[0]) and printed[-1].endswith(specs[1])
