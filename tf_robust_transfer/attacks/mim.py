"""Momentum iterative method, Dong et al. (2018), "Boosting adversarial attacks with momentum"
(MI-FGSM).
"""

import dataclasses

import tensorflow as tf

from tf_robust_transfer.attacks.bim import BIM
from tf_robust_transfer.flag_types import fraction
from tf_robust_transfer.options import at_least, option


class MIM(BIM):
    """BIM along the decaying sum of all gradients so far, each divided by its l1 norm (Eqs. 6 and 7
    of the paper).

    Args:
        steps: number of gradient steps, at least 1.
        step_size: in the units of eps; None: eps / steps, as in the paper.
        decay: weight of the sum so far, at least 0; the paper's mu.
        stop_when_fooled: as in PGD.

    Raises:
        InputError: an argument outside its range.
    """

    @dataclasses.dataclass(frozen=True)
    class Options(BIM.Options):
        decay: float = option(1.0, "weight of the sum so far", fraction, **at_least(0))

    def start(self, problem, images, labels, round, noise):
        return {"current": images, "momentum": tf.zeros_like(images)}

    def step(self, problem, images, labels, state, iteration, drawn):
        current = state["current"]
        gradient, logits = self._gradient(problem, current, labels)
        # Divided by the largest entry first, since a sum of tiny gradients would be rounded to
        # zero.
        axes = list(range(1, gradient.shape.rank))
        gradient = tf.math.divide_no_nan(
            gradient, tf.reduce_max(tf.abs(gradient), axes, keepdims=True)
        )
        gradient = tf.math.divide_no_nan(
            gradient, tf.reduce_sum(tf.abs(gradient), axes, keepdims=True)
        )
        momentum = self.decay * state["momentum"] + gradient
        moved = self._moved(problem, images, labels, current, momentum, logits)
        return {"current": moved, "momentum": momentum}, current, logits
