"""attacks/: closed forms on linear models, steps derived in NumPy, and the ball and bounds for
thousands of images.
"""

import functools
import math

import hypothesis
import keras
import numpy as np
import pytest
import scipy.special
import tensorflow as tf
from hypothesis import strategies as st

from tf_robust_transfer.attacks import FGSM, PGD, Attack, ThreatModel
from tf_robust_transfer.attacks import names as attack_names
from tf_robust_transfer.errors import InputError
from tf_robust_transfer.ops.random import fold_seed


def linear_model(classes=2, shape=(2, 3, 1), seed=0):
    """Flatten and Dense. Returns (model, kernel, bias) in float64."""
    images = keras.Input(shape)
    model = keras.Model(images, keras.layers.Dense(classes)(keras.layers.Flatten()(images)))
    rng = np.random.default_rng(seed)
    kernel = rng.standard_normal((math.prod(shape), classes)).astype(np.float32)
    bias = rng.standard_normal(classes).astype(np.float32) * 0.1
    model.set_weights([kernel, bias])
    return model, kernel.astype(np.float64), bias.astype(np.float64)


def smooth_model(classes, shape, seed=0, scale=2.0):
    """A network that bends enough for the gradients to turn on the way."""
    images = keras.Input(shape)
    x = keras.layers.Dense(8, activation="tanh")(keras.layers.Flatten()(images))
    model = keras.Model(images, keras.layers.Dense(classes)(x))
    rng = np.random.default_rng(seed)
    model.set_weights(
        [scale * rng.standard_normal(w.shape).astype(np.float32) for w in model.get_weights()]
    )
    return model


def images_and_labels(count, shape=(2, 3, 1), classes=2, seed=0, low=0.0, high=1.0):
    rng = np.random.default_rng(seed)
    return rng.uniform(low, high, (count, *shape)).astype(np.float32), rng.integers(
        0, classes, count
    )


def numpy_margin(model, images, labels):
    logits = model(images, training=False).numpy().astype(np.float64)
    own = logits[np.arange(len(labels)), labels]
    logits[np.arange(len(labels)), labels] = -np.inf
    return logits.max(axis=1) - own


def lengths(difference, norm):
    flat = np.abs(np.asarray(difference, np.float64).reshape(len(difference), -1))
    return flat.max(axis=1, initial=0) if norm == "linf" else np.sqrt((flat**2).sum(axis=1))


class TestLinearModelOptimum:
    """Two classes: the loss rises with v = (w_other - w_y) . x, so the best example maximises v in
    ball and bounds.
    """

    def direction(self, kernel, labels):
        return (kernel[:, 1 - labels] - kernel[:, labels]).T.reshape(-1, 2, 3, 1)

    @pytest.mark.parametrize("eps", [0.05, 0.3, 1.0])
    @pytest.mark.parametrize(
        "attack",
        [
            FGSM(),
            FGSM(random_start=True, step_size=2.5),
            PGD(steps=5),
            PGD(steps=5, loss="cw"),
            PGD(3, step_size=0.7),
        ],
        ids=["fgsm", "fgsm_random", "pgd", "cw", "pgd_large_steps"],
    )
    def test_linf(self, attack, eps):
        """Every pixel goes to the end of [max(0, x - eps), min(1, x + eps)] that the sign of v
        picks.
        """
        model, kernel, _ = linear_model()
        images, labels = images_and_labels(32)
        images[0], images[1] = 0.0, 1.0
        v = self.direction(kernel, labels)
        best = np.where(v > 0, np.minimum(1, images + eps), np.maximum(0, images - eps))
        found = attack(model, images, labels, threat_model=ThreatModel("linf", eps))
        np.testing.assert_allclose(found, best, atol=1e-6)

    @pytest.mark.parametrize("loss", ["cross_entropy", "cw"])
    def test_l2_inside_the_bounds(self, loss):
        """The best point of the ball is x + eps v / ||v||."""
        model, kernel, _ = linear_model()
        images, labels = images_and_labels(32, low=0.4, high=0.6)
        eps = 0.3
        v = self.direction(kernel, labels)
        best = images + eps * v / lengths(v, "l2")[:, None, None, None]
        assert best.min() > 0 and best.max() < 1
        threat = ThreatModel("l2", eps)
        np.testing.assert_allclose(
            FGSM()(model, images, labels, threat_model=threat), best, atol=1e-6
        )
        attack = PGD(steps=60, step_size=0.2, loss=loss)
        np.testing.assert_allclose(
            attack(model, images, labels, threat_model=threat, seed=3), best, atol=1e-4
        )

    def test_l2_cut_by_the_bounds_is_no_further_from_the_optimum_than_the_ball_alone_allows(self):
        """The optimum of <v, d> over ||d|| <= eps, lo <= d <= hi is d = clip(t v, lo, hi) with
        ||d|| = eps (KKT).

        PGD projects onto the ball and then clips to the bounds, which stays a little short of that
        point."""
        model, kernel, _ = linear_model()
        images, labels = images_and_labels(32)
        eps = 0.5
        v = self.direction(kernel, labels).reshape(32, -1)
        low, high = -images.reshape(32, -1), 1 - images.reshape(32, -1)
        optimum = np.zeros(32)
        for i in range(32):
            inner, outer = 0.0, 1e6
            for _ in range(200):
                t = (inner + outer) / 2
                inside = np.linalg.norm(np.clip(t * v[i], low[i], high[i])) <= eps
                inner, outer = (t, outer) if inside else (inner, t)
            optimum[i] = v[i] @ np.clip(inner * v[i], low[i], high[i])
        found = PGD(100, 0.05)(model, images, labels, threat_model=ThreatModel("l2", eps)).numpy()
        gained = ((found - images).reshape(32, -1) * v).sum(axis=1)
        assert (gained <= optimum + 1e-5).all()
        assert (gained >= 0.9 * optimum).all()


class TestStepsByHand:
    """PGD's iterates derived in NumPy for a linear softmax: d(-log p_y)/dx = W (p - e_y); the
    margin's is w_j - w_y.
    """

    def gradient(self, x, kernel, bias, labels, loss):
        z = x.reshape(len(x), -1) @ kernel + bias
        one_hot = np.eye(z.shape[1])[labels]
        if loss == "cross_entropy":
            at_logits = scipy.special.softmax(z, axis=1) - one_hot
        else:
            rival = np.where(one_hot > 0, -np.inf, z).argmax(axis=1)
            at_logits = np.eye(z.shape[1])[rival] - one_hot
        return (at_logits @ kernel.T).reshape(x.shape)

    @pytest.mark.parametrize("norm", ["linf", "l2"])
    @pytest.mark.parametrize("loss", ["cross_entropy", "cw"])
    @pytest.mark.parametrize("step_size", [None, 0.07])
    def test_iterates(self, norm, loss, step_size):
        model, kernel, bias = linear_model(classes=4)
        images, labels = images_and_labels(24, classes=4, seed=1)
        eps, steps = 0.2, 4
        size = 2.5 * eps / steps if step_size is None else step_size
        current = images.astype(np.float64)
        for _ in range(steps):
            g = self.gradient(current, kernel, bias, labels, loss)
            step = np.sign(g) if norm == "linf" else g / lengths(g, "l2")[:, None, None, None]
            moved = current + size * step - images
            if norm == "linf":
                moved = np.clip(moved, -eps, eps)
            else:
                moved *= np.minimum(1, eps / lengths(moved, "l2"))[:, None, None, None]
            current = np.clip(images + moved, 0, 1)
        attack = PGD(steps, step_size, random_start=False, loss=loss)
        found = attack(model, images, labels, threat_model=ThreatModel(norm, eps))
        np.testing.assert_allclose(found, current, atol=2e-6)

    def test_stop_when_fooled_returns_the_first_iterate_that_fools(self):
        """Two classes, linear: each image moves by step sign(v) until the logits turn, and no
        further.
        """
        model, kernel, bias = linear_model()
        images, labels = images_and_labels(64, low=0.3, high=0.7, seed=2)
        steps = 4
        v = (kernel[:, 1 - labels] - kernel[:, labels]).T.reshape(images.shape)
        expected = images.astype(np.float64)
        stopped_at = np.full(64, -1)
        for i in range(64):
            for k in range(steps):
                z = expected[i].ravel() @ kernel + bias
                if z.argmax() != labels[i]:
                    stopped_at[i] = k
                    break
                expected[i] = expected[i] + 0.03 * np.sign(v[i])
        assert {-1, 0, 1, 2} <= set(
            stopped_at.tolist()
        )  # some stay as they are, some move, some are never fooled
        attack = PGD(steps, 0.03, random_start=False, stop_when_fooled=True)
        found = attack(model, images, labels, threat_model=ThreatModel("linf", 0.3)).numpy()
        np.testing.assert_allclose(found, expected, atol=1e-6)
        np.testing.assert_array_equal(found[stopped_at == 0], images[stopped_at == 0])

    def test_without_it_a_misclassified_image_moves_on(self):
        model, _, _ = linear_model()
        images, labels = images_and_labels(64, low=0.3, high=0.7, seed=2)
        found = PGD(6, 0.03, random_start=False)(
            model, images, labels, threat_model=ThreatModel("linf", 0.3)
        ).numpy()
        assert (np.abs(found - images).reshape(64, -1).max(axis=1) > 0.1).all()


MODELS = {
    "grey, 2 classes": (2, (3, 2, 1)),
    "colour, 3 classes": (3, (2, 2, 3)),
    "colour, 10 classes": (10, (1, 3, 3)),
}
ATTACKS = {
    "fgsm": FGSM,
    "fgsm random": lambda: FGSM(step_size=0.3, random_start=True),
    "pgd": lambda: PGD(3),
    "pgd cw restarts": lambda: PGD(2, restarts=2, loss="cw", random_start=True),
    "pgd stop": lambda: PGD(3, 0.1, random_start=False, stop_when_fooled=True),
}
cached_model = functools.cache(lambda name: smooth_model(*MODELS[name]))
cached_attack = functools.cache(lambda name: ATTACKS[name]())


class TestBallAndBounds:
    @hypothesis.settings(max_examples=40, deadline=None, derandomize=True, database=None)
    @hypothesis.given(
        model_name=st.sampled_from(sorted(MODELS)),
        attack_name=st.sampled_from(sorted(ATTACKS)),
        norm=st.sampled_from(["linf", "l2"]),
        eps=st.one_of(st.just(0.0), st.sampled_from([1e-6, 8 / 255, 1.0]), st.floats(0, 1)),
        batch=st.sampled_from([1, 64, 64]),
        images_seed=st.integers(0, 2**32 - 1),
        seed=st.integers(-(2**31), 2**31 - 1),
    )
    def test_every_result_lies_in_both(
        self, model_name, attack_name, norm, eps, batch, images_seed, seed
    ):
        classes, shape = MODELS[model_name]
        images, labels = images_and_labels(batch, shape, classes, images_seed)
        # A third of the pixels at the bounds; in large batches a black, a white and an almost white
        # image too.
        rng = np.random.default_rng(images_seed + 1)
        images = np.where(rng.uniform(size=images.shape) < 1 / 3, np.round(images), images)
        if batch > 3:
            images[0], images[1], images[2] = 0.0, 1.0, np.nextafter(np.float32(1), np.float32(0))
        found = cached_attack(attack_name)(
            cached_model(model_name), images, labels, threat_model=ThreatModel(norm, eps), seed=seed
        ).numpy()
        assert found.shape == images.shape and found.dtype == np.float32
        assert np.isfinite(found).all()
        assert found.min() >= 0 and found.max() <= 1
        # x + d rounds to float32: half a unit in the last place of 1 for each pixel.
        rounding = 6e-8 * math.sqrt(images[0].size)
        assert lengths(found.astype(np.float64) - images, norm).max() <= eps * (1 + 1e-6) + rounding
        if eps == 0:
            np.testing.assert_array_equal(found, images)

    def test_other_bounds(self):
        images, labels = images_and_labels(64, (3, 2, 1), low=-0.5, high=0.5)
        threat = ThreatModel("linf", 0.3, bounds=(-0.5, 0.5))
        found = PGD(4)(smooth_model(2, (3, 2, 1)), images, labels, threat_model=threat).numpy()
        assert found.min() == -0.5 and found.max() == 0.5
        assert np.abs(found.astype(np.float64) - images).max() <= 0.3 + 1e-7

    def test_a_search_that_leaves_the_ball_or_returns_nan_is_brought_back(self):
        class Wild(Attack):
            def start(self, problem, images, labels, round, noise):
                return {"found": tf.where(images > 0.5, images + 7.0, tf.constant(float("nan")))}

            def step(self, problem, images, labels, state, iteration, drawn):
                return state, state["found"], problem.logits_of(state["found"])

            def result(self, state):
                return state["found"]

        images, labels = images_and_labels(16)
        for norm in ("linf", "l2"):
            found = Wild()(
                linear_model()[0], images, labels, threat_model=ThreatModel(norm, 0.1)
            ).numpy()
            assert np.isfinite(found).all() and found.max() <= 1
            assert lengths(found - images, norm).max() <= 0.1 + 1e-6
            np.testing.assert_array_equal(found[images <= 0.5], images[images <= 0.5])

    def test_a_gradient_of_nan_gives_the_clean_image(self):
        images = keras.Input((2, 3, 1))
        x = keras.layers.Lambda(lambda x: tf.sqrt(0.0 * x))(images)
        model = keras.Model(images, keras.layers.Dense(2)(keras.layers.Flatten()(x)))
        images, labels = images_and_labels(4)
        for norm in ("linf", "l2"):
            found = PGD(2)(model, images, labels, threat_model=ThreatModel(norm, 0.1))
            np.testing.assert_array_equal(found, images)

    @pytest.mark.parametrize("name", attack_names.ATTACKS)
    def test_an_empty_batch_of_every_attack(self, name):
        model, (images, labels) = linear_model()[0], images_and_labels(0)
        threat = ThreatModel("l2" if name == "cw-l2" else "linf", 0.1)
        for attack in (attack_names.ATTACKS[name](), attack_names.parse_attack(name)):
            found = attack(model, images, labels, threat_model=threat)
            assert tf.is_tensor(found) and found.shape == (0, 2, 3, 1)

    def test_an_empty_batch(self):
        images, labels = images_and_labels(0)
        assert FGSM()(linear_model()[0], images, labels, threat_model=ThreatModel()).shape == (
            0,
            2,
            3,
            1,
        )


class TestSeeds:
    @pytest.mark.parametrize("norm", ["linf", "l2"])
    def test_the_same_seed_gives_the_same_examples_and_another_one_others(self, norm):
        model = smooth_model(3, (3, 2, 1))
        images, labels = images_and_labels(16, (3, 2, 1), 3, low=0.4, high=0.6)
        threat = ThreatModel(norm, 0.2)

        def run(seed, attack=None):
            attack = attack or PGD(2, 0.02, restarts=2)
            return attack(model, images, labels, threat_model=threat, seed=seed).numpy()

        attack = PGD(2, 0.02, restarts=2)
        first = run(1, attack)
        np.testing.assert_array_equal(run(1, attack), first)
        np.testing.assert_array_equal(run(1), first)  # another compilation
        assert (run(2, attack) != first).any(axis=(1, 2, 3)).all()

    @pytest.mark.parametrize("norm", ["linf", "l2"])
    def test_the_random_start_of_each_image_is_its_own(self, norm):
        """Forty copies of one image and a step too small to matter: what is left is the start."""
        images, labels = np.full((40, 2, 3, 1), 0.5, np.float32), np.zeros(40, int)
        found = PGD(1, 1e-9)(
            linear_model()[0], images, labels, threat_model=ThreatModel(norm, 0.3)
        ).numpy()
        assert len(np.unique(found.reshape(40, -1), axis=0)) == 40
        distances = lengths(found - images, norm)
        assert distances.min() < 0.29 and distances.max() <= 0.3 + 1e-6 and distances.std() > 0.01

    def test_without_a_random_start_the_seed_does_not_matter(self):
        images, labels = images_and_labels(8)
        found = [
            FGSM()(linear_model()[0], images, labels, threat_model=ThreatModel(), seed=s)
            for s in (0, 1)
        ]
        np.testing.assert_array_equal(*found)


class TestRestarts:
    def test_each_example_is_that_of_its_best_restart(self):
        model = smooth_model(3, (3, 2, 1))
        images, labels = images_and_labels(64, (3, 2, 1), 3)
        threat, attack = ThreatModel("linf", 0.15), PGD(1, 0.05, restarts=4)
        tensors = tf.constant(images), tf.constant(labels, tf.int32)
        runs = [attack.perturb(model, *tensors, threat, fold_seed(5, r)).numpy() for r in range(4)]
        margins = np.stack([numpy_margin(model, found, labels) for found in runs])
        assert len(set(margins.argmax(axis=0).tolist())) == 4  # every restart is somebody's best
        found = attack(model, images, labels, threat_model=threat, seed=5).numpy()
        clear = (
            np.sort(margins, axis=0)[-1] - np.sort(margins, axis=0)[-2] > 1e-5
        )  # no tie up to rounding
        assert clear.sum() > 40
        np.testing.assert_array_equal(
            found[clear], np.stack(runs)[margins.argmax(axis=0), np.arange(64)][clear]
        )
        np.testing.assert_allclose(
            numpy_margin(model, found, labels), margins.max(axis=0), atol=1e-5
        )

    def test_more_restarts_never_lower_the_margin(self):
        model = smooth_model(10, (2, 2, 3))
        images, labels = images_and_labels(64, (2, 2, 3), 10)
        margins = []
        for restarts in (1, 2, 4):
            attack = PGD(2, 0.05, restarts=restarts, loss="cw")
            found = attack(model, images, labels, threat_model=ThreatModel("linf", 0.1), seed=1)
            margins.append(numpy_margin(model, found, labels))
        assert (np.diff(margins, axis=0) >= -1e-4).all() and (margins[2] > margins[0] + 1e-3).any()


class CountedIdentity(keras.layers.Layer):
    """Counts the Python calls, which a compiled function makes only while it is traced."""

    calls = 0

    def call(self, x):
        type(self).calls += 1
        return x


class TestCompilation:
    @pytest.mark.parametrize("norm", ["linf", "l2"])
    def test_no_retracing_over_eps_seeds_restarts_and_values(self, norm):
        images = keras.Input((2, 3, 1))
        x = keras.layers.Flatten()(CountedIdentity()(images))
        model = keras.Model(images, keras.layers.Dense(2)(x))
        attack = PGD(3, restarts=2)
        images, labels = images_and_labels(8)
        attack(model, images, labels, threat_model=ThreatModel(norm, 0.1), seed=0)
        before = CountedIdentity.calls
        for eps, seed in ((0.2, 0), (0, 1), (1, 2), (np.float64(0.3), 3)):
            images, labels = images_and_labels(8, seed=seed)
            attack(
                model,
                images.astype(np.float64),
                labels,
                threat_model=ThreatModel(norm, eps),
                seed=seed,
            )
        assert CountedIdentity.calls == before > 0

    def test_a_compiled_attack_sees_new_weights(self):
        model, _, _ = linear_model(seed=1)
        images, labels = images_and_labels(8)
        attack, threat = FGSM(), ThreatModel("linf", 0.1)
        before = attack(model, images, labels, threat_model=threat).numpy()
        model.set_weights([-w for w in model.get_weights()])
        after = attack(model, images, labels, threat_model=threat).numpy()
        np.testing.assert_array_equal(after, FGSM()(model, images, labels, threat_model=threat))
        assert (after != before).any()

    def test_one_attack_serves_several_models(self):
        images, labels = images_and_labels(8)
        attack, threat = FGSM(), ThreatModel("linf", 0.1)
        for seed in (0, 1, 0):
            model, _, _ = linear_model(seed=seed)
            expected = FGSM()(model, images, labels, threat_model=threat)
            np.testing.assert_array_equal(
                attack(model, images, labels, threat_model=threat), expected
            )

    def test_the_model_is_in_inference_mode_and_stays_as_it_was(self):
        images = keras.Input((2, 3, 1))
        x = keras.layers.Dropout(0.9)(keras.layers.BatchNormalization()(images))
        model = keras.Model(images, keras.layers.Dense(2)(keras.layers.Flatten()(x)))
        model.layers[1].moving_mean.assign([0.5])
        plain, _, _ = linear_model()
        dense = model.layers[-1].get_weights()
        # Batch norm at inference is (x - 0.5) / sqrt(1 + 1e-3): a linear model again.
        scale = 1 / np.sqrt(1.001)
        plain.set_weights([dense[0] * scale, dense[1] - 0.5 * scale * dense[0].sum(axis=0)])
        before = [w.copy() for w in model.get_weights()]
        images, labels = images_and_labels(8)
        threat = ThreatModel("linf", 0.1)
        found = PGD(3)(model, images, labels, threat_model=threat).numpy()
        np.testing.assert_allclose(
            found, PGD(3)(plain, images, labels, threat_model=threat), atol=1e-6
        )
        for a, b in zip(before, model.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)

    def test_perturb_in_a_graph_has_no_gradient_to_the_weights(self):
        model, _, _ = linear_model()
        images, labels = images_and_labels(4)

        @tf.function
        def gradients():
            with tf.GradientTape() as tape:
                adversarial = PGD(2).perturb(
                    model,
                    tf.constant(images),
                    tf.constant(labels),
                    ThreatModel("l2", 0.2),
                    tf.constant([1, 2]),
                )
            found = tape.gradient(adversarial, model.trainable_variables)
            assert found == [None, None]
            return adversarial

        assert np.abs(gradients() - images).max() > 0.01


class TestInputErrors:
    @pytest.mark.parametrize(
        ("arguments", "text"),
        [
            ({"eps": 8}, r"units of the pixel range \[0, 1\].*got 8; write 8/255"),
            ({"eps": -0.1}, "at least 0, got -0.1"),
            ({"eps": float("nan")}, "eps must be a number.*nan"),
            ({"eps": float("inf"), "norm": "l2"}, "eps must be a number.*inf"),
            ({"eps": "8/255"}, "eps must be a number.*'8/255'"),
            ({"norm": "l1"}, "'linf', 'l2'.*'l1'"),
            ({"bounds": (1.0, 0.0)}, r"bounds must be \(lowest, highest\).*\(1.0, 0.0\)"),
        ],
    )
    def test_threat_model(self, arguments, text):
        with pytest.raises(InputError, match=text):
            ThreatModel(**arguments)

    def test_threat_models_that_are_fine(self):
        assert ThreatModel("l2", 3.0).eps == 3.0  # an l2 radius may exceed the range of one pixel
        assert ThreatModel("linf", 8, bounds=(0, 255)).eps == 8
        assert ThreatModel("linf", 1).bounds == (0.0, 1.0)

    @pytest.mark.parametrize(
        ("arguments", "text"),
        [
            ({"steps": 0}, "steps: expected a number of at least 1, got 0"),
            ({"restarts": 0}, "restarts: expected a number of at least 1, got 0"),
            ({"step_size": 0}, "step_size: expected a number above 0, got 0"),
            ({"step_size": -0.1}, "step_size: expected a number above 0, got -0.1"),
            ({"loss": "cross_entrop"}, "'cross_entrop'; nearest valid names: cross_entropy"),
        ],
    )
    def test_pgd(self, arguments, text):
        with pytest.raises(InputError, match=text):
            PGD(**arguments)

    def test_fgsm_step_size(self):
        with pytest.raises(InputError, match="step_size: expected a number above 0"):
            FGSM(step_size=0)

    @pytest.mark.parametrize(
        ("images", "labels", "text"),
        [
            (
                np.zeros((2, 2, 3, 1), np.uint8),
                [0, 1],
                "images must be float.*got uint8; divide by 255",
            ),
            (
                np.full((2, 2, 3, 1), 255.0),
                [0, 1],
                r"images must lie in \(0.0, 1.0\), got values from 255 to 255",
            ),
            (np.full((2, 2, 3, 1), -0.1), [0, 1], "got values from -0.1"),
            (np.full((2, 2, 3, 1), np.nan), [0, 1], "images must lie in"),
            (np.zeros((2, 3, 2, 1)), [0, 1], r"shape \[batch, 2, 3, 1\], got \[2, 3, 2, 1\]"),
            (np.zeros((2, 3, 1)), [0, 1], r"shape \[batch, 2, 3, 1\], got \[2, 3, 1\]"),
            (np.zeros((2, 2, 3, 3)), [0, 1], r"shape \[batch, 2, 3, 1\], got \[2, 2, 3, 3\]"),
            (np.zeros((2, 2, 3, 1)), [0, 1, 1], r"shape \[2\], one for each image, got \[3\]"),
            (
                np.zeros((2, 2, 3, 1)),
                [[1, 1], [0, 1]],
                "labels of two axes must be one-hot rows|one-hot labels must have",
            ),
            (
                np.zeros((2, 2, 3, 1)),
                [0, 2],
                r"labels must lie in 0\.\.1 for a model of 2 logits, got.* 2",
            ),
            (np.zeros((2, 2, 3, 1)), [-1, 0], r"labels must lie in 0\.\.1 .*got -1"),
            (np.zeros((2, 2, 3, 1)), [0.0, 1.0], "labels must be integers"),
        ],
    )
    def test_batches(self, images, labels, text):
        with pytest.raises(InputError, match=text):
            FGSM()(linear_model()[0], images, labels, threat_model=ThreatModel())

    def test_one_nan_pixel_among_others_is_refused(self):
        images, labels = images_and_labels(64)
        images[40, 1, 2, 0] = np.nan
        with pytest.raises(InputError, match="images must lie in"):
            FGSM()(linear_model()[0], images, labels, threat_model=ThreatModel())

    def test_a_base_attack_says_what_is_missing(self):
        images, labels = images_and_labels(2)
        with pytest.raises(NotImplementedError, match="must define start"):
            Attack()(linear_model()[0], images, labels, threat_model=ThreatModel())
