"""The unit of the pixels changes nothing: one network behind layers that rescale, the same images,
and eps and step sizes in their units.
"""

import keras
import numpy as np
import pytest

from tf_robust_transfer.attacks import (
    BIM,
    FGSM,
    MIM,
    PGD,
    SPSA,
    CarliniWagnerL2,
    FABTargeted,
    Square,
    ThreatModel,
)
from tf_robust_transfer.attacks.cleverhans import CleverHans
from tf_robust_transfer.attacks.names import EXAMPLES
from tf_robust_transfer.errors import InputError
from tf_robust_transfer.evaluation import evaluate_robustness

SHAPE, CLASSES, N = (5, 5, 1), 4, 100
EPS = {"linf": 0.06, "l2": 0.2}
BOUNDS = [(0.0, 255.0), (-1.0, 1.0), (-0.5, 0.5)]
UNIT = (0.0, 1.0)


@pytest.fixture(scope="module")
def network():
    """Images in [0, 1] to logits; smooth, so that rounding turns few signs of a gradient."""
    keras.utils.set_random_seed(0)
    images = keras.Input(SHAPE)
    x = keras.layers.Dense(12, "tanh")(3 * keras.layers.Flatten()(images))
    return keras.Model(images, 3 * keras.layers.Dense(CLASSES)(x))


@pytest.fixture(scope="module")
def images():
    # A third of the pixels at the bounds.
    images = np.random.default_rng(0).uniform(-0.25, 1.25, (N, *SHAPE))
    return np.clip(images, 0, 1).astype(np.float32)


@pytest.fixture(scope="module")
def labels(network, images):
    return np.argmax(network(images), axis=1).astype(np.int32)


@pytest.fixture(scope="module")
def rescaled(network, images):
    """bounds -> (network and images of those bounds)."""

    def made(bounds):
        low, width = bounds[0], bounds[1] - bounds[0]
        own = keras.Input(SHAPE)
        layer = keras.layers.Rescaling(1 / width, -low / width)
        return keras.Model(own, network(layer(own))), (low + width * images).astype(np.float32)

    return {bounds: made(bounds) for bounds in (UNIT, *BOUNDS)}


def flags(rescaled, labels, norm, bounds, attacks):
    """name -> bool [n]; attacks: names, or a function from a step size's unit to a dict."""
    width = bounds[1] - bounds[0]
    model, images = rescaled[bounds]
    result = evaluate_robustness(
        model,
        images,
        labels,
        threat_model=ThreatModel(norm, width * EPS[norm], bounds),
        attacks=attacks(width) if callable(attacks) else attacks,
        keep_adversarial=True,
        check_model=False,
    )
    for found in result.adversarial.values():
        moved = (found - images).reshape(N, -1)
        length = np.linalg.norm(moved, np.inf if norm == "linf" else 2, axis=1)
        assert length.max() <= width * (EPS[norm] + 1e-6)
        assert found.min() >= bounds[0] and found.max() <= bounds[1]
    return result.correct


def check(rescaled, labels, norm, attacks, all_bounds=BOUNDS):
    expected = flags(rescaled, labels, norm, UNIT, attacks)
    for bounds in all_bounds:
        found = flags(rescaled, labels, norm, bounds, attacks)
        for name in expected:
            share = np.mean(found[name] == expected[name])
            assert share >= 0.99, f"{name}, {norm}, {bounds}: {share:.0%} of the flags are equal"
    return expected


def few(width):
    """One of each kind of constant, with step sizes of the user's own; a few steps each."""
    return {
        "pgd": PGD(3, 0.03 * width, stop_when_fooled=True),
        "spsa": SPSA(2, 8, learning_rate=0.04 * width),
    }


def few_l2(width):
    return {"cw": CarliniWagnerL2(4, 2, first_constant=0.3, learning_rate=0.2)}


@pytest.mark.parametrize(("norm", "attacks"), [("linf", few), ("l2", few_l2)])
def test_the_same_examples_fall_in_0_to_255(rescaled, labels, norm, attacks):
    expected = check(rescaled, labels, norm, attacks, [(0.0, 255.0)])
    for name in attacks(1.0):
        assert 0.1 < expected[name].mean() < 0.95, f"{name} says little"


@pytest.mark.parametrize("attack", [PGD(3), FGSM()])
def test_in_training_too(rescaled, labels, attack):
    """The textbook form, which a training step runs: the same images but for the unit."""
    found = []
    for bounds in (UNIT, (0.0, 255.0)):
        model, images = rescaled[bounds]
        threat_model = ThreatModel("linf", EPS["linf"] * bounds[1], bounds)
        found.append(attack(model, images, labels, threat_model=threat_model, seed=3) / bounds[1])
    same = np.abs(found[0] - found[1]).reshape(N, -1).max(1) < 1e-5
    assert same.mean() >= 0.99 and np.abs(found[0] - rescaled[UNIT][1]).max() > 0.05


def of_their_own(norm):
    """Attacks with the step sizes of the user's own that a name cannot say."""

    def made(width):
        both = {
            "fgsm": FGSM(0.05 * width, random_start=True),
            "pgd textbook": PGD(5, 0.02 * width),
            "bim": BIM(5, 0.02 * width),
            "mim": MIM(5, 0.02 * width),
            "cleverhans": CleverHans("projected_gradient_descent", step_size=0.01 * width),
            "square": Square(200, restarts=2),
            "fab": FABTargeted(20, restarts=2),
        }
        alone = {
            "linf": {"spsa": SPSA(10, 16, learning_rate=0.02 * width, delta=0.005 * width)},
            "l2": {"cw": CarliniWagnerL2(30, 3, first_constant=0.3, learning_rate=0.1)},
        }
        return both | alone[norm]

    return made


def fits(name, norm):
    return name != {"linf": "cw-l2", "l2": "spsa"}[norm]


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("name", [*EXAMPLES, None])
def test_every_attack_in_every_unit(rescaled, labels, norm, name):
    if name is not None and not fits(name, norm):
        with pytest.raises(InputError, match="is an? l"):
            flags(rescaled, labels, norm, UNIT, (name,))
        return
    check(rescaled, labels, norm, of_their_own(norm) if name is None else (name,))
