"""TRADES: its loss and gradient against NumPy and finite differences in float64, its examples, its
options.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import special

from tf_robust_transfer.attacks import PGD, ThreatModel
from tf_robust_transfer.command_line import parse
from tf_robust_transfer.config import TrainConfig
from tf_robust_transfer.methods.trades import TRADES

RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(0.2, 0.8, (6, 3, 2, 1)).astype(np.float32)
LABELS = RNG.integers(0, 3, 6)
THREAT = ThreatModel("linf", 0.1)


def student():
    inputs = keras.Input((3, 2, 1))
    model = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(inputs)))
    model.set_weights([RNG.standard_normal((6, 3)), RNG.standard_normal(3)])
    return model


def loss_in_numpy(kernel, bias, moved, beta):
    """The loss of a linear network in float64."""
    logits, others = (x.reshape(6, -1).astype(np.float64) @ kernel + bias for x in (IMAGES, moved))
    log_p, log_q = special.log_softmax(logits, axis=1), special.log_softmax(others, axis=1)
    divergence = (np.exp(log_p) * (log_p - log_q)).sum(axis=1)
    return (-log_p[np.arange(6), LABELS] + beta * divergence).mean()


@pytest.fixture
def given_examples(monkeypatch):
    """Examples that do not depend on the weights, as a step's do not for its gradient."""
    moved = np.clip(IMAGES + RNG.uniform(-0.1, 0.1, IMAGES.shape), 0, 1).astype(np.float32)
    monkeypatch.setattr(TRADES, "adversarial_examples", lambda self, images, labels: moved)
    return moved


@pytest.mark.parametrize("beta", [0.0, 1.0, 6.0])
def test_the_gradient_goes_through_both_predictions(given_examples, beta):
    model = student()
    method = TRADES(student=model, threat_model=THREAT, beta=beta)
    method.compile(optimizer=keras.optimizers.SGD(1.0))
    before = [w.astype(np.float64) for w in model.get_weights()]
    logs = method.train_on_batch(IMAGES, LABELS, return_dict=True)
    assert logs["loss"] == pytest.approx(loss_in_numpy(*before, given_examples, beta), rel=1e-5)
    # A step of SGD with rate 1 is minus the gradient.
    for number, (old, new) in enumerate(zip(before, model.get_weights(), strict=True)):
        expected = np.empty_like(old)
        for place in np.ndindex(old.shape):
            sides = []
            for side in (1e-5, -1e-5):
                weights = [w.copy() for w in before]
                weights[number][place] += side
                sides.append(loss_in_numpy(*weights, given_examples, beta))
            expected[place] = (sides[0] - sides[1]) / 2e-5
        np.testing.assert_allclose(old - new, expected, atol=2e-5)


def test_the_examples_climb_the_divergence_and_need_no_label():
    model = student()
    method = TRADES(student=model, threat_model=THREAT)
    method.compile(optimizer=keras.optimizers.SGD(0.0))
    images = tf.constant(IMAGES)
    moved = method.adversarial_examples(images, tf.constant(LABELS)).numpy()
    other = method.adversarial_examples(images, tf.constant((LABELS + 1) % 3)).numpy()
    np.testing.assert_array_equal(moved, other)
    assert np.abs(moved - IMAGES).max() <= 0.1 + 1e-6
    kernel, bias = (w.astype(np.float64) for w in model.get_weights())
    found = loss_in_numpy(kernel, bias, moved, 1.0)
    # A convex function of the perturbation is largest at a corner of the ball; there are 2^6.
    signs = np.array(np.meshgrid(*[[-1, 1]] * 6)).reshape(6, -1).T.reshape(-1, 1, 3, 2, 1)
    log_p = special.log_softmax(IMAGES.reshape(6, 6) @ kernel + bias, axis=1)
    best = np.full(6, -np.inf)
    for sign in signs:
        corner = (IMAGES + 0.1 * sign).reshape(6, 6).astype(np.float64)
        log_q = special.log_softmax(corner @ kernel + bias, axis=1)
        best = np.maximum(best, (np.exp(log_p) * (log_p - log_q)).sum(axis=1))
    clean = loss_in_numpy(kernel, bias, IMAGES, 0.0)
    assert found - clean > 0.8 * best.mean()


def test_defaults_and_flags():
    read = parse(TrainConfig, ["--method=trades"])
    assert read.beta == 6.0 and read.train_attack_steps == 10
    method = TRADES(student=student(), threat_model=THREAT)
    assert method.options.beta == 6.0
    assert method.attack.options == PGD(10, loss="kl").options


def test_both_passes_are_of_training(monkeypatch):
    moved = np.clip(IMAGES + 0.1, 0, 1)
    monkeypatch.setattr(TRADES, "adversarial_examples", lambda self, images, labels: moved)
    inputs, norm = keras.Input((3, 2, 1)), keras.layers.BatchNormalization(momentum=0.9)
    logits = keras.layers.Dense(3)(keras.layers.Flatten()(norm(inputs)))
    method = TRADES(student=keras.Model(inputs, logits), threat_model=THREAT)
    method.compile(keras.optimizers.SGD(0.0))
    method.train_on_batch(IMAGES, LABELS)
    expected = 0.9 * 0.1 * IMAGES.mean() + 0.1 * moved.mean()
    np.testing.assert_allclose(norm.moving_mean.numpy(), [expected], rtol=1e-4)
