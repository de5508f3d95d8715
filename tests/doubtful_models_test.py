"""Evaluations of models that are random, overflow or have other inputs, and in unusual forms: what
is reported of them is what was measured.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_robust_transfer as rt
from tf_robust_transfer.attacks.names import training_attack
from tf_robust_transfer.errors import InputError
from tf_robust_transfer.evaluation.result import warnings_of

SHAPE = (4, 4, 1)
RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(0.1, 0.9, (400, *SHAPE)).astype(np.float32)


class Guessing(keras.layers.Layer):
    """Logits of class 0, in a share of all passes those of class 1; the image plays no part."""

    def __init__(self, share):
        super().__init__()
        self.share = share

    def call(self, images):
        wrong = tf.random.uniform([tf.shape(images)[0], 1]) < self.share
        # With a gradient, so that it is not blind.
        pixels = tf.reduce_mean(images, axis=(1, 2, 3))[:, None]
        return tf.where(wrong, [[0.0, 1.0, 0.0]], [[1.0, 0.0, 0.0]]) + 1e-3 * pixels


class Overflow(keras.layers.Layer):
    """Right on the clean images alone: NaN wherever a pixel has moved."""

    def build(self, shape):
        self.clean = self.add_weight(shape=(16,), trainable=False)

    def call(self, images):
        moved = tf.reduce_max(tf.abs(tf.reshape(images, [-1, 16]) - self.clean), axis=1)
        return tf.where(moved > 1e-4, float("nan"), [1.0])[:, None] * [[1.0, 0.0, 0.0, 0.0]]


def around(layer):
    images = keras.Input(SHAPE)
    return keras.Model(images, layer(images))


def dense(seed=0):
    keras.utils.set_random_seed(seed)
    return keras.Sequential([keras.Input(SHAPE), keras.layers.Flatten(), keras.layers.Dense(4)])


@pytest.mark.filterwarnings("ignore::tf_robust_transfer.RobustnessWarning")
def test_each_attack_on_a_random_model_is_judged_by_one_pass():
    """As the official code does: 0.7 of what a component attacks resists it, not none."""
    keras.utils.set_random_seed(0)
    result = rt.evaluate_robustness(
        around(Guessing(0.3)),
        IMAGES,
        np.zeros(len(IMAGES), int),
        threat_model=rt.ThreatModel(eps=0.05),
        attacks={"ce": rt.attacks.APGD(steps=3, eot_iterations=2)},
    )
    resists = result.correct["clean"].sum()
    # Five standard deviations of the share.
    slack = 5 * (0.3 * 0.7 / resists) ** 0.5
    assert abs(result.correct["ce"].sum() / resists - 0.7) < slack
    # A call does so too.
    moved = rt.attacks.APGD(steps=3, eot_iterations=2)(
        around(Guessing(0.3)), IMAGES, np.zeros(len(IMAGES), int),
        threat_model=rt.ThreatModel(eps=0.05),
    )  # fmt: skip
    assert np.isfinite(moved).all()


def test_a_random_models_state_and_parts_are_its_own(tmp_path):
    model = around(Guessing(0.3))
    options = {"threat_model": rt.ThreatModel(eps=0.05), "attacks": ("fgsm",), "check_model": False}
    given = IMAGES[:20], np.zeros(20, int)
    states = [tmp_path / f"{part}.npz" for part in range(2)]
    for part, state in enumerate(states):
        rt.evaluate_robustness(model, *given, part=(part, 2), state=state, **options)
        rt.evaluate_robustness(model, *given, part=(part, 2), state=state, **options)
    merged = rt.evaluate_robustness(model, *given, parts=states, **options)
    assert merged.num_examples == 20


def test_clean_images_alone_have_parts_too(tmp_path):
    model, labels = dense(), np.zeros(20, int)
    options = {"threat_model": rt.ThreatModel(eps=0.05), "attacks": (), "check_model": False}
    states = [tmp_path / f"{part}.npz" for part in range(2)]
    for part, state in enumerate(states):
        rt.evaluate_robustness(model, IMAGES[:20], labels, part=(part, 2), state=state, **options)
    merged = rt.evaluate_robustness(model, IMAGES[:20], labels, parts=states, **options)
    whole = rt.evaluate_robustness(model, IMAGES[:20], labels, **options)
    np.testing.assert_array_equal(merged.correct["clean"], whole.correct["clean"])


def test_the_components_of_a_part_are_of_its_own_examples():
    model = dense()
    labels = np.argmax(model(IMAGES[:40]), axis=1)
    result = rt.evaluate_robustness(
        model,
        IMAGES[:40],
        labels,
        threat_model=rt.ThreatModel(eps=0.05),
        attacks=("autoattack:apgd-ce+apgd-dlr",),
        part=(0, 2),
        check_model=False,
    )
    (after,) = result.components.values()
    assert after["apgd-dlr"] == result.accuracy["autoattack:apgd-ce+apgd-dlr"]


def test_images_that_fool_by_nan_are_handed_out():
    layer = Overflow()
    model = around(layer)
    layer.clean.assign(IMAGES[0].ravel())
    given = IMAGES[:1], np.zeros(1, int)
    threat_model = rt.ThreatModel(eps=0.05)
    result = rt.evaluate_robustness(
        model, *given, threat_model=threat_model, attacks=("pgd[steps=3]",), check_model=False,
        keep_adversarial=True,
    )  # fmt: skip
    assert result.accuracy == {"clean": 1.0, "pgd[steps=3]": 0.0}
    attack = rt.attacks.PGD(3, stop_when_fooled=True)
    in_graph = tf.function(lambda x, y: attack(model, x, y, threat_model=threat_model))
    for found in (
        result.adversarial["pgd[steps=3]"],
        attack(model, *given, threat_model=threat_model),
        in_graph(*map(tf.constant, given)),
    ):
        assert np.isnan(model(found)).all(), "the clean image fools nothing"


def test_gradients_of_nan_are_said():
    """The norm of a black image has none: 0 times an infinite slope is NaN."""
    images = keras.Input(SHAPE)
    norm = keras.ops.sqrt(keras.ops.sum(keras.ops.square(images), axis=(1, 2, 3)))[:, None]
    logits = keras.layers.Dense(4)(keras.layers.Flatten()(images))
    model = keras.Model(images, logits + norm * np.float32([1, 2, 3, 4]))
    black = np.zeros((8, *SHAPE), np.float32)
    labels = np.argmax(model(black), axis=1)
    with pytest.warns(rt.RobustnessWarning, match="NaN or infinite for 100% .* at clean images"):
        rt.evaluate_robustness(
            model, black, labels, threat_model=rt.ThreatModel(eps=0.05), attacks=("fgsm",)
        )


def test_cleverhans_attacks_each_radius_with_its_own_steps():
    model = dense()
    labels = np.argmax(model(IMAGES), axis=1)
    attack = {"it": "cleverhans[name=projected_gradient_descent;steps=5]"}
    options = {"attacks": attack, "check_model": False}
    both = rt.evaluate_robustness(
        model, IMAGES, labels, threat_model=rt.ThreatModel(), eps=(0.01, 0.1), **options
    )
    alone = rt.evaluate_robustness(
        model, IMAGES, labels, threat_model=rt.ThreatModel(eps=0.01), **options
    )
    assert 0 < alone.accuracy["it"] < 1
    assert both.radii[0.01].accuracy["it"] == alone.accuracy["it"]
    with pytest.raises(InputError, match="CleverHans takes no step beyond eps"):
        rt.evaluate_robustness(
            model,
            IMAGES,
            labels,
            threat_model=rt.ThreatModel(eps=0.01),
            attacks=("cleverhans:projected_gradient_descent",),
            step_size=0.02,
            check_model=False,
        )


WARNED = {
    "the cross-entropy's gradient is exactly zero for 9% of the images at clean images: gradient "
    "attacks are blind there; believe apgd-t, fab-t and square more": {"pgd20", "autoattack"},
    "the model is random: passes on the same images give other logits; attack it with autoattack": {
        "pgd20",
        "autoattack",
    },
    "square took 0.5 points off what the gradient attacks had left: gradients may be masked": {
        "autoattack"
    },
    "the last tenth of pgd20's steps still took 0.6 points: give it more steps": {"pgd20"},
    "the last quarter of autoattack apgd-ce's restarts still took 0.6 points": {"autoattack"},
    "eps 0.1: apgd-t: the DLR loss needs at least 3 classes": {"autoattack"},
    "AutoAttack is 4.0 points below PGD: make claims with AutoAttack": {"pgd20"},
    "batch norm ran on the statistics of each batch of 8: no fixed network has these accuracies": {
        "clean",
        "pgd20",
        "autoattack",
    },
}


@pytest.mark.parametrize("line", WARNED)
def test_whose_figure_a_warning_is_of(line):
    results = {
        "accuracy": {"clean": 1.0, "pgd20": 0.5, "autoattack": 0.4},
        "components": {"autoattack": {"apgd-ce": 0.5, "apgd-t": 0.5, "square": 0.4}},
        "warnings": [line],
    }
    of = {attack for attack in results["accuracy"] if warnings_of(attack, results)}
    assert of == WARNED[line]


@pytest.mark.parametrize(
    "attacks", [[rt.attacks.PGD(3)], rt.attacks.PGD(3), {"mine": 3}, {3: "pgd3"}, 3]
)
def test_attacks_that_are_none(attacks):
    with pytest.raises(InputError, match="attacks: expected names such as"):
        rt.evaluate_robustness(
            dense(), IMAGES[:4], np.zeros(4, int), threat_model=rt.ThreatModel(), attacks=attacks
        )


def test_attacks_by_names_of_ones_own_and_fewer_classes():
    images = keras.Input(SHAPE)
    model = keras.Model(images, keras.layers.Dense(2)(keras.layers.Flatten()(images)))
    with pytest.warns(rt.RobustnessWarning, match="mine: the DLR loss needs at least 3 classes"):
        rt.evaluate_robustness(
            model,
            IMAGES[:4],
            np.zeros(4, int),
            threat_model=rt.ThreatModel(),
            attacks={"mine": "apgd[loss=dlr;steps=3]", "other": rt.attacks.FGSM()},
            check_model=False,
        )


def test_a_call_of_an_attack_looks_at_the_classifiers_bounds():
    model = rt.as_classifier(dense(), bounds=(0, 255))
    labels = np.zeros(4, int)
    with pytest.raises(InputError, match="takes images in .0.0, 255.0"):
        rt.attacks.PGD(3)(model, IMAGES[:4], labels, threat_model=rt.ThreatModel())
    found = rt.gradient_alignment(model, 255 * IMAGES[:4], labels)
    assert len(found.alpha) == 4


def test_a_training_attack_does_not_lose_an_option_in_silence():
    with pytest.raises(InputError, match="leave stop_when_fooled out"):
        training_attack("pgd[steps=3;stop_when_fooled=true]")


def test_carlini_wagner_takes_pixels_that_rounding_put_outside():
    model = dense()
    images = np.full((1, *SHAPE), np.float32(1 + 6e-7))
    labels = np.argmax(model(images), axis=1)
    found = rt.attacks.parse("cw-l2")(model, images, labels, threat_model=rt.ThreatModel("l2", 4.0))
    assert np.argmax(model(found), axis=1) != labels


def test_squares_schedule_of_very_many_queries():
    attack = rt.attacks.Square(queries=300_000, rescale_schedule=True)
    levels = attack._level(tf.constant([0, 100_000, 214_749, 299_999]))
    assert (np.diff(levels) >= 0).all() and levels[-1] > levels[0]


def test_batch_statistics_have_settings_and_a_worst_case(tmp_path):
    options = {"threat_model": rt.ThreatModel(eps=0.05), "batch_norm": "batch"}
    with pytest.warns(rt.RobustnessWarning, match="statistics of each batch"):
        result = rt.evaluate_robustness(
            dense(), IMAGES[:8], np.zeros(8, int), attacks=("fgsm", "pgd[steps=2]"), **options
        )
    assert result.settings["fgsm"].startswith("fgsm[") and result.worst_case.accuracy <= 1
    with pytest.raises(InputError, match="no state"):
        rt.evaluate_robustness(
            dense(), IMAGES[:8], np.zeros(8, int), attacks=(), state=tmp_path / "x.npz", **options
        )
