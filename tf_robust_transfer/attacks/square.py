"""Square, Andriushchenko et al. (2020), "Square Attack: a query-efficient black-box adversarial
attack via random search".

It asks the model for logits alone and so is not misled by masked gradients.
"""

import dataclasses

import numpy as np
import tensorflow as tf

from tf_robust_transfer.attacks.base import Attack
from tf_robust_transfer.attacks.noise import ExampleNoise
from tf_robust_transfer.errors import InputError
from tf_robust_transfer.flag_types import boolean, fraction
from tf_robust_transfer.losses import classification
from tf_robust_transfer.ops import norms
from tf_robust_transfer.ops.examples import choose
from tf_robust_transfer.options import above, at_least, option

# After each of these proposals the share p of the pixels is halved; for 10,000 queries, as in the
# official code.
HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
# The streams of random numbers: that of the start, and the first of those of the steps.
START, STEPS = 1, 2
# Random bits of a uniform float32 in [0, 1).
_BITS = 23
_TINY = 1e-12


class Square(Attack):
    """Random search: a window of new perturbation at a random place, kept where it raises the
    margin.

    linf: the start is vertical stripes of +-eps; a proposal sets a square to one of the 2^channels
    corners of the ball. l2: the start is a grid of bumps of alternating sign; a proposal adds a
    bump to a square, to which it moves the perturbation of a second square, and what is left of the
    ball after clipping. The loss is the margin.

    The defaults are those of the official AutoAttack (github.com/fra31/auto-attack at a392200),
    which departs from the paper in two points, see rescale_schedule and to_the_border. There, the
    images of one batch share a proposal's place (and signs, for linf); here each draws its own. A
    linf proposal may leave the image as it is, where the square lies in that corner already: the
    authors' first code drew again, neither AutoAttack nor this one does.

    Args:
        queries: proposals to each example; the start is one query more.
        p_init: share of the image's pixels that a window covers at first, in (0, 1].
        restarts: independent runs for an example that still resists.
        rescale_schedule: stretch the schedule, which is made for 10,000 queries, to this number, as
            the paper does.
        to_the_border: squares lie at every place, as in the paper. By default, as in AutoAttack,
            their first row and column are never the last possible ones, so that the last row and
            column of pixels keep the start's perturbation; on a network for 8x8 images that left
            61% robust in place of 54%.

    Raises:
        InputError: an argument outside its range.
    """

    uses_gradients = False
    steps_at_once = 50

    @dataclasses.dataclass(frozen=True)
    class Options(Attack.Options):
        queries: int = option(5000, "proposals to each example", int, **at_least(1))
        p_init: float = option(
            0.8, "share of the pixels that a window covers at first", fraction, **above(0, 1)
        )
        restarts: int = option(1, "independent runs", int, **at_least(1))
        rescale_schedule: bool = option(False, "stretch the schedule to `queries`", boolean)
        to_the_border: bool = option(False, "squares at every place", boolean)

    @property
    def iterations(self):
        return self.queries + 1

    def start(self, problem, images, labels, round, noise):
        first = {"linf": _stripes, "l2": _bumps}[problem.threat_model.norm](problem, images, noise)
        return {"best": first, "margin": tf.fill(tf.shape(labels), -float("inf"))}

    def draw(self, noise, iteration, count):
        """float32 [batch, count, 6]: two places (row and column each), the bump's orientation, and
        the signs.
        """
        # Examples of one batch may be at different iterations, which are all 0 where they share one
        # seed.
        return noise.uniform(
            [count, 6], STEPS + iteration if isinstance(noise, ExampleNoise) else STEPS
        )

    def step(self, problem, images, labels, state, iteration, drawn):
        propose = {"linf": self._propose_linf, "l2": self._propose_l2}[problem.threat_model.norm]
        # Iteration 0 visits the start itself.
        candidate = propose(problem, images, state["best"], iteration - 1, drawn)
        logits = problem.logits_of(candidate)
        margin = classification.margin(logits, labels)
        better = margin > state["margin"]
        best = choose(better, candidate, state["best"])
        return (
            {"best": best, "margin": tf.where(better, margin, state["margin"])},
            candidate,
            logits,
        )

    def result(self, state):
        return state["best"]

    def _level(self, proposal):
        """How often p has been halved before each proposal. proposal: int32 [batch], from 0.
        Returns int32 [batch].
        """
        counted = tf.cast(proposal, tf.int64)
        if self.rescale_schedule:
            counted = counted * 10000 // self.queries
        return tf.reduce_sum(
            tf.cast(counted[:, None] > tf.constant(HALVINGS, tf.int64), tf.int32), axis=1
        )

    def window_sizes(self, height, width, norm):
        """Side of the window in pixels for each level of the schedule; odd and at least 3 for l2,
        where it fits.
        """
        sizes = [
            round((self.p_init / 2**level * height * width) ** 0.5)
            for level in range(len(HALVINGS) + 1)
        ]
        sizes = [max(size, 1) if norm == "linf" else max(size, 3) | 1 for size in sizes]
        return [min(size, height, width) for size in sizes]

    def _places(self, uniform, size, length):
        """First row (or column) of each window. uniform: float [batch] in [0, 1); size: int32
        [batch]. int32 [batch].
        """
        count = length - size + (1 if self.to_the_border else 0)
        return tf.cast(uniform * tf.cast(count, tf.float32), tf.int32)

    def _propose_linf(self, problem, images, best, proposal, drawn):
        height, width, channels = images.shape[1:]
        sizes = tf.constant(self.window_sizes(height, width, "linf"))
        size = tf.where(proposal >= 0, tf.gather(sizes, self._level(proposal)), 0)
        tops, lefts = (
            self._places(drawn[:, 0], size, height),
            self._places(drawn[:, 1], size, width),
        )
        rows, columns = _within(tops, size, height), _within(lefts, size, width)
        signs = _outer(rows, columns[:, :, None] * _signs(drawn[:, 5], channels)[:, None])
        # From everywhere in the ball to one of its corners. The official code adds 2 eps, which
        # rounding may leave short.
        moved = tf.clip_by_value(
            best + 3 * problem.eps * signs, images - problem.eps, images + problem.eps
        )
        return tf.clip_by_value(moved, *problem.threat_model.bounds)

    def _propose_l2(self, problem, images, best, proposal, drawn):
        height, width, channels = images.shape[1:]
        sizes, level = self.window_sizes(height, width, "l2"), self._level(proposal)
        size = tf.gather(tf.constant(sizes), level)
        tops, lefts = (
            self._places(drawn[:, 0], size, height),
            self._places(drawn[:, 1], size, width),
        )
        other_tops, other_lefts = (
            self._places(drawn[:, 2], size, height),
            self._places(drawn[:, 3], size, width),
        )
        rows, columns = _within(tops, size, height), _within(lefts, size, width)
        other_rows, other_columns = (
            _within(other_tops, size, height),
            _within(other_lefts, size, width),
        )
        every_channel = tf.ones([1, 1, channels])
        window = _outer(rows, columns[:, :, None] * every_channel)
        both = tf.maximum(window, _outer(other_rows, other_columns[:, :, None] * every_channel))

        def in_window(scale):
            """scale, float [batch, channels], inside the window, and 0 outside."""
            return _outer(rows, columns[:, :, None] * scale[:, None])

        delta = best - images
        turned = tf.cast(drawn[:, 4] > 0.5, tf.int32)
        hills = _bump_at(tops, lefts, 2 * level + turned, sizes, height, width)
        added = hills * _signs(drawn[:, 5], channels)[:, None, None] * window
        added += delta * in_window(1 / (_TINY + _norm(delta * window)))
        unused = tf.maximum(problem.eps**2 - tf.reduce_sum(tf.square(delta), axis=[1, 2, 3]), 0.0)
        length = tf.sqrt(unused[:, None] / channels + tf.square(_norm(delta * both)))
        added *= in_window(length / (_TINY + _norm(added)))
        moved = images + problem.eps * norms.steepest_ascent(delta * (1 - both) + added, "l2")
        moved = tf.clip_by_value(moved, *problem.threat_model.bounds)
        return choose(proposal >= 0, moved, best)


def _stripes(problem, images, noise):
    """One sign for each column and channel."""
    _, width, channels = images.shape[1:]
    signs = tf.where(noise.uniform([1, width, channels], START) < 0.5, -1.0, 1.0)
    return tf.clip_by_value(images + problem.eps * signs, *problem.threat_model.bounds)


def _bumps(problem, images, noise):
    """Five by five bumps (more where sides are small), one sign for each bump and channel, on the
    border of the ball.
    """
    height, width, channels = images.shape[1:]
    size = max(height // 5, 1)
    margin = (height - 5 * size) // 2  # may be negative, where the image is lower than 5 pixels
    # Along each side: the tile of every pixel and its place inside. Tiles that reach over the
    # border are cut.
    down, across = (np.arange(side) - max(margin, 0) for side in (height, width))
    tiles_down, tiles_across = max(height // size, 1), max(width // size, 1)
    covered = np.outer(
        (down >= 0) & (down < tiles_down * size), (across >= 0) & (across < tiles_across * size)
    )
    tile = np.where(covered, np.add.outer(down // size * tiles_across, across // size), 0).ravel()
    upright = bump(size)[np.ix_(down % size, across % size)] * covered
    transposed = bump(size).T[np.ix_(down % size, across % size)] * covered

    drawn = noise.uniform([tiles_down * tiles_across, 1 + channels], START)
    drawn = tf.reshape(tf.gather(drawn, tile, axis=1), [-1, height, width, 1 + channels])
    values = tf.where(
        drawn[..., :1] > 0.5,
        *(tf.constant(v[..., None], tf.float32) for v in (transposed, upright)),
    )
    delta = values * tf.where(drawn[..., 1:] < 0.5, -1.0, 1.0)
    return tf.clip_by_value(
        images + problem.eps * norms.steepest_ascent(delta, "l2"), *problem.threat_model.bounds
    )


def bump(size) -> np.ndarray:
    """The l2 perturbation of a square: a hill above a valley, of norm 1. Returns float64 [size,
    size].
    """
    half = size // 2
    hills = [_hill(half, size), -_hill(size - half, size)]
    joined = np.concatenate(hills)
    return joined / np.linalg.norm(joined)


def _hill(height, width):
    """At Chebyshev distance d from the middle: the sum of 1 / (k + 1)^2 over k from d to the
    largest distance; norm 1.
    """
    if height == 0:
        return np.zeros((0, width))
    down, across = np.arange(height) - height // 2, np.arange(width) - width // 2
    distance = np.maximum.outer(abs(down), abs(across))
    terms = 1 / np.arange(1, max(height // 2, width // 2) + 2) ** 2
    hill = np.cumsum(terms[::-1])[::-1][distance]
    return hill / np.linalg.norm(hill)


def _within(first, size, length):
    """The rows (or columns) of each window: 1.0 inside, else 0.0. first, size: int32 [batch].
    float32 [batch, length].
    """
    places = tf.range(length)[None]
    return tf.cast((places >= first[:, None]) & (places < (first + size)[:, None]), tf.float32)


def _outer(rows, columns):
    """rows, float [batch, height], times columns, float [batch, width, channels]: [batch, height,
    width, channels].
    """
    (height,), (width, channels) = rows.shape[1:], columns.shape[1:]
    # Flat, since broadcasting over a few channels is slow.
    flat = rows[:, :, None] * tf.reshape(columns, [-1, 1, width * channels])
    return tf.reshape(flat, [-1, height, width, channels])


def _norm(delta):
    """l2 norm of each channel, float [batch, channels]."""
    return tf.sqrt(tf.reduce_sum(tf.square(delta), axis=[1, 2]))


def _bump_at(tops, lefts, kind, sizes, height, width):
    """Bumps moved to their windows. kind: int32 [batch], 2 * level + transposed. [batch, height,
    width, 1]; any value outside the window."""
    table = np.zeros((len(sizes), 2, height, width), np.float32)
    for level, size in enumerate(sizes):
        table[level, 0, :size, :size], table[level, 1, :size, :size] = bump(size), bump(size).T
    down = tf.clip_by_value(tf.range(height)[None] - tops[:, None], 0, height - 1)
    across = tf.clip_by_value(tf.range(width)[None] - lefts[:, None], 0, width - 1)
    places = (kind[:, None] * height + down)[:, :, None] * width + across[:, None, :]
    return tf.gather(tf.constant(table.ravel()), places)[..., None]


def _signs(uniform, channels):
    """-1 or 1 for each channel, from the bits of one random number. uniform: float32 [batch].
    [batch, channels].
    """
    if channels > _BITS:
        raise InputError(f"Square takes images of at most {_BITS} channels, got {channels}")
    bits = tf.floor(uniform[:, None] * 2.0 ** tf.range(1.0, channels + 1.0)) % 2.0
    return 2.0 * bits - 1.0
