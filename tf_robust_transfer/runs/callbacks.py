"""Keras callbacks of a run: they watch, they write, they change nothing about the training."""

import logging
import math
import sys
import time

import keras
import numpy as np
import tensorflow as tf
import tqdm

from tf_robust_transfer.errors import InputError
from tf_robust_transfer.evaluation import evaluate_robustness, parse_attack
from tf_robust_transfer.models.precision import take_weights
from tf_robust_transfer.plots.input_gradients import input_gradient_image
from tf_robust_transfer.runs import checkpoints

_LOG = logging.getLogger("tf_robust_transfer")


class StopOnNonFinite(keras.callbacks.Callback):
    """Stops the run at the first loss term that is NaN or infinite.

    Raises:
        InputError: names the step and the terms. It is raised before any checkpoint of that step is
            written, so it has to come before the callbacks that write.
    """

    def on_train_batch_end(self, batch, logs=None):
        # The logs are means since the start of the epoch: the first bad value is seen in the step
        # that made it.
        bad = [name for name, value in (logs or {}).items() if not math.isfinite(float(value))]
        if bad:
            terms = [name for name in bad if name != "loss"] or bad
            raise InputError(
                f"the loss is not finite at step {self.model.steps_done}: {', '.join(terms)}; the "
                "last good "
                "checkpoint is kept; try a smaller learning rate or weight of that term, in a new "
                "run folder"
            )


class WatchFirstSteps(keras.callbacks.Callback):
    """Warns in a line where the first steps of a run throw the weights far out: what is learned
    after that is little.

    It reads the first kernel at the start and after `CHECKED` steps of the run; a run that goes on
    is not looked at."""

    CHECKED = (1, 10, 50)
    # In 50 steps that train well it grows by less than a half (docs/results/first_steps).
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


class WatchAccuracy(keras.callbacks.Callback):
    """Adds clean and robust accuracy on a few test examples, learning rate and images a second to
    each epoch's logs.

    Has to come before the callbacks that read the logs.

    Args:
        images, labels: float32 [n, height, width, channels] in [0, 1] and int [n]; n = 0 measures
            no accuracy.
        threat_model: of the robust accuracy.
        attack: name of the attack, such as "pgd10".
        batch_size: of the training, for the images a second.
        seed: of the attack.
        student: keras.Model that is measured, with the weights that the trained student has by
            then: that student itself, or what `in_float32` made of it.
    """

    def __init__(self, images, labels, *, threat_model, attack, batch_size, seed, student):
        super().__init__()
        self.images, self.labels, self.threat_model = images, labels, threat_model
        # One object for all epochs, so that it is compiled once.
        self.attack = {attack: parse_attack(attack)}
        self.batch_size, self.seed, self.student = batch_size, seed, student

    def on_epoch_begin(self, epoch, logs=None):
        self._started, self._steps = time.monotonic(), 0

    def on_train_batch_end(self, batch, logs=None):
        self._steps += 1

    def on_epoch_end(self, epoch, logs=None):
        logs["images_per_second"] = (
            self._steps * self.batch_size / (time.monotonic() - self._started)
        )
        logs["learning_rate"] = float(
            keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)
        )
        if len(self.images):
            take_weights(self.student, self.model.student)
            result = evaluate_robustness(
                self.student,
                self.images,
                self.labels,
                threat_model=self.threat_model,
                attacks=self.attack,
                seed=self.seed,
                check_model=False,
            )
            logs["test_clean_accuracy"] = result.accuracy["clean"]
            logs["test_robust_accuracy"] = result.accuracy[result.attacks[-1]]


class Progress(keras.callbacks.Callback):
    """One line that shows the images done, loss terms, images a second and time left, and one line
    an epoch.

    Args:
        total_steps, start_step: of the whole run, and where this start of it begins.
        batch_size: images in a step.
        name: shown before the bar.
    """

    def __init__(self, *, total_steps, start_step, batch_size, name):
        super().__init__()
        # A terminal is redrawn often; a log file gets a line now and then.
        interval = 0.5 if sys.stderr.isatty() else 30
        self._bar = tqdm.tqdm(
            total=total_steps * batch_size,
            initial=start_step * batch_size,
            desc=name,
            unit=" images",
            unit_scale=True,
            mininterval=interval,
            dynamic_ncols=True,
        )
        self._batch_size = batch_size

    def on_train_batch_end(self, batch, logs=None):
        if self._bar.update(self._batch_size):
            shown = {name: f"{float(value):.3g}" for name, value in (logs or {}).items()}
            self._bar.set_postfix({"step": self.model.steps_done, **shown}, refresh=False)

    def on_epoch_end(self, epoch, logs=None):
        shown = "  ".join(f"{name} {value:.4g}" for name, value in (logs or {}).items())
        self._bar.write(f"epoch {epoch + 1}  {shown}", file=sys.stderr)

    def close(self):
        self._bar.close()


class InputGradientImages(keras.callbacks.Callback):
    """Writes input gradients of student and teacher to TensorBoard at the end of each epoch.

    Args:
        log_dir: TensorBoard folder.
        images, labels: the examples shown; none: nothing is written.
        teacher: keras.Model or None.
    """

    def __init__(self, log_dir, images, labels, teacher=None):
        super().__init__()
        self._log_dir, self._images, self._labels, self._teacher = (
            str(log_dir),
            images,
            labels,
            teacher,
        )

    def on_train_begin(self, logs=None):
        self._writer = tf.summary.create_file_writer(self._log_dir)

    def on_epoch_end(self, epoch, logs=None):
        if not len(self._images):
            return
        with self._writer.as_default(step=epoch):
            count = len(self._images)
            student = input_gradient_image(self.model.student, self._images, self._labels)
            tf.summary.image("input_gradients/student", student, max_outputs=count)
            if self._teacher is not None:
                teacher = input_gradient_image(self._teacher, self._images, self._labels)
                tf.summary.image("input_gradients/teacher", teacher, max_outputs=count)

    def on_train_end(self, logs=None):
        self._writer.close()


class Checkpoint(keras.callbacks.Callback):
    """Saves the whole state of the run at the end of each epoch, and within one every so many
    minutes.

    Args:
        manager: tf.train.CheckpointManager.
        minutes: 0 saves at the end of epochs only.
    """

    def __init__(self, manager, minutes):
        super().__init__()
        self._manager, self._seconds, self._last = manager, 60 * minutes, time.monotonic()

    def _save(self):
        # A ReLU may hide from the losses what is wrong with the weights.
        self.model.watch.check(self.model)
        checkpoints.save(self._manager, self.model.steps_done)
        self._last = time.monotonic()

    def on_train_batch_end(self, batch, logs=None):
        if self._seconds and time.monotonic() - self._last > self._seconds:
            self._save()

    def on_epoch_end(self, epoch, logs=None):
        self._save()
