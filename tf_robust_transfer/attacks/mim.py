"""Momentum iterative method, Dong et al. (2018), "Boosting adversarial attacks with momentum"
(MI-FGSM).
"""

import tensorflow as tf

from tf_robust_transfer.attacks.bim import BIM
from tf_robust_transfer.errors import InputError


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

    def __init__(self, steps=10, step_size=None, *, decay=1.0, stop_when_fooled=False):
        super().__init__(steps, step_size, stop_when_fooled=stop_when_fooled)
        if decay < 0:
            raise InputError(f"decay must be at least 0, got {decay}")
        self.decay = decay

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
