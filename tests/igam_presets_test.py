"""IGAM's presets: the terms that paper and reference code add, written out in float64, and the
flags; Theorem 6.1.
"""

import keras
import numpy as np
import pytest
import scipy.special
import tensorflow as tf
from scipy.spatial.distance import jensenshannon

from tf_robust_transfer import command_line, config, data
from tf_robust_transfer.errors import InputError
from tf_robust_transfer.losses import input_gradient as losses
from tf_robust_transfer.methods import IGAM, IGAMMixACM
from tf_robust_transfer.methods.igam_presets import PRESETS
from tf_robust_transfer.models import build_model
from tf_robust_transfer.options import keywords_of
from tf_robust_transfer.runs.method import compiled_method, student_network

SHAPE, CLASSES, COUNT, EPSILON = (3, 2, 1), 3, 6, 1e-3
LOG4 = np.log(4)
SHOWN = ("discriminator_accuracy", "vanished_gradients")  # in the logs, of weight 0
LAMBDA_ADV, LAMBDA_DIFF, BETA, GAMMA = 0.7, 3.0, 2.0, 10.0


def network(seed, outputs=CLASSES):
    """Batch norm, flatten, dense; one output without its axis is a discriminator."""
    images = keras.Input(SHAPE)
    x = keras.layers.BatchNormalization(epsilon=EPSILON)(images)
    x = keras.layers.Dense(outputs)(keras.layers.Flatten()(x))
    model = keras.Model(images, x if outputs > 1 else keras.layers.Reshape(())(x))
    rng = np.random.default_rng(seed)
    for v in model.weights:
        positive = v.name in ("gamma", "moving_variance")
        v.assign(rng.uniform(0.5, 1.5, v.shape) if positive else rng.standard_normal(v.shape))
    return model


def logits_of(model, x, batch_statistics=True):
    gamma, beta, mean, variance, w, b = (array.astype(np.float64) for array in model.get_weights())
    if batch_statistics:
        mean, variance = x.mean(axis=(0, 1, 2)), x.var(axis=(0, 1, 2))
    return (gamma * (x - mean) / np.sqrt(variance + EPSILON) + beta).reshape(len(x), -1) @ w + b


def true_class(logits, y):
    """log p_y of each example."""
    return scipy.special.log_softmax(logits, axis=1)[np.arange(len(y)), y]


def numeric_gradient(function, at, step):
    gradient = np.zeros_like(at)
    for index in np.ndindex(at.shape):
        moved = [at.copy(), at.copy()]
        moved[0][index] += step
        moved[1][index] -= step
        gradient[index] = (function(moved[0]) - function(moved[1])) / (2 * step)
    return gradient


@pytest.fixture
def case():
    rng = np.random.default_rng(7)
    images, labels = (
        rng.uniform(0, 1, (COUNT, *SHAPE)).astype(np.float32),
        rng.integers(0, CLASSES, COUNT),
    )
    return network(1), network(2), network(3, outputs=1), images, labels


def terms_of(case, preset, **weights):
    student, teacher, discriminator, images, labels = case
    method = IGAM(
        student=student, teacher=teacher, discriminator=discriminator, **weights, **PRESETS[preset]
    )
    method.compile(keras.optimizers.SGD(0.1))
    _, terms = method.loss_terms(tf.constant(images), tf.constant(labels))
    return {
        name: weight * float(value) for name, (weight, value) in terms.items() if name not in SHOWN
    }


def normalised(gradients):
    """Zero mean over height, width and channels, then tf.math.l2_normalize."""
    gradients = gradients - gradients.mean(axis=(1, 2, 3), keepdims=True)
    return gradients / np.sqrt(np.maximum((gradients**2).sum(axis=(1, 2, 3), keepdims=True), 1e-12))


def test_the_reference_codes_loss(case):
    """CE - beta disc_xent + gamma sum (J_s - J_t)^2: J is d p_y / d pixel in 0-255, both networks
    on batch statistics, and disc_xent is the mean two-way cross-entropy over both models' gradients
    in one batch, label 0 student, 1 teacher."""
    student, teacher, discriminator, images, y = case
    pixels = images.astype(np.float64) * 255
    j_s, j_t = (
        numeric_gradient(
            lambda p, m=model: np.exp(true_class(logits_of(m, p / 255), y)).sum(), pixels, step=1e-3
        )
        for model in (student, teacher)
    )
    score = logits_of(discriminator, normalised(np.concatenate([j_s, j_t])))[:, 0]
    two_way = np.stack([np.zeros_like(score), score], axis=1)
    disc_xent = -true_class(two_way, np.repeat([0, 1], COUNT)).mean()
    expected = {
        "cross_entropy": -true_class(logits_of(student, pixels / 255), y).mean(),
        "adversarial": -BETA * disc_xent,
        "difference": GAMMA * ((j_s - j_t) ** 2).sum(),
    }
    terms = terms_of(case, "reference_code", lambda_adv=BETA / 2, lambda_diff=GAMMA)
    assert set(terms) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(terms[name], value, rtol=1e-5, err_msg=name)


def test_the_papers_loss(case):
    """CE + lambda_adv L_adv + lambda_diff L_diff (Eq. 14), J the gradient of the cross-entropy by
    [0, 1] pixels, with a teacher of frozen parameters; L_diff the mean over the examples."""
    student, teacher, discriminator, images, y = case
    pixels = images.astype(np.float64)
    j_s = numeric_gradient(lambda p: -true_class(logits_of(student, p), y).sum(), pixels, step=1e-5)
    j_t = numeric_gradient(
        lambda p: -true_class(logits_of(teacher, p, False), y).sum(), pixels, step=1e-5
    )
    f_s, f_t = np.split(
        scipy.special.expit(logits_of(discriminator, normalised(np.concatenate([j_s, j_t])))[:, 0]),
        2,
    )
    expected = {
        "cross_entropy": -true_class(logits_of(student, pixels), y).mean(),
        "adversarial": LAMBDA_ADV * (np.log(f_t).mean() + np.log(1 - f_s).mean()),
        "difference": LAMBDA_DIFF * ((j_s - j_t) ** 2).sum(axis=(1, 2, 3)).mean(),
    }
    terms = terms_of(case, "paper", lambda_adv=LAMBDA_ADV, lambda_diff=LAMBDA_DIFF)
    assert set(terms) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(terms[name], value, rtol=1e-5, err_msg=name)


def test_the_paper_is_the_default_of_arguments_and_of_flags():
    arguments, defaults = keywords_of(IGAM.Options()), parse()
    for name, value in PRESETS["paper"].items():
        assert arguments[name] == value and getattr(defaults, name) == value


@pytest.mark.slow
class TestTheorem61:
    """L_adv is least, -log 4, where J_s = J_t (section 6 and the proof in Appendix B)."""

    def trained(self, case, student):
        """Eq. 10 at each of 150 steps of the discriminator alone, both networks on batch
        statistics.
        """
        _, teacher, discriminator, images, labels = case
        options = PRESETS["reference_code"] | {"discriminator_every": 1}
        method = IGAM(
            student=student,
            teacher=teacher,
            discriminator=discriminator,
            lambda_diff=0.0,
            **options,
        )
        method.compile(
            keras.optimizers.SGD(0.0), discriminator_optimizer=keras.optimizers.Adam(0.05)
        )
        values = []
        for _ in range(150):
            method.reset_metrics()
            values.append(method.train_on_batch(images, labels, return_dict=True)["adversarial"])
        return np.array(values)

    def test_a_trained_discriminator_cannot_tell_equal_gradients_apart(self, case):
        values = self.trained(case, network(2))
        assert values[0] < -LOG4 - 0.1  # it starts away from its best
        assert values.max() <= -LOG4 + 1e-6
        np.testing.assert_allclose(values[-1], -LOG4, atol=1e-3)

    def test_but_it_can_tell_others(self, case):
        assert self.trained(case, network(1))[-1] > -LOG4 + 0.1

    @pytest.mark.parametrize(
        ("teacher", "student"),
        [
            ([5, 3, 1, 1], [1, 4, 4, 1]),
            ([2, 2, 3, 3], [2, 2, 3, 3]),
            ([1, 9, 0, 0], [9, 0, 1, 0]),
            ([5, 5, 0, 0], [0, 0, 4, 6]),
        ],
        ids=["some", "equal", "zeros", "disjoint"],
    )
    def test_the_optimal_discriminator_of_discrete_densities(self, teacher, student):
        """Eqs. 19 and 20: ten gradients of each, of four values. f* = p_t / (p_t + p_s), whose
        logit is log(p_t / p_s).
        """
        p_t, p_s = np.array(teacher) / 10, np.array(student) / 10
        with np.errstate(divide="ignore", invalid="ignore"):
            scores = np.clip(
                np.nan_to_num(np.log(p_t) - np.log(p_s)), -60, 60
            )  # 0 / 0: a value that neither has

        def value(scores):
            drawn = [tf.constant(np.repeat(scores, counts)) for counts in (teacher, student)]
            return losses.adversarial(*drawn).numpy().mean()

        best = value(scores)
        np.testing.assert_allclose(best, 2 * jensenshannon(p_t, p_s) ** 2 - LOG4, atol=1e-12)
        assert best >= -LOG4 - 1e-12 and (teacher == student) == (best < -LOG4 + 1e-9)
        rng = np.random.default_rng(0)
        assert all(value(scores + rng.standard_normal(4)) <= best + 1e-12 for _ in range(100))


def parse(*arguments):
    return command_line.parse(config.TrainConfig, ["--method=igam", *arguments])


class TestFlag:
    @pytest.mark.parametrize("preset", PRESETS)
    def test_it_sets_its_flags_alone(self, preset):
        read = command_line.to_text(parse(f"--preset={preset}"))
        given = {name: str(value) for name, value in PRESETS[preset].items()}
        assert read == command_line.to_text(parse()) | given | {"preset": preset}

    def test_flags_given_explicitly_win_wherever_they_stand(self, tmp_path):
        (tmp_path / "row.flags").write_text(
            "--pixel_range=1\n--preset=reference_code\n--difference_reduction=mean\n"
        )
        read = parse(f"--flagfile={tmp_path}/row.flags", "--teacher_batch_norm=moving")
        assert (read.pixel_range, read.difference_reduction, read.teacher_batch_norm) == (
            1.0,
            "mean",
            "moving",
        )
        assert (read.gradient_of, read.discriminator_every) == ("probability", 5)
        assert parse("--preset=paper", "--preset=reference_code").gradient_of == "probability"

    def test_a_config_written_out_gives_itself_again(self):
        read = parse("--preset=reference_code", "--pixel_range=1")
        again = [f"--{name}={text}" for name, text in command_line.to_text(read).items()]
        assert command_line.parse(config.TrainConfig, again) == read

    def test_bad_values(self):
        with pytest.raises(InputError, match="unknown --preset 'code'; "):
            parse("--preset=code")
        # Told as a flag without effect, like any other that the method does not have.
        assert [flag.name for flag in parse("--preset=paper", "--method=natural").ignored] == [
            "preset"
        ]

    @pytest.mark.parametrize(("method", "kind"), [("igam", IGAM), ("igam_mixacm", IGAMMixACM)])
    def test_it_reaches_the_method(self, method, kind):
        images = data.synthetic_data((8, 8, 1), CLASSES, 8, 0)
        read = parse(
            f"--method={method}",
            "--preset=reference_code",
            "--adversarial_form=non_saturating",
            "--discriminator_batch_norm=separate",
            "--blocks=block1",
        )
        teacher = build_model("small_cnn", (8, 8, 1), CLASSES, batch_norm=True)
        built = compiled_method(
            read, images=images, teacher=teacher, steps_per_epoch=2, total_steps=2
        )
        assert (
            type(built) is kind
            and built.options.gradients.pixel_range == 255
            and built.gradients.matched_teacher is not built.teacher
        )
        game = built.options.game
        assert (game.adversarial_form, game.discriminator_batch_norm) == (
            "non_saturating",
            "separate",
        )


@pytest.mark.parametrize(("layers", "trained"), [("logits", 2), ("all", 12)])
def test_the_flag_finetune_layers(layers, trained):
    """small_cnn with batch norm: two of each of two convolutions, two batch norms, the dense layer,
    the new layer.
    """
    images = data.synthetic_data((8, 8, 1), CLASSES, 8, 0)
    teacher = build_model("small_cnn", (8, 8, 1), 5, batch_norm=True)
    read = command_line.parse(
        config.TrainConfig, ["--method=finetune", f"--finetune_layers={layers}"]
    )
    assert len(student_network(read, images, teacher).trainable_variables) == trained
