"""Activated channel maps beside the paper's default: mappings, average pooling, the student's side,
features, gradients.

The default form is tested in losses_test.py.
"""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from tf_robust_transfer.errors import InputError
from tf_robust_transfer.losses import channel_maps

RNG = np.random.default_rng(0)
# PyTorch's windows of adaptive pooling from n to m, written out by hand.
WINDOWS = {
    (6, 3): [(0, 2), (2, 4), (4, 6)],
    (5, 3): [(0, 2), (1, 4), (3, 5)],
    (7, 4): [(0, 2), (1, 4), (3, 6), (5, 7)],
    (3, 5): [(0, 1), (0, 2), (1, 2), (1, 3), (2, 3)],
    (4, 6): [(0, 1), (0, 2), (1, 2), (2, 3), (2, 4), (3, 4)],
    (4, 4): [(0, 1), (1, 2), (2, 3), (3, 4)],
}
TEACHER, STUDENT = RNG.standard_normal((2, 3, 2, 5)), RNG.standard_normal((2, 3, 2, 3))


def pooled(x, m, pooling):
    windows = WINDOWS[x.shape[-1], m]
    return np.stack(
        [(x[..., a:b].max if pooling == "max" else x[..., a:b].mean)(axis=-1) for a, b in windows],
        axis=-1,
    )


def numpy_loss(teacher, student, reduction, mapping, normalized, transform, transform_of):
    """Section 5.1 with one of the forms of section 5.2, in loops over examples. Returns float
    [batch].
    """
    losses = []
    for examples in zip(teacher, student):
        maps = []
        for x in examples:
            flat = x.reshape(-1, x.shape[-1])
            maps.append(
                {
                    "maximum": flat.max(axis=0),
                    "mean": flat.mean(axis=0),
                    "mean_of_squares": (flat**2).mean(axis=0),
                    "none": x,
                }[mapping]
            )
        side = ("teacher", "student").index(transform_of)
        if maps[0].shape[-1] != maps[1].shape[-1]:
            maps[side] = pooled(maps[side], maps[1 - side].shape[-1], transform)
        if normalized:
            maps = [x / np.sqrt((x**2).sum()) for x in maps]
        difference = (maps[0] - maps[1]) ** 2
        losses.append(difference.mean() if reduction == "mean" else difference.sum())
    return np.array(losses)


def numeric_gradient(function, x, step=1e-6):
    gradient = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        sides = []
        for sign in (1, -1):
            moved = x.copy()
            moved[index] += sign * step
            sides.append(float(function(moved)))
        gradient[index] = (sides[0] - sides[1]) / (2 * step)
    return gradient


@pytest.mark.parametrize("sizes", WINDOWS, ids=str)
def test_average_pooling_has_pytorchs_windows(sizes):
    n, m = sizes
    for shape in ((4, n), (2, 3, 2, n)):
        x = RNG.standard_normal(shape)
        got = channel_maps.match_channels(tf.constant(x), m, "average")
        np.testing.assert_allclose(got, pooled(x, m, "average"), rtol=1e-12)
        np.testing.assert_array_equal(
            channel_maps.match_channels(tf.constant(x), m), pooled(x, m, "max")
        )


@pytest.mark.parametrize("pooling", channel_maps.POOLINGS)
def test_pooling_is_pytorchs(pooling):
    torch = pytest.importorskip("torch")
    function = {
        "max": torch.nn.functional.adaptive_max_pool1d,
        "average": torch.nn.functional.adaptive_avg_pool1d,
    }[pooling]
    for n, m in ((160, 16), (640, 64), (48, 64), (100, 33), (33, 100)):
        x = RNG.standard_normal((2, n))
        got = channel_maps.match_channels(tf.constant(x), m, pooling)
        np.testing.assert_allclose(
            got, function(torch.tensor(x), m).numpy(), rtol=1e-12, atol=1e-14
        )


CASES = [
    *itertools.product(
        ("mean", "sum"), channel_maps.MAPPINGS, (True, False), ("max",), ("teacher",)
    ),
    *itertools.product(
        ("mean",), ("maximum", "none"), (True,), ("max", "average"), ("teacher", "student")
    ),
]


@pytest.mark.parametrize("case", sorted(set(CASES)), ids=str)
def test_loss_and_its_gradient_against_numpy(case):
    reduction, mapping, normalized, transform, transform_of = case

    def loss(student):
        return channel_maps.acm_loss(
            tf.constant(TEACHER),
            student,
            reduction,
            mapping=mapping,
            normalized=normalized,
            transform=transform,
            transform_of=transform_of,
        )

    student = tf.constant(STUDENT)
    with tf.GradientTape() as tape:
        tape.watch(student)
        value = loss(student)
        total = tf.reduce_sum(value)
    np.testing.assert_allclose(value, numpy_loss(TEACHER, STUDENT, *case), rtol=1e-10)
    numeric = numeric_gradient(lambda x: numpy_loss(TEACHER, x, *case).sum(), STUDENT)
    np.testing.assert_allclose(tape.gradient(total, student), numeric, atol=2e-8, rtol=1e-6)
    assert np.abs(numeric).max() > 1e-4


def test_gradient_of_the_default_by_hand():
    """Of mean_c (t_c - u_c)^2 with u = s / |s|, s the channels' maxima: -2/C (I - u u^T) (t - u) /
    |s| at each maximum.
    """
    student = np.abs(RNG.standard_normal((1, 2, 2, 5)))
    s, t = student[0].max(axis=(0, 1)), TEACHER[0].max(axis=(0, 1))
    u, t = s / np.linalg.norm(s), t / np.linalg.norm(t)
    at_map = -2 / 5 * (np.eye(5) - np.outer(u, u)) @ (t - u) / np.linalg.norm(s)
    expected = np.where(student[0] == s, at_map, 0.0)
    x = tf.constant(student)
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = tf.reduce_sum(channel_maps.acm_loss(tf.constant(TEACHER[:1]), x))
    np.testing.assert_allclose(tape.gradient(value, x)[0], expected, atol=1e-12)


@pytest.mark.parametrize("mapping", channel_maps.MAPPINGS)
@pytest.mark.parametrize("normalized", [True, False])
def test_equal_endpoints_give_exactly_zero(mapping, normalized):
    endpoint = tf.constant(RNG.standard_normal((4, 3, 3, 16)), tf.float32)
    got = channel_maps.acm_loss(endpoint, endpoint, mapping=mapping, normalized=normalized)
    np.testing.assert_array_equal(got, np.zeros(4))


@pytest.mark.parametrize("transform_of", ["teacher", "student"])
def test_a_callable_transforms_the_maps_of_one_side_where_channels_differ(transform_of):
    kernel = RNG.standard_normal((5, 3) if transform_of == "teacher" else (3, 5))

    def affine(channel_map):
        return channel_map @ tf.constant(kernel) + 1.0

    got = channel_maps.acm_loss(
        tf.constant(TEACHER), tf.constant(STUDENT), transform=affine, transform_of=transform_of
    )
    maps = {"teacher": TEACHER.max(axis=(1, 2)), "student": STUDENT.max(axis=(1, 2))}
    maps[transform_of] = maps[transform_of] @ kernel + 1.0
    units = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in maps.values()]
    np.testing.assert_allclose(got, ((units[0] - units[1]) ** 2).mean(axis=1))
    same = channel_maps.acm_loss(
        tf.constant(TEACHER), tf.constant(TEACHER), transform=affine, transform_of=transform_of
    )
    np.testing.assert_array_equal(same, np.zeros(2))


def test_unknown_names_are_refused():
    x = tf.ones([1, 2, 2, 3])
    with pytest.raises(InputError, match="mapping 'max'; nearest valid names: maximum"):
        channel_maps.acm_loss(x, x, mapping="max")
    with pytest.raises(InputError, match="pooling 'avg'"):
        channel_maps.match_channels(tf.ones([1, 3]), 2, "avg")
    with pytest.raises(ValueError, match="transform_of must be 'teacher' or 'student', got 'both'"):
        channel_maps.acm_loss(x, x, transform_of="both")
