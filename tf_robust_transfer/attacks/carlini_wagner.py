"""Carlini & Wagner (2017), "Towards evaluating the robustness of neural networks": l2."""

import dataclasses

import tensorflow as tf

from tf_robust_transfer.attacks.adam import adam_start, adam_step
from tf_robust_transfer.attacks.base import Attack
from tf_robust_transfer.flag_types import boolean, fraction
from tf_robust_transfer.losses import classification
from tf_robust_transfer.ops.examples import choose
from tf_robust_transfer.ops.gradients import input_gradient
from tf_robust_transfer.options import above, at_least, option

# Pixels at the bounds would lie at infinity; the factor of the authors' code.
_INSIDE = 0.999999


class CarliniWagnerL2(Attack):
    """Looks for the smallest l2 perturbation that fools the model: Adam on distance^2 + c
    max(-margin, -confidence).

    The image is w's tanh, scaled to the bounds, so that no step leaves them. The constant c is
    searched for each example: ten times as large until one fools, then by bisection. The ball plays
    no part in the search: what is found counts where it lies in the ball. An evaluation, and a call
    with stop_when_fooled, end for an example with the first such image. Otherwise a call returns
    the smallest perturbation found, which the base class projects on the ball, as it does every
    result; give the threat model a large eps to measure distances.

    It departs from the authors' code in the defaults (there 9 constants from 1e-3, with 10,000
    steps of 0.01), in that no constant is given up early, and in that the last one is not the best
    once more.

    Args:
        steps: steps of Adam for each constant, at least 1.
        constants: how many constants are tried, at least 1.
        first_constant: the first c, positive; distances are those of pixels in [0, 1].
        learning_rate: of Adam, in the units of w, which do not depend on the bounds.
        confidence: margin, in logits, by which an image has to fool to count as found, at least 0.
        stop_when_fooled: see above.

    Raises:
        InputError: an argument outside its range; at a call, another norm than l2.
    """

    norms = ("l2",)

    @dataclasses.dataclass(frozen=True)
    class Options(Attack.Options):
        steps: int = option(200, "steps for each constant", int, **at_least(1))
        constants: int = option(5, "constants that are tried", int, **at_least(1))
        first_constant: float = option(0.01, "the first one", fraction, **above(0))
        learning_rate: float = option(0.02, "of Adam", fraction, **above(0))
        confidence: float = option(0.0, "margin of what counts as found", fraction, **at_least(0))
        stop_when_fooled: bool = option(True, "end with the first image that fools", boolean)

    @property
    def iterations(self):
        return self.steps * self.constants

    def start(self, problem, images, labels, round, noise):
        self.check_norm(problem.threat_model.norm)
        batch = tf.shape(labels)
        return {
            "point": _to_tanh_space(images, problem.threat_model.bounds),
            **adam_start(images),
            "constant": tf.fill(batch, self.first_constant),
            "too_small": tf.zeros(batch),
            "large_enough": tf.fill(batch, float("inf")),
            "succeeded": tf.zeros(batch, tf.bool),  # with this constant
            "smallest": images,
            "smallest_distance": tf.fill(batch, float("inf")),
        }

    def step(self, problem, images, labels, state, iteration, drawn):
        bounds = problem.threat_model.bounds

        def score_of(point):
            visited = _from_tanh_space(point, bounds)
            logits = problem.logits_of(visited)
            margin = classification.margin(logits, labels)
            distance = tf.reduce_sum(tf.square(visited - images), axis=[1, 2, 3])
            loss = distance + state["constant"] * tf.maximum(-margin, -self.confidence)
            return loss, (visited, logits, margin, distance)

        gradient, _, (visited, logits, margin, distance) = input_gradient(score_of, state["point"])
        fools = ~classification.is_correct(logits, labels) & (margin >= self.confidence)
        smaller = fools & (distance < state["smallest_distance"])
        direction, moments = adam_step(gradient, state, iteration % self.steps)
        moved = state | moments | {
            "point": state["point"] - self.learning_rate * direction,
            "succeeded": state["succeeded"] | fools,
            "smallest": choose(smaller, visited, state["smallest"]),
            "smallest_distance": tf.where(smaller, distance, state["smallest_distance"]),
        }  # fmt: skip
        last = (iteration + 1) % self.steps == 0
        return self._next_constant(moved, images, bounds, last), visited, logits

    def _next_constant(self, state, images, bounds, last):
        """Where `last`, bool [batch]: the next constant from what this one has shown, and back to
        the image.
        """
        constant, succeeded = state["constant"], state["succeeded"]
        large_enough = tf.where(
            succeeded, tf.minimum(state["large_enough"], constant), state["large_enough"]
        )
        too_small = tf.where(
            succeeded, state["too_small"], tf.maximum(state["too_small"], constant)
        )
        bisected = (too_small + large_enough) / 2
        begun = {
            "point": _to_tanh_space(images, bounds),
            **adam_start(images),
            "constant": tf.where(tf.math.is_finite(large_enough), bisected, 10 * constant),
            "too_small": too_small,
            "large_enough": large_enough,
            "succeeded": tf.zeros_like(succeeded),
        }
        return state | {
            name: tf.where(tf.reshape(last, [-1] + [1] * (new.shape.rank - 1)), new, state[name])
            for name, new in begun.items()
        }

    def result(self, state):
        return state["smallest"]


def _to_tanh_space(images, bounds):
    low, high = bounds
    images = tf.clip_by_value(images, low, high)  # rounding may have put some a little outside
    return tf.atanh(_INSIDE * (2 * (images - low) / (high - low) - 1))


def _from_tanh_space(point, bounds):
    low, high = bounds
    return low + (high - low) * (tf.tanh(point) + 1) / 2
