"""Further models of users' own making: subclasses, precisions, open sizes, other pixel ranges."""

import keras
import numpy as np
import pytest
from keras import layers

import tf_robust_transfer as rt
from tests.own_models_test import CLASSES, IMAGES, LABELS, SHAPE
from tf_robust_transfer.adapters import adapt
from tf_robust_transfer.analysis.fitness import teacher_fitness
from tf_robust_transfer.checkpoints import as_model
from tf_robust_transfer.errors import InputError
from tf_robust_transfer.plots.channel_maps import channel_maps_of


def small(dtype=None, size=SHAPE[:2], **last):
    keras.utils.set_random_seed(0)
    images = keras.Input((*size, 3))
    x = layers.Conv2D(4, 3, activation="relu", name="block1", dtype=dtype)(images)
    x = layers.GlobalAveragePooling2D(dtype=dtype)(x)
    return keras.Model(images, layers.Dense(CLASSES, dtype=dtype, **last)(x))


class Frozen(keras.Model):
    """Keras's recipe for fine-tuning: the base's batch norm stays as it was."""

    def __init__(self):
        super().__init__()
        images = keras.Input(SHAPE)
        self.base = keras.Model(images, layers.BatchNormalization()(images))
        self.flatten, self.head = layers.Flatten(), layers.Dense(CLASSES)

    def call(self, images, training=None):
        return self.head(self.flatten(self.base(images, training=False)))


class Scaled(keras.Model):
    def __init__(self):
        super().__init__()
        self.flatten, self.head = layers.Flatten(), layers.Dense(CLASSES)
        self.scale = 1.0

    def call(self, images):
        return self.head(self.flatten(images)) * self.scale


class TestSubclasses:
    def test_a_base_that_is_called_with_training_false_stays_so(self):
        """Its moving averages moved, and it ran on the statistics of the batch."""
        model = Frozen()
        model(IMAGES)
        method = rt.Natural(student=model)
        method.compile(keras.optimizers.SGD(0.0))
        before = [weight.numpy() for weight in model.base.weights]
        method.fit(IMAGES, LABELS, verbose=0)
        for old, new in zip(before, model.base.weights, strict=True):
            np.testing.assert_array_equal(old, new.numpy())
        np.testing.assert_allclose(
            method.student(IMAGES, training=True), model(IMAGES, training=True), rtol=1e-5
        )

    def test_a_number_that_its_call_reads_may_change(self):
        """The network of the first use was judged for ever."""
        model = Scaled()
        model(IMAGES)
        before = as_model(model)(IMAGES).numpy()
        assert as_model(model) is as_model(model)
        model.scale = 5.0
        np.testing.assert_allclose(as_model(model)(IMAGES), 5.0 * before, rtol=1e-5)


class TestPrecision:
    def test_float64(self):
        """Losses of float64 logits beside float32 ones were tracebacks."""
        for student, teacher in ((small("float64"), small()), (small(), small("float64"))):
            method = rt.IGAM(student=student, teacher=teacher, lambda_adv=0)
            method.compile(keras.optimizers.SGD(0.1))
            method.fit(IMAGES, LABELS, verbose=0)
        method = rt.Distillation(student=small("float64"), teacher=small())
        method.compile(keras.optimizers.SGD(0.1))
        method.fit(IMAGES, LABELS, verbose=0)

    @pytest.mark.parametrize("kind", ["bfloat16", "activation"])
    def test_a_cast_behind_the_logits_is_no_reason_not_to_be_fine_tuned(self, kind):
        teacher = small("bfloat16")
        if kind == "activation":
            cast = layers.Activation("linear", dtype="float32")
            teacher = keras.Model(teacher.inputs, cast(teacher.outputs[0]))
        student = rt.FineTune(teacher=teacher, num_classes=7).student
        assert student.output_shape == (None, 7) and student.output.dtype == "float32"


def test_fine_tuning_leaves_no_branch_out():
    """Of logits that are a sum the last layer's branch alone was left."""
    images = keras.Input(SHAPE)
    x = layers.Flatten()(images)
    branches = [layers.Dense(CLASSES)(layers.Dense(5)(x)) for _ in range(2)]
    teacher = keras.Model(images, branches[0] + branches[1])
    with pytest.raises(InputError, match="the teacher must end in a Dense logit layer"):
        rt.FineTune(teacher=teacher, num_classes=7)


class TestOpenSizes:
    def test_the_channel_maps_take_images_of_any(self):
        found = channel_maps_of(small(size=(None, None)))(IMAGES)
        np.testing.assert_allclose(found["block1"], channel_maps_of(small())(IMAGES)["block1"])

    @pytest.mark.parametrize("open_one", ["student", "teacher"])
    def test_the_advice_of_a_pair(self, open_one):
        roles = {role: small() for role in ("student", "teacher")}
        roles[open_one] = small(size=(None, None))
        line = rf"write {open_one} = rt.as_classifier\({open_one}, input_shape=\(8, 8, 3\)\)"
        with pytest.raises(InputError, match=line):
            rt.IGAM(**roles)


class TestOtherBounds:
    def test_alignment_is_of_pixels_in_0_to_1(self):
        model = small()
        rescaled = keras.Sequential([keras.Input(SHAPE), layers.Rescaling(0.5, 0.5), model])
        wrapped = rt.as_classifier(rescaled, bounds=(-1, 1))
        one = rt.gradient_alignment(model, IMAGES, LABELS, teacher=small())
        other = rt.gradient_alignment(wrapped, 2 * IMAGES - 1, LABELS, teacher=wrapped)
        for name in ("alpha", "rho", "gradient_norm"):
            np.testing.assert_allclose(getattr(other, name), getattr(one, name), rtol=1e-3)

    def test_fitness_takes_the_threat_models(self):
        """It attacked, and then refused the images."""
        inner = small()
        model = keras.Sequential([keras.Input(SHAPE), layers.Rescaling(1 / 255), inner])
        bounds = rt.ThreatModel(eps=8, bounds=(0, 255))
        fit = teacher_fitness(model, 255 * IMAGES, LABELS, threat_model=bounds)
        same = teacher_fitness(inner, IMAGES, LABELS)
        assert fit.alpha == pytest.approx(same.alpha, rel=1e-3)
        assert fit.robustness.accuracy == same.robustness.accuracy
        subclass = Scaled()
        subclass(IMAGES)
        assert 0 <= teacher_fitness(subclass, IMAGES, LABELS).robustness.accuracy["clean"] <= 1

    @pytest.mark.parametrize("adapter", ["pad:8x8", "random_pad:8x8"])
    def test_an_adapter_does_not_fill_with_grey(self, adapter):
        teacher = rt.as_classifier(small(), bounds=(-1, 1))
        with pytest.raises(InputError, match="fills with 0, and black is -1 for the teacher"):
            adapt(teacher, adapter, (4, 4, 3))
        adapt(rt.as_classifier(small(), bounds=(0, 255)), adapter, (4, 4, 3))
