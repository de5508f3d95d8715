"""models/: shapes, endpoints and parameter counts as documented, a forward pass rebuilt in NumPy,
saving, errors.
"""

import ast
import re
from pathlib import Path

import keras
import numpy as np
import pytest
import scipy.special
import tensorflow as tf

from tf_robust_transfer.errors import InputError
from tf_robust_transfer.models import MODELS, build_discriminator, build_model, endpoints
from tf_robust_transfer.models.discriminator import DISCRIMINATOR_CHANNELS
from tf_robust_transfer.models.preprocessing import (
    PREPROCESSINGS,
    PerImageStandardization,
    preprocessing_layer,
)

ROOT = Path(__file__).resolve().parent.parent

# One small member of each entry of MODELS, and what its docstring says of endpoints on images of h
# x w.
SMALL = {
    "madry_mnist": ("madry_mnist", {}, {"block1": (2, 32), "block2": (4, 64)}),
    "small_cnn": (
        "small_cnn",
        {"width": 2, "batch_norm": True},
        {"block1": (2, 32), "block2": (4, 64)},
    ),
    "wrn_{depth}_{width}": (
        "wrn_10_1",
        {},
        {"block1": (1, 16), "block2": (1, 16), "block3": (2, 32), "block4": (4, 64)},
    ),
    "madry_wrn_{depth}_{width}": (
        "madry_wrn_8_1",
        {},
        {"block1": (1, 16), "block2": (1, 16), "block3": (2, 32), "block4": (4, 64)},
    ),
    "igam_student": (
        "igam_student",
        {"depth": 8, "width": 1},
        {"block1": (1, 16), "block2": (1, 16), "block3": (2, 32), "block4": (4, 64)},
    ),
    "preact_resnet_18": (
        "preact_resnet_18",
        {"base_channels": 4},
        {
            "block1": (1, 4),
            "block2": (1, 4),
            "block3": (2, 8),
            "block4": (4, 16),
            "block5": (8, 32),
        },
    ),
    "resnet_18": (
        "resnet_18",
        {"base_channels": 4},
        {
            "block1": (2, 4),
            "block2": (4, 4),
            "block3": (8, 8),
            "block4": (16, 16),
            "block5": (32, 32),
        },
    ),
    "resnet_50": (
        "resnet_50",
        {"base_channels": 4},
        {
            "block1": (2, 4),
            "block2": (4, 16),
            "block3": (8, 32),
            "block4": (16, 64),
            "block5": (32, 128),
        },
    ),
    "cifar_resnet_18": (
        "cifar_resnet_18",
        {"base_channels": 4},
        {
            "block1": (1, 4),
            "block2": (1, 4),
            "block3": (2, 8),
            "block4": (4, 16),
            "block5": (8, 32),
        },
    ),
    "mobilenet_v2": (
        "mobilenet_v2",
        {"width": 0.125},
        {
            "block1": (1, 4),
            "block2": (1, 3),
            "block3": (2, 4),
            "block4": (4, 12),
            "block5": (8, 40),
        },
    ),
    "wide_resnet_50_2": (
        "wide_resnet_50_2",
        {"base_channels": 4},
        {
            "block1": (2, 4),
            "block2": (4, 16),
            "block3": (8, 32),
            "block4": (16, 64),
            "block5": (32, 128),
        },
    ),
    "wrn_by_group": (
        "wrn_by_group",
        {"blocks": (1, 2, 1), "widths": (2, 1, 1)},
        {"block1": (1, 16), "block2": (1, 32), "block3": (2, 32), "block4": (4, 64)},
    ),
    "cifar_resnet_50": (
        "cifar_resnet_50",
        {"base_channels": 4},
        {
            "block1": (1, 4),
            "block2": (1, 16),
            "block3": (2, 32),
            "block4": (4, 64),
            "block5": (8, 128),
        },
    ),
}
SMALL["resnet_50_keras"] = ("resnet_50_keras", *SMALL["resnet_50"][1:])


# Tens of layers, which take seconds to build.
DEEP = ("cifar_resnet_50", "mobilenet_v2", "resnet_50", "resnet_50_keras", "wide_resnet_50_2")


def small_models(deep=True):
    """deep: whether the deep ones are in the default suite."""
    for entry, (name, options, shapes) in SMALL.items():
        marks = [] if deep or entry not in DEEP else [pytest.mark.slow]
        yield pytest.param(name, options, shapes, id=entry, marks=marks)


def images_like(shape, batch=2, seed=0):
    return np.random.default_rng(seed).uniform(0, 1, (batch, *shape)).astype(np.float32)


def randomise(model, seed=0):
    """Random weights everywhere, batch statistics and biases included, so that nothing is a one or
    a zero.
    """
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        low, high = (0.5, 1.5) if variable.name in ("gamma", "moving_variance") else (-0.5, 0.5)
        variable.assign(rng.uniform(low, high, variable.shape))


def test_every_registered_model_is_tested_here():
    assert set(SMALL) == set(MODELS)


class TestEveryModel:
    @pytest.mark.parametrize(("name", "options", "shapes"), small_models())
    @pytest.mark.parametrize("size", [(8, 8, 1), (9, 7, 3)], ids=str)
    def test_endpoints_are_what_the_docstring_says_on_even_and_odd_sizes(
        self, name, options, shapes, size
    ):
        model = build_model(name, size, 5, **options)
        assert model.input_shape == (None, *size)
        assert model.output_shape == (None, 5)
        found = endpoints(model)(images_like(size), training=False)
        expected = {
            block: (2, -(-size[0] // stride), -(-size[1] // stride), channels)
            for block, (stride, channels) in shapes.items()
        }
        assert {name: tuple(value.shape) for name, value in found.items()} == {
            **expected,
            "logits": (2, 5),
        }
        np.testing.assert_allclose(
            found["logits"], model(images_like(size), training=False), rtol=1e-5, atol=1e-6
        )

    @pytest.mark.parametrize(("name", "options", "shapes"), small_models(deep=False))
    def test_saved_and_reloaded_it_gives_equal_logits(self, name, options, shapes, tmp_path):
        model = build_model(name, (8, 8, 3), 4, **options)
        randomise(model)
        model.save(tmp_path / "model.keras")
        again = keras.models.load_model(tmp_path / "model.keras")
        images = images_like((8, 8, 3))
        np.testing.assert_array_equal(again(images, training=False), model(images, training=False))

    @pytest.mark.parametrize(("name", "options", "shapes"), small_models(deep=False))
    def test_images_are_taken_in_0_1_with_no_other_option(self, name, options, shapes):
        model = build_model(name, (8, 8, 3), 4, **options)
        logits = model(
            np.stack([np.zeros((8, 8, 3)), np.ones((8, 8, 3))]).astype(np.float32), training=False
        )
        assert np.isfinite(logits).all()

    @pytest.mark.parametrize(("name", "options", "shapes"), small_models(deep=False))
    def test_keras_seed_decides_the_weights(self, name, options, shapes):
        first, second, other = ([], [], [])
        for seed, weights in ((1, first), (1, second), (2, other)):
            keras.utils.set_random_seed(seed)
            weights.extend(build_model(name, (8, 8, 1), 4, **options).get_weights())
        assert all((a == b).all() for a, b in zip(first, second, strict=True))
        assert any((a != b).any() for a, b in zip(first, other, strict=True))


class TestParameterCounts:
    def test_madry_mnist_starts_as_the_challenge_does(self):
        for layer in build_model("madry_mnist", (28, 28, 1), 10).layers:
            for weight in layer.weights:
                if weight.name == "bias":
                    np.testing.assert_allclose(weight, 0.1, rtol=1e-6)
                else:  # a normal distribution of 0.1, cut at two deviations
                    assert abs(float(np.std(weight)) - 0.088) < 0.01
                    assert float(np.abs(weight).max()) <= 0.2 + 1e-6

    def test_madry_mnist(self):
        count = build_model("madry_mnist", (28, 28, 1), 10).count_params()
        assert (
            count
            == 3_274_634
            == (25 + 1) * 32 + (25 * 32 + 1) * 64 + (3136 + 1) * 1024 + (1024 + 1) * 10
        )

    def test_small_cnn(self):
        count = build_model("small_cnn", (28, 28, 1), 10).count_params()
        assert (
            count
            == 166_406
            == (16 + 1) * 16 + (16 * 16 + 1) * 32 + (7 * 7 * 32 + 1) * 100 + (100 + 1) * 10
        )

    @staticmethod
    def wide_resnet(depth, width, classes):
        """Zagoruyko & Komodakis by hand: kernels, four numbers for each channel of a batch norm,
        the dense layer.
        """
        total, channels = 27 * 16, 16
        for group, target in enumerate((16 * width, 32 * width, 64 * width)):
            for block in range((depth - 4) // 6):
                total += 4 * channels + 9 * channels * target + 4 * target + 9 * target * target
                if block == 0 and (group > 0 or channels != target):
                    total += channels * target
                channels = target
        return total + 4 * channels + (channels + 1) * classes

    @pytest.mark.parametrize(("depth", "width"), [(10, 1), (16, 1), (10, 2), (16, 4)])
    def test_wide_resnet(self, depth, width):
        model = build_model(f"wrn_{depth}_{width}", (8, 8, 3), 10)
        assert model.count_params() == self.wide_resnet(depth, width, 10)

    def test_wrn_34_10_has_46_million(self):
        """The formula that the small networks agree with; building the network takes seconds and
        185 MB.
        """
        assert round(self.wide_resnet(34, 10, 10) / 1e6, 1) == 46.2


def conv2d(x, kernel, stride=1, padding=None):
    """Cross-correlation, x [n, h, w, c], kernel [kh, kw, c, d]; padding ((top, bottom), (left,
    right)).
    """
    if padding is not None:
        x = np.pad(x, ((0, 0), *padding, (0, 0)))
    kh, kw = kernel.shape[:2]
    h, w = (x.shape[1] - kh) // stride + 1, (x.shape[2] - kw) // stride + 1
    out = np.zeros((len(x), h, w, kernel.shape[3]))
    for i in range(kh):
        for j in range(kw):
            patch = x[
                :, i : i + stride * (h - 1) + 1 : stride, j : j + stride * (w - 1) + 1 : stride
            ]
            out += patch @ kernel[i, j]
    return out


ACTIVATIONS = {
    "relu": lambda x: np.maximum(x, 0),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.1 * x),
    "swish": lambda x: x * scipy.special.expit(x),
}


def numpy_wrn_10_1(weights, images, activation, same_padding, stem_stride=1):
    """One forward pass in float64: three groups of one pre-activation block (He et al. 2016b, Fig.
    4e).

    A block whose width or size changes applies batch norm and activation before the branches part,
    so that the 1x1 shortcut sees the activated input."""

    def activate(x, name):
        p = {
            key: weights[f"{name}_batch_norm/{key}"]
            for key in ("gamma", "beta", "moving_mean", "moving_variance")
        }
        x = (x - p["moving_mean"]) / np.sqrt(p["moving_variance"] + 1e-5) * p["gamma"] + p["beta"]
        return ACTIVATIONS[activation](x)

    def conv3(x, name, stride):
        # Symmetric padding by one pixel; "same" pads an even size only at bottom and right when the
        # stride is 2.
        pad = (0, 1) if same_padding and stride == 2 else (1, 1)
        return conv2d(x, weights[f"{name}/kernel"], stride, (pad, pad))

    found = {}
    x = found["block1"] = conv3(images, "conv1", stem_stride)
    for group, stride in ((2, 1), (3, 2), (4, 2)):
        activated = activate(x, f"group{group}_0_1")
        shortcut = (
            x
            if group == 2
            else conv2d(activated, weights[f"group{group}_0_shortcut/kernel"], stride)
        )
        residual = conv3(activated, f"group{group}_0_conv1", stride)
        residual = conv3(activate(residual, f"group{group}_0_2"), f"group{group}_0_conv2", 1)
        x = found[f"block{group}"] = shortcut + residual
    pooled = activate(x, "final").mean(axis=(1, 2))
    found["logits"] = pooled @ weights["logits/kernel"] + weights["logits/bias"]
    return found


class TestWideResNet:
    @pytest.mark.parametrize("activation", ACTIVATIONS)
    @pytest.mark.parametrize("padding", ["symmetric", "same"])
    def test_forward_pass_is_numpys(self, activation, padding):
        model = build_model("wrn_10_1", (8, 8, 3), 4, activation=activation, padding=padding)
        randomise(model)
        weights = {variable.path: variable.numpy().astype(np.float64) for variable in model.weights}
        images = images_like((8, 8, 3))
        expected = numpy_wrn_10_1(weights, images, activation, padding == "same")
        found = endpoints(model)(images, training=False)
        assert set(found) == set(expected)
        for name, value in expected.items():
            np.testing.assert_allclose(
                found[name], value, rtol=1e-4, atol=1e-4 * np.abs(value).max(), err_msg=name
            )

    def test_symmetric_and_same_padding_differ(self):
        models = [
            build_model("wrn_10_1", (8, 8, 3), 4, padding=padding)
            for padding in ("symmetric", "same")
        ]
        models[1].set_weights(models[0].get_weights())
        a, b = (model(images_like((8, 8, 3)), training=False).numpy() for model in models)
        assert np.abs(a - b).max() > 1e-3

    def test_stem_stride_2_halves_every_block(self):
        model = build_model("wrn_10_1", (8, 8, 3), 4, stem_stride=2)
        randomise(model)
        weights = {variable.path: variable.numpy().astype(np.float64) for variable in model.weights}
        found = endpoints(model)(images_like((8, 8, 3)), training=False)
        expected = numpy_wrn_10_1(weights, images_like((8, 8, 3)), "relu", False, stem_stride=2)
        sizes = {name: value.shape[1] for name, value in found.items() if name != "logits"}
        assert sizes == {"block1": 4, "block2": 4, "block3": 2, "block4": 1}
        np.testing.assert_allclose(found["logits"], expected["logits"], rtol=1e-4, atol=1e-3)

    @pytest.mark.parametrize("name", ["wrn_11_1", "wrn_4_1", "wrn_27_10"])
    def test_impossible_depth(self, name):
        with pytest.raises(InputError, match=r"6 n \+ 4 .*got " + name.split("_")[1]):
            build_model(name, (8, 8, 3), 4)

    def test_unknown_activation_and_padding(self):
        with pytest.raises(InputError, match="relu, leaky_relu, swish.*'tanh'"):
            build_model("wrn_10_1", (8, 8, 3), 4, activation="tanh")
        with pytest.raises(InputError, match="symmetric, same.*'valid'"):
            build_model("wrn_10_1", (8, 8, 3), 4, padding="valid")


class TestBuildModelErrors:
    @pytest.mark.parametrize(
        ("name", "near"), [("smal_cnn", "small_cnn"), ("madry", "madry_mnist"), ("wrn_34", "wrn_")]
    )
    def test_an_unknown_name_lists_the_nearest(self, name, near):
        with pytest.raises(InputError, match=f"unknown model '{name}'.*{near}"):
            build_model(name, (8, 8, 1), 10)

    @pytest.mark.parametrize(
        "name", ["wrn_{depth}_{width}", "wrn_10_1x", "xwrn_10_1", "", "wrn_10"]
    )
    def test_names_that_only_look_like_one(self, name):
        with pytest.raises(InputError, match="unknown model"):
            build_model(name, (8, 8, 1), 10)

    def test_an_unknown_option_lists_the_nearest(self):
        with pytest.raises(
            InputError, match="'wrn_10_1' has no option 'paddin'; nearest valid names: padding"
        ):
            build_model("wrn_10_1", (8, 8, 1), 10, paddin="same")
        with pytest.raises(
            InputError,
            match="'small_cnn' has no option 'batchnorm'; nearest valid names: batch_norm",
        ):
            build_model("small_cnn", (8, 8, 1), 10, batchnorm=True)
        with pytest.raises(InputError, match="'madry_mnist' has no option 'width'"):
            build_model("madry_mnist", (8, 8, 1), 10, width=2)
        with pytest.raises(InputError, match="'small_cnn' has no option 'depth'"):
            build_model("small_cnn", (8, 8, 1), 10, depth=2)

    @pytest.mark.parametrize(
        ("shape", "classes"), [((8, 8), 10), ((8, 8, 1), 1), ((2, 8, 8, 1), 10)]
    )
    def test_shape_and_classes(self, shape, classes):
        with pytest.raises(InputError, match=re.escape(f"{shape}") + f".*num_classes {classes}"):
            build_model("small_cnn", shape, classes)


class TestDiscriminator:
    @pytest.mark.parametrize("size", [(28, 28, 1), (32, 32, 3), (8, 8, 1), (7, 9, 3)], ids=str)
    def test_one_score_for_each_example(self, size):
        model = build_discriminator(size)
        assert model.output_shape == (None,)
        assert tuple(model(images_like(size, batch=3)).shape) == (3,)
        convolutions = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
        assert [layer.filters for layer in convolutions] == [16, 32, 64, 128, 256]
        assert all(
            layer.kernel_size == (4, 4) and layer.strides == (2, 2) for layer in convolutions
        )

    @pytest.mark.parametrize("channels", DISCRIMINATOR_CHANNELS.values(), ids=str)
    @pytest.mark.parametrize("batch_norm", [True, False])
    def test_channels_and_batch_norm(self, channels, batch_norm):
        model = build_discriminator((8, 8, 1), channels=channels, batch_norm=batch_norm)
        inputs = (1, *channels[:-1])
        expected = (
            sum((16 * c + 1) * d for c, d in zip(inputs, channels, strict=True)) + channels[-1] + 1
        )
        # Every size is 1 x 1 at the end: 8, 4, 2, 1, ...
        assert model.count_params() == expected + (4 * sum(channels) if batch_norm else 0)

    def test_forward_pass_is_numpys(self):
        """Leaky ReLU 0.1, batch norm before it, "same" padding of a 4x4 kernel with stride 2: one
        pixel each side.
        """
        model = build_discriminator((8, 8, 2), channels=(3, 4))
        randomise(model)
        weights = {variable.path: variable.numpy().astype(np.float64) for variable in model.weights}
        images = images_like((8, 8, 2), batch=3) - 0.5
        x = images.astype(np.float64)
        for layer in (1, 2):
            x = (
                conv2d(x, weights[f"conv{layer}/kernel"], 2, ((1, 1), (1, 1)))
                + weights[f"conv{layer}/bias"]
            )
            p = {
                k: weights[f"batch_norm{layer}/{k}"]
                for k in ("gamma", "beta", "moving_mean", "moving_variance")
            }
            x = (x - p["moving_mean"]) / np.sqrt(p["moving_variance"] + 1e-5) * p["gamma"] + p[
                "beta"
            ]
            x = np.where(x > 0, x, 0.1 * x)
        expected = x.reshape(3, -1) @ weights["dense/kernel"][:, 0] + weights["dense/bias"][0]
        np.testing.assert_allclose(model(images, training=False), expected, rtol=1e-4, atol=1e-4)


class TestPreprocessing:
    def test_per_image_standardization_is_tensorflows_on_0_255_images(self):
        images = images_like((6, 5, 3), batch=4)
        images[1] = (
            0.3 + 1e-5 * images[1]
        )  # below the floor: std of a 0-255 image under 1 / sqrt(pixels)
        images[2] *= 1e-2
        expected = tf.image.per_image_standardization(255.0 * images)
        got = PerImageStandardization()(images)
        np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(got[0], expected[0], rtol=1e-4, atol=1e-5)

    def test_a_constant_image_is_zero_with_a_finite_gradient(self):
        images, direction = tf.fill([1, 4, 4, 3], 0.5), images_like((4, 4, 3), batch=1)
        with tf.GradientTape() as tape:
            tape.watch(images)
            got = PerImageStandardization()(images)
            total = tf.reduce_sum(got * direction)
        np.testing.assert_array_equal(got, np.zeros((1, 4, 4, 3)))
        assert np.isfinite(tape.gradient(total, images)).all()

    def test_fixed_ones(self):
        images = images_like((4, 4, 3))
        np.testing.assert_array_equal(preprocessing_layer("none")(images), images)
        np.testing.assert_allclose(
            preprocessing_layer("centered")(images), 2 * images - 1, atol=1e-6
        )
        mean, std = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)
        got = preprocessing_layer("standardized", mean, std)(images)
        np.testing.assert_allclose(
            got, (images - np.array(mean)) / np.array(std), rtol=1e-4, atol=1e-5
        )

    def test_a_standardized_network_survives_saving(self, tmp_path):
        model = build_model(
            "wrn_10_1",
            (8, 8, 3),
            4,
            preprocessing="standardized",
            mean=(0.5, 0.4, 0.3),
            std=(0.2, 0.3, 0.4),
        )
        plain = build_model("wrn_10_1", (8, 8, 3), 4)
        trained = [v for v in model.weights if not v.path.startswith("preprocessing")]
        for target, source in zip(plain.weights, trained, strict=True):
            target.assign(source)
        images = images_like((8, 8, 3))
        normalised = ((images - np.array((0.5, 0.4, 0.3))) / np.array((0.2, 0.3, 0.4))).astype(
            np.float32
        )
        expected = plain(normalised, training=False)
        np.testing.assert_allclose(model(images, training=False), expected, rtol=1e-3, atol=1e-4)
        model.save(tmp_path / "model.keras")
        again = keras.models.load_model(tmp_path / "model.keras")
        np.testing.assert_array_equal(again(images, training=False), model(images, training=False))

    def test_per_image_standardization_survives_saving_and_makes_a_network_blind_to_brightness(
        self, tmp_path
    ):
        model = build_model("wrn_10_1", (8, 8, 3), 4, preprocessing="per_image_standardization")
        model.save(tmp_path / "model.keras")
        again = keras.models.load_model(tmp_path / "model.keras")
        images = 0.5 * images_like((8, 8, 3))
        np.testing.assert_array_equal(again(images, training=False), model(images, training=False))
        np.testing.assert_allclose(
            model(images, training=False), model(images + 0.25, training=False), atol=1e-4
        )

    def test_errors(self):
        with pytest.raises(InputError, match=", ".join(PREPROCESSINGS) + ".*'whiten'"):
            preprocessing_layer("whiten")
        with pytest.raises(InputError, match="mean and std"):
            preprocessing_layer("standardized", mean=(0.5,))


class TestEndpoints:
    def functional(self):
        images = keras.Input((4, 4, 1))
        x = keras.layers.Conv2D(3, 3, name="first")(images)
        y = keras.layers.ReLU(name="second")(x)
        return keras.Model(
            images, keras.layers.Dense(2, name="out")(keras.layers.Flatten()(y)), name="mine"
        )

    def test_layers_of_a_functional_model(self):
        model = self.functional()
        found = endpoints(model, {"block1": "first", "block2": "second"})(images_like((4, 4, 1)))
        assert set(found) == {"block1", "block2", "logits"}
        np.testing.assert_array_equal(np.maximum(found["block1"], 0), found["block2"])
        np.testing.assert_allclose(found["logits"], model(images_like((4, 4, 1))), rtol=1e-6)

    def test_layers_of_a_sequential_model(self):
        layers = keras.layers
        model = keras.Sequential(
            [
                keras.Input((4, 4, 1)),
                layers.Conv2D(3, 3, name="first"),
                layers.Flatten(),
                layers.Dense(2, name="out"),
            ]
        )
        found = endpoints(model, {"block1": "first"})(images_like((4, 4, 1)))
        np.testing.assert_array_equal(
            found["block1"], model.get_layer("first")(images_like((4, 4, 1)))
        )
        np.testing.assert_allclose(found["logits"], model(images_like((4, 4, 1))), rtol=1e-6)

    def test_the_submodel_shares_the_weights(self):
        model = self.functional()
        submodel = endpoints(model, {"block1": "first"})
        model.get_layer("out").bias.assign([5.0, -5.0])
        np.testing.assert_allclose(
            submodel(images_like((4, 4, 1)))["logits"], model(images_like((4, 4, 1))), rtol=1e-6
        )

    def test_layers_named_like_blocks_are_found_and_others_are_not(self):
        images = keras.Input((4, 4, 1))
        x = keras.layers.Conv2D(2, 3, name="block10")(images)
        x = keras.layers.ReLU(name="block_x")(x)
        x = keras.layers.Flatten(name="block1_flat")(x)
        model = keras.Model(images, keras.layers.Dense(2, name="head")(x))
        assert set(endpoints(model).output) == {"block10", "logits"}

    def test_no_blocks_leaves_the_logits(self):
        assert set(endpoints(self.functional()).output) == {"logits"}

    def test_a_missing_layer_is_named_with_the_nearest(self):
        with pytest.raises(
            InputError,
            match="'mine' has no layer 'secnd' for 'block1'; nearest valid names: second",
        ):
            endpoints(self.functional(), {"block1": "secnd"})

    def test_a_subclassed_model_is_refused(self):
        class Mine(keras.Model):
            def call(self, x):
                return x

        with pytest.raises(InputError, match="functional or sequential.*subclass Mine"):
            endpoints(Mine())


@pytest.mark.parametrize(
    "path", sorted((ROOT / "tf_robust_transfer" / "models").glob("*.py")), ids=lambda p: p.stem
)
def test_model_code_imports_no_tensorflow(path):
    """So that a saved student loads under any Keras backend. Nor does what the models import from
    this package.
    """
    imported = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module or "")
    assert not [
        name
        for name in imported
        if name.split(".")[0] in ("tensorflow", "tf_keras", "torch", "jax")
    ]
    own = {name for name in imported if name.startswith("tf_robust_transfer")}
    assert all(
        name in ("tf_robust_transfer.errors", "tf_robust_transfer.plugins")
        or name.startswith("tf_robust_transfer.models")
        for name in own
    )
