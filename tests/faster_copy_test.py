"""attacks/faster_copy.py: the copy is the model, in logits and input gradients, whatever its graph
looks like.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from tf_robust_transfer.errors import InputError
from tf_robust_transfer.inference import faster_copy
from tf_robust_transfer.inference.faster_copy import FasterCopy
from tf_robust_transfer.inference.nodes import Nothing, ScaleAndShift
from tf_robust_transfer.models import MODELS, build_model
from tf_robust_transfer.models.endpoints import endpoints

CLASSES = 5

# Of each entry of MODELS one or two small members: name, image shape, options.
NETWORKS = {
    "cifar_resnet_18": [("cifar_resnet_18", (8, 8, 3), {"base_channels": 4})],
    "mobilenet_v2": [("mobilenet_v2", (8, 8, 3), {"width": 0.25})],
    "wide_resnet_50_2": [("wide_resnet_50_2", (32, 32, 3), {"base_channels": 4})],
    "wrn_by_group": [("wrn_by_group", (8, 8, 3), {"blocks": (1, 1, 1), "widths": (1, 2, 1)})],
    "cifar_resnet_50": [("cifar_resnet_50", (8, 8, 3), {"base_channels": 4})],
    "igam_student": [("igam_student", (8, 8, 3), {"depth": 8, "width": 1})],
    "madry_mnist": [("madry_mnist", (9, 12, 1), {})],
    "madry_wrn_{depth}_{width}": [("madry_wrn_8_1", (8, 8, 3), {})],
    "preact_resnet_18": [
        ("preact_resnet_18", (8, 8, 3), {"base_channels": 4}),
        (
            "preact_resnet_18",
            (8, 8, 3),
            {"base_channels": 4, "activated_shortcut": False, "final_batch_norm": False},
        ),
        (
            "preact_resnet_18",
            (8, 8, 3),
            {"base_channels": 4, "activation": "swish", "padding": "same", "shortcut_kernel": 3},
        ),
    ],
    "resnet_18": [("resnet_18", (32, 32, 3), {"base_channels": 4})],
    "resnet_50": [("resnet_50", (32, 32, 3), {"base_channels": 4})],
    "resnet_50_keras": [("resnet_50_keras", (32, 32, 3), {"base_channels": 4})],
    "small_cnn": [("small_cnn", (9, 12, 1), {}), ("small_cnn", (12, 9, 3), {"batch_norm": True})],
    "wrn_{depth}_{width}": [
        ("wrn_10_1", (9, 8, 1), {"stem_stride": 2}),
        ("wrn_10_1", (8, 8, 3), {"activation": "swish", "padding": "same"}),
        ("wrn_10_1", (8, 8, 3), {"activation": "leaky_relu", "preprocessing": "centered"}),
        ("wrn_10_1", (8, 8, 3), {"cosine_logits": True}),
    ],
}
EVERY = [
    pytest.param(
        *member,
        id="-".join([member[0], *map(str, member[2])]),
        # Fifty layers of resnet_50's kinds once more.
        marks=[pytest.mark.slow] if member[0] == "resnet_50_keras" else [],
    )
    for ms in NETWORKS.values()
    for member in ms
]


def randomise(model, seed=0):
    """Weights of the size that training gives, and batch statistics with nothing left at 0 or 1."""
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        if variable.name in ("gamma", "moving_variance"):
            variable.assign(rng.uniform(0.3, 2.0, variable.shape))
        elif variable.name in ("beta", "bias", "moving_mean"):
            variable.assign(rng.uniform(-0.5, 0.5, variable.shape))
        elif variable.name == "kernel":
            variable.assign(
                rng.standard_normal(variable.shape) / np.sqrt(np.prod(variable.shape[:-1]))
            )
    return model


def logits_and_gradient(function, images, labels):
    images = tf.constant(images)
    with tf.GradientTape() as tape:
        tape.watch(images)
        logits = function(images)
        loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
    return logits.numpy(), tape.gradient(loss, images).numpy()


def compare(model, copy, tolerance=1e-4, batch=4):
    """The largest differences are held against the largest values."""
    rng = np.random.default_rng(1)
    images = rng.uniform(size=(batch, *model.input_shape[1:])).astype(np.float32)
    labels = rng.integers(0, model.output_shape[-1], batch)
    expected = logits_and_gradient(lambda x: model(x, training=False), images, labels)
    for found, right in zip(
        logits_and_gradient(tf.function(copy), images, labels), expected, strict=True
    ):
        assert found.dtype == np.float32
        assert np.abs(found - right).max() <= tolerance * np.abs(right).max()
    assert np.abs(expected[1]).max() > 0


def kinds(copy):
    """How many batch norms are folded, and how many stand alone."""
    found = [type(replacement) for replacement in copy._graph.replacements.values()]
    return found.count(Nothing), found.count(ScaleAndShift)


def functional(build, shape=(6, 6, 3)):
    """A network of what `build` makes of the images."""
    images = keras.Input(shape)
    x = layers.GlobalAveragePooling2D()(build(images))
    return randomise(keras.Model(images, layers.Dense(CLASSES)(x)))


class TestEveryNetwork:
    def test_all_of_them_are_here(self):
        assert set(NETWORKS) == set(MODELS)

    @pytest.mark.parametrize(("name", "shape", "options"), EVERY)
    def test_float32(self, name, shape, options):
        model = randomise(build_model(name, shape, CLASSES, **options))
        copy = FasterCopy(model)
        assert not copy.follows_model
        compare(model, copy)
        norms = sum(isinstance(layer, layers.BatchNormalization) for layer in model.layers)
        folded, alone = kinds(copy)
        assert folded + alone == norms
        # Where a network normalises after its convolutions, nothing is left over.
        assert (
            alone == 0
            if name.startswith(("resnet", "wide", "cifar", "small", "madry_mnist"))
            else folded > 0 < alone
        )

    @pytest.mark.parametrize("precision", ["mixed", "bfloat16"])
    @pytest.mark.parametrize(
        ("name", "shape", "options"), [p for p in EVERY if not p.id.startswith("resnet")]
    )
    def test_bfloat16(self, name, shape, options, precision):
        """The gradients point the same way. Mixed logits are exact; those of eight bits agree to
        2%, behind 50 layers 4.
        """
        model = randomise(build_model(name, shape, CLASSES, **options))
        copy = FasterCopy(model, precision=precision)
        images = np.random.default_rng(1).uniform(size=(4, *shape)).astype(np.float32)
        labels = np.arange(4)
        logits, gradient = logits_and_gradient(lambda x: model(x, training=False), images, labels)
        low_logits, low_gradient = logits_and_gradient(copy, images, labels)
        assert low_logits.dtype == low_gradient.dtype == np.float32
        error = np.abs(low_logits - logits).max() / np.abs(logits).max()
        assert (
            error < 1e-5
            if precision == "mixed"
            else 1e-5 < error < (0.04 if "50" in name else 0.02)
        )
        # Under mixed no activation changes its sign: the largest distance seen is 5e-5, under
        # bfloat16 0.07.
        distance = 1 - np.corrcoef(low_gradient.ravel(), gradient.ravel())[0, 1]
        assert 1e-9 < distance < (1e-3 if precision == "mixed" else 0.2)


class TestGraphs:
    def test_batch_norm_used_twice(self):
        norm = layers.BatchNormalization()

        def build(x):
            first = norm(layers.Conv2D(4, 3, padding="same")(x))
            return layers.Add()([first, norm(layers.Conv2D(4, 1)(x))])

        model = functional(build)
        copy = FasterCopy(model)
        assert kinds(copy) == (2, 0)  # each convolution takes it
        compare(model, copy)

    def test_convolution_used_twice(self):
        convolution = layers.Conv2D(3, 3, padding="same")

        def build(x):
            x = layers.ReLU()(layers.BatchNormalization()(convolution(x)))
            return layers.BatchNormalization()(convolution(x))

        model = functional(build)
        copy = FasterCopy(model)
        assert kinds(copy) == (2, 0)
        compare(model, copy)

    def test_output_read_twice_is_not_folded(self):
        def build(x):
            x = layers.Conv2D(4, 3, padding="same")(x)
            return layers.Add()([x, layers.BatchNormalization()(x)])

        model = functional(build)
        copy = FasterCopy(model)
        assert kinds(copy) == (0, 1)
        compare(model, copy)

    def test_two_batch_norms_of_one_output_are_not_folded(self):
        def build(x):
            x = layers.Conv2D(4, 3, padding="same")(x)
            return layers.Concatenate()(
                [layers.BatchNormalization()(x), layers.BatchNormalization()(x)]
            )

        model = functional(build)
        copy = FasterCopy(model)
        assert kinds(copy) == (0, 2)
        compare(model, copy)

    def test_activation_between_is_not_folded(self):
        model = functional(
            lambda x: layers.BatchNormalization()(layers.Conv2D(4, 3, activation="relu")(x))
        )
        copy = FasterCopy(model)
        assert kinds(copy) == (0, 1)
        compare(model, copy)

    def test_two_batch_norms_in_a_row_and_one_before_any_weights(self):
        def build(x):
            x = layers.BatchNormalization(scale=False)(x)
            return layers.BatchNormalization(center=False)(
                layers.BatchNormalization()(layers.Conv2D(4, 3)(x))
            )

        model = functional(build)
        copy = FasterCopy(model)
        assert kinds(copy) == (1, 2)
        compare(model, copy)

    def test_dense_with_batch_norm(self):
        model = functional(lambda x: layers.Conv2D(4, 3)(x))
        x = layers.BatchNormalization()(layers.Dense(7, use_bias=False)(model.layers[-2].output))
        model = randomise(keras.Model(model.input, layers.Dense(CLASSES)(layers.ReLU()(x))))
        copy = FasterCopy(model)
        assert kinds(copy) == (1, 0)
        compare(model, copy)

    def test_the_models_output_may_be_a_batch_norm_or_be_read_by_one(self):
        images = keras.Input((4, 4, 3))
        dense = layers.Dense(CLASSES)(layers.Flatten()(images))
        for output in (
            layers.BatchNormalization()(dense),
            layers.Softmax()(layers.BatchNormalization()(dense)),
        ):
            model = randomise(keras.Model(images, output))
            for precision in ("float32", "mixed", "bfloat16"):
                compare(model, FasterCopy(model, precision=precision))

    @pytest.mark.parametrize("padding", ["same", "valid"])
    @pytest.mark.parametrize(("kernel", "stride"), [(3, 1), ((2, 5), (3, 2)), (4, 2), (1, 2)])
    def test_padding_of_the_first_convolution(self, padding, kernel, stride):
        def build(x):
            return layers.Conv2D(4, kernel, strides=stride, padding=padding)(x)

        for shape in ((9, 8, 1), (10, 11, 5)):
            model = functional(build, shape)
            compare(model, FasterCopy(model))

    def test_images_of_any_size(self):
        model = functional(
            lambda x: layers.Conv2D(4, 3, strides=2, padding="same")(x), (None, None, 3)
        )
        images = np.random.default_rng(0).uniform(size=(2, 7, 8, 3)).astype(np.float32)
        np.testing.assert_allclose(FasterCopy(model)(images), model(images), rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("precision", ["float32", "mixed", "bfloat16"])
    def test_nested_and_sequential_models(self, precision):
        inside = keras.Sequential(
            [layers.Conv2D(8, 3), layers.BatchNormalization(), layers.ReLU(), layers.Conv2D(8, 3)]
        )
        inside.build((None, 8, 8, 3))
        model = keras.Sequential(
            [layers.Rescaling(2.0, -1.0), inside, layers.BatchNormalization(), layers.Flatten()]
        )
        model.add(layers.Dense(CLASSES))
        model.build((None, 8, 8, 3))
        randomise(model)
        copy = FasterCopy(model, precision=precision)
        assert not copy.follows_model
        assert kinds(copy) == (0, 1)
        compare(model, copy, tolerance=1e-4 if precision == "float32" else 0.02)

    @pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-5), ("bfloat16", 0.02)])
    @pytest.mark.parametrize("name", ["preact_resnet_18", "small_cnn"])
    def test_endpoints(self, name, precision, tolerance):
        """Each is the model's own, those too that a batch norm reads, which is not folded then."""
        options = {"base_channels": 4} if name == "preact_resnet_18" else {"batch_norm": True}
        model = build_model(name, (8, 8, 3), CLASSES, **options)
        randomise(model)
        submodel = endpoints(model, {layer.name: layer.name for layer in model.layers[1:]})
        images = np.random.default_rng(3).uniform(size=(4, 8, 8, 3)).astype("float32")
        copy = FasterCopy(submodel, precision=precision)
        assert not copy.follows_model
        found, expected = copy(images), submodel(images)
        assert set(found) == set(expected)
        for layer, theirs in expected.items():
            assert found[layer].dtype == tf.float32
            error = np.linalg.norm(found[layer] - theirs) / (np.linalg.norm(theirs) or 1.0)
            assert error < tolerance, layer

    def test_operations_and_layers_that_are_not_known(self):
        """A custom layer and bare operations are the model's own, in float32, with the training
        flag at False.
        """
        seen = []

        class Doubled(layers.Layer):
            def call(self, x, training=None):
                seen.append((x.dtype, training))
                return x * 2.0

        def build(x):
            x = Doubled()(layers.Conv2D(4, 3)(layers.Conv2D(4, 3)(x)))
            return layers.Dropout(0.5)(keras.ops.sin(x) + x, training=True)

        model = functional(build)
        seen.clear()
        copy = FasterCopy(model, precision="bfloat16")
        copy(np.zeros((1, 6, 6, 3), np.float32))
        assert seen == [("float32", False)]
        compare(model, FasterCopy(model))

    def test_groups_dilation_and_functions_of_ones_own(self):
        def build(x):
            x = layers.Conv2D(6, 3, groups=3, activation=lambda v: v**2)(
                layers.BatchNormalization()(x)
            )
            return layers.Conv2D(4, 2, activation=lambda v: v**2)(x)

        model = functional(build)
        compare(model, FasterCopy(model))
        compare(model, FasterCopy(model, precision="bfloat16"), tolerance=0.02)
        dilated = functional(lambda x: layers.Conv2D(6, 2, dilation_rate=2)(x))
        images = np.ones((2, 6, 6, 3), np.float32)
        np.testing.assert_allclose(FasterCopy(dilated)(images), dilated(images), rtol=1e-5)


class TestModelsThatAreCalledAsTheyAre:
    def test_subclass(self):
        class Own(keras.Model):
            def __init__(self):
                super().__init__()
                self.dense = layers.Dense(3)

            def call(self, x):
                return self.dense(keras.ops.reshape(x, (-1, 12)))

        images = np.ones((1, 2, 2, 3), np.float32)
        copy = FasterCopy(Own(), precision="bfloat16")
        assert copy.follows_model
        assert copy.precision == "float32"
        np.testing.assert_array_equal(copy(images), copy.model(images))
        copy.refresh()

    def test_functional_model_with_a_call_of_its_own(self):
        class Own(keras.Model):
            def call(self, x, training=None):
                return super().call(x, training=training) * 3.0

        images = keras.Input((2, 2, 1))
        model = Own(images, layers.Dense(3)(layers.Flatten()(images)))
        assert FasterCopy(model).follows_model
        compare(model, FasterCopy(model))

    def test_mixed_precision_model(self):
        images = keras.Input((2, 2, 1))
        model = keras.Model(
            images, layers.Dense(3, dtype="mixed_bfloat16")(layers.Flatten()(images))
        )
        copy = FasterCopy(model)
        assert copy.follows_model
        assert copy(np.ones((1, 2, 2, 1), np.float32)).dtype == tf.float32


class TestTheCopy:
    def test_refresh_takes_new_weights_without_a_new_trace(self):
        model = randomise(build_model("wrn_10_1", (8, 8, 1), CLASSES, stem_stride=2))
        copy = FasterCopy(model)
        function = tf.function(copy)
        images = np.random.default_rng(0).uniform(size=(2, 8, 8, 1)).astype(np.float32)
        before = function(images).numpy()
        randomise(model, seed=1)
        np.testing.assert_array_equal(function(images), before)
        copy.refresh()
        expected = model(images, training=False).numpy()
        assert np.abs(expected - before).max() > 0.1
        np.testing.assert_allclose(function(images), expected, rtol=1e-4, atol=1e-4)
        assert function.experimental_get_tracing_count() == 1

    def test_compiled_with_xla(self):
        model = randomise(build_model("small_cnn", (8, 8, 1), CLASSES, batch_norm=True))
        compare(model, FasterCopy(model, compile_with_xla=True))

    def test_auto_takes_what_the_device_offers(self, monkeypatch):
        model = build_model("small_cnn", (8, 8, 1), CLASSES)
        for offered, expected in ((True, "mixed"), (False, "float32")):
            monkeypatch.setattr(faster_copy, "computes_bfloat16", lambda offered=offered: offered)
            assert FasterCopy(model, precision="auto").precision == expected

    def test_unknown_precision(self):
        with pytest.raises(
            InputError, match="unknown precision 'bfloat'; nearest valid names: bfloat16"
        ):
            FasterCopy(build_model("small_cnn", (8, 8, 1), CLASSES), precision="bfloat")

    @pytest.mark.parametrize(
        ("flags", "onednn", "gpus", "expected"),
        [
            ("fpu avx512_bf16 avx2", "1", [], True),
            ("amx_bf16", "1", [], True),
            ("avx512f", "1", [], False),
            ("avx512_bf16", "0", [], False),
            (None, "1", [], False),
            ("avx512_bf16", "1", [(7, 5)], False),
            ("avx512f", "1", [(8, 0)], True),
            ("avx512f", "1", [(9, 0), (7, 0)], False),
        ],
    )
    def test_bfloat16_is_told_from_the_device(
        self, flags, onednn, gpus, expected, monkeypatch, tmp_path
    ):
        description = tmp_path / "cpuinfo"
        if flags is not None:
            description.write_text(f"processor : 0\nflags\t: {flags}\n")
        monkeypatch.setattr(faster_copy, "CPU_DESCRIPTION", description)
        monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", onednn)
        monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: gpus)
        details = lambda gpu: {"compute_capability": gpu}
        monkeypatch.setattr(tf.config.experimental, "get_device_details", details)
        assert faster_copy.computes_bfloat16() is expected
