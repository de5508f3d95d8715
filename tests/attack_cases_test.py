"""What attacks draw, see and are counted by, each against a case whose answer is known."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_robust_transfer as rt
from tf_robust_transfer.attacks import PGD, SPSA, Attack, Square, ThreatModel
from tf_robust_transfer.attacks.lanes import seeds_of
from tf_robust_transfer.attacks.noise import ExampleNoise
from tf_robust_transfer.evaluation import (
    RobustnessWarning,
    attacking,
    challenge_files,
    evaluate_robustness,
)
from tf_robust_transfer.methods.n_fgsm import NFGSM

EPS = 0.1


def test_rounds_and_examples_draw_their_own():
    for seed in (5, (5, 7)):
        seeds = [seeds_of(seed, np.full(3, round), np.arange(3)) for round in range(3)]
        assert len(np.unique(np.concatenate(seeds), axis=0)) == 9


def test_square_draws_anew_in_each_chunk():
    noise = ExampleNoise(tf.constant([[1, 2], [3, 4]]))
    first, second = (Square().draw(noise, tf.fill([2], at), 3).numpy() for at in (0, 50))
    assert len(np.unique(np.concatenate([first, second]))) == first.size + second.size


def test_attacks_see_the_weights_of_now():
    rng = np.random.default_rng(1)
    images = rng.uniform(0.3, 0.7, (24, 4, 3, 1)).astype(np.float32)
    threat = ThreatModel("linf", 0.05)

    def network():
        inputs = keras.Input((4, 3, 1))
        return keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Flatten()(inputs)))

    model, kernel = network(), rng.normal(size=(12, 2))
    for sign in (1, -1):
        model.set_weights([sign * kernel, -0.5 * sign * kernel.sum(axis=0)])
        labels = np.argmax(model(images), axis=1)
        result = evaluate_robustness(
            model, images, labels, threat_model=threat, attacks=("fgsm",), check_model=False
        )
        gap = (images.reshape(24, -1) - 0.5) @ (kernel[:, 0] - kernel[:, 1])
        robust = np.abs(gap) > 0.05 * np.abs(kernel[:, 0] - kernel[:, 1]).sum()
        assert 0 < robust.sum() < 24
        np.testing.assert_array_equal(result.correct["fgsm"], robust)


def test_what_compares_losses_sees_float32(monkeypatch):
    model = keras.Sequential(
        [keras.Input((2, 1, 1)), keras.layers.Flatten(), keras.layers.Dense(2)]
    )
    images, seen = np.zeros((2, 2, 1, 1), np.float32), []
    monkeypatch.setattr(attacking.Evaluation, "_copy", lambda self, name: seen.append(name))
    of = attacking.Evaluation(model, images, np.zeros(2, int), [ThreatModel()], 0, 2, False)
    of.precision = "bfloat16"
    for attack in (Square(), SPSA(), PGD(1)):
        of._search(attack)
    assert seen == ["float32", "float32", "bfloat16"]


def test_n_fgsm_climbs_from_the_noisy_image():
    images = np.random.default_rng(0).uniform(0.49, 0.51, (50, 2, 2, 1)).astype(np.float32)

    def logits_of(x):  # the loss of class 0 rises away from 1/2
        return tf.stack([tf.zeros(50), tf.reduce_sum((x - 0.5) ** 2, axis=[1, 2, 3])], axis=1)

    found = NFGSM().perturb(
        logits_of, tf.constant(images), tf.zeros(50, tf.int32), rt.ThreatModel(eps=EPS),
        tf.constant([1, 2]),
    )  # fmt: skip
    assert (np.abs(found - 0.5) > EPS - 1e-6).all()


class Scripted(Attack):
    def __init__(self, images, falls):
        self.first, self.falls = images[:, 0, 0, 0], falls

    def start(self, problem, images, labels, round, noise):
        example = tf.argmin(tf.abs(images[:, 0, 0, 0, None] - self.first), axis=1)
        move = tf.where(tf.gather(tf.constant(self.falls), example), 0.05, 0.0)
        return {"x": tf.concat([images[:, :1], images[:, 1:] + move[:, None, None, None]], axis=1)}

    def step(self, problem, images, labels, state, iteration, drawn):
        return state, images, problem.logits_of(images)

    def result(self, state):
        return state["x"]


def test_worst_case_and_warnings_of_an_evaluation():
    images = np.full((5, 2, 1, 1), 0.5, np.float32)
    images[:, 0, 0, 0] = np.linspace(0.2, 0.8, 5)
    model = keras.Sequential(
        [keras.Input((2, 1, 1)), keras.layers.Flatten(), keras.layers.Dense(2)]
    )
    model.layers[-1].set_weights([np.array([[0, 0], [0, 10.0]]), np.array([5.2, 0])])
    weak = Scripted(images, np.array([True, False, False, False, False]))
    strong = Scripted(images, np.array([False, True, True, False, False]))

    class Ensemble(Attack):
        def components(self, num_classes, norm):
            return {"apgd-ce": weak, "square": strong}

    with pytest.warns(RobustnessWarning):
        result = evaluate_robustness(
            model, images, np.zeros(5, int), threat_model=ThreatModel("linf", 0.1),
            attacks={"autoattack": Ensemble(), "other": strong, "pgd20": weak}, check_model=False,
        )  # fmt: skip
    told = " ".join(result.warnings)
    assert "square took 40.0 points" in told and "AutoAttack is 40.0 points below PGD" in told
    np.testing.assert_array_equal(result.worst_case.correct, [False, False, False, True, True])
    assert result.worst_case.accuracy == 0.4


@pytest.mark.parametrize("shape, highest", [((2, 2, 3), 255.0), ((2, 2, 1), 1.0)])
def test_attack_files_may_leave_ball_and_pixels_by_as_much_as_the_challenges_forgive(
    tmp_path, shape, highest
):
    """run_attack.py of both: 1e-4 in the file's own units."""
    images, file = np.full((2, *shape), 0.5, np.float32), tmp_path / "x.npy"
    flat = (2, -1) if shape[-1] == 1 else images.shape

    def read(moved):
        np.save(file, (images.astype(np.float64) * highest + moved).reshape(flat))
        return challenge_files.read(file, images, ThreatModel(eps=8 / 255))

    radius = 8 / 255 * highest
    read(radius + 5e-5)
    with pytest.raises(rt.InputError, match="is too far|are too far"):
        read(radius + 3e-4)
    images[:] = 0.0
    images[0, 0, 0] = 1.0  # so that the file does not look as if it were in [0, 1]
    assert read(-5e-5).min() == 0.0
    with pytest.raises(rt.InputError, match="pixels must lie"):
        read(-2e-4)


def test_attack_files_in_the_l2_ball(tmp_path):
    images = np.full((2, 3, 3, 1), 0.5, np.float32)
    np.save(tmp_path / "x.npy", (images + 0.1).reshape(2, -1))  # 0.3 away in l2
    challenge_files.read(tmp_path / "x.npy", images, ThreatModel("l2", 0.31))
    with pytest.raises(rt.InputError, match="0.3 from its image in l2, allowed is eps 0.29"):
        challenge_files.read(tmp_path / "x.npy", images, ThreatModel("l2", 0.29))
