"""What goes wrong in a training without a word: losses and gradients that are not finite, constant
logits.

A ReLU on the CPU turns NaN into 0, so that a loss may stay finite while weights are NaN. Each step
leaves what it found in variables on its device; nothing is read from there before an epoch ends,
something is saved, or someone asks."""

import logging

import keras
import tensorflow as tf

from tf_robust_transfer.checkpoints.native import non_finite
from tf_robust_transfer.errors import InputError

_LOG = logging.getLogger("tf_robust_transfer")
# Logits that differ by less than this share of the largest, over a batch, are the same.
SAME = 1e-6


class Watch:
    """Made in the scope of the method's strategy."""

    def __init__(self):
        # The names of what a step may lose by; `compile` sets them.
        self.terms = ()

        def variable(value, dtype):
            # Each replica writes its own.
            return tf.Variable(
                value,
                trainable=False,
                dtype=dtype,
                synchronization=tf.VariableSynchronization.ON_READ,
                aggregation=tf.VariableAggregation.SUM,
            )

        self._bad_step = variable(0, tf.int64)  # counted from 1; 0: none
        self._bad_loss_step = variable(0, tf.int64)
        self._bad_terms = variable(0, tf.int64)  # of that step; a bit for each term
        self._spread = variable(1.0, tf.float32)

    def see_weights(self, weights, iterations) -> None:
        """Inside a step, after the optimizer's: remembers the first step that left a weight that is
        not finite, as every gradient that is not finite does.

        The gradients themselves are not looked at: a second use of them changes what TensorFlow
        fuses, and so the last bits of every training.

        weights: the trained variables; iterations: of the optimizer, after the step."""
        # A sum is NaN or infinite where a weight is.
        total = tf.add_n([tf.cast(tf.reduce_sum(w), tf.float32) for w in weights])
        first = tf.logical_and(self._bad_step == 0, ~tf.math.is_finite(total))
        self._bad_step.assign(tf.where(first, _number(iterations), self._bad_step))

    def see_losses(self, losses: dict, iterations) -> None:
        """Inside a step, after the optimizer's: remembers the first step with a loss that is not
        finite, and which of its terms are not.

        losses: {name: scalar}; iterations: as in `see_weights`."""
        bits = [
            tf.where(
                tf.math.is_finite(tf.cast(value, tf.float32)),
                tf.constant(0, tf.int64),
                tf.constant(1 << self.terms.index(name), tf.int64),
            )
            for name, value in losses.items()
        ]
        bad = tf.add_n(bits)
        first = tf.logical_and(self._bad_loss_step == 0, bad > 0)
        self._bad_loss_step.assign(tf.where(first, _number(iterations), self._bad_loss_step))
        self._bad_terms.assign(tf.where(first, bad, self._bad_terms))

    def see_logits(self, logits) -> None:
        """Inside a step: remembers how far its logits differ between images, of their size.

        logits: float [batch, classes]."""
        logits = tf.stop_gradient(tf.cast(logits, tf.float32))
        spread = tf.reduce_max(tf.reduce_max(logits, axis=0) - tf.reduce_min(logits, axis=0))
        size = tf.reduce_max(tf.abs(logits))
        # Of one image nothing can be said.
        self._spread.assign(
            tf.where(tf.shape(logits)[0] > 1, tf.math.divide_no_nan(spread, size), 1.0)
        )

    def check(self, method) -> None:
        """Raises an InputError where a step of this `fit` had a loss, or left a weight, that is not
        finite: of the first such step.
        """
        loss_step = _first(method, self._bad_loss_step)
        weights_step = _first(method, self._bad_step)
        if loss_step and (not weights_step or loss_step <= weights_step):
            bad = 0
            for bits in _of_replicas(method, self._bad_terms):
                bad |= int(bits)
            names = [name for place, name in enumerate(self.terms) if bad >> place & 1]
            terms = [name for name in names if name != "loss"] or names
            _refuse(f"the loss is not finite at step {loss_step}: {', '.join(terms)}", method)
        if weights_step:
            _refuse(f"the gradient or the weights are not finite at step {weights_step}", method)

    def check_saved(self, method) -> None:
        """Raises an InputError where the student has a weight that is not finite."""
        if non_finite(method.student):
            self.check(method)
            _refuse("the weights are not finite", method)

    def reset(self) -> None:
        """Forgets, for a new `fit`."""
        for variable in (self._bad_step, self._bad_loss_step, self._bad_terms):
            variable.assign(0)

    def tell_collapse(self, method) -> None:
        """A line where the logits of the last step were the same for all images."""
        if all(float(spread) <= SAME for spread in _of_replicas(method, self._spread)):
            _LOG.warning(
                "the network has collapsed: its logits were the same for all images of step %d; "
                "lower the learning rate, let it warm up, or clip the gradient",
                method.steps_done,
            )


class AtEpochsEnd(keras.callbacks.Callback):
    """Looks at a method's `Watch`; before the callbacks that save."""

    def on_train_begin(self, logs=None):
        self.model.watch.reset()

    def on_epoch_end(self, epoch, logs=None):
        self.model.watch.check(self.model)
        self.model.watch.tell_collapse(self.model)


def _number(iterations):
    """Of a step, from 1: one that float16's scaling skips may leave 0 iterations."""
    return tf.maximum(tf.cast(iterations, tf.int64), 1)


def _of_replicas(method, variable):
    return method.distribute_strategy.experimental_local_results(variable)


def _first(method, variable) -> int:
    """The first step that a replica remembers; 0: none does."""
    return min((int(step) for step in _of_replicas(method, variable) if int(step)), default=0)


def _refuse(what, method):
    raise InputError(
        f"{what} (now: {non_finite(method.student) or 'none of the student'}); nothing is saved; "
        "try a smaller learning rate or weight of the largest term, and look at the images"
    )
