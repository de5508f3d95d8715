"""Models of users' own making: compiled with losses of their own, nested, shared, ending in
probabilities. Keras runs them all."""

import json

import keras
import numpy as np
import pytest
from keras import layers

import tf_robust_transfer as rt
from tf_robust_transfer import convert, evaluate
from tf_robust_transfer.command_line import parse
from tf_robust_transfer.errors import InputError
from tf_robust_transfer.evaluation import RobustnessWarning, checks
from tf_robust_transfer.inference.faster_copy import FasterCopy
from tf_robust_transfer.models.batch_statistics import with_batch_statistics
from tf_robust_transfer.models.copies import copy_of
from tf_robust_transfer.models.precision import same_precision
from tf_robust_transfer.models.probabilities import probability_layer

SHAPE, CLASSES = (8, 8, 3), 4
RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(size=(6, *SHAPE)).astype("float32")
LABELS = np.arange(6) % CLASSES


class MyLoss(keras.losses.Loss):
    def call(self, labels, logits):
        return keras.ops.mean(logits, axis=-1)


def my_loss(labels, logits):
    return keras.ops.mean(logits, axis=-1)


class MyMetric(keras.metrics.Mean):
    pass


class Mine(layers.Dense):
    """Of a class that nobody registered."""


COMPILED = {
    "class": {"loss": MyLoss()},
    "function": {"loss": my_loss},
    "lambda": {"loss": lambda labels, logits: my_loss(labels, logits)},
    "metric": {"loss": "mse", "metrics": [MyMetric()]},
}


def body(*further, seed=0):
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input(SHAPE),
            layers.Conv2D(4, 3, activation="relu", name="first"),
            layers.BatchNormalization(),
            *further,
            layers.GlobalAveragePooling2D(name="pooled"),
            layers.Dense(CLASSES, name="last"),
        ]
    )


class TestCompiledWithALossOfOnesOwn:
    @pytest.mark.parametrize("options", COMPILED.values(), ids=COMPILED)
    def test_a_file_is_loaded_without_it(self, options, tmp_path):
        model = body()
        model.compile("adam", **options)
        rt.save_model(model, tmp_path / "x.keras")
        loaded = rt.load_model(str(tmp_path / "x.keras"))
        np.testing.assert_array_equal(loaded(IMAGES), model(IMAGES))

    def test_a_lambda_layer_beside_it_is_refused_still(self, tmp_path):
        model = body(layers.Lambda(lambda x: x))
        model.compile("adam", loss=MyLoss())
        model.save(tmp_path / "x.keras")
        with pytest.raises(InputError, match="holds a Lambda layer"):
            rt.load_model(str(tmp_path / "x.keras"))

    @pytest.mark.parametrize("options", COMPILED.values(), ids=COMPILED)
    @pytest.mark.parametrize(
        "copied",
        [
            copy_of,
            with_batch_statistics,
            same_precision,
            lambda model: rt.FineTune(teacher=model.layers[-1], num_classes=CLASSES),
            lambda model: rt.endpoints(model, {"block1": "inner/first"}),
        ],
        ids=["copy", "batch statistics", "precision", "fine-tuned", "endpoints"],
    )
    def test_it_is_copied_and_stays_compiled(self, copied, options):
        inner = body()
        inner.name = "inner"
        inputs = keras.Input(SHAPE)
        model = keras.Model(inputs, inner(inputs))
        for one in (inner, model):
            one.compile("adam", **options)
        copied(model)
        assert inner.compiled and model.compiled


class TestNestedModels:
    def test_layers_that_two_of_them_share_stay_shared(self):
        inputs = keras.Input(SHAPE)
        maps = layers.Conv2D(4, 3, name="shared")(inputs)
        pooled = layers.GlobalAveragePooling2D()(maps)
        base, features = keras.Model(inputs, pooled), keras.Model(inputs, maps)
        images = keras.Input(SHAPE)
        both = [base(images), layers.GlobalMaxPooling2D()(features(images))]
        model = keras.Model(images, layers.Dense(CLASSES)(layers.Concatenate()(both)))
        copy = copy_of(model)
        assert len(copy.weights) == len(model.weights) == 4
        np.testing.assert_allclose(copy(IMAGES), model(IMAGES), rtol=1e-6)
        assert not {id(w) for w in copy.weights} & {id(w) for w in model.weights}

    def test_a_class_that_is_not_registered(self):
        images = keras.Input(SHAPE)
        inner = body(Mine(4))
        model = keras.Model(images, inner(images))
        np.testing.assert_allclose(copy_of(model)(IMAGES), model(IMAGES), rtol=1e-6)

    def test_a_layer_that_hangs_on_a_model_is_told_of(self):
        inner = body()
        model = keras.Model(inner.inputs, inner.outputs)
        model.extra = layers.Dense(2)
        model.extra.build((None, 3))
        with pytest.raises(InputError, match="without further layers as attributes"):
            copy_of(model)

    @pytest.mark.parametrize("given", [lambda x: x, lambda x: [x], lambda x: {"images": x}])
    def test_they_may_be_given_a_list_or_a_dict(self, given):
        inputs = keras.Input(SHAPE, name="images")
        maps = layers.Conv2D(4, 3, activation="relu")(inputs)
        inner = keras.Model(given(inputs), layers.BatchNormalization()(maps))
        images = keras.Input(SHAPE)
        pooled = layers.GlobalAveragePooling2D()(inner(given(images)))
        model = keras.Model(images, layers.Dense(CLASSES)(pooled))
        np.testing.assert_allclose(FasterCopy(model)(IMAGES), model(IMAGES), rtol=1e-5, atol=1e-6)
        rt.evaluate_robustness(
            model, IMAGES, LABELS, threat_model=rt.ThreatModel(eps=0.01), attacks=("fgsm",)
        )


def softmax_of(outputs):
    return layers.Softmax(name="end")(outputs)


class TestProbabilities:
    def one_probability(self):
        images = keras.Input(SHAPE)
        features = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(images))
        return keras.Model(images, layers.Dense(1, activation="sigmoid", name="end")(features))

    def test_one_of_them_is_no_logit(self):
        """As a logit it would be of class 1 whatever the image."""
        model = self.one_probability()
        with pytest.raises(InputError, match=r"'end'.*probabilities=True"):
            rt.as_classifier(model)
        method = rt.Natural(student=model)
        method.compile("sgd")
        with pytest.raises(InputError, match=r"one output.*probabilities=True"):
            method.fit(IMAGES, LABELS % 2, verbose=0)
        found = rt.as_classifier(model, probabilities=True)(IMAGES).numpy()
        np.testing.assert_allclose(
            1 / (1 + np.exp(found[:, :1] - found[:, 1:])), model(IMAGES), rtol=1e-5
        )

    def test_of_half_precision(self):
        images = keras.Input(SHAPE)
        flat = layers.Flatten()(images)
        model = keras.Model(
            images, layers.Dense(3, activation="softmax", dtype="mixed_float16", name="end")(flat)
        )
        assert probability_layer(model) == "end"
        assert probability_layer(rt.as_classifier(model)) == "end"

    def test_nested_with_a_further_output(self):
        inputs, images = keras.Input(SHAPE), keras.Input(SHAPE)
        features = layers.GlobalAveragePooling2D()(layers.Conv2D(CLASSES, 3)(inputs))
        inner = keras.Model(inputs, [features, softmax_of(features)])
        model = keras.Model(images, inner(images)[1])
        assert probability_layer(model) == "end"
        assert probability_layer(keras.Model(images, inner(images)[0])) is None
        logits = rt.as_classifier(model, probabilities=True)(IMAGES)
        np.testing.assert_allclose(logits, inner(IMAGES)[0], rtol=1e-5)

    def test_nested_with_a_further_input(self):
        one, two, images = keras.Input((4,)), keras.Input((4,)), keras.Input(SHAPE)
        head = keras.Model([one, two], softmax_of(layers.Add()([one, two])))
        features = layers.GlobalAveragePooling2D()(layers.Conv2D(CLASSES, 3)(images))
        model = keras.Model(images, head([features, features]))
        assert probability_layer(model) == "end"
        logits = rt.as_classifier(model, probabilities=True)(IMAGES)
        np.testing.assert_allclose(keras.ops.softmax(logits), model(IMAGES), rtol=1e-5)

    def test_sigmoids_are_told_of_in_an_evaluation(self):
        """Their sum is not 1, and their cross-entropy is as flat as a softmax's."""
        model = keras.Sequential([*body().layers[:-1], layers.Dense(3, activation="sigmoid")])
        model(IMAGES)
        with pytest.warns(RobustnessWarning, match="returns probabilities"):
            rt.evaluate_robustness(
                model, IMAGES, LABELS % 3, threat_model=rt.ThreatModel(), attacks=("fgsm",)
            )
        assert not any("probabilities" in line for line in checks.check_model(
            body(), keras.ops.convert_to_tensor(IMAGES), keras.ops.convert_to_tensor(LABELS),
            rt.ThreatModel(), 0,
        ))  # fmt: skip


def run(command, *arguments):
    config = evaluate.EvaluateConfig if command is evaluate else convert.ConvertConfig
    command.run(parse(config, [str(argument) for argument in arguments]))


class TestPixelsTo255OnTheCommandLine:
    def file(self, folder):
        model = keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(10)])
        rt.save_model(rt.as_classifier(model, bounds=(0, 255)), folder / "x y.keras")
        return folder / "x y.keras"

    def test_the_card_and_the_description_say_so(self, tmp_path):
        source, output = self.file(tmp_path), tmp_path / "out y.keras"
        run(convert, f"--model={source}", f"--output={output}")
        card = output.with_name("out y.keras.md").read_text()
        assert "images of 8 x 8 x 1 in [0, 255]" in card
        assert f"'--model={source}' '--output={output}'" in card  # for a shell
        described = json.loads(output.with_name("out y.keras.json").read_text())
        assert described["pixel_bounds"] == [0.0, 255.0]

    @pytest.mark.parametrize("command", [evaluate, convert])
    def test_it_is_not_measured_on_pixels_to_1(self, command, tmp_path):
        given = f"--model={self.file(tmp_path)}", "--dataset=digits"
        output = [f"--output={tmp_path / 'o.keras'}"] if command is convert else []
        with pytest.raises(InputError, match=r"takes images in \(0.0, 255.0\).*a Rescaling"):
            run(command, *given, *output)


class TestModelCardsBeforeAnyAttack:
    def test_of_another_kind_of_model(self):
        with pytest.raises(InputError, match="--model_card is for a .keras file or a run folder"):
            run(evaluate, "--model=zoo:cifar10_preact_resnet_18", "--model_card")

    def test_that_cannot_be_read(self, tmp_path):
        rt.save_model(body(), tmp_path / "x.keras")
        (tmp_path / "x.keras.md").write_text("---\ntags:\n- mine\n---\n# x\n")
        with pytest.raises(InputError, match="is no model card that this package has written"):
            run(evaluate, f"--model={tmp_path / 'x.keras'}", "--dataset=digits", "--model_card")


def test_the_list_of_teachers_has_the_zoo_where_its_data_are_asked_for(capsys):
    for dataset, there in (("cifar10", True), ("cifar100", False)):
        run(convert, "--list", f"--dataset={dataset}")
        line = "zoo:cifar10_preact_resnet_18 comes with the package; its card is "
        assert (line in capsys.readouterr().out) == there
