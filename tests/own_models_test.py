"""Models of users' own making: copies, subclasses and pixel ranges that Keras allows."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import tf_robust_transfer as rt
from tf_robust_transfer.adapters import adapt
from tf_robust_transfer.errors import InputError
from tf_robust_transfer.inference.faster_copy import FasterCopy
from tf_robust_transfer.models.batch_statistics import with_batch_statistics
from tf_robust_transfer.models.copies import copy_of
from tf_robust_transfer.models.precision import with_precision

SHAPE, CLASSES = (8, 8, 3), 4
RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(size=(6, *SHAPE)).astype("float32")
LABELS = np.arange(6) % CLASSES


def adapted(*further):
    """A network that standardises by what it saw of its images."""
    keras.utils.set_random_seed(0)
    normalization = layers.Normalization()
    normalization.adapt(IMAGES * 0.2 + 0.7)
    return keras.Sequential(
        [
            keras.Input(SHAPE),
            normalization,
            layers.Conv2D(4, 3, activation="relu"),
            *further,
            layers.GlobalAveragePooling2D(),
            layers.Dense(CLASSES),
        ]
    )


class TestNormalization:
    """A copy normalises by the adapted mean and variance, which Keras's `set_weights` forgets."""

    @pytest.mark.parametrize(
        "copied",
        [
            copy_of,
            with_batch_statistics,
            lambda model: adapt(model, "resize:8x8", SHAPE),
            lambda model: with_precision(model, "bfloat16"),
            lambda model: rt.FineTune(teacher=model, num_classes=CLASSES).student,
        ],
        ids=["copy", "batch statistics", "adapter", "precision", "fine-tuned"],
    )
    def test_copies(self, copied):
        model = adapted()
        copy = copied(model)
        copy.layers[-1].set_weights(model.layers[-1].get_weights())  # fresh where fine-tuned
        np.testing.assert_allclose(copy(IMAGES), model(IMAGES), rtol=0.02, atol=0.02)

    def test_the_average(self):
        method = rt.Natural(student=adapted(layers.BatchNormalization()), weight_averaging=0.9)
        method.compile(optimizer=keras.optimizers.SGD(0.0))
        method.fit(IMAGES, LABELS, batch_size=6, verbose=0)
        normalization = next(
            layer
            for layer in method.averaged_student([IMAGES]).layers
            if isinstance(layer, layers.Normalization)
        )
        assert float(tf.reduce_min(normalization.mean)) > 0.7

    def test_what_is_compiled_sees_a_new_adaptation(self):
        model = adapted()
        threat_model = rt.ThreatModel(eps=0.01)

        def clean():
            labels = np.argmax(model(IMAGES), axis=1)
            return rt.evaluate_robustness(
                model, IMAGES, labels, threat_model=threat_model, attacks=("pgd[steps=2]",)
            ).accuracy["clean"]

        assert clean() == 1.0
        model.layers[0].adapt(IMAGES[:2] * 5.0 - 2.0)
        model.layers[-1].set_weights([-w for w in model.layers[-1].get_weights()])
        assert clean() == 1.0


class TestImagesOfTwoSizes:
    @pytest.mark.parametrize("attack", [rt.attacks.PGD(2), rt.attacks.APGD(steps=3)])
    def test_one_model_takes_both(self, attack):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((None, None, 3))
        x = layers.GlobalAveragePooling2D()(layers.Conv2D(8, 3, activation="relu")(inputs))
        model = keras.Model(inputs, layers.Dense(CLASSES)(x))
        for size in (8, 10, 8):
            images = RNG.uniform(size=(5, size, size, 3)).astype("float32")
            labels = np.argmax(model(images), axis=1)
            result = rt.evaluate_robustness(
                model, images, labels, threat_model=rt.ThreatModel(), attacks={"mine": attack}
            )
            assert result.accuracy["clean"] == 1.0
            attack(model, images, labels, threat_model=rt.ThreatModel())


class TestSubclassesWithACallOfTheirOwn:
    """What the layers alone compute is another function."""

    @staticmethod
    def model():
        class Net(keras.Sequential):
            def call(self, inputs, training=None, mask=None):
                return super().call((0.5 - inputs) * 4.0, training=training)

        keras.utils.set_random_seed(0)
        return Net([keras.Input(SHAPE), layers.Flatten(), layers.Dense(CLASSES)])

    def test_it_is_the_model_that_is_attacked(self):
        model = self.model()
        np.testing.assert_allclose(FasterCopy(model)(IMAGES), model(IMAGES), rtol=1e-6)
        labels = np.argmax(model(IMAGES), axis=1)
        found, expected = (
            rt.evaluate_robustness(
                m, IMAGES, labels, threat_model=rt.ThreatModel(eps=0.05), attacks=("fgsm",)
            ).accuracy
            for m in (model, rt.as_classifier(model))
        )
        assert found == expected and found["fgsm"] < found["clean"] == 1.0

    def test_its_endpoints_are_refused(self):
        with pytest.raises(InputError, match="got the subclass Net"):
            rt.endpoints(self.model(), {"block1": "flatten"})
        functional = rt.as_classifier(self.model())
        np.testing.assert_allclose(
            rt.endpoints(functional, {})(IMAGES)["logits"], self.model()(IMAGES), rtol=1e-5
        )


class NotCloned(keras.Model):
    def __init__(self, body):
        super().__init__()
        self.body = body

    def call(self, images, training=None):
        return self.body(tf.identity(images), training=training)


class TestTeachersThatKerasCannotClone:
    def test_a_reason_without_words_is_a_line_too(self, monkeypatch):
        def fails(*_, **__):
            raise NotImplementedError

        monkeypatch.setattr(keras.models, "clone_model", fails)
        with pytest.raises(InputError, match="NotImplementedError"):
            copy_of(adapted())

    @pytest.mark.parametrize(
        "made",
        [
            lambda teacher: rt.FineTune(teacher=teacher, num_classes=3),
            lambda teacher: rt.IGAM(student=adapted(), teacher=teacher, teacher_batch_norm="batch"),
            lambda teacher: rt.IGAM(student=adapted(), teacher=teacher, adapter="resize:8x8"),
        ],
        ids=["fine-tuned", "batch statistics", "adapter"],
    )
    def test_they_are_refused_in_a_line(self, made):
        teacher = NotCloned(adapted())
        teacher(IMAGES)
        with pytest.raises(InputError, match="functional or sequential model"):
            made(rt.as_classifier(teacher, input_shape=SHAPE))


class TestPixelsTo255:
    BOUNDS = (0.0, 255.0)

    def wide(self, model):
        """The same function of images in 0 to 255."""
        inputs = keras.Input(SHAPE)
        return rt.as_classifier(
            keras.Model(inputs, model(layers.Rescaling(1 / 255)(inputs))), bounds=self.BOUNDS
        )

    def test_igams_terms_do_not_depend_on_the_range(self):
        found = []
        for scale, of in ((1.0, lambda model: model), (255.0, self.wide)):
            keras.utils.set_random_seed(1)
            student, teacher = (of(rt.build_model("small_cnn", SHAPE, CLASSES)) for _ in range(2))
            method = rt.IGAM(
                student=student,
                teacher=teacher,
                lambda_adv=0.0,
                noise=0.1 * scale,
                difference_reduction="sum",
            )
            method.compile(optimizer=keras.optimizers.SGD(0.0))
            history = method.fit(scale * IMAGES, LABELS, batch_size=6, verbose=0).history
            found.append([history[name][0] for name in ("difference", "cross_entropy")])
        assert found[1] == pytest.approx(found[0], rel=1e-3)

    def test_advice_is_of_these_bounds(self):
        model = self.wide(adapted())
        threat_model = rt.ThreatModel(eps=8, bounds=self.BOUNDS)
        method = rt.Natural(student=model)
        method.compile(optimizer="sgd")
        levels = (255 * IMAGES).astype("uint8")
        for call in (
            lambda images: rt.evaluate_robustness(
                model, images, LABELS, threat_model=threat_model, attacks=("fgsm",)
            ),
            lambda images: method.fit(images, LABELS, verbose=0),
        ):
            with pytest.raises(InputError, match=r"got uint8; write images.astype\('float32'\)"):
                call(levels)
            with pytest.raises(InputError, match="divided by 255 already"):
                call(levels / np.float32(255))
            call(levels.astype("float32"))

    def test_a_record_has_the_radius_as_reports_compare_it(self):
        result = rt.evaluate_robustness(
            self.wide(adapted()),
            255 * IMAGES,
            LABELS,
            threat_model=rt.ThreatModel(eps=8, bounds=self.BOUNDS),
            eps=(4, 8),
            attacks=("fgsm",),
        )
        record = result.to_json_dict(model="m", dataset="d", split="test")
        assert record["threat_model"] == {
            "norm": "linf", "eps": pytest.approx(8 / 255), "bounds": [0.0, 255.0]
        }  # fmt: skip
        assert [at["eps"] for at in record["radii"]] == pytest.approx([4 / 255, 8 / 255])


class TestArguments:
    @pytest.mark.parametrize("options", [{"seed": None}, {"batch_size": None}, {"batch_size": 8.0}])
    def test_whole_numbers(self, options):
        with pytest.raises(InputError, match="both whole numbers"):
            rt.evaluate_robustness(
                adapted(),
                IMAGES,
                LABELS,
                threat_model=rt.ThreatModel(),
                attacks=("fgsm",),
                **options,
            )

    @pytest.mark.parametrize(
        "attacks",
        [
            "pgd[loss=kl]",
            "pgd[loss=kl;stop_when_fooled=false]",
            {"mine": rt.attacks.PGD(3, loss="kl")},
        ],
        ids=str,
    )
    def test_a_loss_for_training_is_refused(self, attacks):
        with pytest.raises(InputError, match="for training.*cross_entropy or cw"):
            rt.evaluate_robustness(
                adapted(), IMAGES, LABELS, threat_model=rt.ThreatModel(), attacks=attacks
            )

    def test_numbers_for_other_channels(self):
        with pytest.raises(InputError, match="one for each of the 3 channels, got \\[0.5, 0.5\\]"):
            rt.as_classifier(adapted(), mean=[0.5, 0.5])

    @pytest.mark.parametrize("name", ["teacher", "teacher.h5"])
    def test_a_file_of_another_ending(self, name, tmp_path):
        with pytest.raises(InputError, match="ends in .keras"):
            rt.save_model(adapted(), tmp_path / name)
        assert not list(tmp_path.iterdir())
