"""Each check speaks up on a model or run that has the fault, and is silent on another."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_robust_transfer.attacks import APGD, PGD, ThreatModel
from tf_robust_transfer.errors import InputError
from tf_robust_transfer.evaluation import RobustnessWarning, checks, evaluate_robustness

SHAPE = (6, 5, 1)
THREAT = ThreatModel("linf", 0.05)


class Noisy(keras.layers.Layer):
    def call(self, x):
        return x + 0.05 * tf.random.normal(tf.shape(x))


class BatchCentred(keras.layers.Layer):
    def call(self, x):
        return x - keras.ops.mean(x, axis=0, keepdims=True)


class Quantised(keras.layers.Layer):
    def call(self, x):
        return tf.round(8 * x) / 8  # tf.round has no gradient


def network(*layers, last=(), scale=1.0, seed=0):
    images = keras.Input(SHAPE)
    x = keras.layers.Flatten()(images)
    for layer in layers:
        x = layer(x)
    x = keras.layers.Dense(16, activation="tanh")(x)
    x = keras.layers.Dense(10)(x)
    for layer in last:
        x = layer(x)
    model = keras.Model(images, x)
    rng = np.random.default_rng(seed)
    model.set_weights(
        [rng.standard_normal(w.shape).astype(np.float32) for w in model.get_weights()]
    )
    weights = model.get_weights()
    model.set_weights([*weights[:-2], weights[-2] * scale, weights[-1] * scale])
    return model


def examples(model, count=64):
    images = tf.constant(np.random.default_rng(1).uniform(size=(count, *SHAPE)), tf.float32)
    return images, tf.argmax(model(images), axis=1, output_type=tf.int32)


FAULTS = {
    "random": (lambda: network(Noisy()), "the model is random"),
    "batch statistics": (lambda: network(BatchCentred()), "depend on the other images"),
    "probabilities": (lambda: network(last=[keras.layers.Softmax()]), "returns probabilities"),
    "quantised": (lambda: network(Quantised()), "gradient is exactly zero for 100% of the images"),
    "logits times 1e4": (lambda: network(scale=1e4), "gradient is exactly zero for"),
    "nan": (lambda: network(scale=np.nan), "64 of 64 clean images give NaN"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named(fault):
    make, message = FAULTS[fault]
    model = make()
    lines = checks.check_model(model, *examples(model), THREAT, seed=0)
    assert any(message in line for line in lines), lines
    assert all("\n" not in line for line in lines)


def test_an_honest_model_is_passed_over_in_silence():
    model = network()
    assert checks.check_model(model, *examples(model), THREAT, seed=0) == []


@pytest.mark.parametrize("fault", ["random", "probabilities", "quantised", "logits times 1e4"])
def test_no_masked_model_is_robust_in_silence(fault):
    """PGD reports them robust, wholly or in part; the evaluation says what is wrong with that
    figure.
    """
    make, message = FAULTS[fault]
    model = make()
    images, labels = examples(model)
    with pytest.warns(RobustnessWarning, match=message):
        result = evaluate_robustness(model, images, labels, threat_model=THREAT, attacks=["pgd3"])
    assert any(message in line for line in result.warnings)
    assert result.to_json_dict(model="m", dataset="d", split="s")["warnings"] == list(
        result.warnings
    )


def test_who_attacks_as_a_random_model_asks_is_not_told_to():
    model = network(Noisy())
    images, labels = examples(model, count=8)
    some = {"own": APGD(steps=2, eot_iterations=2)}
    result = evaluate_robustness(model, images, labels, threat_model=THREAT, attacks=some)
    assert not any("is random" in line or "depend on" in line for line in result.warnings)
    with pytest.warns(RobustnessWarning, match="is random"):
        both = some | {"pgd": PGD(2)}
        evaluate_robustness(model, images, labels, threat_model=THREAT, attacks=both)


def test_square_beyond_the_gradient_attacks():
    assert "square took 1.0 points" in checks.check_square(
        {"apgd-ce": 0.6, "square": 0.59, "fab": 0.5}
    )
    assert checks.check_square({"apgd-ce": 0.6, "square": 0.599}) is None
    assert checks.check_square({"square": 0.5}) is None


def test_restarts_and_steps_that_still_gain():
    attack = PGD(100, restarts=8)
    early = np.arange(1, 50)
    assert checks.check_progress("pgd", attack, early, 1000) == []
    # 8 restarts of 100 steps: the last quarter begins after step 600, the last tenth of a restart
    # with its step 91.
    restarts = checks.check_progress("pgd", attack, np.concatenate([early, np.full(6, 601)]), 1000)
    assert restarts == [
        "the last quarter of pgd's restarts still took 0.6 points: give it more restarts"
    ]
    assert checks.check_progress("pgd", attack, np.concatenate([early, np.full(6, 600)]), 1000) == [
        "the last tenth of pgd's steps still took 0.6 points: give it more steps"
    ]
    assert (
        checks.check_progress("pgd", attack, np.concatenate([early, np.full(6, 590)]), 1000) == []
    )
    assert (
        checks.check_progress("pgd", attack, np.full(50, 601), 50) == []
    )  # too few examples to say


def test_autoattack_below_pgd():
    assert "4.0 points below PGD" in checks.check_autoattack(
        {"pgd20": 0.5, "apgd-ce": 0.3, "autoattack": 0.46}
    )
    assert checks.check_autoattack({"pgd20": 0.5, "autoattack": 0.48}) is None
    assert checks.check_autoattack({"pgd20": 0.5}) is None


@pytest.mark.filterwarnings("error::tf_robust_transfer.evaluation.RobustnessWarning")
def test_an_honest_evaluation_is_silent():
    model = network()
    evaluate_robustness(model, *examples(model, 8), threat_model=THREAT, attacks=["pgd3"])


def linear(outputs):
    images = keras.Input(SHAPE)
    return keras.Model(images, keras.layers.Dense(outputs)(keras.layers.Flatten()(images)))


@pytest.mark.parametrize("label", [0, 1])
def test_one_output_is_refused_and_the_line_that_helps_works(label):
    """Taken as logits of one class, every image of class 0 would count as robust."""
    model = linear(1)
    # Near the border, so that the attack has something to find.
    model.layers[-1].set_weights([np.linspace(-1, 1, int(np.prod(SHAPE)))[:, None], np.zeros(1)])
    images = np.random.default_rng(0).uniform(size=(40, *SHAPE)).astype(np.float32)
    labels = np.full(40, label)
    arguments = {"threat_model": THREAT, "attacks": ("pgd3",), "check_model": False}
    with pytest.raises(InputError, match="the model has one output") as refused:
        evaluate_robustness(model, images, labels, **arguments)
    with pytest.raises(InputError, match="the model has one output"):
        PGD(3)(model, images, labels, threat_model=THREAT)
    told = str(refused.value)[str(refused.value).index("keras.Model") :]
    two = eval(told, {"keras": keras, "model": model})
    logit = model(images).numpy()[:, 0]
    kernel = model.layers[-1].get_weights()[0]
    result = evaluate_robustness(two, images, labels, **arguments)
    np.testing.assert_array_equal(result.correct["clean"], (logit > 0) == label)
    # A linear model: the images lie far enough from the bounds, or the attack is a bit weaker.
    away = (2 * label - 1) * logit - THREAT.eps * np.abs(kernel).sum()
    assert result.correct["pgd3"][away > 0].all() and result.accuracy["pgd3"] < 1


def test_standardised_images_are_told_where_to_go():
    images = np.random.default_rng(0).normal(size=(4, *SHAPE)).astype(np.float32)
    with pytest.raises(InputError, match="put the normalisation inside the model"):
        evaluate_robustness(linear(2), images, np.zeros(4, int), threat_model=THREAT)
