"""BIM, MIM, CW-l2 and SPSA: against CleverHans on the same weights, closed forms on linear models,
and NumPy.
"""

import functools

import hypothesis
import keras
import numpy as np
import pytest
import scipy.special
import scipy.stats
import tensorflow as tf
from cleverhans.tf2.attacks.basic_iterative_method import basic_iterative_method
from cleverhans.tf2.attacks.momentum_iterative_method import momentum_iterative_method
from hypothesis import strategies as st

from tf_robust_transfer.attacks import ThreatModel
from tf_robust_transfer.attacks.adam import adam_start, adam_step
from tf_robust_transfer.attacks.bim import BIM
from tf_robust_transfer.attacks.carlini_wagner import CarliniWagnerL2
from tf_robust_transfer.attacks.mim import MIM
from tf_robust_transfer.attacks.pgd import PGD
from tf_robust_transfer.attacks.search import Search
from tf_robust_transfer.attacks.spsa import SPSA
from tf_robust_transfer.attacks.threat_model import Problem
from tf_robust_transfer.errors import InputError


def linear_model(classes=2, shape=(3, 4, 1), seed=0):
    """Flatten and Dense. Returns (model, kernel, bias) in float64."""
    images = keras.Input(shape)
    model = keras.Model(images, keras.layers.Dense(classes)(keras.layers.Flatten()(images)))
    rng = np.random.default_rng(seed)
    kernel = rng.standard_normal((np.prod(shape), classes)).astype(np.float32)
    # Both (all) classes meet near the middle of the pixel range.
    bias = (-0.5 * kernel.sum(axis=0)).astype(np.float32)
    model.set_weights([kernel, bias])
    return model, kernel.astype(np.float64), bias.astype(np.float64)


@functools.cache
def smooth_model(shape=(8, 8, 2), classes=4):
    """Smooth, so that no ReLU flips a gradient over a rounding error, and all classes about equally
    frequent.
    """
    keras.utils.set_random_seed(0)
    images = keras.Input(shape)
    x = keras.layers.Conv2D(6, 3, strides=2, padding="same", activation="tanh")(images)
    x = keras.layers.Dense(12, activation="tanh")(keras.layers.Flatten()(x))
    model = keras.Model(images, keras.layers.Dense(classes)(x))
    model.layers[-1].bias.assign(-np.mean(model(inputs(200, shape)), axis=0))
    return model


def inputs(count, shape=(8, 8, 2), seed=0, low=0.0, high=1.0):
    return np.random.default_rng(seed).uniform(low, high, (count, *shape)).astype(np.float32)


def predicted(model, images):
    return model(images, training=False).numpy().argmax(axis=1).astype(np.int32)


def lengths(difference, norm="l2"):
    flat = np.asarray(difference, np.float64).reshape(len(difference), -1)
    return np.linalg.norm(flat, np.inf if norm == "linf" else 2, axis=1)


class TestCleverHans:
    """The sign of a gradient within rounding of zero may differ, in a pixel of ten thousand."""

    def compare(self, ours, theirs, images):
        assert np.mean(np.abs(ours - theirs) <= 1e-5) > 0.999
        assert np.abs(ours - images).max() > 0.01

    # l2 where no pixel can reach the bounds: there CleverHans's PGD clips a step before it projects
    # too.
    @pytest.mark.parametrize(
        ("norm", "order", "eps", "low"), [("linf", np.inf, 0.1, 0.0), ("l2", 2, 0.3, 0.4)]
    )
    def test_bim(self, norm, order, eps, low):
        model, images = smooth_model(), inputs(64, low=low, high=1 - low)
        labels, threat = predicted(model, images), ThreatModel(norm, eps)
        theirs = basic_iterative_method(
            model, images, eps, eps / 4, 7, order, 0.0, 1.0, labels, sanity_checks=False
        )
        self.compare(BIM(7, eps / 4)(model, images, labels, threat_model=threat), theirs, images)
        theirs = basic_iterative_method(
            model, images, eps, eps / 7, 7, order, 0.0, 1.0, labels, sanity_checks=False
        )
        self.compare(BIM(7)(model, images, labels, threat_model=threat), theirs, images)

    @pytest.mark.parametrize("decay", [0.0, 0.5, 1.0])
    @pytest.mark.parametrize(
        ("norm", "order", "eps", "low"), [("linf", np.inf, 0.1, 0.0), ("l2", 2, 0.3, 0.4)]
    )
    def test_mim(self, norm, order, eps, low, decay):
        model, images = smooth_model(), inputs(64, low=low, high=1 - low)
        labels = predicted(model, images)
        theirs = momentum_iterative_method(
            model,
            images,
            eps,
            eps / 4,
            9,
            order,
            0.0,
            1.0,
            labels,
            decay_factor=decay,
            sanity_checks=False,
        )
        ours = MIM(9, eps / 4, decay=decay)(
            model, images, labels, threat_model=ThreatModel(norm, eps)
        )
        self.compare(ours, theirs, images)
        if decay:
            plain = BIM(9, eps / 4)(model, images, labels, threat_model=ThreatModel(norm, eps))
            assert np.abs(ours - plain).max() > 1e-4  # the momentum matters here

    def test_steps_of_eps_over_their_number_reach_the_corner(self):
        """On two linear classes no sign turns, so that every pixel ends eps away, in or against the
        kernel's direction.
        """
        model, kernel, _ = linear_model()
        images = inputs(16, (3, 4, 1), low=0.4, high=0.6)
        labels = predicted(model, images)
        v = (kernel[:, 1 - labels] - kernel[:, labels]).T.reshape(images.shape)
        for attack in (BIM(5), MIM(5)):
            found = attack(model, images, labels, threat_model=ThreatModel("linf", 0.2))
            np.testing.assert_allclose(found, images + 0.2 * np.sign(v), atol=1e-6)


def test_adam_is_that_of_keras():
    """Two lanes; the second begins anew after three steps."""
    gradients = np.random.default_rng(0).normal(size=(6, 2, 2, 3, 1)).astype(np.float32)
    expected = np.zeros((6, 2, 2, 3, 1))
    for lane, beginnings in enumerate([(0,), (0, 3)]):
        for step in range(6):
            if step in beginnings:
                variable, before = keras.Variable(np.zeros((2, 3, 1), np.float32)), 0.0
                adam = keras.optimizers.Adam(1.0, epsilon=1e-8)
            adam.apply([gradients[step, lane]], [variable])
            expected[step, lane], before = before - variable.numpy(), variable.numpy()
    state = adam_start(tf.zeros([2, 2, 3, 1]))
    for step in range(6):
        if step == 3:
            state = {
                name: tf.concat([moment[:1], 0 * moment[1:]], axis=0)
                for name, moment in state.items()
            }
        direction, state = adam_step(gradients[step], state, tf.constant([step, step % 3]))
        np.testing.assert_allclose(direction, expected[step], atol=1e-5)


class TestCarliniWagner:
    def linear(self, classes):
        """(model, images, labels, distance to the nearest plane between the label's class and
        another).
        """
        model, kernel, bias = linear_model(classes, seed=1)
        images = inputs(40, (3, 4, 1), seed=2, low=0.35, high=0.65)
        labels = predicted(model, images)
        logits = images.reshape(40, -1).astype(np.float64) @ kernel + bias
        rows = np.arange(40)
        gaps = logits[rows, labels][:, None] - logits
        planes = np.linalg.norm(kernel[:, labels].T[:, None] - kernel.T[None], axis=2)
        distances = np.where(gaps > 0, gaps / np.maximum(planes, 1e-12), np.inf)
        distances[rows, labels] = np.inf
        return model, images, labels, distances.min(axis=1)

    @pytest.mark.parametrize("classes", [2, 5])
    def test_the_smallest_perturbation_of_a_linear_model(self, classes):
        """The distance to a plane, |gap| / |w_y - w_j|, the bounds being out of reach; here within
        3%.

        Of several planes the margin leads to that of the smallest gap, which is not always the
        nearest."""
        model, images, labels, distances = self.linear(classes)
        assert distances.max() < 0.35
        attack = CarliniWagnerL2(300, 8, learning_rate=0.01, stop_when_fooled=False)
        found = attack(model, images, labels, threat_model=ThreatModel("l2", 9.0)).numpy()
        assert (predicted(model, found) != labels).all()
        ratio = lengths(found - images) / distances
        assert ratio.min() > 1 - 1e-3 and np.median(ratio) < 1.01
        assert ratio.max() < 1.03 if classes == 2 else (ratio < 1.05).mean() > 0.85

    def test_whole_numbers_are_those_with_a_point(self):
        whole = CarliniWagnerL2(3, 2, first_constant=1, learning_rate=1, confidence=0)
        parts = CarliniWagnerL2(3.0, 2.0, first_constant=1.0, learning_rate=1.0, confidence=0.0)
        threat, labels = ThreatModel("l2", 2), np.zeros(3, np.int32)
        assert repr(whole) == repr(parts) and repr(threat) == repr(ThreatModel("l2", 2.0))
        state = whole.start(Problem.of(None, threat, threat.eps), inputs(3), labels, 0, None)
        assert state["constant"].dtype == tf.float32 and set(state["constant"].numpy()) == {1.0}

    def test_a_search_counts_what_lies_in_the_ball(self):
        model, images, labels, distances = self.linear(2)
        eps = float(np.median(distances))
        search = Search(CarliniWagnerL2(200, 6), model, ThreatModel("l2", eps), batch_size=16)
        fooled = np.zeros(40, bool)
        for decided in search.run(images, labels, np.arange(40), eps=eps, seed=0):
            fooled[decided.examples] = decided.fooled
        clear = np.abs(distances / eps - 1) > 0.03
        assert clear.sum() > 30
        np.testing.assert_array_equal(fooled[clear], (distances < eps)[clear])

    def test_confidence_is_the_margin_that_is_reached(self):
        model, images, labels, _ = self.linear(3)
        attack = CarliniWagnerL2(200, 5, confidence=0.5, stop_when_fooled=False)
        found = attack(model, images, labels, threat_model=ThreatModel("l2", 9.0))
        logits = model(found).numpy()
        others = np.where(np.eye(3)[labels] > 0, -np.inf, logits).max(axis=1)
        margins = others - logits[np.arange(40), labels]
        assert margins.min() >= 0.5 - 1e-4 and np.median(margins) < 0.55

    def test_the_constants_are_searched_as_by_the_authors(self):
        """Four lanes that succeed at constants of at least 0.5, 3, 0.01 and never: the authors'
        rule as a loop.
        """
        needed = np.array([0.5, 3.0, 0.01, np.inf])
        tried = []
        for limit in needed:
            lower, upper, constant, sequence = 0.0, 1e10, 0.01, []
            for _ in range(7):
                sequence.append(constant)
                if constant >= limit:
                    upper = min(upper, constant)
                else:
                    lower = max(lower, constant)
                constant = (lower + upper) / 2 if upper < 1e9 else constant * 10
            tried.append(sequence)
        attack, images = CarliniWagnerL2(4, 7), tf.fill([4, 2, 2, 1], 0.5)
        problem = Problem(None, ThreatModel("l2", 1.0), 1.0)
        state = attack.start(problem, images, tf.zeros(4, tf.int32), None, None)
        for i in range(7):
            np.testing.assert_allclose(state["constant"], np.array(tried)[:, i], rtol=1e-5)
            state["succeeded"] = tf.constant(state["constant"].numpy() >= needed - 1e-9)
            state["point"] += 1.0
            going_on = attack._next_constant(state, images, (0.0, 1.0), tf.constant([False] * 4))
            assert all((going_on[name] == state[name]).numpy().all() for name in state)
            state = attack._next_constant(state, images, (0.0, 1.0), tf.constant([True] * 4))
            np.testing.assert_allclose(state["point"], 0.0, atol=1e-6)  # back at the image
            assert not state["succeeded"].numpy().any()


class TestSPSA:
    def test_the_estimate_is_unbiased(self):
        """Linear margin v x: one pair gives (v s) s, with mean v and variance |v|^2 - v_i^2 in
        pixel i.
        """
        model, kernel, _ = linear_model()
        v, lanes, pairs = kernel[:, 1] - kernel[:, 0], 2000, 4
        signs = np.where(
            np.random.default_rng(0).uniform(size=(lanes, pairs, 3, 4, 1)) < 0.5, -1, 1
        ).astype(np.float32)
        problem, images = Problem(model, None, None), tf.constant(inputs(lanes, (3, 4, 1)))
        found = SPSA(samples=2 * pairs)._estimate(
            problem, images, tf.zeros(lanes, tf.int32), tf.constant(signs)
        )
        found = found.numpy().reshape(lanes, -1)
        flat = signs.reshape(lanes, pairs, -1)
        np.testing.assert_allclose(found, ((flat @ v)[..., None] * flat).mean(axis=1), atol=2e-3)
        spread = np.sqrt((v @ v - v**2) / (lanes * pairs))
        assert np.abs((found.mean(axis=0) - v) / spread).max() < 4

    def test_signs_are_even_and_new_at_every_step_and_in_every_lane(self):
        """Seen through the images that the model is asked about: +-delta around the current one, in
        mirrored pairs.
        """
        seen = []

        def logits_of(x):
            seen.append(x.numpy())
            return tf.reduce_sum(x, axis=[1, 2])

        attack, images = SPSA(2, 64, delta=0.25), tf.fill([6, 4, 4, 2], 0.5)
        problem = Problem(
            logits_of, ThreatModel("linf", 0.0), 0.0
        )  # a ball of one point: the current image stays

        class Noise:
            def uniform(self, shape, stream):
                return tf.constant(np.random.default_rng(1).uniform(size=(6, *shape)), tf.float32)

        state = attack.start(problem, images, tf.zeros(6, tf.int32), None, Noise())
        for i in range(2):
            state = attack.step(problem, images, tf.zeros(6, tf.int32), state, tf.fill([6], i), ())[
                0
            ]
        tried = [x.reshape(6, 64, -1) - 0.5 for x in seen if len(x) == 6 * 64]
        assert len(tried) == 2
        both = np.stack(tried)
        assert set(np.unique(both)) == {-0.25, 0.25}
        np.testing.assert_array_equal(both[:, :, :32], -both[:, :, 32:])
        assert len(np.unique(both.reshape(-1, 32), axis=0)) > 0.99 * both[..., 0].size
        assert (
            scipy.stats.binomtest(int((both[:, :, :32] > 0).sum()), 2 * 6 * 32 * 32).pvalue > 1e-3
        )

    def test_it_finds_the_corner_of_a_linear_model(self):
        model, kernel, _ = linear_model()
        images = inputs(20, (3, 4, 1))
        labels = predicted(model, images)
        v = (kernel[:, 1 - labels] - kernel[:, labels]).T.reshape(images.shape)
        best = np.where(v > 0, np.minimum(1, images + 0.1), np.maximum(0, images - 0.1))
        attack, threat = SPSA(60, 128), ThreatModel("linf", 0.1)
        perturb = tf.function(
            lambda x, y: attack.perturb(model, x, y, threat, tf.constant([1, 2])), autograph=False
        )
        found = perturb(tf.constant(images), tf.constant(labels)).numpy()
        assert np.abs(v).min() > 0.01
        clear = np.abs(v) > 0.3
        assert clear.mean() > 0.8
        np.testing.assert_allclose(found[clear], best[clear], atol=1e-6)


SEARCHED = {
    "mim": (lambda: MIM(25, stop_when_fooled=True), ThreatModel("linf", 0.01)),
    "cw": (lambda: CarliniWagnerL2(12, 2, first_constant=1.0), ThreatModel("l2", 0.12)),
    "spsa": (lambda: SPSA(12, 16, learning_rate=0.002), ThreatModel("linf", 0.01)),
}


@pytest.mark.parametrize("name", SEARCHED)
def test_examples_meet_the_same_in_any_batch(name):
    """Batches of 3 and of 7: the lanes of one batch are at different iterations."""
    model, images = smooth_model(), inputs(12, seed=1)
    labels, (make, threat), results = predicted(model, images), SEARCHED[name], []
    for size in (3, 7):
        search = Search(make(), model, threat, batch_size=size, keep_images=True)
        robust, found = np.ones(12, bool), np.full_like(images, np.nan)
        for decided in search.run(images, labels, np.arange(12), eps=threat.eps, seed=3):
            robust[decided.examples], found[decided.examples] = ~decided.fooled, decided.images
        results.append((robust, found))
    (robust, found), (other_robust, other_found) = results
    assert 0 < robust.sum() < 12
    np.testing.assert_array_equal(robust, other_robust)
    np.testing.assert_allclose(found, other_found, atol=1e-4)


# Shape, classes, batch.
CASES = {"one grey image, 2 classes": ((6, 6, 1), 2, 1), "colour, 10 classes": ((5, 6, 3), 10, 5)}
ATTACKS = {
    "mim l2": (lambda: MIM(3), "l2"),
    "mim linf": (lambda: MIM(3, stop_when_fooled=True), "linf"),
    "cw": (lambda: CarliniWagnerL2(3, 2, first_constant=5.0), "l2"),
    "cw smallest": (
        lambda: CarliniWagnerL2(
            6, 2, first_constant=50.0, learning_rate=0.1, stop_when_fooled=False
        ),
        "l2",
    ),
    "spsa": (lambda: SPSA(2, 6), "linf"),
}
cached_attack = functools.cache(lambda name: ATTACKS[name][0]())


class TestBallAndBounds:
    @hypothesis.settings(max_examples=12, deadline=None, derandomize=True, database=None)
    @hypothesis.given(
        case=st.sampled_from(sorted(CASES)),
        name=st.sampled_from(sorted(ATTACKS)),
        eps=st.one_of(st.just(0.0), st.sampled_from([1e-6, 8 / 255, 1.0]), st.floats(0, 1)),
        seed=st.integers(0, 2**31 - 1),
    )
    def test_every_result_lies_in_both(self, case, name, eps, seed):
        (shape, classes, batch), norm = CASES[case], ATTACKS[name][1]
        model, images = smooth_model(shape, classes), inputs(batch, shape, seed)
        labels = predicted(model, images)
        labels[2:3] = (labels[2:3] + 1) % classes
        images[1:2] = np.round(images[1:2])
        attack = cached_attack(name)
        found = attack(
            model, images, labels, threat_model=ThreatModel(norm, eps), seed=seed
        ).numpy()
        assert (
            found.shape == images.shape and found.dtype == np.float32 and np.isfinite(found).all()
        )
        assert found.min() >= 0 and found.max() <= 1
        assert lengths(found.astype(np.float64) - images, norm).max() <= eps * (1 + 1e-6) + 1e-6
        if attack.stop_when_fooled:
            np.testing.assert_array_equal(found[2:3], images[2:3])  # misclassified already

    @pytest.mark.parametrize("name", ["mim l2", "cw", "cw smallest", "spsa"])
    def test_other_bounds(self, name):
        shape = (6, 6, 1)
        model, images = smooth_model(shape, 2), inputs(8, shape, low=-0.5, high=0.5)
        threat = ThreatModel(ATTACKS[name][1], 0.5, bounds=(-0.5, 0.5))
        found = cached_attack(name)(
            model, images, predicted(model, images), threat_model=threat
        ).numpy()
        assert found.min() >= -0.5 and found.max() <= 0.5 and np.abs(found - images).max() > 1e-3


class TestInputErrors:
    @pytest.mark.parametrize(
        ("make", "text"),
        [
            (lambda: BIM(0), "steps: expected a number of at least 1, got 0"),
            (lambda: MIM(step_size=0.0), "step_size: expected a number above 0"),
            (lambda: MIM(decay=-0.1), "decay: expected a number of at least 0, got -0.1"),
            (lambda: CarliniWagnerL2(0), "steps: expected a number of at least 1, got 0"),
            (lambda: CarliniWagnerL2(first_constant=0), ": expected a number above 0, got 0"),
            (lambda: CarliniWagnerL2(confidence=-1), "confidence: expected a number of at least 0"),
            (lambda: SPSA(samples=7), "samples: expected an even number of at least 2, got 7"),
            (lambda: SPSA(delta=0), ": expected a number above 0, got 0"),
        ],
    )
    def test_arguments(self, make, text):
        with pytest.raises(InputError, match=text):
            make()

    @pytest.mark.parametrize(
        ("attack", "norm"), [(CarliniWagnerL2(2, 1), "linf"), (SPSA(1, 2), "l2")]
    )
    def test_the_other_norm(self, attack, norm):
        model, images = smooth_model(), inputs(2)
        with pytest.raises(InputError, match=f"attacks in l.*, got norm '{norm}'") as caught:
            attack(model, images, predicted(model, images), threat_model=ThreatModel(norm, 0.1))
        assert "\n" not in str(caught.value)


class TestDivergenceFromTheCleanPrediction:
    """PGD(loss="kl"), for training: KL(p(x) || p(x + delta)) of a linear model, against central
    differences in float64.
    """

    def case(self):
        rng = np.random.default_rng(0)
        kernel = rng.standard_normal((4, 3)).astype(np.float32)
        x, y = rng.uniform(0.3, 0.7, (5, 2, 2, 1)).astype(np.float32), rng.integers(0, 3, 5)
        return kernel, x, y, lambda images: tf.reshape(images, [-1, 4]) @ kernel

    def divergence(self, kernel, x, moved):
        clean, other = (
            scipy.special.log_softmax(i.reshape(5, 4).astype(np.float64) @ kernel, axis=1)
            for i in (x, moved)
        )
        return (np.exp(clean) * (clean - other)).sum(axis=1)

    def test_its_gradient(self):
        kernel, x, y, logits_of = self.case()
        at = x + np.random.default_rng(1).uniform(-0.1, 0.1, x.shape).astype(np.float32)
        problem = Problem(logits_of, ThreatModel("linf", 0.1), 0.1, logits_of(x))
        found, _ = PGD(1, loss="kl")._gradient(problem, tf.constant(at), tf.constant(y))
        expected, step = np.zeros(x.shape), 1e-5
        for index in np.ndindex(x.shape):
            sides = [at.astype(np.float64) for _ in range(2)]
            sides[0][index] += step
            sides[1][index] -= step
            expected[index] = (
                self.divergence(kernel, x, sides[0]) - self.divergence(kernel, x, sides[1])
            )[index[0]]
        np.testing.assert_allclose(found, expected / (2 * step), rtol=1e-3, atol=1e-5)

    def test_a_step_in_training_raises_it_and_needs_no_label(self):
        kernel, x, y, logits_of = self.case()
        runs = []
        for labels in (y, (y + 1) % 3):
            arguments = (
                tf.constant(x),
                tf.constant(labels),
                ThreatModel("linf", 0.1),
                tf.constant([1, 2]),
            )
            runs.append(PGD(10, loss="kl").perturb(logits_of, *arguments).numpy())
        np.testing.assert_array_equal(*runs)
        start = (
            PGD(1, 1e-9, loss="kl")
            .perturb(logits_of, tf.constant(x), tf.constant(y), *arguments[2:])
            .numpy()
        )
        assert (self.divergence(kernel, x, runs[0]) > self.divergence(kernel, x, start)).all()
        assert np.abs(runs[0] - x).max() <= 0.1 + 1e-6

    def test_it_is_not_for_evaluation(self):
        with pytest.raises(InputError, match="loss kl is for training"):
            PGD(10, loss="kl", stop_when_fooled=True)
