"""Notebooks: what is called again and again is compiled once, follows the model, and says nothing.
Attacks inside a user's tf.function give what they give outside.
"""

import gc
import logging
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_robust_transfer.attacks import (
    FGSM,
    MIM,
    PGD,
    SPSA,
    APGDTargeted,
    AutoAttack,
    FABTargeted,
    Square,
    ThreatModel,
)
from tf_robust_transfer.attacks.cleverhans import CleverHans
from tf_robust_transfer.evaluation import checks, evaluate_robustness
from tf_robust_transfer.inference import kept as kept_module
from tf_robust_transfer.inference.kept import kept

SHAPE, N = (4, 3, 1), 24
THREAT = ThreatModel("linf", 0.1)


class Counted(keras.layers.Layer):
    """Counts how often it is traced."""

    times = 0

    def call(self, x):
        type(self).times += 1
        return x


def network(activation=None):
    keras.utils.set_random_seed(0)
    images = keras.Input(SHAPE)
    x = keras.layers.Dense(8, "tanh")(Counted()(5 * keras.layers.Flatten()(images)))
    return keras.Model(images, keras.layers.Dense(3, activation)(x))


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).uniform(size=(N, *SHAPE)).astype(np.float32)


@pytest.fixture
def warned():
    """What TensorFlow has warned of."""
    said = []

    class Handler(logging.Handler):
        def emit(self, record):
            said.append(record.getMessage())

    handler = Handler(logging.WARNING)
    tf.get_logger().addHandler(handler)
    yield said
    tf.get_logger().removeHandler(handler)


def test_a_value_that_no_configuration_has_is_followed(images):
    """A defence whose strength is swept."""

    class Scale(keras.layers.Layer):
        scale = 1.0

        def call(self, x):
            return self.scale * x

    inner, scaled = network(), Scale()
    model = keras.Model(inner.input, scaled(inner.output))
    labels = np.argmax(inner(images), axis=1)
    for scale, expected in ((1.0, 1.0), (-1.0, 0.0), (1.0, 1.0)):
        scaled.scale = scale
        found = evaluate_robustness(model, images, labels, threat_model=THREAT, attacks=("fgsm",))
        assert found.accuracy["clean"] == expected


def test_calls_again_and_again_trace_nothing_and_say_nothing(images, warned):
    model = network()
    labels = np.argmax(model(images), axis=1)

    def all_of_it(count):
        x, y = images[:count], labels[:count]
        evaluate_robustness(model, x, y, threat_model=THREAT, attacks=("pgd3",))
        for attack in (FGSM(0.1), PGD(2, restarts=2, stop_when_fooled=True)):
            attack(model, x, y, threat_model=THREAT, seed=count)

    all_of_it(N)
    traced = Counted.times
    for count in (N, 20, 5, 2, 1):
        all_of_it(count)
    assert Counted.times == traced and warned == []


def test_weights_that_change_are_followed_and_so_is_a_changed_layer(images):
    model = network("softmax")
    labels = np.argmax(model(images), axis=1)

    def clean():
        return evaluate_robustness(model, images, labels, threat_model=THREAT, attacks=("pgd2",))

    assert any("probabilities" in line for line in clean().warnings)
    # Keras's idiom for taking a softmax off.
    model.layers[-1].activation = keras.activations.linear
    assert not any("probabilities" in line for line in clean().warnings)
    traced = Counted.times
    kernel, bias = model.layers[-1].get_weights()
    model.layers[-1].set_weights([np.roll(kernel, 1, axis=1), np.roll(bias, 1)])
    assert clean().accuracy == {"clean": 0.0, "pgd2": 0.0} and Counted.times == traced


def test_the_model_is_looked_at_once(images, monkeypatch):
    model, looks = network(), []
    labels = np.argmax(model(images), axis=1)
    look = checks.check_model
    monkeypatch.setattr(checks, "check_model", lambda *a: looks.append(1) or [*look(*a), "doubt"])

    def doubts():
        return evaluate_robustness(model, images, labels, threat_model=THREAT, attacks=()).warnings

    assert doubts() == doubts() == ("doubt",) and len(looks) == 1
    model.layers[-1].bias.assign([1.0, 2.0, 3.0])
    assert doubts() and len(looks) == 2


def test_nothing_keeps_the_model_alive(images):
    model = network()
    attack = PGD(2)
    attack(model, images, np.zeros(N, int), threat_model=THREAT, seed=0)
    evaluate_robustness(model, images, np.zeros(N, int), threat_model=THREAT, attacks=("pgd2",))
    gone = weakref.ref(model)
    del model
    keras.backend.clear_session()
    gc.collect()
    assert gone() is None


def test_the_oldest_are_given_up(monkeypatch):
    monkeypatch.setattr(kept_module, "MOST", 2)
    model, made = network(), []
    for key in "ababcab":
        kept(model, key, lambda key=key: made.append(key))
    assert made == ["a", "b", "c", "a", "b"]


def test_cleverhans_at_another_radius(images):
    """Its graph holds eps as a number."""
    model, fresh = network(), network()
    labels = np.argmax(model(images), axis=1)
    attacks = {"ch": CleverHans("projected_gradient_descent", steps=3)}
    for eps in (0.02, 0.2):
        threat = ThreatModel("linf", eps)
        found = evaluate_robustness(model, images, labels, threat_model=threat, attacks=attacks)
    alone = evaluate_robustness(fresh, images, labels, threat_model=threat, attacks=attacks)
    np.testing.assert_array_equal(found.correct["ch"], alone.correct["ch"])
    assert alone.accuracy["ch"] < 0.9


@pytest.mark.parametrize(
    "attack",
    [
        PGD(2, restarts=2),
        PGD(3, restarts=3, stop_when_fooled=True),
        *(
            pytest.param(attack, marks=pytest.mark.slow)
            for attack in (
                MIM(3),
                SPSA(2, 4),
                Square(20),
                APGDTargeted(2, 6),
                FABTargeted(4, restarts=2),
                AutoAttack(attacks=("fab-t", "apgd-ce")),
                CleverHans("projected_gradient_descent", steps=5),
            )
        ),
    ],
    ids=lambda attack: type(attack).__name__,
)
def test_inside_a_function_as_outside(images, attack):
    model = network()
    labels = np.argmax(model(images), axis=1).astype(np.int32)
    labels[:3] = (labels[:3] + 1) % 3
    threat = ThreatModel("linf", 20.0, bounds=(0, 255))
    if isinstance(attack, AutoAttack):
        threat = ThreatModel("l2", 0.2)
        scaled = images
    else:
        inputs = keras.Input(SHAPE)
        model = keras.Model(inputs, model(keras.layers.Rescaling(1 / 255)(inputs)))
        scaled = 255 * images
    outside = attack(model, scaled, labels, threat_model=threat, seed=5)

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, *SHAPE]),
            tf.TensorSpec([None], tf.int32),
            tf.TensorSpec([], tf.int32),
        ]
    )
    def inside(x, y, seed):
        return attack(model, x, y, threat_model=threat, seed=seed)

    found = inside(scaled, labels, 5)
    np.testing.assert_allclose(found, outside, atol=2e-4 * threat.range)
    assert np.abs(outside - scaled).max() > 0


def test_inside_a_function_what_can_be_seen_is_refused(images):
    model = network()

    @tf.function
    def inside(x, y):
        return PGD(2)(model, x, y, threat_model=THREAT)

    # AutoGraph wraps what is raised, as it does for everybody.
    with pytest.raises(Exception, match="labels must be integers, got float32"):
        inside(images, np.zeros(N, np.float32))
    with pytest.raises(Exception, match=r"images must have shape \[batch, 4, 3, 1\]"):
        inside(images[:, :2], np.zeros(N, np.int32))
