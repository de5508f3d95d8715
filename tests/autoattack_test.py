"""AutoAttack whole: its versions against the official implementation's flags, and what it does at
its edges.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests import golden_networks
from tf_robust_transfer.attacks import AutoAttack, ThreatModel
from tf_robust_transfer.attacks.autoattack import COMPONENTS, VERSIONS
from tf_robust_transfer.attacks.search import Search
from tf_robust_transfer.errors import InputError
from tf_robust_transfer.evaluation import RobustnessWarning, evaluate_robustness


def agreement_of_chance(golden, version):
    """How far the official implementation agrees with itself under another seed, at worst."""
    return (
        (golden[f"{version}/robust_other_seeds"] == golden[f"{version}/robust"]).mean(axis=1).min()
    )


def evaluated(name, attack, seed=0, count=None):
    model, images, labels, threat_model, golden = golden_networks.load(name)
    result = evaluate_robustness(
        model,
        images[:count],
        labels[:count],
        threat_model=threat_model,
        attacks=[attack],
        seed=seed,
        check_model=False,
    )
    return result, golden


@pytest.mark.parametrize(
    "name",
    [
        "digits_robust_linf",
        pytest.param("digits_robust_l2", marks=pytest.mark.slow),
        pytest.param("cifar10_robust_linf", marks=pytest.mark.slow),
    ],
)
def test_standard_agrees_with_the_official_implementation(name):
    result, golden = evaluated(name, "autoattack")
    robust = result.correct["autoattack"]
    assert (robust == golden["standard/robust"]).mean() >= 0.99
    # Never weaker by more than a point.
    assert robust.mean() <= golden["standard/robust"].mean() + 0.01
    after = list(result.components["autoattack"].values())
    assert list(result.components["autoattack"]) == list(VERSIONS["standard"])
    assert after == sorted(after, reverse=True) and after[-1] == result.accuracy["autoattack"]


@pytest.mark.slow
@pytest.mark.parametrize("version", ["standard", "plus"])
@pytest.mark.parametrize("name", golden_networks.NAMES)
def test_every_version_on_every_golden_network(name, version):
    model, *_, golden = golden_networks.load(name)
    if f"{version}/robust" not in golden:
        pytest.skip("the official implementation cannot run it on so few classes")
    result, _ = evaluated(name, "autoattack" if version == "standard" else "autoattack-plus")
    robust = result.correct[result.attacks[-1]]
    assert (robust == golden[f"{version}/robust"]).mean() >= min(
        0.99, agreement_of_chance(golden, version)
    )
    assert robust.mean() <= golden[f"{version}/robust"].mean() + 0.01


@pytest.mark.parametrize(
    ("name", "needs"),
    [("digits_3_classes_linf", "4 classes"), ("digits_2_classes_linf", "3 classes")],
)
def test_too_few_classes_for_a_loss_are_said(name, needs):
    with pytest.warns(RobustnessWarning, match=f"apgd-t: .*{needs}"):
        result, golden = evaluated(name, "autoattack:apgd-ce+apgd-t")
    # Not weaker than the official apgd-ce alone, whose loss needs no such number of classes.
    assert result.accuracy["autoattack:apgd-ce+apgd-t"] <= golden["apgd-ce/robust"].mean() + 0.01


def test_alone_too(name="digits_2_classes_linf"):
    with pytest.warns(RobustnessWarning, match="apgd-dlr: .*3 classes"):
        evaluated(name, "apgd-dlr", count=10)


def test_a_component_attacks_only_what_resisted_those_before(monkeypatch):
    attacked, run = [], Search.run

    def spy(self, images, labels, examples, **options):
        attacked.append(list(examples))
        return run(self, images, labels, examples, **options)

    monkeypatch.setattr(Search, "run", spy)
    # The first component alone says what resists it.
    alone, _ = evaluated("digits_robust_linf", "autoattack:apgd-ce", count=60)
    first = np.flatnonzero(alone.correct["autoattack:apgd-ce"])
    result, _ = evaluated("digits_robust_linf", "autoattack:apgd-ce+square", count=60)
    clean = np.flatnonzero(result.correct["clean"])
    assert 0 < len(first) < len(clean)
    for examples, expected in zip(attacked, (clean, clean, first), strict=True):
        np.testing.assert_array_equal(examples, expected)
    after = result.components["autoattack:apgd-ce+square"]
    assert after["apgd-ce"] == len(first) / 60 >= after["square"]


@pytest.mark.slow
def test_called_on_arrays():
    """Examples that fool wherever evaluation finds some; the image itself where the model errs
    already.
    """
    model, images, labels, threat_model, golden = golden_networks.load("digits_robust_linf")
    images, labels = images[:40], labels[:40]
    attack = AutoAttack(attacks=["apgd-ce", "fab-t"])
    found = attack(model, images, labels, threat_model=threat_model, seed=0).numpy()
    assert (
        found.min() >= 0
        and found.max() <= 1
        and np.abs(found - images).max() <= threat_model.eps + 1e-6
    )
    clean = np.argmax(model(images), axis=1) == labels
    np.testing.assert_array_equal(found[~clean], images[~clean])
    fooled = np.argmax(model(found), axis=1) != labels
    assert fooled.sum() >= (~golden["standard/robust"][:40]).sum() - 1
    np.testing.assert_array_equal(
        attack(model, images, labels, threat_model=threat_model, seed=0), found
    )


def test_versions():
    standard = AutoAttack().components(10, "linf")
    assert list(standard) == ["apgd-ce", "apgd-t", "fab-t", "square"]
    assert (
        standard["apgd-t"].rounds(10),
        standard["fab-t"].rounds(10),
        standard["square"].iterations,
    ) == (9, 9, 5001)
    assert standard["apgd-t"].rounds(5) == 4
    plus = AutoAttack("plus").components(10, "linf")
    assert list(plus) == ["apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"]
    assert [plus[name].restarts for name in plus] == [5, 5, 5, 1, 1, 1]
    rand = AutoAttack("rand").components(10, "l2")
    assert list(rand) == ["apgd-ce", "apgd-dlr"] and rand["apgd-ce"].eot_iterations == 20
    assert rand["apgd-dlr"].eot_iterations == 20
    assert set(COMPONENTS) >= {name for names in VERSIONS.values() for name in names}


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"version": "standart"}, "unknown version 'standart'; nearest valid names: standard"),
        ({"attacks": ["apgd"]}, "expected different ones of apgd-ce, .*, got .*'apgd'"),
        ({"attacks": ["fab", "fab"]}, "expected different ones of .*, got .*'fab', 'fab'"),
    ],
)
def test_bad_input(arguments, text):
    with pytest.raises(InputError, match=text):
        AutoAttack(**arguments)


def test_inside_a_training_step_it_is_refused():
    images = keras.Input((2, 2, 1))
    model = keras.Model(images, keras.layers.Dense(3)(keras.layers.Flatten()(images)))
    with pytest.raises(InputError, match="for evaluation"):
        AutoAttack().perturb(
            model, tf.zeros((1, 2, 2, 1)), tf.zeros(1, tf.int32), ThreatModel(), tf.constant([0, 0])
        )
