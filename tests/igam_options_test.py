"""Options of IGAM's terms and of fine-tuning against float64 formulas and central differences."""

import itertools

import keras
import numpy as np
import pytest
import scipy.special
import tensorflow as tf

from tf_robust_transfer.errors import InputError
from tf_robust_transfer.inference import faster_copy
from tf_robust_transfer.losses import input_gradient as losses
from tf_robust_transfer.methods import IGAM, FineTune, IGAMMixACM
from tf_robust_transfer.models import build_discriminator, build_model
from tf_robust_transfer.models.batch_statistics import with_batch_statistics

SHAPE, CLASSES, EPSILON = (2, 2, 1), 3, 1e-3


def seeded(model, seed):
    rng = np.random.default_rng(seed)
    for v in model.weights:
        positive = v.name in ("gamma", "moving_variance")
        v.assign(rng.uniform(0.5, 1.5, v.shape) if positive else rng.standard_normal(v.shape))
    return model


def network(seed, batch_norm=True, outputs=CLASSES):
    """Batch norm, flatten, dense; one output without its axis is a discriminator."""
    images = keras.Input(SHAPE)
    x = (
        keras.layers.BatchNormalization(momentum=0.9, epsilon=EPSILON)(images)
        if batch_norm
        else images
    )
    x = keras.layers.Dense(outputs, name="logits")(keras.layers.Flatten()(x))
    return seeded(keras.Model(images, x if outputs > 1 else keras.layers.Reshape(())(x)), seed)


def batch(count=5, shape=SHAPE):
    rng = np.random.default_rng(7)
    return rng.uniform(0, 1, (count, *shape)).astype(np.float32), rng.integers(0, CLASSES, count)


def weights64(model):
    return [w.astype(np.float64) for w in model.get_weights()]


def numpy_logits(weights, x, batch_statistics):
    """`network` in float64, with or without batch norm."""
    *norm, w, b = weights
    if norm:
        gamma, beta, mean, variance = norm
        if batch_statistics:
            mean, variance = x.mean(axis=(0, 1, 2)), x.var(axis=(0, 1, 2))
        x = gamma * (x - mean) / np.sqrt(variance + EPSILON) + beta
    return x.reshape(len(x), -1) @ w + b


def numeric_gradient(function, at, step=1e-5):
    """Central differences of a scalar function of one float64 array."""
    gradient = np.zeros_like(at)
    for index in np.ndindex(at.shape):
        moved = [at.copy(), at.copy()]
        moved[0][index] += step
        moved[1][index] -= step
        gradient[index] = (function(moved[0]) - function(moved[1])) / (2 * step)
    return gradient


def numpy_input_gradient(
    weights, x, y, *, batch_statistics, gradient_of="cross_entropy", pixel_range=1.0
):
    """Gradient by x * pixel_range of the sum over the batch of -log p_y or of p_y."""

    def score(pixels):
        log_p = scipy.special.log_softmax(
            numpy_logits(weights, pixels / pixel_range, batch_statistics), axis=1
        )
        log_p = log_p[np.arange(len(y)), y]
        return np.exp(log_p).sum() if gradient_of == "probability" else -log_p.sum()

    return numeric_gradient(score, x.astype(np.float64) * pixel_range, step=1e-5 * pixel_range)


def terms_of(method, images, labels):
    """{term: (weight, value)} of the next step."""
    method.compile(optimizer=keras.optimizers.SGD(0.1))
    _, terms = method.loss_terms(tf.constant(images), tf.constant(labels))
    return {name: (weight, float(value)) for name, (weight, value) in terms.items()}


class TestTeacherBatchNorm:
    @pytest.mark.parametrize("teacher_batch_norm", ["moving", "batch"])
    @pytest.mark.parametrize("gradient_of", ["cross_entropy", "probability"])
    @pytest.mark.parametrize(("pixel_range", "reduction"), [(1.0, "sum"), (255.0, "mean")])
    def test_the_l2_term(self, teacher_batch_norm, gradient_of, pixel_range, reduction):
        """Eq. 13 of a linear student and a teacher with batch norm; under batch statistics the
        examples meet.
        """
        student, teacher, (x, y) = network(1, batch_norm=False), network(2), batch()
        method = IGAM(
            student=student, teacher=teacher, lambda_adv=0.0, teacher_batch_norm=teacher_batch_norm,
            gradient_of=gradient_of, pixel_range=pixel_range, difference_reduction=reduction,
        )  # fmt: skip
        options = {"gradient_of": gradient_of, "pixel_range": pixel_range}
        js = numpy_input_gradient(weights64(student), x, y, batch_statistics=False, **options)
        jt = numpy_input_gradient(
            weights64(teacher), x, y, batch_statistics=teacher_batch_norm == "batch", **options
        )
        distances = ((js - jt) ** 2).sum(axis=(1, 2, 3))
        expected = distances.sum() if reduction == "sum" else distances.mean()
        np.testing.assert_allclose(terms_of(method, x, y)["difference"][1], expected, rtol=1e-4)

    @pytest.mark.parametrize("name", ["small_cnn", "wrn_10_1"])
    def test_a_copy_is_keras_training_mode_but_for_dropout_and_moving_averages(self, name):
        images = keras.Input((8, 8, 1))
        body = build_model(
            name, (8, 8, 1), 4, **({"batch_norm": True} if name == "small_cnn" else {})
        )
        model = keras.Model(
            images, keras.layers.Dropout(0.0)(body(images))
        )  # nested: the copy has to go into it
        seeded(model, 3)
        before, x = (
            model.get_weights(),
            np.random.default_rng(0).uniform(0, 1, (6, 8, 8, 1)).astype(np.float32),
        )
        copy = with_batch_statistics(model)
        copy.trainable = False
        found = copy(x, training=False).numpy()
        for old, new in zip(before * 2, model.get_weights() + copy.get_weights(), strict=True):
            np.testing.assert_array_equal(old, new)
        assert np.abs(found - model(x, training=False).numpy()).max() > 0.1
        np.testing.assert_allclose(
            found, model(x, training=True).numpy(), rtol=1e-4, atol=1e-4
        )  # moves its averages

    def test_the_teachers_dropout_stays_off(self):
        images = keras.Input(SHAPE)
        x = keras.layers.Dropout(0.9)(keras.layers.BatchNormalization()(images))
        model = keras.Model(images, keras.layers.Dense(CLASSES)(keras.layers.Flatten()(x)))
        copy, (x, _) = with_batch_statistics(model), batch()
        np.testing.assert_array_equal(copy(x, training=False), copy(x, training=False))

    @pytest.mark.parametrize("adapter", [None, "crop:2x2"])
    @pytest.mark.parametrize(
        ("form", "teacher_batch_norm", "discriminator_batch_norm"),
        itertools.product(
            ("minimax", "non_saturating"), ("moving", "batch"), ("joint", "separate")
        ),
    )
    def test_the_teacher_stays_bit_for_bit(
        self, form, teacher_batch_norm, discriminator_batch_norm, adapter
    ):
        shape = (4, 4, 1) if adapter else SHAPE
        teacher, (x, y) = network(2), batch(8, shape)
        student = (
            build_model("small_cnn", shape, CLASSES, batch_norm=True) if adapter else network(1)
        )
        method = IGAM(
            student=student,
            teacher=teacher,
            adapter=adapter,
            discriminator=network(3, outputs=1),
            adversarial_form=form,
            teacher_batch_norm=teacher_batch_norm,
            discriminator_batch_norm=discriminator_batch_norm,
            discriminator_every=1,
        )
        models = {
            "own": teacher,
            "teacher": method.teacher,
            "matched": method.gradients.matched_teacher,
        }
        before = {name: model.get_weights() for name, model in models.items()}
        moving = [m.get_weights() for m in (student, method.discriminator)]
        method.compile(optimizer=keras.optimizers.SGD(0.01), run_eagerly=True)
        method.fit(x, y, batch_size=4, epochs=1, verbose=0)
        for name, model in models.items():
            for old, new in zip(before[name], model.get_weights(), strict=True):
                np.testing.assert_array_equal(old, new, err_msg=name)
        for weights, model in zip(moving, (student, method.discriminator), strict=True):
            assert any(
                (old != new).any() for old, new in zip(weights, model.get_weights(), strict=True)
            )

    def test_teachers_that_cannot_be_copied(self):
        class Subclass(keras.Model):
            def __init__(self):
                super().__init__()
                self.inner = network(1)

            def call(self, x):
                return self.inner(x)

        with pytest.raises(InputError, match="cannot clone Subclass: give a functional"):
            with_batch_statistics(Subclass())

        class Hides(keras.layers.Layer):
            def __init__(self, **kwargs):
                super().__init__(**kwargs)
                self.inner = keras.layers.BatchNormalization(name="hidden")

            def call(self, x):
                return self.inner(x)

        images = keras.Input(SHAPE)
        with pytest.raises(InputError, match="cannot reach the layers hidden"):
            with_batch_statistics(keras.Model(images, Hides()(images)))


class TestAdversarialForm:
    def test_the_non_saturating_term_and_its_gradient(self):
        """d/ds -log sigmoid(s) = sigmoid(s) - 1; that of Eq. 10 in J_s's score is -sigmoid(s), next
        to 0 at s = -20.
        """
        scores = np.array([-20.0, -1.0, 0.0, 2.0])
        with tf.GradientTape(persistent=True) as tape:
            s = tf.constant(scores)
            tape.watch(s)
            values, minimax = losses.non_saturating(s), losses.adversarial(tf.zeros_like(s), s)
        np.testing.assert_allclose(values, -np.log(scipy.special.expit(scores)), rtol=1e-12)
        np.testing.assert_allclose(
            tape.gradient(values, s), scipy.special.expit(scores) - 1, rtol=1e-12
        )
        np.testing.assert_allclose(
            tape.gradient(minimax, s), -scipy.special.expit(scores), rtol=1e-12
        )

    @pytest.mark.parametrize("form", ["minimax", "non_saturating"])
    def test_a_whole_step_against_finite_differences(self, form):
        """The student descends its form, the discriminator climbs Eq. 10 in both, and Eq. 10 is
        what is logged.
        """
        student, teacher, (x, y) = (
            network(1, batch_norm=False),
            network(2, batch_norm=False),
            batch(),
        )
        discriminator = network(3, batch_norm=False, outputs=1)
        start, fooled = weights64(student), weights64(discriminator)
        jt = numpy_input_gradient(weights64(teacher), x, y, batch_statistics=False)
        one_hot, flat = np.eye(CLASSES)[y], x.reshape(5, -1).astype(np.float64)

        def parts(w, b, v, c):
            z = flat @ w + b
            cross_entropy = -(one_hot * scipy.special.log_softmax(z, axis=1)).sum(axis=1).mean()
            js = ((scipy.special.softmax(z, axis=1) - one_hot) @ w.T).reshape(x.shape)
            fs, ft = (scipy.special.expit(j.reshape(5, -1) @ v + c) for j in (js, jt))
            difference = ((js - jt) ** 2).sum(axis=(1, 2, 3)).mean()
            return (
                cross_entropy,
                (np.log(ft) + np.log(1 - fs)).mean(),
                -np.log(fs).mean(),
                difference,
            )

        def loss(w, b):
            cross_entropy, eq10, non_saturating, difference = parts(w, b, *fooled)
            return (
                cross_entropy
                + 2.0 * (eq10 if form == "minimax" else non_saturating)
                + 0.5 * difference
            )

        method = IGAM(
            student=student,
            teacher=teacher,
            discriminator=discriminator,
            lambda_adv=2.0,
            lambda_diff=0.5,
            discriminator_input="raw",
            adversarial_form=form,
        )
        method.compile(
            keras.optimizers.SGD(0.5), discriminator_optimizer=keras.optimizers.SGD(0.25)
        )
        history = method.fit(x, y, batch_size=5, verbose=0).history
        for i in range(2):
            down = numeric_gradient(
                lambda a, i=i: loss(*[*start[:i], a, *start[i + 1 :]]), start[i]
            )
            up = numeric_gradient(
                lambda a, i=i: parts(*start, *[*fooled[:i], a, *fooled[i + 1 :]])[1], fooled[i]
            )
            np.testing.assert_allclose(
                (start[i] - weights64(student)[i]) / 0.5, down, rtol=1e-3, atol=1e-4
            )
            np.testing.assert_allclose(
                (weights64(discriminator)[i] - fooled[i]) / 0.25, up, rtol=1e-3, atol=1e-4
            )
        expected = parts(*start, *fooled)
        np.testing.assert_allclose(history["adversarial"], expected[1], rtol=1e-4)
        np.testing.assert_allclose(history["loss"], loss(*start), rtol=1e-4)
        assert ("non_saturating" in history) == (form == "non_saturating")
        if form == "non_saturating":
            np.testing.assert_allclose(history["non_saturating"], expected[2], rtol=1e-4)

    def test_igam_mixacm_takes_the_options(self):
        options = {"adversarial_form": "non_saturating", "teacher_batch_norm": "batch",
                   "discriminator_batch_norm": "separate"}  # fmt: skip
        student, teacher = (
            seeded(build_model("small_cnn", (4, 4, 1), CLASSES, batch_norm=True), s) for s in (1, 2)
        )
        arguments = {
            "student": student,
            "teacher": teacher,
            "discriminator": build_discriminator((4, 4, 1)),
        }
        arguments |= options | {"lambda_adv": 0.5}
        x, y = batch(6, (4, 4, 1))
        alone = terms_of(IGAM(**arguments), x, y)
        both = terms_of(IGAMMixACM(**arguments, mixacm_options={"blocks": ("block1",)}), x, y)
        assert both["non_saturating"][0] == 0.5 and both["adversarial"][0] == 0.0
        for name in ("non_saturating", "adversarial", "difference"):
            np.testing.assert_allclose(both[name], alone[name], rtol=1e-5)


@pytest.mark.parametrize("mode", ["joint", "separate"])
def test_discriminator_batch_norm(mode):
    """Eq. 10 with a discriminator whose batch norm takes its statistics over both models' gradients
    or over each's.
    """
    student, teacher, discriminator = (
        network(1, batch_norm=False),
        network(2, batch_norm=False),
        network(3, outputs=1),
    )
    x, y = batch()
    js, jt = (
        numpy_input_gradient(weights64(m), x, y, batch_statistics=False) for m in (student, teacher)
    )
    if mode == "joint":
        scores = np.split(
            numpy_logits(weights64(discriminator), np.concatenate([js, jt]), True)[:, 0], 2
        )
    else:
        scores = [numpy_logits(weights64(discriminator), j, True)[:, 0] for j in (js, jt)]
    expected = (
        np.log(scipy.special.expit(scores[1])) + np.log(1 - scipy.special.expit(scores[0]))
    ).mean()
    method = IGAM(
        student=student,
        teacher=teacher,
        discriminator=discriminator,
        discriminator_input="raw",
        discriminator_batch_norm=mode,
    )
    np.testing.assert_allclose(terms_of(method, x, y)["adversarial"][1], expected, rtol=1e-4)


@pytest.mark.parametrize(
    "option", ["adversarial_form", "teacher_batch_norm", "discriminator_batch_norm"]
)
def test_unknown_choices(option):
    with pytest.raises(InputError, match=f"unknown {option} 'other'"):
        IGAM(student=network(1), teacher=network(2), **{option: "other"})
    with pytest.raises(InputError, match="unknown trained_layers 'other'"):
        FineTune(teacher=network(2), num_classes=2, trained_layers="other")


@pytest.mark.parametrize("mode", ["moving", "batch"])
def test_fine_tuned_logits_see_the_statistics_that_igam_will(mode, tmp_path):
    """One SGD step of the new logits by hand, in float64, on frozen features; the averages stay as
    they are.
    """
    teacher, (x, y) = network(1), batch()
    method = FineTune(teacher=teacher, num_classes=CLASSES, teacher_batch_norm=mode)
    before = weights64(method.student)
    gamma, beta, mean, variance, w, b = before
    if mode == "batch":
        mean, variance = x.mean(axis=(0, 1, 2)), x.var(axis=(0, 1, 2))
    features = (gamma * (x - mean) / np.sqrt(variance + EPSILON) + beta).reshape(len(x), -1)
    at_logits = (scipy.special.softmax(features @ w + b, axis=1) - np.eye(CLASSES)[y]) / len(y)
    method.compile(keras.optimizers.SGD(0.5))
    method.fit(x, y, batch_size=len(x), verbose=0)
    after = weights64(method.student)
    for old, new in zip(before[:4], after[:4], strict=True):
        np.testing.assert_array_equal(old, new)
    np.testing.assert_allclose(after[4], w - 0.5 * features.T @ at_logits, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(after[5], b - 0.5 * at_logits.sum(axis=0), rtol=1e-4, atol=1e-6)
    # What is saved is the network on its averages.
    method.student.save(tmp_path / "tuned.keras")
    loaded = keras.saving.load_model(tmp_path / "tuned.keras")
    np.testing.assert_allclose(
        loaded(x, training=False), numpy_logits(after, x, batch_statistics=False), rtol=1e-4
    )


class TestFineTuningEveryLayer:
    def test_one_step_against_finite_differences(self):
        teacher, (x, y) = network(2, outputs=5), batch(6)
        teacher.trainable = False  # as IGAM leaves it
        kept = teacher.get_weights()
        method = FineTune(teacher=teacher, num_classes=CLASSES, trained_layers="all")
        method.compile(keras.optimizers.SGD(0.1))
        before = weights64(method.student)
        for old, copied in zip(kept[:4], before[:4], strict=True):
            np.testing.assert_array_equal(old, copied)
        method.fit(x, y, batch_size=6, verbose=0)
        after = weights64(method.student)

        def loss(weights):
            log_p = scipy.special.log_softmax(
                numpy_logits(weights, x.astype(np.float64), True), axis=1
            )
            return -log_p[np.arange(6), y].mean()

        for i in (0, 1, 4, 5):  # gamma, beta, kernel, bias
            gradient = numeric_gradient(
                lambda a, i=i: loss([*before[:i], a, *before[i + 1 :]]), before[i]
            )
            np.testing.assert_allclose((before[i] - after[i]) / 0.1, gradient, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(after[2], 0.9 * before[2] + 0.1 * x.mean(), rtol=1e-5)
        for old, new in zip(kept, teacher.get_weights(), strict=True):
            np.testing.assert_array_equal(old, new)
        assert not any(layer.trainable for layer in teacher.layers)

    def test_behind_an_adapter(self):
        teacher, (x, y) = (
            seeded(build_model("small_cnn", (8, 8, 1), 5, batch_norm=True), 2),
            batch(6, (4, 4, 1)),
        )
        method = FineTune(
            teacher=teacher,
            num_classes=CLASSES,
            adapter="transposed_conv:8x8",
            input_shape=(4, 4, 1),
            trained_layers="all",
        )
        method.compile(keras.optimizers.SGD(0.1))
        kept, before = teacher.get_weights(), method.student.get_weights()
        method.fit(x, y, batch_size=6, verbose=0)
        for old, variable in zip(before, method.student.weights, strict=True):
            # A bias before batch norm changes nothing.
            assert (old != variable.numpy()).any() or variable.path.endswith("/bias"), variable.path
        for old, new in zip(kept, teacher.get_weights(), strict=True):
            np.testing.assert_array_equal(old, new)


class TestTeacherPrecision:
    """The teacher's gradients come from a copy of it with folded batch norm; they are to be the
    teacher's.
    """

    @pytest.fixture(scope="class")
    def pair(self):
        options = {"stem_stride": 1}
        teacher, student = (
            build_model("wrn_10_1", (8, 8, 1), CLASSES, **options) for _ in range(2)
        )
        x, y = batch(6, (8, 8, 1))
        # Statistics that are not those of a fresh network.
        teacher(tf.constant(x), training=True)
        return teacher, student, tf.constant(x), tf.constant(y)

    @staticmethod
    def own_gradient(teacher, x, y):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.nn.sparse_softmax_cross_entropy_with_logits(y, teacher(x, training=False))
        return tape.gradient(loss, x).numpy()

    @pytest.mark.parametrize(
        ("precision", "tolerance"), [("float32", 1e-5), ("mixed", 0.03), ("bfloat16", 0.4)]
    )
    def test_the_gradient_is_the_teachers(self, pair, precision, tolerance):
        teacher, student, x, y = pair
        method = IGAM(student=student, teacher=teacher, teacher_precision=precision, lambda_adv=0.0)
        found = method.gradients.teacher_gradient(x, y).numpy()
        expected = self.own_gradient(teacher, x, y)
        error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
        assert error < tolerance
        assert (error > 1e-4) == (precision != "float32"), "the precision was not used"

    def test_weights_that_the_teacher_gets_later_count(self):
        teacher, student = network(1), network(2)
        x, y = batch()
        method = IGAM(student=student, teacher=teacher, lambda_adv=0.0, lambda_diff=1.0)
        method.compile(optimizer=keras.optimizers.SGD(0.0))
        teacher.set_weights([3 * w for w in teacher.get_weights()])
        history = method.fit(x, y, batch_size=len(x), verbose=0).history
        weights = weights64(teacher)
        theirs = numpy_input_gradient(weights, x.astype(np.float64), y, batch_statistics=False)
        # The student's gradient on batch statistics, as its training step takes it.
        with tf.GradientTape() as tape:
            tape.watch(images := tf.constant(x))
            loss = tf.nn.sparse_softmax_cross_entropy_with_logits(y, student(images, training=True))
        ours = tape.gradient(loss, images).numpy()
        assert history["difference"][0] == pytest.approx(
            np.square(ours - theirs).sum() / len(x), rel=1e-4
        )

    def test_they_count_on_batch_statistics_too(self):
        x, y = batch()
        found = []
        for late in (False, True):
            teacher, student = network(1), network(2)
            weights = [3 * w for w in teacher.get_weights()]
            if not late:
                teacher.set_weights(weights)
            method = IGAM(student=student, teacher=teacher, lambda_adv=0.0, lambda_diff=1.0,
                          teacher_batch_norm="batch")  # fmt: skip
            method.compile(optimizer=keras.optimizers.SGD(0.0))
            teacher.set_weights(weights)
            found += method.fit(x, y, batch_size=len(x), verbose=0).history["difference"]
        assert found[0] == pytest.approx(found[1], rel=1e-6)

    def test_random_places_and_two_kinds_of_step_as_on_a_gpu(self, monkeypatch):
        """There the teacher's copy is compiled by itself; the second trace has other places."""
        monkeypatch.setattr(faster_copy, "on_gpu", lambda: True)
        student = build_model("small_cnn", (6, 6, 1), 10)
        teacher = build_model("small_cnn", (8, 8, 1), 10)
        method = IGAM(
            student=student, teacher=teacher, adapter="random_pad:8x8", discriminator_every=2,
            discriminator_channels=(2,),
        )  # fmt: skip
        method.compile(optimizer=keras.optimizers.SGD(0.01))
        x = np.random.default_rng(0).uniform(size=(12, 6, 6, 1)).astype(np.float32)
        history = method.fit(x, np.arange(12) % 10, batch_size=4, verbose=0).history
        assert np.isfinite(history["loss"]).all()

    def test_a_schedule_without_a_config(self, pair):
        class Own(keras.optimizers.schedules.LearningRateSchedule):
            def __call__(self, step):
                return 0.1 / (tf.cast(step, tf.float32) + 1.0)

        teacher, student, *_ = pair
        method = IGAM(student=student, teacher=teacher, discriminator_channels=(2,))
        method.compile(optimizer=keras.optimizers.SGD(Own()))
        rate = method.discriminator_optimizer.learning_rate
        assert float(rate) == pytest.approx(0.1)
        with pytest.raises(InputError, match="IGAM with its game has two"):
            method.compile(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1)))

    def test_an_unknown_precision_is_refused(self, pair):
        teacher, student, *_ = pair
        with pytest.raises(InputError, match="precision"):
            IGAM(student=student, teacher=teacher, teacher_precision="half")
