"""FAB and its projection: linear programmes, optimality conditions, closed forms, and the official
numbers.
"""

import functools

import hypothesis
import keras
import numpy as np
import pytest
import scipy.optimize
import tensorflow as tf
from hypothesis import strategies as st

from tests import golden_networks
from tf_robust_transfer.attacks.fab import FAB, FABTargeted
from tf_robust_transfer.attacks.noise import ExampleNoise
from tf_robust_transfer.attacks.search import Search
from tf_robust_transfer.attacks.threat_model import Problem, ThreatModel
from tf_robust_transfer.errors import InputError
from tf_robust_transfer.ops.projections import displacement_to_hyperplane

NORMS = ["linf", "l2"]


def lengths(difference, norm):
    flat = np.abs(np.asarray(difference, np.float64).reshape(len(difference), -1))
    return flat.max(axis=1, initial=0) if norm == "linf" else np.sqrt((flat**2).sum(axis=1))


def smallest_distance(point, normal, value, norm, low=0.0, high=1.0):
    """The distance to the hyperplane inside the box, float64: a linear programme (linf), bisection
    of the dual (l2).
    """
    size = len(point)
    if norm == "linf":
        # Variables: the displacement and its length t; |displacement| <= t.
        bound = np.concatenate([np.eye(size), -np.eye(size)])
        solved = scipy.optimize.linprog(
            np.append(np.zeros(size), 1.0),
            A_ub=np.column_stack([bound, -np.ones(2 * size)]),
            b_ub=np.zeros(2 * size),
            A_eq=np.append(normal, 0.0)[None],
            b_eq=[-value],
            bounds=[*zip(low - point, high - point), (0, None)],
        )
        return solved.fun if solved.success else np.inf
    way = lambda t: np.clip(-t * np.sign(value) * normal, low - point, high - point)
    inner, outer = 0.0, 1e9
    if np.sign(value) * (value + normal @ way(outer)) > 0:
        return np.inf
    for _ in range(200):
        middle = (inner + outer) / 2
        inner, outer = (
            (middle, outer)
            if np.sign(value) * (value + normal @ way(middle)) > 0
            else (inner, middle)
        )
    return np.linalg.norm(way(outer))


def hyperplanes(rows, size, seed, low=0.0, high=1.0):
    """Points (some coordinates on the bounds), normals (some zero, some tied) and values (half of
    them out of reach).
    """
    rng = np.random.default_rng(seed)
    points = rng.uniform(low, high, (rows, size))
    points = np.where(
        rng.uniform(size=points.shape) < 0.2, rng.choice([low, high], points.shape), points
    )
    normals = rng.standard_normal((rows, size))
    normals = np.where(rng.uniform(size=points.shape) < 0.2, 0.0, normals)
    normals[::3] = np.round(normals[::3])
    values = rng.standard_normal(rows) * rng.choice([0.1, 1.0, 10.0], rows)
    return points.astype(np.float32), normals.astype(np.float32), values.astype(np.float32)


class TestProjection:
    @pytest.mark.parametrize("norm", NORMS)
    def test_official_projections(self, norm):
        golden = golden_networks.load_projections()
        points, normals, offsets = (
            golden[k].astype(np.float64) for k in ("points", "normals", "offsets")
        )
        values = ((normals * points).sum(axis=1) - offsets).astype(np.float32)
        found = displacement_to_hyperplane(golden["points"], golden["normals"], values, norm)
        np.testing.assert_allclose(found, golden[norm], atol=2e-5)

    @pytest.mark.parametrize("norm", NORMS)
    def test_is_as_short_as_the_optimum_of_scipy(self, norm):
        points, normals, values = hyperplanes(60, 5, seed=1)
        found = displacement_to_hyperplane(points, normals, values, norm).numpy().astype(np.float64)
        shortest = [
            smallest_distance(*row, norm)
            for row in zip(*(x.astype(np.float64) for x in (points, normals, values)))
        ]
        reachable = np.isfinite(shortest)
        assert 20 < reachable.sum() < 55
        np.testing.assert_allclose(
            lengths(found, norm)[reachable], np.array(shortest)[reachable], rtol=1e-5, atol=1e-6
        )
        np.testing.assert_allclose(
            (values + (normals * found).sum(axis=1))[reachable], 0, atol=1e-5
        )

    @hypothesis.settings(max_examples=30, deadline=None, derandomize=True, database=None)
    @hypothesis.given(
        norm=st.sampled_from(NORMS),
        size=st.sampled_from([1, 2, 33]),
        bounds=st.sampled_from([(0.0, 1.0), (-1.0, 1.0)]),
        scale=st.sampled_from([1e-30, 1.0, 1e30]),
        seed=st.integers(0, 2**32 - 1),
    )
    def test_optimality_conditions(self, norm, size, bounds, scale, seed):
        """KKT: on the hyperplane; free coordinates move by t (linf) or t |normal| (l2), the others
        as far as they can.
        """
        points, normals, values = hyperplanes(24, size, seed, *bounds)
        scaled = (normals * np.float32(scale), values * np.float32(scale))
        found = displacement_to_hyperplane(points, *scaled, norm, bounds).numpy().astype(np.float64)
        assert np.isfinite(found).all()
        moved = points + found
        assert moved.min() >= bounds[0] - 1e-6 and moved.max() <= bounds[1] + 1e-6
        assert (found * normals * np.sign(values)[:, None] <= 0).all() and (
            found[normals == 0] == 0
        ).all()
        towards = -np.sign(normals) * np.sign(values)[:, None]
        room = np.where(
            towards > 0, bounds[1] - points, np.where(towards < 0, points - bounds[0], 0)
        ).astype(np.float64)
        reachable = (np.abs(normals) * room).sum(axis=1) > np.abs(values) * (1 + 1e-6)
        np.testing.assert_allclose(np.abs(found)[~reachable], room[~reachable], atol=1e-6)
        left = values + (normals * found).sum(axis=1)
        assert (np.abs(left) <= 2e-6 * np.abs(values) + 1e-6)[reachable].all()
        rate = (np.abs(normals) if norm == "l2" else np.ones_like(normals)).astype(np.float64)
        for i in np.flatnonzero(reachable):
            free = (np.abs(found[i]) < room[i] - 1e-5) & (normals[i] != 0)
            t = (np.abs(found[i]) / np.where(rate[i] > 0, rate[i], 1)).max()
            np.testing.assert_allclose(
                np.abs(found[i])[free], (t * rate[i])[free], rtol=1e-3, atol=1e-5
            )

    @pytest.mark.parametrize("norm", NORMS)
    def test_degenerate_rows(self, norm):
        """Zero normals, points on the hyperplane, corners, and normals of which float32 cannot hold
        the square.
        """
        points = np.array(
            [[0.5, 0.5], [0.5, 0.5], [0.0, 1.0], [0.0, 1.0], [0.5, 0.5], [0.5, 0.5]], np.float32
        )
        normals = np.array([[0, 0], [1, 2], [1, -1], [-1, 1], [3e-38, 0], [1e-30, 1]], np.float32)
        values = np.array([1, 0, 1, 1, 3e38, 0.25], np.float32)
        found = displacement_to_hyperplane(points, normals, values, norm).numpy()
        expected = [
            [0, 0],
            [0, 0],
            [0, 0],
            [0.5, -0.5],
            [-0.5, 0],
            [-0.25 if norm == "linf" else 0, -0.25],
        ]
        np.testing.assert_allclose(found, expected, atol=1e-6)

    def test_unknown_norm(self):
        with pytest.raises(ValueError, match="norm must be"):
            displacement_to_hyperplane(tf.zeros([1, 2]), tf.zeros([1, 2]), tf.zeros([1]), "l1")


def dense_model(classes, shape, seed=0, hidden=None):
    """Linear, or with a hidden layer of tanh. Returns a keras.Model."""
    images = keras.Input(shape)
    x = keras.layers.Flatten()(images)
    if hidden:
        x = keras.layers.Dense(hidden, activation="tanh")(x)
    model = keras.Model(images, keras.layers.Dense(classes)(x))
    rng = np.random.default_rng(seed)
    model.set_weights(
        [
            rng.standard_normal(w.shape).astype(np.float32) * (1 if w.ndim == 2 else 0.1)
            for w in model.weights
        ]
    )
    return model


def right_images(model, count, seed=0, low=0.0, high=1.0):
    """Images with the model's own answers as labels."""
    images = (
        np.random.default_rng(seed)
        .uniform(low, high, (count, *model.input_shape[1:]))
        .astype(np.float32)
    )
    return images, model(images, training=False).numpy().argmax(axis=1).astype(np.int32)


def whole_round(attack, model, threat_model):
    """Compiles (images, labels, round) -> the state after a round of all images, none of them
    stopped.
    """
    problem = Problem(lambda x: model(x, training=False), threat_model, threat_model.eps)

    @tf.function(autograph=False)
    def run(images, labels, round):
        def step(i, state):
            return i + 1, attack.step(problem, images, labels, state, zeros + i, ())[0]

        zeros = tf.zeros_like(labels)
        state = attack.start(
            problem, images, labels, zeros + round, ExampleNoise(tf.stack([zeros, zeros], axis=1))
        )
        return tf.while_loop(lambda i, _: i < attack.iterations, step, (tf.constant(0), state))[1]

    def final_state(images, labels, round=0):
        return {
            key: part.numpy()
            for key, part in run(images, tf.constant(labels, tf.int32), tf.constant(round)).items()
        }

    return final_state


def final_state(attack, model, images, labels, threat_model):
    return whole_round(attack, model, threat_model)(images, labels)


def search(attack, model, images, labels, threat_model, batch_size, examples=None, seed=0):
    """Fooled: bool [n], and images [n, ...], from a `Search`."""
    examples = np.arange(len(labels)) if examples is None else examples
    fooled, found = np.zeros(len(labels), bool), images.copy()
    runner = Search(attack, model, threat_model, batch_size=batch_size, keep_images=True)
    for decided in runner.run(images, labels, examples, eps=threat_model.eps, seed=seed):
        fooled[decided.examples], found[decided.examples] = decided.fooled, decided.images
    return fooled, found


class TestLinearModel:
    """A linear classifier's nearest boundary is known: the least of the distances to its
    hyperplanes inside the box.
    """

    def distances(self, model, images, labels, norm, low=0.0, high=1.0):
        """[n, classes], inf at the label."""
        kernel, bias = (w.astype(np.float64) for w in model.get_weights())
        points = images.reshape(len(images), -1).astype(np.float64)
        found = np.full((len(images), len(bias)), np.inf)
        for i, y in enumerate(labels):
            for k in set(range(len(bias))) - {y}:
                normal = kernel[:, k] - kernel[:, y]
                value = points[i] @ normal + bias[k] - bias[y]
                found[i, k] = smallest_distance(points[i], normal, value, norm, low, high)
        return found

    @pytest.mark.parametrize("norm", NORMS)
    def test_steps_by_hand(self, norm):
        """Far from the bounds all happens on one line: p is how much of the way to the boundary is
        gone, 0 at the image.

        A projection of p is 1, of the image too; each is overshot by eta, and the mean of the two
        has the weight alpha."""
        model = dense_model(2, (2, 3, 1))
        images, labels = right_images(model, 24, low=0.49, high=0.51)
        model.set_weights(
            [
                model.get_weights()[0],
                -images[:12].reshape(12, -1).mean(axis=0) @ model.get_weights()[0],
            ]
        )
        labels = model(images, training=False).numpy().argmax(axis=1).astype(np.int32)
        alpha_max, eta, beta = 0.3, 1.4, 0.3
        p, nearest = 0.0, np.inf
        for _ in range(4):
            alpha = min(abs(1 - p) / (abs(1 - p) + 1), alpha_max)
            p = (1 - alpha) * (p + eta * (1 - p)) + alpha * eta
            if p > 1:
                nearest, p = min(nearest, p), beta * p
        expected = nearest * self.distances(model, images, labels, norm).min(axis=1)
        for make in (FAB, FABTargeted):
            attack = make(4, alpha_max=alpha_max, eta=eta, beta=beta)
            state = final_state(attack, model, images, labels, ThreatModel(norm, 0.3))
            np.testing.assert_allclose(state["distance"], expected, rtol=1e-3, atol=1e-6)

    @pytest.mark.parametrize(("norm", "scale"), [("linf", 1), ("l2", 1e-18)])
    def test_the_first_step_goes_beyond_the_nearest_boundary(self, norm, scale):
        model = dense_model(4, (2, 3, 1))
        kernel, _ = model.get_weights()
        model.set_weights(
            [kernel, -0.5 * kernel.sum(axis=0)]
        )  # the boundaries meet in the middle of the box
        images, labels = right_images(model, 64, low=0.4, high=0.6)
        expected = 1.05 * self.distances(model, images, labels, norm).min(axis=1)
        assert expected.max() < 0.4
        model.set_weights([w * scale for w in model.get_weights()])
        distance = final_state(FAB(1), model, images, labels, ThreatModel(norm, 0.3))["distance"]
        np.testing.assert_allclose(distance, expected, rtol=1e-3, atol=1e-6)

    @pytest.mark.parametrize("norm", NORMS)
    @pytest.mark.parametrize("classes", [2, 4])
    def test_finds_the_smallest_perturbation(self, norm, classes):
        """With hardly any overshoot; the usual one, 1.05, costs about half a percent.

        Of several classes FAB may end at a corner of two boundaries and the bounds, so does the
        official implementation."""
        model = dense_model(classes, (2, 3, 1))
        images, labels = right_images(model, 24)
        images[::2] = np.round(images[::2], 1)
        expected = self.distances(model, images, labels, norm).min(axis=1)
        state = final_state(FAB(eta=1.002), model, images, labels, ThreatModel(norm, 0.3))
        reachable = np.isfinite(expected)
        assert reachable.sum() > 12
        further = state["distance"][reachable] - expected[reachable]
        assert further.min() > -1e-5 and (further < 1e-3).mean() >= (1.0 if classes == 2 else 0.9)
        reached = np.where(reachable, lengths(state["best"] - images, norm), np.inf)
        np.testing.assert_allclose(state["distance"], reached, atol=1e-6)
        answers = model(state["best"], training=False).numpy().argmax(axis=1)
        np.testing.assert_array_equal(answers != labels, reachable)
        np.testing.assert_array_equal(state["best"][~reachable], images[~reachable])

    @pytest.mark.parametrize("norm", NORMS)
    def test_rounds_of_the_targeted_form_go_to_the_ranked_classes(self, norm):
        """Round r of 2 restarts takes the class ranked r // 2 + 2 by the clean logits, at random
        where r is odd.
        """
        model = dense_model(4, (2, 3, 1), seed=1)
        images, labels = right_images(model, 24)
        ranked = np.argsort(-model(images, training=False).numpy(), axis=1)
        attack = FABTargeted(steps=30, restarts=2, targets=9, eta=1.002)
        assert (
            attack.rounds(4) == 6
            and FABTargeted().rounds(10) == 9
            and FABTargeted().rounds(1000) == 9
        )
        distances = self.distances(model, images, labels, norm)
        final_state = whole_round(attack, model, ThreatModel(norm, 0.9))
        for round in range(6):
            target = ranked[:, round // 2 + 1]
            state = final_state(images, labels, round)
            np.testing.assert_array_equal(state["target"], target)
            # The way to the target may cross another boundary first, which counts as well.
            assert (state["distance"] <= distances[np.arange(24), target] + 2e-3).all()
            assert (state["distance"] >= distances.min(axis=1) - 1e-5).all()

    def test_other_bounds(self):
        """The same classifier of images in [-1, 1] has the same boundaries, twice as far."""
        model, wide = dense_model(3, (2, 3, 1)), dense_model(3, (2, 3, 1))
        kernel, bias = model.get_weights()
        wide.set_weights([kernel / 2, bias + kernel.sum(axis=0) / 2])
        images, labels = right_images(model, 16)
        for attack in (FAB(40), FABTargeted(40)):
            near = final_state(attack, model, images, labels, ThreatModel("linf", 0.3))
            far = final_state(
                attack, wide, 2 * images - 1, labels, ThreatModel("linf", 0.3, (-1.0, 1.0))
            )
            np.testing.assert_allclose(far["distance"], 2 * near["distance"], rtol=1e-3)

    @pytest.mark.parametrize(("norm", "scale"), [("l2", 1e-18), ("linf", 1e4)])
    def test_the_scale_of_the_logits_does_not_matter(self, norm, scale):
        model, scaled = dense_model(3, (2, 3, 1)), dense_model(3, (2, 3, 1))
        scaled.set_weights([w * scale for w in model.get_weights()])
        images, labels = right_images(model, 16)
        for attack in (FAB(40), FABTargeted(40)):
            expected = final_state(attack, model, images, labels, ThreatModel(norm, 0.3))[
                "distance"
            ]
            found = final_state(attack, scaled, images, labels, ThreatModel(norm, 0.3))["distance"]
            np.testing.assert_allclose(found, expected, rtol=1e-3)


class TestStart:
    @pytest.mark.parametrize("norm", NORMS)
    @pytest.mark.parametrize(
        "attack", [FAB(restarts=3), FABTargeted(restarts=3)], ids=["fab", "fab-t"]
    )
    def test_first_restart_at_the_image_the_others_half_of_eps_away(self, norm, attack):
        images = np.full((40, 4, 4, 3), 0.5, np.float32)
        images[::2] = np.linspace(0, 1, 48, dtype=np.float32).reshape(4, 4, 3)
        problem = Problem(None, ThreatModel(norm, 0.4), tf.constant(0.4))
        seeds = tf.reshape(tf.range(80), [40, 2])
        rounds = np.arange(40, dtype=np.int32) // 2
        started = attack.start(
            problem, images, tf.zeros([40], tf.int32), rounds, ExampleNoise(seeds)
        )["current"].numpy()
        at_image = rounds % 3 == 0
        np.testing.assert_array_equal(started[at_image], images[at_image])
        away = lengths(started - images, norm)
        inside = (np.arange(40) % 2 == 1) & ~at_image
        np.testing.assert_allclose(away[inside], 0.2, rtol=1e-5)
        assert (away[~at_image] > 0.1).all() and (away <= 0.2 + 1e-6).all()
        assert started.min() >= 0 and started.max() <= 1

    @pytest.mark.parametrize(
        "bad", [{"steps": 0}, {"restarts": 0}, {"alpha_max": 0}, {"eta": 0.9}, {"beta": 1.1}]
    )
    def test_bad_arguments(self, bad):
        with pytest.raises(InputError, match=": expected a number"):
            FAB(**bad)
        with pytest.raises(InputError, match="targets: expected a number of at least 1, got 0"):
            FABTargeted(targets=0)


def golden_names(*quick):
    """A parametrised argument `name`: these, and the other golden networks among the slow tests."""
    slow = lambda name: [] if name in quick else [pytest.mark.slow]
    return pytest.mark.parametrize(
        "name", [pytest.param(name, marks=slow(name)) for name in golden_networks.NAMES]
    )


class TestOfficial:
    def agrees(self, found, golden, examples, eps):
        """At least 98% of the distances to 1%, none of what is found lost, and the same flags at
        eps.
        """
        found, golden = found[examples], golden[examples]
        np.testing.assert_array_equal(np.isfinite(found), np.isfinite(golden))
        finite = np.isfinite(golden)
        apart = np.abs(found - golden)[finite] / golden[finite]
        assert (apart < 0.01).mean() >= 0.98 and np.median(apart) < 1e-5, np.sort(apart)[-10:]
        assert ((found <= eps) != (golden <= eps)).sum() <= 0.01 * len(found)

    @golden_names("digits_robust_linf", "digits_2_classes_linf")
    def test_distances_of_the_first_restart(self, name):
        model, images, labels, threat_model, golden = golden_networks.load(name)
        found = final_state(FAB(), model, images, labels, threat_model)["distance"]
        self.agrees(found, golden["fixed/fab/distance"], golden["clean"], threat_model.eps)

    @golden_names("digits_robust_linf", "digits_robust_l2", "digits_3_classes_linf")
    def test_distances_of_the_targets(self, name):
        model, images, labels, threat_model, golden = golden_networks.load(name)
        expected = golden["fixed/fab-t/distance"]
        assert len(expected) == FABTargeted().rounds(model.output_shape[-1])
        final_state = whole_round(FABTargeted(), model, threat_model)
        for round in range(0, len(expected), 3):
            found = final_state(images, labels, round)["distance"]
            self.agrees(found, expected[round], golden["clean"], threat_model.eps)

    @golden_names("digits_3_classes_linf")
    def test_flags_of_five_restarts(self, name):
        self.same_flags(name, FAB(restarts=5), "fab")

    @golden_names("digits_robust_linf")
    def test_flags_of_the_targeted_form(self, name):
        self.same_flags(name, FABTargeted(), "fab-t")

    def same_flags(self, name, attack, component):
        """Search also tries a round's nearest image after a projection into the ball, hence the few
        that fall here alone.
        """
        model, images, labels, threat_model, golden = golden_networks.load(name)
        fooled, _ = search(
            attack, model, images, labels, threat_model, 64, np.flatnonzero(golden["clean"])
        )
        robust, official = golden["clean"] & ~fooled, golden[f"{component}/robust"]
        fell_here_alone, stood_here_alone = official & ~robust, robust & ~official
        assert stood_here_alone.mean() <= 0.01 and fell_here_alone.mean() <= 0.015
        assert (golden[f"{component}/distance"][fell_here_alone] < 1.05 * threat_model.eps).all()


class TestSearch:
    @pytest.mark.parametrize(
        "attack", [FAB(8, restarts=2), FABTargeted(8, targets=2)], ids=["fab", "fab-t"]
    )
    def test_an_example_meets_the_same_in_every_batch(self, attack):
        """Lanes at different iterations and rounds, with other neighbours, find the same images."""
        model = dense_model(4, (3, 3, 1), hidden=8)
        images, labels = right_images(model, 20)
        expected = search(attack, model, images, labels, ThreatModel("linf", 0.06), 3)
        fooled, found = search(attack, model, images, labels, ThreatModel("linf", 0.06), 7)
        np.testing.assert_array_equal(fooled, expected[0])
        np.testing.assert_allclose(found, expected[1], atol=1e-5)
        assert 3 < fooled.sum() < 17

    def test_a_lane_is_fooled_where_the_distance_is_at_most_eps(self):
        model = dense_model(4, (3, 3, 1), hidden=8)
        images, labels = right_images(model, 30)
        for norm, eps in (("linf", 0.12), ("l2", 0.3)):
            distance = final_state(FAB(20), model, images, labels, ThreatModel(norm, eps))[
                "distance"
            ]
            fooled, found = search(FAB(20), model, images, labels, ThreatModel(norm, eps), 15)
            assert 5 < fooled.sum() < 25
            np.testing.assert_array_equal(fooled[distance <= eps], True)
            answers = model(found, training=False).numpy().argmax(axis=1)
            np.testing.assert_array_equal(answers != labels, fooled)


# (classes, shape), attack, norm, batch: each of them in turn, since each combination is a graph of
# its own.
CASES = {
    "grey fab l2": ((2, (3, 2, 1)), lambda: FAB(3), "l2", 16),
    "colour fab restarts linf": ((3, (2, 2, 3)), lambda: FAB(2, restarts=2), "linf", 16),
    "grey fab-t one image linf": ((2, (3, 2, 1)), lambda: FABTargeted(3), "linf", 1),
    "colour fab-t restarts l2": (
        (10, (1, 3, 3)),
        lambda: FABTargeted(2, restarts=2, targets=2),
        "l2",
        16,
    ),
}


@functools.cache
def case(name):
    network, make, norm, batch = CASES[name]
    return dense_model(*network, hidden=8), make(), norm, batch


class TestBallAndBounds:
    @hypothesis.settings(max_examples=20, deadline=None, derandomize=True, database=None)
    @hypothesis.given(
        name=st.sampled_from(sorted(CASES)),
        eps=st.sampled_from([0.0, 1e-6, 8 / 255, 0.3, 1.0]),
        seed=st.integers(0, 2**31 - 1),
    )
    def test_generated(self, name, eps, seed):
        model, attack, norm, batch = case(name)
        images, labels = right_images(model, batch, seed)
        rng = np.random.default_rng(seed)
        images = np.where(rng.uniform(size=images.shape) < 0.2, np.round(images), images)
        labels = np.where(
            rng.uniform(size=batch) < 0.2, rng.integers(0, model.output_shape[-1], batch), labels
        )
        found = attack(
            model, images, labels, threat_model=ThreatModel(norm, eps), seed=seed
        ).numpy()
        assert found.shape == images.shape and not np.isnan(found).any()
        assert found.min() >= 0 and found.max() <= 1
        assert (lengths(found - images, norm) <= eps + 1e-6).all()
        wrong = model(images, training=False).numpy().argmax(axis=1) != labels
        np.testing.assert_array_equal(found[wrong], images[wrong])

    @pytest.mark.parametrize(
        ("attack", "norm"), [(FAB(3), "l2"), (FABTargeted(3), "linf")], ids=["fab", "fab-t"]
    )
    def test_zero_gradients_move_nothing_and_give_no_nan(self, attack, norm):
        model = dense_model(3, (2, 2, 1))
        model.set_weights([np.zeros((4, 3), np.float32), np.array([1, 0, 0], np.float32)])
        images = np.random.default_rng(0).uniform(size=(5, 2, 2, 1)).astype(np.float32)
        state = final_state(attack, model, images, np.zeros(5, np.int32), ThreatModel(norm, 0.1))
        np.testing.assert_allclose(state["current"], images, atol=1e-6)
        assert np.isinf(state["distance"]).all()

    def test_nan_gradients_are_survived(self):
        """The square root's gradient at zero is infinite, and NaN times zero weight."""
        inputs = keras.Input((2, 2, 1))
        roots = keras.ops.sqrt(keras.layers.Flatten()(inputs))
        model = keras.Model(inputs, keras.layers.Dense(3)(roots))
        rng = np.random.default_rng(0)
        model.set_weights([rng.standard_normal((4, 3)).astype(np.float32), np.zeros(3, np.float32)])
        images = np.array(
            [[0, 0, 0, 0], [0, 0.5, 0.5, 0.5], [0.2, 0.5, 0.7, 0.9]], np.float32
        ).reshape(3, 2, 2, 1)
        labels = model(images, training=False).numpy().argmax(axis=1).astype(np.int32)
        for attack in (FAB(5), FABTargeted(5)):
            state = final_state(attack, model, images, labels, ThreatModel("linf", 0.5))
            assert np.isfinite(state["current"]).all() and np.isfinite(state["best"]).all()
            assert np.isfinite(state["distance"][2])
