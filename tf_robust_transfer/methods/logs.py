"""What a method logs: its terms and the clean accuracy, of a step and of validation images."""

import keras
import tensorflow as tf

from tf_robust_transfer.losses import classification
from tf_robust_transfer.methods.directions import Directions
from tf_robust_transfer.ops import replicas


class LogsItsTerms:
    """The means of a method's terms, and its accuracy, as Keras shows them."""

    _trackers: dict = {}  # {name: keras.metrics.Mean}, the method's own from `compile` on

    @property
    def metrics(self):
        trackers = list(self._trackers.values())
        return [*trackers, Directions(trackers)]

    def _follow(self, names):
        """A mean of each name; those that are there keep what they have seen."""
        if tuple(self._trackers) != names:
            self._trackers = {name: keras.metrics.Mean(name=name) for name in names}

    def test_step(self, data):
        """Clean accuracy and cross-entropy of the student."""
        images, labels = self.unpacked(data)
        logits = self.student(images, training=False)
        right = tf.cast(classification.is_correct(logits, labels), tf.float32)
        sums = {
            "right": tf.reduce_sum(right),
            "loss": tf.reduce_sum(classification.cross_entropy(logits, labels)),
            "seen": tf.cast(tf.size(right), tf.float32),
        }
        # Keras takes the replicas' means for one another's, however many examples they are of.
        wholes = replicas.whole(sums)
        self._see_accuracy(wholes)
        seen = wholes["seen"]
        self._trackers["loss"].update_state(wholes["loss"] / seen, sample_weight=seen)
        return {
            "loss": self._trackers["loss"].result(),
            "accuracy": self._trackers["accuracy"].result(),
        }

    def _log(self, loss, terms, logits, labels):
        shown = {"loss": loss, **{name: value for name, (_, value) in terms.items()}}
        right = tf.cast(classification.is_correct(logits, labels), tf.float32)
        counts = {"right": replicas.global_sum(right), "seen": tf.cast(tf.size(right), tf.float32)}
        asked = self._asked_to_stop()
        wholes = replicas.whole(shown | counts | asked)
        for name in shown:
            self._trackers[name].update_state(wholes[name])
        self._see_accuracy(wholes)
        self.watch.see_losses(shown, self.iterations)
        self.watch.see_logits(logits)
        # A term that this step does not have (IGAM's during its warm start) is not shown as 0.
        results = {name: self._trackers[name].result() for name in (*shown, "accuracy")}
        return results | {name: wholes[name] for name in asked}

    def _see_accuracy(self, wholes):
        """wholes: how many examples of the global batch were `right`, and `seen`."""
        weights = tf.stack([wholes["right"], wholes["seen"] - wholes["right"]])
        self._trackers["accuracy"].update_state(tf.constant([1.0, 0.0]), sample_weight=weights)
