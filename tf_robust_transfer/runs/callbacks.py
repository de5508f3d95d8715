"""Keras callbacks of a run: they watch, they write, they change nothing about the training."""

import logging
import math
import pathlib
import re
import signal
import sys
import threading
import time
import warnings

import keras
import numpy as np

from tf_robust_transfer.evaluation import RobustnessWarning, evaluate_robustness, parse_attack
from tf_robust_transfer.files import write_text
from tf_robust_transfer.ops import workers
from tf_robust_transfer.progress import WIDTH, Bar
from tf_robust_transfer.runs import checkpoints

TERMINATED = 128 + signal.SIGTERM  # the exit code that a shell gives to what the signal ended
_LOG = logging.getLogger("tf_robust_transfer")


def training_seconds(folder) -> float | None:
    """Wall time until the last checkpoint in a folder; None where an older version wrote it."""
    clock = pathlib.Path(folder) / checkpoints.SECONDS
    return float(clock.read_text()) if clock.exists() else None


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
                "as large as at the start; "
                "let the learning rate warm up (--warm_up_epochs), clip the gradient "
                "(--gradient_clip_norm) or lower the "
                "weight of the largest term",
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


class Progress(keras.callbacks.Callback):
    """Shows the images done, loss terms, images a second and time left, and writes a line an epoch.

    Args:
        total_steps, start_step: of the whole run, and where this start of it begins.
        steps_per_epoch, batch_size: of the data.
        name: shown before the bar.
    """

    def __init__(self, *, total_steps, start_step, steps_per_epoch, batch_size, name):
        super().__init__()
        self._bar = Bar(
            name, total_steps * batch_size, start=start_step * batch_size, unit="images"
        )
        self._epochs = math.ceil(total_steps / steps_per_epoch)
        self._done, self._batch_size = start_step, batch_size

    def on_train_batch_end(self, batch, logs=None):
        self._done += 1
        self._bar.update(self._done * self._batch_size, lambda: self._terms(logs or {}))

    def _terms(self, logs):
        shown = (f"{name} {float(value):.3g}" for name, value in logs.items())
        return "  ".join([f"step {self._done}", *shown])

    def on_epoch_end(self, epoch, logs=None):
        self._bar.write(epoch_line(epoch + 1, self._epochs, logs or {}))

    def close(self):
        self._bar.close()


_EPOCH = {
    "loss": "loss {:.3g}",
    "accuracy": "train {:.1%}",
    "test_clean_accuracy": "test {:.1%}",
    "test_robust_accuracy": "robust {:.1%}",
    "images_per_second": "{:,.0f} images/s",
}


def epoch_line(epoch: int, epochs: int, logs: dict) -> str:
    """What an epoch has come to, in at most `progress.WIDTH` columns: what every method has, then
    as many of its terms as find room. TensorBoard has all.
    """
    rest = {name: value for name, value in logs.items() if name != "learning_rate"}
    parts = [form.format(rest.pop(name)) for name, form in _EPOCH.items() if name in rest]
    line = "  ".join([f"epoch {epoch}/{epochs}", *parts])
    for name, value in rest.items():
        more = f"  {name} {value:.3g}"
        line += more if len(line + more) <= WIDTH else ""
    return line


class Checkpoint(keras.callbacks.Callback):
    """Saves the whole state of the run at the end of each epoch and of the training, and within an
    epoch every so many minutes.

    Args:
        manager: tf.train.CheckpointManager.
        minutes: 0 saves at the end of epochs only.

    Beside the checkpoints `seconds.txt` has the wall time of all starts of the run, compiling and
    watching included.
    """

    def __init__(self, manager, minutes):
        super().__init__()
        self._manager, self._seconds, self._last = manager, 60 * minutes, time.monotonic()
        self._clock = pathlib.Path(manager.directory) / checkpoints.SECONDS
        self._start = time.monotonic() - (training_seconds(manager.directory) or 0.0)

    def save(self):
        # A ReLU may hide from the losses what is wrong with the weights.
        self.model.watch.check(self.model)
        checkpoints.save(self._manager, self.model.steps_done)
        self._last = time.monotonic()
        # What was trained after the last checkpoint before a kill is in no start's time.
        write_text(self._clock, f"{time.monotonic() - self._start:.3f}\n")

    def save_where_unsaved(self):
        last = self._manager.latest_checkpoint or ""
        if not last.endswith(f"-{self.model.steps_done}"):
            self.save()

    def on_epoch_begin(self, epoch, logs=None):
        self._save_where_due()

    def on_train_batch_end(self, batch, logs=None):
        # After an epoch's last step its end is still to come, which may choose the network.
        if batch + 1 < self.params["steps"]:
            self._save_where_due()

    def on_epoch_end(self, epoch, logs=None):
        self.save()

    def on_train_end(self, logs=None):
        self.save_where_unsaved()

    def _save_where_due(self):
        if self._seconds and time.monotonic() - self._last > self._seconds:
            self.save()


class StopWhenTerminated(keras.callbacks.Callback):
    """After SIGTERM: finishes the step, and what ends the epoch where it was its last; saves, and
    ends with exit code 143.

    Of several workers all end after the same step, whichever got the signal. A context manager: the
    signal is caught within it. Has to come last.

    Args:
        strategy: of the training.
        checkpoint: `Checkpoint`; None on workers that do not write.
    """

    def __init__(self, strategy, checkpoint):
        super().__init__()
        self._strategy, self._checkpoint = strategy, checkpoint
        self._asked, self._before = False, None

    def __enter__(self):
        # Python tells signals to the main thread alone, and Ray Train trains in another.
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._ask)
        return self

    def __exit__(self, *raised):
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)
        # It may have come after the last step, all of which is saved.
        if raised[0] is None and any(workers.exchange(self._strategy, "x" * self._asked)):
            sys.exit(TERMINATED)

    def _ask(self, *_):
        self._asked = True

    def on_train_batch_begin(self, batch, logs=None):
        self.model.asked_to_stop = self._asked

    def on_train_batch_end(self, batch, logs=None):
        if batch + 1 < self.params["steps"]:
            self._end()

    def on_epoch_end(self, epoch, logs=None):
        self._end()

    def _end(self):
        several = workers.several(self._strategy)
        if not (self.model.told_to_stop if several else self._asked):
            return
        if self._checkpoint is not None:
            self._checkpoint.save_where_unsaved()
        workers.exchange(self._strategy, "")  # nobody leaves before it is saved
        sys.stderr.write(
            f"terminated after step {self.model.steps_done}; start the same command again to go "
            "on\n"
        )
        sys.exit(TERMINATED)
