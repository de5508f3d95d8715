"""models/precision.py: which layers of other people's networks compute in half precision."""

import keras
import numpy as np
import pytest

import tf_robust_transfer as rt
from tf_robust_transfer.models.precision import with_precision

SHAPE = (8, 8, 1)


def features():
    return [
        keras.layers.Conv2D(4, 3, name="first"),
        keras.layers.BatchNormalization(name="norm"),
        keras.layers.Flatten(),
    ]


def plain():
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input(SHAPE), *features(), keras.layers.Dense(3, name="logits")])


def with_a_nested_head():
    keras.utils.set_random_seed(0)
    images = keras.Input(SHAPE)
    x = images
    for layer in features():
        x = layer(x)
    head = [keras.Input(x.shape[1:]), keras.layers.Dense(5), keras.layers.Dense(3, name="logits")]
    return keras.Model(images, keras.Sequential(head)(x))


def with_a_linear_activation():
    inner = plain()
    return keras.Model(inner.inputs, keras.layers.Activation("linear")(inner.outputs[0]))


def normalised():
    return rt.as_classifier(plain(), mean=0.5, std=0.25)


@pytest.mark.parametrize("make", [plain, with_a_nested_head, with_a_linear_activation, normalised])
def test_pixels_and_logits_are_float32_and_the_rest_is_not(make):
    network = make()
    half = with_precision(network, "bfloat16")
    layers = {layer.name: layer for layer in half._flatten_layers()}
    assert layers["first"].compute_dtype == layers["norm"].compute_dtype == "bfloat16"
    assert layers["logits"].compute_dtype == "float32"
    if "standardisation" in layers:
        assert layers["standardisation"].compute_dtype == "float32"
    images = np.random.default_rng(0).uniform(size=(4, *SHAPE)).astype(np.float32)
    found, expected = np.asarray(half(images)), np.asarray(network(images))
    assert found.dtype == np.float32 and (found != expected).any()
    np.testing.assert_allclose(found, expected, atol=0.05 * np.abs(expected).max())


@pytest.mark.parametrize("role", ["student", "teacher"])
def test_logits_in_half_precision_are_cast_for_the_losses(role):
    """Those of a model that was made under Keras's policy without a float32 layer at its end."""
    half = keras.Sequential(
        [keras.Input(SHAPE), keras.layers.Flatten(), keras.layers.Dense(3, dtype="mixed_bfloat16")]
    )
    networks = {"student": plain(), "teacher": plain(), role: half}
    method = rt.Distillation(**networks, weight_decay=1e-4)
    method.compile(keras.optimizers.SGD(0.1))
    images = np.random.default_rng(0).uniform(size=(8, *SHAPE)).astype(np.float32)
    before = [w.copy() for w in half.get_weights()]
    history = method.fit(images, np.arange(8) % 3, batch_size=8, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    changed = any((a != b).any() for a, b in zip(before, half.get_weights(), strict=True))
    assert changed == (role == "student")
