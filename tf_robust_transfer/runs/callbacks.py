"""Keras callbacks of a run: they watch, they write, they change nothing about the training."""

import logging
import math
import pathlib
import signal
import sys
import threading
import time

import keras
import tensorflow as tf

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


class BatchCount(keras.callbacks.Callback):
    """Counts the batches of a training. Under float16 that is not the number of steps: the scaling
    skips one whose gradient overflows. Has to come before what saves.

    Args:
        method: `methods.Method`, compiled, whose state is restored.
        kept: the count of the checkpoint that was restored, an int64 variable, kept up to date;
            None where no step is ever skipped.
    """

    def __init__(self, method, kept: tf.Variable | None):
        super().__init__()
        self._kept = kept
        self.done = method.steps_done if kept is None else int(kept)

    def on_train_batch_end(self, batch, logs=None):
        self.done += 1
        if self._kept is not None:
            self._kept.assign(self.done)


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
        count: `BatchCount`, called before this.

    Beside the checkpoints `seconds.txt` has the wall time of all starts of the run, compiling and
    watching included.
    """

    def __init__(self, manager, minutes, count):
        super().__init__()
        self._count = count
        self._manager, self._seconds, self._last = manager, 60 * minutes, time.monotonic()
        self._clock = pathlib.Path(manager.directory) / checkpoints.SECONDS
        self._start = time.monotonic() - (training_seconds(manager.directory) or 0.0)

    def save(self):
        # A ReLU may hide from the losses what is wrong with the weights.
        self.model.watch.check(self.model)
        checkpoints.save(self._manager, self._count.done)
        self._last = time.monotonic()
        # What was trained after the last checkpoint before a kill is in no start's time.
        write_text(self._clock, f"{time.monotonic() - self._start:.3f}\n")

    def save_where_unsaved(self):
        last = self._manager.latest_checkpoint or ""
        if not last.endswith(f"-{self._count.done}"):
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
        count: `BatchCount`, called before this.
        checkpoint: `Checkpoint`; None on workers that do not write.
    """

    def __init__(self, strategy, count, checkpoint):
        super().__init__()
        self._count = count
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
            f"terminated after step {self._count.done}; start the same command again to go on\n"
        )
        sys.exit(TERMINATED)
