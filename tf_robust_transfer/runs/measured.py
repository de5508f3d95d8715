"""The network of a run that is watched, saved and attacked, and which of its epochs is kept."""

import json
import logging
from collections.abc import Callable, Iterable

import keras

from tf_robust_transfer.checkpoints import save_model
from tf_robust_transfer.evaluation import evaluate_robustness, parse_attack
from tf_robust_transfer.files import write_json
from tf_robust_transfer.methods.averaging import copied
from tf_robust_transfer.models.precision import in_float32, take_weights

_LOG = logging.getLogger("tf_robust_transfer")
# Batches on which an average's batch statistics are estimated: 6,400 images at batch 128.
_BATCHES = 50


class Measured:
    """The student as it is measured: in float32, with the average of its weights where the method
    keeps one.

    Args:
        method: `methods.Method`.
        batches: returns the training's batches of images, for an average's batch statistics.
    """

    def __init__(self, method, batches: Callable[[], Iterable]):
        self._method, self._batches, self._taken = method, batches, None
        self.network = in_float32(method.student)
        if method.average is not None and self.network is method.student:
            self.network = copied(method.student)

    def take(self) -> keras.Model:
        """The network, with the weights of this moment."""
        method = self._method
        if method.average is None:
            take_weights(self.network, method.student)
        elif self._taken != method.steps_done:  # batch statistics are estimated once a step
            self._taken = method.steps_done
            batches = (images for images, _ in self._batches().take(_BATCHES))
            method.average.give(self.network, method.student, batches)
        return self.network


class KeepBest(keras.callbacks.Callback):
    """Saves the network of the epoch with the most robust accuracy on held-out training images.

    Robust overfitting is the rule (Rice et al. 2020): the last epoch is often not the best. Test
    images choose nothing. Adds validation_robust_accuracy to the epoch's logs; of equal epochs the
    first is kept. A run that goes on finds the best of its earlier starts.

    Args:
        measured: `Measured`.
        images, labels: float32 [n, height, width, channels] in [0, 1] and int [n].
        threat_model, attack, seed: of the robust accuracy; attack is a name, such as "pgd10".
        path: of the saved network, a .keras file; what it was chosen by lies beside it.
    """

    def __init__(self, measured, images, labels, *, threat_model, attack, seed, path):
        super().__init__()
        self._measured, self._images, self._labels = measured, images, labels
        self._threat_model, self._attack = threat_model, {attack: parse_attack(attack)}
        self._seed, self._path = seed, path
        self._note = path.with_suffix(".json")

    def on_epoch_end(self, epoch, logs=None):
        result = evaluate_robustness(
            self._measured.take(),
            self._images,
            self._labels,
            threat_model=self._threat_model,
            attacks=self._attack,
            seed=self._seed,
            check_model=False,
        )
        robust = result.accuracy[result.attacks[-1]]
        logs["validation_robust_accuracy"] = robust
        best = json.loads(self._note.read_text()) if self._note.exists() else {}
        # An epoch that is trained again after a kill is the same epoch.
        if robust > best.get("robust_accuracy", -1.0):
            save_model(self._measured.network, self._path)
            chosen = {
                "epoch": epoch + 1,
                "robust_accuracy": robust,
                "clean_accuracy": result.accuracy["clean"],
                "num_examples": len(self._labels),
            }
            write_json(self._note, chosen)
