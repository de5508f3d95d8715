"""Keras callbacks that look at a run and add to its logs, and change nothing about it."""

import logging
import re
import time
import warnings

import keras
import numpy as np

from tf_robust_transfer.evaluation import RobustnessWarning, evaluate_robustness, parse_attack

_LOG = logging.getLogger("tf_robust_transfer")


class StopOnNonFinite(keras.callbacks.Callback):
    """Stops the run where a loss term or a weight has become NaN or infinite.

    The device remembers the first such step and its terms, see `Watch`; it is asked at most once in
    `SECONDS`, since it has to finish its work for an answer, at the end of each epoch, and before
    anything is saved.

    Raises:
        InputError: names the step and the terms.
    """

    SECONDS = 1.0

    def on_train_begin(self, logs=None):
        self._asked = time.monotonic()

    def on_train_batch_end(self, batch, logs=None):
        if time.monotonic() - self._asked >= self.SECONDS:
            self.model.watch.check(self.model)
            self._asked = time.monotonic()


class WatchFirstSteps(keras.callbacks.Callback):
    """Warns in a line where the first steps of a run throw the weights far out: what is learned
    after that is little.

    It reads the first kernel at the start and after `CHECKED` steps of the run; a run that goes on
    is not looked at."""

    CHECKED = (1, 10, 50)
    # In 50 steps that train well it grows by less than 0.7 of its start (docs/results/first_steps).
    MOST = 5.0

    def on_train_begin(self, logs=None):
        self._done = self.model.steps_done
        if not self._done:
            self._start = np.linalg.norm(first_kernel(self.model.student))

    def on_train_batch_end(self, batch, logs=None):
        self._done += 1
        if self._done not in self.CHECKED or not getattr(self, "_start", 0.0):
            return
        growth = np.linalg.norm(first_kernel(self.model.student)) / self._start
        if growth > self.MOST:
            _LOG.warning(
                "the first steps throw the weights out: by step %d the first kernel is %.0f times "
                "as large as at the start; let the learning rate warm up (--warm_up_epochs), clip "
                "the gradient (--gradient_clip_norm) or lower the weight of the largest term",
                self._done,
                growth,
            )
            self._start = 0.0


def first_kernel(model) -> np.ndarray:
    """The first trained variable of two axes or more."""
    return next(v for v in model.trainable_variables if len(v.shape) > 1).numpy()


class Rates(keras.callbacks.Callback):
    """Adds learning rate and images a second to each epoch's logs.

    Has to come before the callbacks that read the logs, and before those that take time.

    Args:
        batch_size: of the training.
    """

    def __init__(self, batch_size):
        super().__init__()
        self._batch_size = batch_size

    def on_epoch_begin(self, epoch, logs=None):
        self._started, self._steps = time.monotonic(), 0

    def on_train_batch_end(self, batch, logs=None):
        self._steps += 1

    def on_epoch_end(self, epoch, logs=None):
        seconds = time.monotonic() - self._started
        logs["images_per_second"] = self._steps * self._batch_size / seconds
        rate = keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)
        logs["learning_rate"] = float(rate)


class WatchAccuracy(keras.callbacks.Callback):
    """Adds clean and robust accuracy on a few test examples to each epoch's logs.

    Has to come before the callbacks that read the logs. What makes its figures doubtful is said
    once in a run.

    Args:
        images, labels: float32 [n, height, width, channels] in [0, 1] and int [n]; n = 0 measures
            no accuracy.
        threat_model: of the robust accuracy.
        attack: name of the attack, such as "pgd10".
        seed: of the attack.
        measured: `measured.Measured`, what is measured of the method.
    """

    def __init__(self, images, labels, *, threat_model, attack, seed, measured):
        super().__init__()
        self.images, self.labels, self.threat_model = images, labels, threat_model
        # One object for all epochs, so that it is compiled once.
        self.attack = {attack: parse_attack(attack)}
        self.seed, self._measured = seed, measured
        self._told = set()

    def on_epoch_end(self, epoch, logs=None):
        if len(self.images):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", RobustnessWarning)
                result = evaluate_robustness(
                    self._measured.take(),
                    self.images,
                    self.labels,
                    threat_model=self.threat_model,
                    attacks=self.attack,
                    seed=self.seed,
                    check_model=False,
                )
            self._tell(caught)
            logs["test_clean_accuracy"] = result.accuracy["clean"]
            logs["test_robust_accuracy"] = result.accuracy[result.attacks[-1]]

    def _tell(self, caught):
        for found in caught:
            # The same with other figures is no news.
            kind = re.sub(r"[\d.]+", "", str(found.message))
            if kind not in self._told:
                self._told.add(kind)
                warnings.warn_explicit(found.message, found.category, found.filename, found.lineno)
