"""SPSA, Uesato et al. (2018), "Adversarial risk and the dangers of evaluating against weak
attacks".
"""

import dataclasses

import tensorflow as tf

from tf_robust_transfer.attacks.adam import adam_start, adam_step
from tf_robust_transfer.attacks.base import Attack
from tf_robust_transfer.attacks.noise import ExampleNoise
from tf_robust_transfer.flag_types import fraction_or_none
from tf_robust_transfer.losses import classification
from tf_robust_transfer.options import above, at_least, none_or, option

# Images in one pass through the model, where the batch is not larger.
_IMAGES_AT_ONCE = 1024
# Of learning rate and delta where none is given, a fraction of the pixel range.
_SIZE = 0.01


class SPSA(Attack):
    """Ascent on the margin along a gradient estimated from logits alone, so that masked gradients
    do not mislead it.

    Simultaneous perturbation stochastic approximation: with random signs v in {-1, 1}^d, the mean
    over many v of (margin(x + delta v) - margin(x - delta v)) / (2 delta) v; then a step of Adam,
    projected (Algorithm 1 of the paper). As there, the images that are tried lie up to delta
    outside ball and bounds; they do not count.

    Each step draws samples / 2 images of signs for every example of the batch: take small batches
    of large images.

    Args:
        steps: number of steps, at least 1.
        samples: images tried for each step, even; half of them mirror the other half. The paper
            takes up to 8192.
        learning_rate: of Adam, in the units of eps. None: 0.01 of the pixel range.
        delta: half the distance of a mirrored pair along every pixel, in the units of eps. None:
            0.01 of the pixel range.

    Raises:
        InputError: an argument outside its range; at a call, another norm than linf.
    """

    steps_at_once = 1
    norms = ("linf",)
    uses_gradients = False  # what it takes for one are differences of losses

    @dataclasses.dataclass(frozen=True)
    class Options(Attack.Options):
        steps: int = option(100, "steps", int, **at_least(1))
        samples: int = option(
            128,
            "images tried for each step",
            int,
            lambda value: value >= 2 and value % 2 == 0,
            "an even number of at least 2",
        )
        learning_rate: float | None = option(
            None, "of Adam; empty: 0.01 of the range", fraction_or_none, **none_or(above(0))
        )
        delta: float | None = option(
            None,
            "half a pair's distance; empty: 0.01 of the range",
            fraction_or_none,
            **none_or(above(0)),
        )

    @property
    def iterations(self):
        return self.steps

    def start(self, problem, images, labels, round, noise):
        self.check_norm(problem.threat_model.norm)
        # Signs for all steps at once would fill the memory, so that each example keeps a seed.
        return {
            "current": images,
            "seed": tf.cast(noise.uniform([2], 1) * 2**23, tf.int32),
            **adam_start(images),
        }

    def step(self, problem, images, labels, state, iteration, drawn):
        current = state["current"]
        uniform = ExampleNoise(state["seed"]).uniform(
            [self.samples // 2, *current.shape[1:]], iteration
        )
        gradient = self._estimate(problem, current, labels, tf.where(uniform < 0.5, -1.0, 1.0))
        direction, moments = adam_step(gradient, state, iteration)
        learning_rate = _size(problem, self.learning_rate)
        moved = problem.project(current + learning_rate * direction, images)
        return state | moments | {"current": moved}, current, problem.logits_of(current)

    def result(self, state):
        return state["current"]

    def _estimate(self, problem, current, labels, signs):
        """Estimated gradient of the margin. signs: float32 [batch, pairs, height, width, channels].
        The images' shape.
        """
        pairs, shape, delta = signs.shape[1], current.shape[1:], _size(problem, self.delta)
        at_once = _at_once(pairs, current)
        repeated = tf.repeat(labels, 2 * at_once)

        def add_pairs(i, gradient):
            # Not a slice: XLA would not know how long it is.
            v = tf.gather(signs, i + tf.range(at_once), axis=1)
            tried = current[:, None] + delta * tf.concat([v, -v], axis=1)
            margins = classification.margin(
                problem.logits_of(tf.reshape(tried, [-1, *shape])), repeated
            )
            up, down = tf.split(tf.reshape(margins, [-1, 2 * at_once]), 2, axis=1)
            slopes = ((up - down) / (2 * delta))[:, :, None, None, None]
            return i + at_once, gradient + tf.reduce_sum(slopes * v, axis=1)

        begin = tf.constant(0), tf.zeros_like(current)
        return tf.while_loop(lambda i, _: i < pairs, add_pairs, begin)[1] / pairs


def _size(problem, size):
    """A size that the user may have given, as a fraction of the pixel range."""
    return _SIZE if size is None else problem.fraction(size)


def _at_once(pairs, current):
    """How many of the pairs one pass takes for each image: a divisor of all."""
    divisors = [count for count in range(1, pairs + 1) if pairs % count == 0]
    if current.shape[0] is None:
        fits = 2 * tf.shape(current)[0] * tf.constant(divisors) <= _IMAGES_AT_ONCE
        return tf.reduce_max(tf.where(fits, divisors, 1))
    # A number where it can be one, for XLA.
    fits = [count for count in divisors if 2 * current.shape[0] * count <= _IMAGES_AT_ONCE]
    return max(fits, default=1)
