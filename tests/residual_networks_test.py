"""Residual networks: parameter counts against hand counts, published counts and MixACM's size
ratios; their options.
"""

import keras
import numpy as np
import pytest

from tf_robust_transfer.errors import InputError
from tf_robust_transfer.models import build_model, endpoints


def trainable(model):
    return sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)


def wide_resnet(depth, width):
    """Trainable parameters on 10 classes by hand: kernels, two numbers for each channel of a batch
    norm, dense layer.
    """
    total, channels = 27 * 16, 16
    for target in (16 * width, 32 * width, 64 * width):
        for _ in range((depth - 4) // 6):
            total += 2 * channels + 9 * channels * target + 2 * target + 9 * target * target
            total += channels * target if channels != target else 0
            channels = target
    return total + 2 * channels + 10 * channels + 10


@pytest.mark.parametrize(
    ("depth", "width"), [(10, 1), (16, 5), (22, 2), (28, 1), (34, 2), (28, 10)]
)
def test_wide_resnets_have_the_parameters_counted_by_hand(depth, width):
    assert trainable(build_model(f"wrn_{depth}_{width}", (8, 8, 3), 10)) == wide_resnet(
        depth, width
    )


# MixACM, Table 4 and Table 11: teacher, student, trainable parameters of the student in percent of
# the teacher's.
SIZE_RATIOS = [
    ((28, 10), (28, 5), "25.04"),
    ((28, 10), (28, 1), "1.01"),
    ((28, 10), (22, 10), "73.5"),
    ((28, 10), (22, 5), "18.40"),
    ((28, 10), (22, 1), "0.75"),
    ((28, 10), (16, 10), "46.92"),
    ((28, 10), (16, 5), "11.76"),
    ((28, 10), (16, 1), "0.48"),
    ((28, 10), (10, 10), "20.38"),
    ((28, 10), (10, 5), "5.12"),
    ((28, 10), (10, 1), "0.21"),
    ((34, 20), (34, 10), "25.01"),
    # Printed as 9.227, which the paper's own 46.92 / 505.85 contradicts.
    ((34, 20), (16, 10), "9.276"),
    ((34, 20), (10, 1), "0.04"),
    ((28, 10), (34, 20), "505.85"),
]


@pytest.mark.parametrize(("teacher", "student", "percent"), SIZE_RATIOS, ids=str)
def test_size_ratios_of_mixacm(teacher, student, percent):
    last_digit = 10.0 ** -len(percent.partition(".")[2])
    # One unit of the last digit: some of the paper's ratios are cut, not rounded.
    assert abs(100 * wide_resnet(*student) / wide_resnet(*teacher) - float(percent)) < last_digit


def test_published_counts_of_wide_resnets():
    assert {size: round(wide_resnet(*size) / 1e6, 1) for size in ((28, 10), (34, 10))} == {
        (28, 10): 36.5,
        (34, 10): 46.2,
    }


def mobilenet():
    """Trainable parameters of MobileNetV2 for CIFAR on 10 classes by hand."""
    total, channels = 27 * 32 + 64, 32
    for expansion, target, blocks, stride in (
        (1, 16, 1, 1),
        (6, 24, 2, 1),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ):
        for block in range(blocks):
            hidden = expansion * channels
            total += channels * hidden + 9 * hidden + hidden * target + 4 * hidden + 2 * target
            if block == 0 and stride == 1 and channels != target:
                total += channels * target + 2 * target
            channels = target
    return total + 320 * 1280 + 2 * 1280 + 1280 * 10 + 10


@pytest.mark.parametrize(
    ("name", "classes", "options", "count"),
    [
        ("resnet_18", 1000, {}, 11_689_512),  # torchvision's
        ("resnet_50", 1000, {}, 25_557_032),  # torchvision's
        ("wide_resnet_50_2", 1000, {}, 68_883_240),  # torchvision's
        ("mobilenet_v2", 10, {}, mobilenet()),
        # Without the stem's 7x7 kernel, with its 3x3, and 10 classes in place of 1,000.
        ("cifar_resnet_50", 10, {}, 25_557_032 - 40 * 3 * 64 - 990 * 2049),
        # ResNet-18 without the batch norms of the stem and of the three shortcuts, but with the
        # last one; the blocks' first batch norms have their inputs' channels.
        ("preact_resnet_18", 10, {}, 11_172_170),
        ("preact_resnet_18", 10, {"final_batch_norm": False}, 11_172_170 - 2 * 512),
    ],
)
def test_resnets_have_the_published_parameters(name, classes, options, count):
    assert trainable(build_model(name, (32, 32, 3), classes, **options)) == count


def keras_names():
    """Our layer -> its name in keras.applications.ResNet50, for all that have weights."""
    names = {"conv1": "conv1_conv", "conv1_batch_norm": "conv1_bn", "logits": "predictions"}
    for group, blocks in zip((2, 3, 4, 5), (3, 4, 6, 3)):
        for block in range(blocks):
            ours, theirs = f"group{group}_{block}", f"conv{group}_block{block + 1}"
            for part, number in (("conv1", 1), ("conv2", 2), ("conv3", 3), ("shortcut", 0)):
                if number or block == 0:
                    names[f"{ours}_{part}"] = f"{theirs}_{number}_conv"
                    names[f"{ours}_{part}_batch_norm"] = f"{theirs}_{number}_bn"
    return names


def test_keras_resnet_50_is_that_of_keras_applications():
    """Its logits on the same random weights, and after the preprocessing of its published ones."""
    shape, mean = (40, 33, 3), (123.68, 116.779, 103.939)
    theirs = keras.applications.ResNet50(
        weights=None, classes=5, classifier_activation=None, input_shape=shape
    )
    ours = build_model(
        "resnet_50_keras",
        shape,
        5,
        preprocessing="standardized",
        mean=[value / 255 for value in mean],
        std=3 * (1 / 255,),
    )
    assert trainable(ours) == trainable(theirs)
    rng = np.random.default_rng(0)
    for variable in theirs.weights:
        if variable.name in ("gamma", "moving_variance"):
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
        elif variable.name != "kernel":
            variable.assign(rng.uniform(-0.5, 0.5, variable.shape))
    names = keras_names()
    assert len(set(names.values())) == sum(bool(layer.weights) for layer in theirs.layers)
    for layer, name in names.items():
        ours.get_layer(layer).set_weights(theirs.get_layer(name).get_weights())
    kernel = ours.get_layer("conv1").kernel
    kernel.assign(kernel[:, :, ::-1])
    images = rng.uniform(size=(3, *shape)).astype(np.float32)
    expected = theirs(keras.applications.resnet.preprocess_input(255 * images), training=False)
    spread = np.ptp(expected, axis=0).max()  # between the images
    assert spread > 0.01
    np.testing.assert_allclose(ours(images, training=False), expected, atol=1e-4 * spread, rtol=0)
    for layer in ours.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            assert layer.momentum == theirs.get_layer(names[layer.name]).momentum


@pytest.mark.parametrize("name", ["resnet_18", "resnet_50", "cifar_resnet_50", "preact_resnet_18"])
def test_endpoints_of_the_docstrings_on_even_and_odd_sizes(name):
    c, size = 4, (64, 33)
    strides, channels = {
        "resnet_18": ((2, 4, 8, 16, 32), (c, c, 2 * c, 4 * c, 8 * c)),
        "resnet_50": ((2, 4, 8, 16, 32), (c, 4 * c, 8 * c, 16 * c, 32 * c)),
        "cifar_resnet_50": ((1, 1, 2, 4, 8), (c, 4 * c, 8 * c, 16 * c, 32 * c)),
        "preact_resnet_18": ((1, 1, 2, 4, 8), (c, c, 2 * c, 4 * c, 8 * c)),
    }[name]
    outputs = endpoints(build_model(name, (*size, 3), 5, base_channels=c)).output
    expected = {
        f"block{number}": (None, -(-size[0] // stride), -(-size[1] // stride), filters)
        for number, (stride, filters) in enumerate(zip(strides, channels), start=1)
    }
    assert {block: output.shape for block, output in outputs.items()} == {
        **expected,
        "logits": (None, 5),
    }


@pytest.mark.parametrize("name", ["resnet_18", "preact_resnet_18", "wrn_10_1"])
def test_mean_and_std_have_one_number_for_each_channel(name):
    with pytest.raises(InputError, match="one number for each of 1 channels"):
        build_model(
            name,
            (8, 8, 1),
            10,
            preprocessing="standardized",
            mean=(0.5, 0.5, 0.5),
            std=(0.2, 0.2, 0.2),
        )


def test_the_normalisation_is_the_models_first_layer():
    model = build_model(
        "resnet_18",
        (8, 8, 3),
        5,
        preprocessing="standardized",
        mean=(0.1, 0.2, 0.3),
        std=(0.5, 0.25, 1.0),
    )
    normalise = keras.Model(model.input, model.get_layer("preprocessing").output)
    images = np.full((1, 8, 8, 3), 0.6, np.float32)
    np.testing.assert_allclose(normalise(images)[0, 0, 0], [1.0, 1.6, 0.3], rtol=1e-5)
