"""Native attacks against those of CleverHans 4.0 on the same weights, and the adapter that runs
CleverHans itself.
"""

import sys

import keras
import numpy as np
import pytest
from cleverhans.tf2.attacks.fast_gradient_method import fast_gradient_method
from cleverhans.tf2.attacks.projected_gradient_descent import projected_gradient_descent
from keras import layers

from tf_robust_transfer.attacks import FGSM, PGD, ThreatModel
from tf_robust_transfer.attacks.cleverhans import ATTACKS, CleverHans
from tf_robust_transfer.errors import InputError

NORMS = {"linf": (np.inf, 0.1), "l2": (2, 0.8)}


@pytest.fixture(scope="module")
def images():
    # Many pixels lie near the bounds, where clipping and projection could come in a wrong order.
    return np.random.default_rng(0).beta(0.5, 0.5, (32, 8, 8, 2)).astype(np.float32)


@pytest.fixture(scope="module")
def model(images):
    """Smooth, so that no ReLU flips a whole gradient over a rounding error, and all classes about
    equally frequent.
    """
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            layers.Conv2D(6, 3, strides=2, padding="same", activation="tanh"),
            layers.Flatten(),
            layers.Dense(12, activation="tanh"),
            layers.Dense(4),
        ]
    )
    model.layers[-1].bias.assign(-np.mean(model(images), axis=0))
    return model


@pytest.fixture(scope="module")
def labels(model, images):
    return np.argmax(model(images), axis=1).astype(np.int32)


def predictions(model, images):
    return np.argmax(model(images), axis=1)


@pytest.mark.parametrize("norm", NORMS)
def test_fgsm_equals_cleverhans(model, images, labels, norm):
    order, eps = NORMS[norm]
    ours = FGSM()(model, images, labels, threat_model=ThreatModel(norm, eps), seed=0)
    theirs = fast_gradient_method(model, images, eps, order, clip_min=0.0, clip_max=1.0, y=labels)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)
    assert np.abs(ours - images).max() > 0.05


@pytest.mark.parametrize("norm", NORMS)
def test_pgd_agrees_with_cleverhans(model, images, norm):
    order, eps = (np.inf, 0.02) if norm == "linf" else (2, 0.15)
    if norm == "l2":
        # CleverHans clips a step to the bounds before it projects and again after, we only after,
        # as Foolbox does. Where the bounds cut an l2 ball the two differ; where no pixel can reach
        # the bounds, they may not.
        images = 0.35 + 0.3 * images
    labels = predictions(model, images)
    attack = PGD(10, eps / 4, random_start=False, stop_when_fooled=False)
    ours = attack(model, images, labels, threat_model=ThreatModel(norm, eps), seed=0).numpy()
    theirs = projected_gradient_descent(
        model,
        images,
        eps,
        eps / 4,
        10,
        order,
        clip_min=0.0,
        clip_max=1.0,
        y=labels,
        rand_init=False,
    ).numpy()
    # The sign of a gradient within rounding of zero may differ.
    assert np.mean(np.abs(ours - theirs) <= 1e-5) > 0.999
    robust = predictions(model, theirs) == labels
    np.testing.assert_array_equal(predictions(model, ours) == labels, robust)
    assert 0 < robust.mean() < 1, "the attack should split the examples"


@pytest.mark.parametrize("norm", NORMS)
def test_adapter_is_cleverhans_itself(model, images, labels, norm):
    order, eps = NORMS[norm]
    ours = CleverHans("projected_gradient_descent", steps=5)(
        model, images, labels, threat_model=ThreatModel(norm, eps), seed=0
    )
    theirs = projected_gradient_descent(
        model, images, eps, eps / 2, 5, order, clip_min=0.0, clip_max=1.0, y=labels
    )
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ATTACKS)
def test_adapter_stays_inside_and_raises_the_loss(model, images, labels, name, norm):
    eps = NORMS[norm][1]
    attack = CleverHans(name, steps=4)
    adversarial = attack(model, images, labels, threat_model=ThreatModel(norm, eps), seed=0).numpy()
    flat = (adversarial - images).reshape(len(images), -1)
    assert np.linalg.norm(flat, np.inf if norm == "linf" else 2, axis=1).max() <= eps + 1e-5
    assert adversarial.min() >= 0 and adversarial.max() <= 1

    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="none")
    assert np.all(loss(labels, model(adversarial)).numpy() > loss(labels, model(images)).numpy())
    again = attack(model, images, labels, threat_model=ThreatModel(norm, eps), seed=1)
    np.testing.assert_array_equal(again, adversarial)


def test_one_adapter_serves_several_radii(model, images, labels):
    attack = CleverHans("fast_gradient_method")
    for eps in (0.2, 0.05, 0.0):
        adversarial = attack(model, images, labels, threat_model=ThreatModel("linf", eps), seed=0)
        assert abs(np.abs(adversarial - images).max() - eps) < 1e-6


def test_unknown_attack_names_the_known():
    with pytest.raises(InputError, match="projected_gradient_descent"):
        CleverHans("projected_gradient")


@pytest.mark.parametrize(
    "options", [{"steps": 0, "step_size": 0.1}, {"step_size": 0.0}, {"steps": 2}]
)
def test_bad_steps_are_refused(options):
    with pytest.raises(InputError, match="step"):
        CleverHans("momentum_iterative_method", **options)


def test_without_cleverhans_the_message_says_what_to_install(monkeypatch):
    # None in sys.modules makes the import fail, as where the package is absent.
    monkeypatch.setitem(sys.modules, "cleverhans.tf2.attacks.fast_gradient_method", None)
    with pytest.raises(InputError, match="pip install cleverhans"):
        CleverHans("fast_gradient_method")
