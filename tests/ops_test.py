"""ops/: norms against NumPy, gradients against closed forms and finite differences, replicas on one
and two devices.
"""

import json
import math

import keras
import numpy as np
import pytest
import scipy.stats
import tensorflow as tf

from tests import fresh_process
from tf_robust_transfer.losses import classification
from tf_robust_transfer.ops import norms, replicas
from tf_robust_transfer.ops.gradients import input_gradient


def numpy_norm(x, norm):
    flat = np.abs(np.asarray(x, np.float64).reshape(len(x), -1))
    return flat.max(axis=1) if norm == "linf" else np.sqrt((flat**2).sum(axis=1))


def points_of_ball(rng, count, dimension, norm, eps):
    """Points in the ball, many of them on its border and (linf) at its corners."""
    if norm == "linf":
        points = rng.uniform(-eps, eps, (count, dimension))
        points[: count // 3] = eps * np.sign(points[: count // 3])
        return points
    direction = rng.standard_normal((count, dimension))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    radius = eps * rng.uniform(0, 1, (count, 1)) ** (1 / dimension)
    radius[: count // 3] = eps
    return direction * radius


class TestNorms:
    @pytest.mark.parametrize("norm", norms.NORMS)
    def test_lp_norm_is_numpys_per_example(self, norm):
        x = np.random.default_rng(0).standard_normal((7, 3, 4, 2)).astype(np.float32)
        x[2] = 0
        got = norms.lp_norm(tf.constant(x), norm).numpy()
        assert got.shape == (7,)
        np.testing.assert_allclose(got, numpy_norm(x, norm), rtol=1e-6)

    @pytest.mark.parametrize("scale", [1e-37, 1e-25, 1.0, 1e25])
    def test_l2_norm_neither_underflows_nor_overflows(self, scale):
        """The square of 1e-25 is zero in float32, that of 1e25 infinite."""
        x = np.random.default_rng(1).uniform(1, 2, (3, 5)).astype(np.float32)
        scaled = (x * np.float32(scale)).astype(np.float32)
        np.testing.assert_allclose(
            norms.l2_norm(tf.constant(scaled)).numpy(), numpy_norm(scaled, "l2"), rtol=1e-5
        )

    @pytest.mark.parametrize("norm", norms.NORMS)
    def test_projection_is_the_nearest_point_of_the_ball(self, norm):
        """Variational inequality: p is the projection of x iff <x - p, q - p> <= 0 for every q of
        the ball.
        """
        rng, eps = np.random.default_rng(2), 0.3
        x = rng.standard_normal((40, 2, 3, 1)) * rng.uniform(0.01, 1, (40, 1, 1, 1))
        projected = norms.project(tf.constant(x), norm, tf.constant(eps, tf.float64)).numpy()
        assert numpy_norm(projected, norm).max() <= eps * (1 + 1e-12)
        x, projected = x.reshape(40, -1), projected.reshape(40, -1)
        inside = numpy_norm(x, norm) <= eps
        assert 5 < inside.sum() < 35  # both cases occur
        np.testing.assert_array_equal(projected[inside], x[inside])
        others = points_of_ball(rng, 500, 6, norm, eps)
        products = np.einsum("nd,nmd->nm", x - projected, others[None] - projected[:, None])
        assert products.max() <= 1e-12

    @pytest.mark.parametrize("norm", norms.NORMS)
    def test_projection_of_float32_stays_in_the_ball_at_any_radius(self, norm):
        x = np.random.default_rng(3).standard_normal((50, 4, 4, 3)).astype(np.float32)
        for eps in (0.0, 1e-6, 8 / 255, 0.5, 3.0):
            assert numpy_norm(
                norms.project(tf.constant(x), norm, eps).numpy(), norm
            ).max() <= eps * (1 + 1e-6)

    @pytest.mark.parametrize("norm", norms.NORMS)
    def test_steepest_ascent_maximises_a_linear_function_over_the_unit_ball(self, norm):
        rng = np.random.default_rng(4)
        gradient = rng.standard_normal((30, 2, 3, 1))
        step = norms.steepest_ascent(tf.constant(gradient), norm).numpy()
        np.testing.assert_allclose(numpy_norm(step, norm), 1.0, rtol=1e-12)
        gain = (gradient * step).reshape(30, -1).sum(axis=1)
        # The maximum over the unit ball is the dual norm.
        dual = np.abs(gradient).reshape(30, -1)
        np.testing.assert_allclose(
            gain, dual.sum(axis=1) if norm == "linf" else np.sqrt((dual**2).sum(axis=1))
        )
        others = points_of_ball(rng, 500, 6, norm, 1.0)
        assert (gradient.reshape(30, -1) @ others.T <= gain[:, None] + 1e-12).all()

    @pytest.mark.parametrize("norm", norms.NORMS)
    def test_steepest_ascent_of_tiny_gradients_is_a_full_step(self, norm):
        gradient = np.random.default_rng(5).standard_normal((4, 3, 3, 1)).astype(
            np.float32
        ) * np.float32(1e-25)
        step = norms.steepest_ascent(tf.constant(gradient), norm).numpy()
        np.testing.assert_allclose(numpy_norm(step, norm), 1.0, rtol=1e-5)

    @pytest.mark.parametrize("norm", norms.NORMS)
    def test_steepest_ascent_of_a_zero_gradient_is_zero(self, norm):
        gradient = np.zeros((2, 2, 2, 1), np.float32)
        gradient[1, 0, 0, 0] = -3.0
        step = norms.steepest_ascent(tf.constant(gradient), norm).numpy()
        np.testing.assert_array_equal(step, np.sign(gradient))

    @pytest.mark.parametrize("norm", norms.NORMS)
    def test_random_start_is_uniform_in_the_ball(self, norm):
        """r / eps to the power d, and each linf coordinate, are uniform; the directions have no
        preference.
        """
        eps, shape, dimension = 0.25, (4000, 2, 2, 1), 4
        uniform, normal = (
            tf.random.stateless_uniform(shape, [1, 2]),
            tf.random.stateless_normal(shape, [3, 4]),
        )
        points = norms.ball_from_noise(uniform, normal, norm, eps).numpy().reshape(-1, dimension)
        lengths = numpy_norm(points, norm)
        assert lengths.max() <= eps * (1 + 1e-6)
        assert scipy.stats.kstest((lengths / eps) ** dimension, "uniform").pvalue > 0.01
        if norm == "linf":
            for coordinate in points.T:
                assert scipy.stats.kstest(coordinate, "uniform", args=(-eps, 2 * eps)).pvalue > 0.01
        assert np.abs(points.mean(axis=0)).max() < 4 * eps / math.sqrt(len(points))
        correlation = np.corrcoef(points.T) - np.eye(dimension)
        assert np.abs(correlation).max() < 4 / math.sqrt(len(points))

    def test_random_start_of_radius_zero_is_the_centre(self):
        noise = tf.ones([3, 2, 2, 1]) * 0.7
        for norm in norms.NORMS:
            np.testing.assert_array_equal(
                norms.ball_from_noise(noise, noise, norm, 0.0), np.zeros((3, 2, 2, 1))
            )

    def test_unknown_norm_is_refused_with_what_came(self):
        x = tf.zeros([1, 2])
        for call in (
            lambda: norms.lp_norm(x, "l1"),
            lambda: norms.project(x, "l1", 1.0),
            lambda: norms.steepest_ascent(x, "l1"),
            lambda: norms.ball_from_noise(x, x, "l1", 1.0),
        ):
            with pytest.raises(ValueError, match="'linf', 'l2'.*'l1'"):
                call()


def softmax(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


SCORES = {
    "cross_entropy": classification.cross_entropy,
    "probability": classification.true_class_probability,
}


def score_of(model, labels, kind):
    def score(images):
        logits = model(images, training=True)
        return SCORES[kind](logits, labels), logits

    return score


def tiny_network(kind):
    """float64 networks of tanh and softplus: smooth, so that finite differences are exact to 1e-8
    or so.
    """
    layers = keras.layers
    images = keras.Input((4, 4, 2), dtype="float64")
    if kind == "dense":
        x = layers.Flatten(dtype="float64")(images)
        x = layers.Dense(3, activation="tanh", dtype="float64")(x)
    else:
        x = layers.Conv2D(2, 3, strides=2, padding="same", activation="softplus", dtype="float64")(
            images
        )
        x = layers.Conv2D(2, 2, activation="tanh", dtype="float64")(x)
        x = layers.Flatten(dtype="float64")(x)
    return keras.Model(images, layers.Dense(3, dtype="float64")(x))


class TestInputGradient:
    @pytest.mark.parametrize("kind", SCORES)
    def test_linear_softmax_against_its_closed_form(self, kind):
        """z = x W + b: d(-log p_y)/dx = (p - e_y) W^T, dp_y/dx = -p_y (p - e_y) W^T."""
        rng = np.random.default_rng(0)
        x, w, b = (
            rng.uniform(0, 1, (5, 2, 2, 1)),
            rng.standard_normal((4, 3)),
            rng.standard_normal(3),
        )
        labels = np.array([0, 1, 2, 2, 0])

        def score(images):
            logits = tf.reshape(images, [5, 4]) @ w + b
            return SCORES[kind](logits, labels), logits

        gradient, scores, logits = input_gradient(score, tf.constant(x))
        z = x.reshape(5, 4) @ w + b
        p = softmax(z)
        own = p[np.arange(5), labels]
        expected = (p - np.eye(3)[labels]) @ w.T
        if kind == "probability":
            expected = -own[:, None] * expected
        np.testing.assert_allclose(gradient.numpy().reshape(5, 4), expected, rtol=1e-10)
        np.testing.assert_allclose(logits, z)
        np.testing.assert_allclose(scores, own if kind == "probability" else -np.log(own))

    def test_each_example_has_its_own_gradient_whatever_the_batch(self):
        keras.utils.set_random_seed(1)
        model = tiny_network("conv")
        images = np.random.default_rng(1).uniform(0, 1, (4, 4, 4, 2))
        labels = np.array([0, 1, 2, 1])
        together, _, _ = input_gradient(
            score_of(model, labels, "cross_entropy"), tf.constant(images)
        )
        for i in range(4):
            alone, _, _ = input_gradient(
                score_of(model, labels[i : i + 1], "cross_entropy"), tf.constant(images[i : i + 1])
            )
            np.testing.assert_allclose(together[i], alone[0], rtol=1e-10)

    def test_a_score_that_ignores_the_images_has_a_zero_gradient(self):
        gradient, _, _ = input_gradient(lambda x: (tf.ones([2]), None), tf.ones([2, 2, 2, 1]))
        np.testing.assert_array_equal(gradient, np.zeros((2, 2, 2, 1)))

    @pytest.mark.parametrize("network", ["dense", "conv"])
    @pytest.mark.parametrize("kind", SCORES)
    def test_double_gradient_against_finite_differences(self, kind, network):
        """d/dweights of sum ||J_s - c||^2 for every single weight, by central differences of that
        sum.

        An error of J itself would be in both; so some entries of J are compared with differences of
        the score first."""
        keras.utils.set_random_seed(3)
        model = tiny_network(network)
        rng = np.random.default_rng(3)
        images, target = rng.uniform(0, 1, (3, 4, 4, 2)), 0.1 * rng.standard_normal((3, 4, 4, 2))
        labels = np.array([0, 2, 1])
        score = score_of(model, labels, kind)

        @tf.function
        def penalty_and_gradients():
            with tf.GradientTape() as tape:
                gradient, _, _ = input_gradient(score, tf.constant(images))
                penalty = tf.reduce_sum(tf.square(gradient - target))
            return penalty, gradient, tape.gradient(penalty, model.trainable_variables)

        @tf.function
        def total_score(x):
            return tf.reduce_sum(score(x)[0])

        _, first, second = penalty_and_gradients()
        step = 1e-5
        for index in [(0, 0, 0, 0), (1, 2, 3, 1), (2, 3, 1, 0)]:
            moved = [images.copy(), images.copy()]
            moved[0][index] += step
            moved[1][index] -= step
            difference = (
                total_score(tf.constant(moved[0])) - total_score(tf.constant(moved[1]))
            ) / (2 * step)
            np.testing.assert_allclose(first.numpy()[index], difference, rtol=1e-6, atol=1e-9)

        checked = 0
        for variable, analytic in zip(model.trainable_variables, second, strict=True):
            analytic = np.zeros(variable.shape) if analytic is None else analytic.numpy()
            value = variable.numpy()
            for index in np.ndindex(value.shape):
                sides = []
                for sign in (1, -1):
                    moved = value.copy()
                    moved[index] += sign * step
                    variable.assign(moved)
                    sides.append(float(penalty_and_gradients()[0]))
                numeric = (sides[0] - sides[1]) / (2 * step)
                np.testing.assert_allclose(
                    analytic[index], numeric, rtol=1e-6, atol=1e-8, err_msg=variable.path
                )
                checked += 1
            variable.assign(value)
        assert checked == model.count_params() > 50


class TestReplicasOnOneDevice:
    def test_means_sums_and_shares(self):
        values = tf.constant([1.0, 2.0, 6.0])
        assert float(replicas.global_mean(values)) == 3.0
        assert float(replicas.global_sum(values)) == 9.0
        assert float(replicas.once(tf.constant(5.0))) == 5.0
        assert float(replicas.whole({"loss": tf.constant(5.0)})["loss"]) == 5.0

    def test_random_numbers_are_a_function_of_the_seed(self):
        shape = tf.constant([4, 2, 2, 1])
        for draw, ranges in ((replicas.random_uniform, (0, 1)), (replicas.random_normal, (-6, 6))):
            first, again, other = (draw(shape, seed).numpy() for seed in ([1, 2], [1, 2], [1, 3]))
            np.testing.assert_array_equal(first, again)
            assert (first != other).all()
            assert first.min() >= ranges[0] and first.max() < ranges[1]
            assert len(np.unique(first)) == first.size


TWO_DEVICES = """
import json, sys
import tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2)
from tf_robust_transfer.ops import replicas

strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
found = {}


def summed(step, *inputs):
    return strategy.reduce("SUM", strategy.run(step, args=inputs), axis=None)


def split(values, sizes):
    ends = [sizes[0], sizes[0] + sizes[1]]
    parts = [tf.constant(values[:ends[0]]), tf.constant(values[ends[0]:ends[1]])]
    return strategy.experimental_distribute_values_from_function(
        lambda c: parts[c.replica_id_in_sync_group]
    )


values = [1.0, 2.0, 6.0, 11.0]
for name, sizes in {"even": (2, 2), "uneven": (3, 1), "empty": (4, 0)}.items():
    part = split(values, sizes)
    mean = tf.function(lambda x: summed(replicas.global_mean, x))(part)
    total = tf.function(lambda x: summed(replicas.global_sum, x))(part)
    whole = tf.function(
        lambda x: strategy.run(
            lambda y: replicas.whole({"mean": replicas.global_mean(y), "zero": 0.0}), args=(x,)
        )
    )(part)
    local = [float(x) for x in strategy.experimental_local_results(whole["mean"])]
    found[name] = [float(mean), float(total), local]
found["once"] = float(summed(lambda: replicas.once(tf.constant(5.0))))
for draw in (replicas.random_uniform, replicas.random_normal):
    both = strategy.experimental_local_results(
        tf.function(lambda: strategy.run(lambda: draw(tf.constant([3, 2]), [7, 8])))())
    one = draw(tf.constant([6, 2]), [7, 8])
    found[draw.__name__] = bool(tf.reduce_all(tf.concat(both, axis=0) == one))
print(json.dumps(found))
"""


def test_replicas_on_two_devices_add_up_to_one():
    """In a process of its own: logical devices have to be made before TensorFlow starts."""
    done = fresh_process.run(TWO_DEVICES)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found == {
        "even": [5.0, 20.0, [5.0, 5.0]],
        "uneven": [5.0, 20.0, [5.0, 5.0]],
        "empty": [5.0, 20.0, [5.0, 5.0]],
        "once": 5.0,
        "random_uniform": True,
        "random_normal": True,
    }
