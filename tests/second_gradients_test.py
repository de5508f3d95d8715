"""The gradient of a loss of input gradients, through a student's batch norm in training: against
finite differences in float64.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_robust_transfer as rt
from tf_robust_transfer.ops import replicas
from tf_robust_transfer.ops.batch_norm import batch_norm_layers, with_our_moments
from tf_robust_transfer.ops.moments import _TENSORFLOWS
from tf_robust_transfer.terms.input_gradients import InputGradients


@pytest.fixture(scope="module")
def case():
    """A float64 network with a bias before batch norm, images and labels."""
    keras.utils.set_random_seed(0)
    float64 = {"dtype": "float64"}
    inputs = keras.Input((4, 4, 1), dtype="float64")
    x = keras.layers.Conv2D(3, 3, **float64)(inputs)
    x = keras.layers.BatchNormalization(**float64)(x)
    x = keras.layers.Activation("tanh", **float64)(x)
    logits = keras.layers.Dense(3, **float64)(keras.layers.Flatten(**float64)(x))
    rng = np.random.default_rng(1)
    images, labels = rng.uniform(size=(6, 4, 4, 1)), rng.integers(0, 3, 6)
    return keras.Model(inputs, logits), tf.constant(images), tf.constant(labels)


def loss_of(case):
    model, images, labels = case
    with tf.GradientTape() as tape:
        tape.watch(images)
        cross_entropy = tf.nn.sparse_softmax_cross_entropy_with_logits(
            labels, model(images, training=True)
        )
        total = tf.reduce_sum(cross_entropy)
    return tf.reduce_sum(tape.gradient(total, images) ** 2)


def gradients(case, ours):
    model = case[0]
    layers = batch_norm_layers([model]) if ours else []
    with with_our_moments(layers, whole_batch=False), tf.GradientTape() as tape:
        loss = loss_of(case)
    return tape.gradient(loss, model.trainable_variables)


def differences(case, variable, index, step=1e-5):
    before, values = variable.numpy(), []
    for sign in (1, -1):
        changed = before.copy()
        changed[index] += sign * step
        variable.assign(changed)
        values.append(float(loss_of(case)))
    variable.assign(before)
    return (values[0] - values[1]) / (2 * step)


def test_our_moments_have_the_second_gradient_of_finite_differences(case):
    kernel, bias = case[0].trainable_variables[:2]
    found = gradients(case, ours=True)
    for index in ((0, 0, 0, 0), (1, 2, 0, 1), (2, 1, 0, 2)):
        expected = differences(case, kernel, index)
        np.testing.assert_allclose(found[0].numpy()[index], expected, rtol=1e-5)
    # What batch norm takes away again.
    np.testing.assert_allclose(found[1].numpy(), 0, atol=1e-9)
    assert abs(differences(case, bias, (0,))) < 1e-5


def test_keras_own_have_not(case):
    """So that the first test says something; when Keras or TensorFlow mends it, ours can go."""
    assert np.abs(gradients(case, ours=False)[1].numpy()).max() > 1e-4


def test_igam_trains_with_ours(case, monkeypatch):
    seen = []
    ours = replicas.moments
    monkeypatch.setattr(
        replicas, "moments", lambda *arguments: seen.append(arguments) or ours(*arguments)
    )
    images, labels = np.float32(case[1].numpy()), case[2].numpy()
    for make, expected in ((rt.IGAM, True), (rt.Distillation, False)):
        keras.utils.set_random_seed(0)
        networks = [
            rt.build_model("small_cnn", input_shape=(4, 4, 1), num_classes=3, batch_norm=True)
            for _ in range(2)
        ]
        keywords = {"lambda_adv": 0.0, "lambda_diff": 1.0} if make is rt.IGAM else {}
        method = make(student=networks[0], teacher=networks[1], **keywords)
        method.compile(optimizer=keras.optimizers.SGD(0.1))
        seen.clear()
        method.train_on_batch(images, labels)
        assert bool(seen) is expected


@pytest.mark.parametrize(
    "layer",
    [
        lambda: keras.layers.GroupNormalization(2, dtype="float64"),
        lambda: keras.layers.LayerNormalization(dtype="float64"),
        lambda: keras.layers.LayerNormalization(axis=[1, 2, 3], dtype="float64"),
    ],
    ids=["group norm", "layer norm", "layer norm of images"],
)
def test_of_group_and_layer_norm_too(layer):
    """In IGAM's own pass; without it the entries are off by some percent."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4, 4, 1), dtype="float64")
    x = layer()(keras.layers.Conv2D(4, 3, dtype="float64")(inputs))
    x = keras.layers.Activation("tanh", dtype="float64")(x)
    logits = keras.layers.Dense(3, dtype="float64")(keras.layers.Flatten(dtype="float64")(x))
    rng = np.random.default_rng(1)
    images, labels = tf.constant(rng.uniform(size=(6, 4, 4, 1))), tf.constant(rng.integers(0, 3, 6))
    model = keras.Model(inputs, logits)
    gradients_of = InputGradients(model, rt.build_model("small_cnn", (4, 4, 1), 3))
    gradients_of.teacher_gradient = lambda images, labels: images

    def loss():
        return tf.reduce_sum(gradients_of(images, labels, [0, 0])["student_gradient"] ** 2)

    kernel = model.trainable_variables[0]
    with tf.GradientTape() as tape:
        value = loss()
    found = tape.gradient(value, kernel).numpy()
    before = kernel.numpy()
    for index in ((0, 0, 0, 0), (1, 2, 0, 1), (2, 1, 0, 3)):
        values = []
        for sign in (1, -1):
            moved = before.copy()
            moved[index] += sign * 1e-5
            kernel.assign(moved)
            values.append(float(loss()))
        kernel.assign(before)
        expected = (values[0] - values[1]) / 2e-5
        np.testing.assert_allclose(found[index], expected, rtol=1e-5)
    assert tf.nn.moments is _TENSORFLOWS
