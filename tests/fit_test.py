"""What `fit` of a method says of its networks, images, labels and numbers, and when.

Each fault stands beside the same fit without it, which goes through and gives the weights that
Keras's own fit gives on the plain form of the data.
"""

import contextlib
import copy
import logging

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_robust_transfer as rt
from tests.callbacks_test import methods
from tf_robust_transfer.errors import InputError
from tf_robust_transfer.methods import networks

SHAPE = (4, 4, 1)
RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(size=(24, *SHAPE)).astype(np.float32)
LABELS = np.arange(24) % 3
METHODS = methods()


def network(last=None, width=3, seed=1):
    keras.utils.set_random_seed(seed)
    images = keras.Input(SHAPE)
    x = keras.layers.Conv2D(2, 3, padding="same", activation="relu", name="block1")(images)
    logits = keras.layers.Dense(width, name="logits")(keras.layers.Flatten()(x))
    return keras.Model(images, logits if last is None else last(logits))


def natural(**options):
    method = rt.Natural(student=network(), **options)
    method.compile(optimizer=keras.optimizers.SGD(0.1))
    return method


class Batches(keras.utils.PyDataset):
    def __init__(self, images, labels):
        super().__init__()
        self.images, self.labels = images, labels

    def __len__(self):
        return len(self.images) // 8

    def __getitem__(self, index):
        rows = slice(8 * index, 8 * index + 8)
        return self.images[rows], self.labels[rows]


# The three batches of 8, as Keras takes them.
FORMS = {
    "arrays": lambda x, y: {"x": x, "y": y, "batch_size": 8, "shuffle": False},
    "tensors": lambda x, y: {
        "x": tf.constant(x),
        "y": tf.constant(y),
        "batch_size": 8,
        "shuffle": False,
    },
    "dataset": lambda x, y: {"x": tf.data.Dataset.from_tensor_slices((x, y)).batch(8)},
    "generator": lambda x, y: {
        "x": ((x[i : i + 8], y[i : i + 8]) for i in (0, 8, 16)),
        "steps_per_epoch": 3,
    },
    "PyDataset": lambda x, y: {"x": Batches(x, y), "shuffle": False},
}


def fitted(method, x, y, form="arrays", **options):
    method.fit(**FORMS[form](x, y), verbose=0, **options)
    return method.student.get_weights()


def refused(method, x, y, form="arrays", **options):
    """The message; the student has not moved."""
    before = method.student.get_weights()
    with pytest.raises(rt.InputError) as caught:
        fitted(method, x, y, form, **options)
    for old, new in zip(before, method.student.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture(scope="module")
def expected():
    """The student after plain Keras: compile with its loss, fit."""
    student = network()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    student.compile(optimizer=keras.optimizers.SGD(0.1), loss=loss)
    student.fit(IMAGES, LABELS, batch_size=8, shuffle=False, verbose=0)
    return student.get_weights()


class TestLabels:
    @pytest.mark.parametrize(
        "form, labels",
        [
            ("arrays", LABELS),
            ("arrays", LABELS.astype(np.uint8)[:, None]),
            ("arrays", np.eye(3, dtype=np.int64)[LABELS]),
            ("tensors", LABELS[:, None]),
            ("dataset", LABELS[:, None]),
            ("dataset", np.eye(3, dtype=np.float32)[LABELS]),
            ("generator", np.eye(3, dtype=np.float32)[LABELS]),
            ("PyDataset", LABELS.astype(np.uint8)[:, None]),
        ],
    )
    def test_as_keras_has_them(self, form, labels, expected):
        for found, wanted in zip(fitted(natural(), IMAGES, labels, form), expected, strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)

    @pytest.mark.parametrize("form, bad", [*((form, 3) for form in FORMS), ("dataset", -1)])
    def test_out_of_range(self, form, bad):
        labels = LABELS.copy()
        labels[2] = bad
        assert "labels must lie in 0..2" in refused(natural(), IMAGES, labels, form)

    @pytest.mark.parametrize("form", ["dataset", "generator"])
    def test_out_of_range_in_a_later_batch(self, form):
        labels = LABELS.copy()
        labels[20] = 3
        with pytest.raises(rt.InputError, match=r"labels must lie in 0..2 .* to 3"):
            fitted(natural(), IMAGES, labels, form)

    @pytest.mark.parametrize("form", FORMS)
    def test_rows_that_are_not_one_hot(self, form):
        smoothed = np.full((24, 3), 0.05, np.float32) + 0.85 * np.eye(3, dtype=np.float32)[LABELS]
        assert "must be one-hot rows" in refused(natural(), IMAGES, smoothed, form)
        two = np.maximum(np.eye(3, dtype=np.int64)[LABELS], np.eye(3, dtype=np.int64)[LABELS - 1])
        assert "must be one-hot rows" in refused(natural(), IMAGES, two, form)
        wide = np.eye(5, dtype=np.float32)[LABELS]
        assert "3 columns" in refused(natural(), IMAGES, wide, form)

    @pytest.mark.parametrize(
        "labels", [LABELS[:, None], np.eye(3, dtype=np.float32)[LABELS]], ids=["column", "one-hot"]
    )
    @pytest.mark.parametrize("dataset", [False, True])
    def test_in_an_evaluation(self, labels, dataset):
        options = {"threat_model": rt.ThreatModel(eps=0.1), "attacks": ("fgsm",)}
        student = network()
        wanted = rt.evaluate_robustness(student, IMAGES, LABELS, check_model=False, **options)
        given = (IMAGES, labels)
        if dataset:
            given = (tf.data.Dataset.from_tensor_slices(given).batch(8),)
        found = rt.evaluate_robustness(student, *given, check_model=False, **options)
        for name in wanted.correct:
            np.testing.assert_array_equal(found.correct[name], wanted.correct[name])

    def test_validation_data(self):
        method = natural()
        method.fit(IMAGES, LABELS, verbose=0)
        wanted = method.evaluate(IMAGES, LABELS, verbose=0)
        for labels in (LABELS[:, None], np.eye(3)[LABELS]):
            assert method.evaluate(IMAGES, labels, verbose=0) == wanted


class TestImages:
    @pytest.mark.parametrize("form", FORMS)
    def test_of_0_to_255(self, form):
        message = refused(natural(), 255 * IMAGES, LABELS, form)
        assert "images must lie in (0.0, 1.0)" in message and "divide by 255" in message

    @pytest.mark.parametrize("form", FORMS)
    def test_integers(self, form):
        message = refused(natural(), (255 * IMAGES).astype(np.uint8), LABELS, form)
        assert "divide by 255" in message

    def test_standardised(self):
        message = refused(natural(), (IMAGES - IMAGES.mean()) / IMAGES.std(), LABELS)
        assert "as_classifier(model, mean=, std=)" in message

    @pytest.mark.parametrize("kind", METHODS)
    def test_every_method_refuses_them(self, kind):
        method = METHODS[kind]()
        method.compile(optimizer=keras.optimizers.SGD(0.01))
        assert "images must lie in" in refused(method, 255 * IMAGES, LABELS)

    def test_taken_when_told(self):
        student = rt.as_classifier(network(), bounds=(0, 255), std=255.0)
        method = rt.Natural(student=student)
        method.compile(optimizer=keras.optimizers.SGD(0.1))
        told = fitted(method, 255 * IMAGES, LABELS)
        for found, wanted in zip(told, fitted(natural(), IMAGES, LABELS), strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-5)

    @pytest.mark.parametrize("form, value", [*((f, np.nan) for f in FORMS), ("dataset", np.inf)])
    def test_not_finite(self, form, value):
        images = IMAGES.copy()
        images[18, 1, 1, 0] = value
        whole = form in ("arrays", "tensors")
        where = "image 18 holds NaN" if whole else "at step 3 holds NaN"
        method = natural()
        with pytest.raises(rt.InputError, match=where):
            fitted(method, images, LABELS, form)
        assert np.isfinite(np.concatenate([w.ravel() for w in method.student.get_weights()])).all()
        if whole:
            assert method.steps_done == 0

    def test_on_a_batch(self):
        with pytest.raises(rt.InputError, match="images must lie in"):
            natural().train_on_batch(255 * IMAGES, LABELS)

    def test_the_order_of_a_dataset_is_its_own(self):
        """Nothing is read twice: a seeded shuffle goes on as without the check."""
        read = []

        def note(x, y):
            tf.py_function(lambda y: read.append(int(y)), [y], [])
            return x, y

        dataset = tf.data.Dataset.from_tensor_slices((IMAGES, LABELS)).map(note).batch(8)
        natural().fit(dataset, verbose=0)
        assert len(read) == 24


SQUASHED = {
    "softmax": keras.layers.Softmax,
    "sigmoid": lambda: keras.layers.Activation("sigmoid"),
    "formula": lambda: (
        lambda z: keras.ops.exp(z) / keras.ops.sum(keras.ops.exp(z), axis=1, keepdims=True)
    ),
}


class TestProbabilities:
    @pytest.mark.parametrize("role", ["student", "teacher"])
    @pytest.mark.parametrize("kind", METHODS)
    @pytest.mark.parametrize("last", ["softmax"])
    def test_are_refused_before_the_first_step(self, kind, role, last):
        of_kind = rt.methods.find_method(kind)
        if of_kind.makes_its_student or (role == "teacher" and not of_kind.takes_teacher):
            pytest.skip("it has no network of this role, or makes its logits anew")
        method = METHODS[kind](**{role: network(SQUASHED[last]())})
        method.compile(optimizer=keras.optimizers.SGD(0.01))
        message = refused(method, IMAGES, LABELS)
        assert f"the {role} returns probabilities" in message
        assert "rt.as_classifier(model, probabilities=True)" in message

    def test_of_a_formula(self):
        method = rt.Distillation(student=network(), teacher=network(SQUASHED["formula"]()))
        method.compile(optimizer="sgd")
        assert "the teacher returns probabilities" in refused(method, IMAGES, LABELS)

    @pytest.mark.parametrize("last", ["softmax", "sigmoid"])
    def test_taken_when_told(self, last, expected):
        student = rt.as_classifier(network(SQUASHED[last]()), probabilities=True)
        method = rt.Natural(student=student)
        method.compile(optimizer=keras.optimizers.SGD(0.1))
        for found, wanted in zip(fitted(method, IMAGES, LABELS), expected, strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)

    def test_one_output(self):
        method = rt.Natural(student=network(width=1))
        method.compile(optimizer="sgd")
        assert "one output" in refused(method, IMAGES, np.zeros(24, int))


class Poison(keras.callbacks.Callback):
    """Puts NaN into the first kernel before a step. The ReLU behind it makes 0 of it."""

    def __init__(self, step):
        super().__init__()
        self.step = step

    def on_train_batch_begin(self, batch, logs=None):
        if self.model.steps_done == self.step - 1:
            kernel = self.model.student.trainable_variables[0]
            kernel.assign(np.full(kernel.shape, np.nan))


QUICK = ("natural", "mixacm")


class TestNumbers:
    @pytest.mark.parametrize(
        "kind", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in METHODS]
    )
    def test_a_weight_that_is_not_finite_is_named_and_not_saved(self, kind, tmp_path):
        method = METHODS[kind]()
        if kind == "finetune":
            method = METHODS[kind](trained_layers="all")
        method.compile(optimizer=keras.optimizers.SGD(0.01))
        saves = [
            keras.callbacks.ModelCheckpoint(str(tmp_path / "each.keras")),
            keras.callbacks.ModelCheckpoint(
                str(tmp_path / "each.weights.h5"), save_weights_only=True
            ),
        ]
        with pytest.raises(rt.InputError) as caught:
            fitted(method, IMAGES, LABELS, callbacks=[Poison(2), *saves])
        assert "conv2d" in str(caught.value) or "block1" in str(caught.value)
        assert not list(tmp_path.iterdir())
        for save in (method.save, method.student.save, lambda p: rt.save_model(method, p)):
            if save != method.student.save:  # plain Keras's own
                with pytest.raises(rt.InputError):
                    save(str(tmp_path / "model.keras"))
        assert not list(tmp_path.iterdir())

    def test_a_gradient_is_named_with_its_step(self):
        class Explodes(keras.layers.Layer):
            """The identity, whose gradient is NaN from the fourth step on."""

            def build(self, shape):
                self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False)

            def call(self, x, training=None):
                if training:
                    self.calls.assign_add(1.0)

                @tf.custom_gradient
                def same(x):
                    return tf.identity(x), lambda g: g * tf.where(self.calls > 3.5, np.nan, 1.0)

                return same(x)

        method = rt.Natural(student=network(Explodes()))
        method.compile(optimizer=keras.optimizers.SGD(0.1))
        with pytest.raises(rt.InputError, match="not finite at step 4"):
            fitted(method, IMAGES, LABELS, epochs=2)
        assert method.steps_done == 6, "found at its step, told at the end of the epoch"

    @pytest.mark.parametrize("rate", [pytest.param(0.1, marks=pytest.mark.slow), 1e5])
    def test_a_collapse_is_told_at_the_epochs_end(self, rate, caplog):
        """At a rate of 1e5 all ReLUs are dead: the logits are the bias."""
        student = network()
        kernel, bias = student.trainable_variables[:2]
        if rate > 1:
            kernel.assign(-np.abs(kernel.numpy()))
            bias.assign(bias.numpy() - 1.0)
        method = rt.Natural(student=student)
        method.compile(optimizer=keras.optimizers.SGD(0.1))
        with caplog.at_level(logging.WARNING, "tf_robust_transfer"):
            fitted(method, IMAGES, LABELS)
        told = [r for r in caplog.records if "collapsed" in r.getMessage()]
        assert len(told) == (rate > 1)


def test_a_method_is_not_copied():
    for act in (copy.deepcopy, copy.copy, keras.models.clone_model):
        with pytest.raises(rt.InputError, match="save its student"):
            act(natural())


def test_a_plain_fit_on_batches_says_nothing_of_shuffling(recwarn):
    natural().fit(tf.data.Dataset.from_tensor_slices((IMAGES, LABELS)).batch(8), verbose=0)
    assert not [str(found.message) for found in recwarn if "shuffle" in str(found.message)]


class TestBounds:
    """Student, teacher and threat model of one range of pixels."""

    def of_bytes(self, seed=1):
        return rt.as_classifier(network(seed=seed), bounds=(0, 255))

    def method(self, kind, **networks):
        method = getattr(rt, kind)(**networks)
        method.compile(optimizer=keras.optimizers.SGD(0.01))
        return method

    def test_a_threat_model_of_another(self):
        wrong, right = rt.ThreatModel(eps=0.1), rt.ThreatModel(eps=2, bounds=(0, 255))
        trained = {"student": self.of_bytes(), "attack": "pgd1"}
        said = refused(
            self.method("AdversarialTraining", threat_model=wrong, **trained), 255 * IMAGES, LABELS
        )
        assert "give ThreatModel(bounds=(0.0, 255.0))" in said
        networks.check_bounds(self.method("AdversarialTraining", threat_model=right, **trained))

    def test_a_teacher_of_another(self):
        for student, teacher, images in (
            (network(), self.of_bytes(2), IMAGES),
            (self.of_bytes(), network(seed=2), 255 * IMAGES),
        ):
            method = self.method("Distillation", student=student, teacher=teacher)
            assert "the teacher takes images in" in refused(method, images, LABELS)
        networks.check_bounds(
            self.method("Distillation", student=self.of_bytes(), teacher=self.of_bytes(2))
        )

    def test_igams_noise_stays_in_them(self):
        """The same steps in both units."""
        found = []
        for scale, make in ((1.0, network), (255.0, self.of_bytes)):
            student = make()
            if scale == 255.0:  # the same function
                kernel = student.weights[0]
                kernel.assign(kernel / 255.0)
            options = {"lambda_adv": 0.0, "lambda_diff": 0.0, "noise": 0.3 * scale}
            method = self.method("IGAM", student=student, teacher=make(seed=2), **options)
            method.fit(scale * IMAGES[:8], LABELS[:8], shuffle=False, verbose=0)
            found.append(method.student.get_weights()[2])
        np.testing.assert_allclose(*found, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "kind", ["adversarial_training", pytest.param("igam", marks=pytest.mark.slow)]
)
def test_images_without_a_static_size(kind):
    """As decoded files have it: the student's is known."""
    specs = tf.TensorSpec([None, None, None, None]), tf.TensorSpec([None], tf.int64)
    found = []
    for dataset in (
        tf.data.Dataset.from_tensor_slices((IMAGES, LABELS)).batch(8),
        tf.data.Dataset.from_generator(
            lambda: iter([(IMAGES[i : i + 8], LABELS[i : i + 8]) for i in (0, 8, 16)]),
            output_signature=specs,
        ),
    ):
        method = METHODS[kind](student=network(), teacher=network(seed=2))
        method.compile(optimizer=keras.optimizers.SGD(0.1))
        method.fit(dataset, verbose=0)
        found.append(method.student.get_weights())
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("form", FORMS)
def test_images_of_another_size(form):
    images = np.zeros((24, 6, 4, 1), np.float32)
    said = refused(natural(), images, LABELS, form)
    assert "images must be of shape (4, 4, 1), as the student takes them, got (6, 4, 1)" in said


def test_a_teacher_of_any_size_has_no_gradient_to_match():
    def anywhere(seed):
        images = keras.Input((None, None, 1))
        x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(2, 3)(images))
        return keras.Model(images, keras.layers.Dense(3)(x))

    with pytest.raises(rt.InputError, match="images of any size, .* input_shape="):
        rt.IGAM(student=anywhere(1), teacher=anywhere(2))


def test_callbacks_by_position_as_keras_takes_them():
    seen = []
    callback = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(epoch))
    natural().fit(IMAGES, LABELS, 8, 2, 0, [callback])
    assert seen == [0, 1]


class TestPipelines:
    """Of one's own: of unknown shapes, of dicts, without batches."""

    @staticmethod
    def fit(dataset, images=(4, 4, 1)):
        method = rt.Natural(student=rt.build_model("small_cnn", images, 3))
        method.compile(keras.optimizers.SGD(0.1))
        method.fit(dataset, verbose=0)

    @pytest.mark.parametrize(
        ("images", "labels", "says"),
        [
            (np.full((2, 4, 4, 1), 9, np.float32), [0, 1], "images must lie in"),
            (np.full((2, 4, 4, 1), np.nan, np.float32), [0, 1], "NaN or infinite pixels"),
            (np.zeros((2, 4, 4, 1), np.float32), [0, 7], "labels must lie in 0..2"),
            (np.zeros((2, 4, 4, 1), np.float32), [0, 2], ""),
        ],
    )
    def test_of_unknown_shapes_are_checked(self, images, labels, says):
        batches = tf.data.Dataset.from_tensors((images, np.array(labels))).map(
            lambda x, y: tf.numpy_function(lambda a, b: (a, b), (x, y), (tf.float32, tf.int64))
        )
        assert batches.element_spec[0].shape.rank is None
        with pytest.raises(InputError, match=says) if says else contextlib.nullcontext():
            self.fit(batches)

    def test_of_dicts_and_of_single_images(self):
        x, y = np.zeros((6, 4, 4, 1), np.float32), np.zeros(6, np.int64)
        dicts = tf.data.Dataset.from_tensor_slices(({"image": x}, y)).batch(3)
        single = tf.data.Dataset.from_tensor_slices((x, y.astype(np.float32)))
        for dataset in (dicts, single):
            with pytest.raises(InputError, match=r"fitted on batches \(images, integer labels"):
                self.fit(dataset)

    def test_of_a_validation(self):
        x, y = np.zeros((6, 4, 4, 1), np.float32), np.zeros(6, np.int64)
        wrong = tf.data.Dataset.from_tensor_slices((x + 9, y)).batch(3)
        method = rt.Natural(student=rt.build_model("small_cnn", (4, 4, 1), 3))
        method.compile(keras.optimizers.SGD(0.1))
        with pytest.raises(InputError, match="images must lie in"):
            method.fit(x, y, validation_data=wrong, verbose=0)
        with pytest.raises(InputError, match="images must lie in"):
            method.evaluate(wrong, verbose=0)
