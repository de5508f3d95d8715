"""Every network of `MODELS`: its endpoints are those of its docstring, and it takes a step of IGAM
and of MixACM.
"""

import functools
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_robust_transfer as rt
from tf_robust_transfer.models import MODELS

CLASSES = 4

# Of each entry of MODELS a small member: name, image shape, options, and (height, width, channels)
# of every endpoint, worked out by hand from its docstring.
NETWORKS = {
    "cifar_resnet_18": (
        "cifar_resnet_18",
        (12, 12, 3),
        {"base_channels": 2},
        {
            "block1": (12, 12, 2),
            "block2": (12, 12, 2),
            "block3": (6, 6, 4),
            "block4": (3, 3, 8),
            "block5": (2, 2, 16),
        },
    ),
    "mobilenet_v2": (
        "mobilenet_v2",
        (12, 12, 3),
        {},
        {
            "block1": (12, 12, 32),
            "block2": (12, 12, 24),
            "block3": (6, 6, 32),
            "block4": (3, 3, 96),
            "block5": (2, 2, 320),
        },
    ),
    "wide_resnet_50_2": (
        "wide_resnet_50_2",
        (32, 32, 3),
        {"base_channels": 2},
        {
            "block1": (16, 16, 2),
            "block2": (8, 8, 8),
            "block3": (4, 4, 16),
            "block4": (2, 2, 32),
            "block5": (1, 1, 64),
        },
    ),
    "wrn_by_group": (
        "wrn_by_group",
        (12, 12, 3),
        {"blocks": (1, 2, 1), "widths": (1, 2, 1)},
        {
            "block1": (12, 12, 16),
            "block2": (12, 12, 16),
            "block3": (6, 6, 64),
            "block4": (3, 3, 64),
        },
    ),
    "cifar_resnet_50": (
        "cifar_resnet_50",
        (12, 12, 3),
        {"base_channels": 2},
        {
            "block1": (12, 12, 2),
            "block2": (12, 12, 8),
            "block3": (6, 6, 16),
            "block4": (3, 3, 32),
            "block5": (2, 2, 64),
        },
    ),
    "igam_student": (
        "igam_student",
        (12, 12, 3),
        {"depth": 8, "width": 2},
        {
            "block1": (12, 12, 16),
            "block2": (12, 12, 32),
            "block3": (6, 6, 64),
            "block4": (3, 3, 128),
        },
    ),
    "madry_mnist": ("madry_mnist", (12, 12, 1), {}, {"block1": (6, 6, 32), "block2": (3, 3, 64)}),
    "madry_wrn_{depth}_{width}": (
        "madry_wrn_14_1",
        (12, 12, 3),
        {},
        {
            "block1": (12, 12, 16),
            "block2": (12, 12, 16),
            "block3": (6, 6, 32),
            "block4": (3, 3, 64),
        },
    ),
    "preact_resnet_18": (
        "preact_resnet_18",
        (12, 12, 3),
        {"base_channels": 4},
        {
            "block1": (12, 12, 4),
            "block2": (12, 12, 4),
            "block3": (6, 6, 8),
            "block4": (3, 3, 16),
            "block5": (2, 2, 32),
        },
    ),
    "resnet_18": (
        "resnet_18",
        (40, 40, 3),
        {"base_channels": 4},
        {
            "block1": (20, 20, 4),
            "block2": (10, 10, 4),
            "block3": (5, 5, 8),
            "block4": (3, 3, 16),
            "block5": (2, 2, 32),
        },
    ),
    "resnet_50": (
        "resnet_50",
        (40, 40, 3),
        {"base_channels": 2},
        {
            "block1": (20, 20, 2),
            "block2": (10, 10, 8),
            "block3": (5, 5, 16),
            "block4": (3, 3, 32),
            "block5": (2, 2, 64),
        },
    ),
    "small_cnn": (
        "small_cnn",
        (12, 12, 1),
        {"width": 2, "batch_norm": True},
        {"block1": (6, 6, 32), "block2": (3, 3, 64)},
    ),
    "wrn_{depth}_{width}": (
        "wrn_10_2",
        (12, 12, 3),
        {"activation": "swish", "padding": "same"},
        {
            "block1": (12, 12, 16),
            "block2": (12, 12, 32),
            "block3": (6, 6, 64),
            "block4": (3, 3, 128),
        },
    ),
}
NETWORKS["resnet_50_keras"] = ("resnet_50_keras", *NETWORKS["resnet_50"][1:])
ALL = pytest.mark.parametrize("entry", NETWORKS)
# Tens of layers: a step of them takes seconds.
DEEP = ("cifar_resnet_50", "mobilenet_v2", "resnet_50", "resnet_50_keras", "wide_resnet_50_2")
FAST = ("cifar_resnet_50", "mixacm")
STEPPED = pytest.mark.parametrize(
    ("entry", "method"),
    [
        pytest.param(
            entry,
            method,
            # IGAM's two gradients take four times as long; one of bottlenecks is left.
            marks=[pytest.mark.slow] if entry in DEEP and (entry, method) != FAST else [],
        )
        for entry in NETWORKS
        for method in ("igam", "mixacm")
    ],
)


@functools.cache  # Building fifty layers takes as long as a step of them.
def network(entry, seed):
    """A small member with a seed of its own, batch statistics included."""
    keras.utils.set_random_seed(seed)
    name, shape, options, _ = NETWORKS[entry]
    model = rt.build_model(name, shape, CLASSES, **options)
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        if variable.name in ("gamma", "moving_variance"):
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    return model


def batch(entry):
    images = np.random.default_rng(0).uniform(size=(2, *NETWORKS[entry][1])).astype(np.float32)
    return tf.constant(images), tf.constant([1, 3])


def test_every_network_is_here():
    assert set(NETWORKS) == set(MODELS)


@ALL
def test_endpoints_have_the_shapes_of_the_docstring(entry):
    images, _ = batch(entry)
    found = rt.endpoints(network(entry, 2))(images, training=False)
    expected = {**NETWORKS[entry][3], "logits": (CLASSES,)}
    assert {name: tuple(value.shape[1:]) for name, value in found.items()} == expected
    documented = MODELS[entry].__doc__.split("Endpoints")[1]
    if "those of" not in documented:
        assert set(re.findall(r"block\d", documented)) | {"logits"} == set(expected)


@STEPPED
def test_one_step_as_student_and_as_teacher(entry, method):
    """The network's twin is the teacher; after the step it is the same, bit for bit, and every
    student weight moved.
    """
    student, teacher = network(entry, 1), network(entry, 2)
    teacher.trainable = True  # as it comes
    if method == "igam":
        discriminator = rt.build_discriminator(student.input_shape[1:], channels=(4, 8))
        trained = rt.IGAM(student=student, teacher=teacher, discriminator=discriminator)
    else:
        trained = rt.MixACM(student=student, teacher=teacher, blocks=tuple(NETWORKS[entry][3]))
    # Compiling a double gradient takes longer than the one step does.
    trained.compile(optimizer=keras.optimizers.SGD(1e-3), run_eagerly=True)
    before, kept = student.get_weights(), teacher.get_weights()
    logs = trained.train_on_batch(*batch(entry), return_dict=True)
    after = student.get_weights()
    student.set_weights(before)  # for the other method
    assert {"igam": {"adversarial", "difference"}, "mixacm": {"mixup", "kld", "acm"}}[
        method
    ] <= set(logs)
    assert all(np.isfinite(value) for value in logs.values()), logs
    for variable, old, new in zip(student.weights, before, after, strict=True):
        assert np.isfinite(new).all(), variable.path
        if variable.path.startswith("preprocessing"):
            np.testing.assert_array_equal(new, old)
        else:
            assert (new != old).any(), f"{variable.path} did not move"
    for variable, old, new in zip(teacher.weights, kept, teacher.get_weights(), strict=True):
        np.testing.assert_array_equal(new, old, err_msg=variable.path)
