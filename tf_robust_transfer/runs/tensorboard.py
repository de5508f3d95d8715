"""What a run shows in TensorBoard."""

import shlex
import sys

import keras

from tf_robust_transfer.command_line import to_text
from tf_robust_transfer.options import to_texts
from tf_robust_transfer.plots.channel_maps import channel_map_picture, channel_maps_of
from tf_robust_transfer.plots.input_gradients import CHANNELS, gradient_picture, scaled_gradients
from tf_robust_transfer.runs.events import Events
from tf_robust_transfer.runs.folder import FREE_FLAGS
from tf_robust_transfer.terms import ChannelMaps

# TensorBoard shows ten pictures of a tag by default.
_PICTURES = 10


class TensorBoard(keras.callbacks.Callback):
    """Writes scalars every so many steps and at the end of each epoch, and some ten pictures a run.

    The pictures are input gradients, "image | teacher | student", and where the method has the term
    the sorted channel maps. It changes nothing about the training and draws nothing random.

    Args:
        events: `Events` of the run.
        measured: `measured.Measured`, what is shown of the method.
        count: `callbacks.BatchCount`, called before this.
        every: steps between scalars.
        epochs: of the whole run.
        images, labels: the test examples of the pictures; none, or of other than
            1 or 3 channels: no pictures.
        teacher: keras.Model or None; one of other images or classes stays out.
    """

    def __init__(self, events, measured, *, count, every, epochs, images, labels, teacher):
        super().__init__()
        self._events, self._measured, self._count = events, measured, count
        self._every, self._epochs = every, epochs
        self._images, self._labels, self._teacher = images, labels, teacher
        if images.shape[-1] not in CHANNELS:
            self._images = images[:0]
        self._begun, self._gradients, self._maps, self._teachers_maps = False, {}, None, {}

    def on_train_begin(self, logs=None):
        self._step = self._count.done
        if self._begun or not len(self._images):
            return
        self._begun, student = True, self._measured.network
        shapes = student.input_shape, student.output_shape
        teacher = self._teacher
        if teacher is not None and (teacher.input_shape, teacher.output_shape) != shapes:
            teacher = None
        if teacher is not None:
            self._gradients["teacher"] = scaled_gradients(teacher, self._images, self._labels)
        if any(isinstance(term, ChannelMaps) for term in self.model.terms):
            self._maps = channel_maps_of(student)
            if teacher is not None:
                self._teachers_maps["teacher"] = channel_maps_of(teacher)(self._images)

    def on_train_batch_end(self, batch, logs=None):
        self._step += 1
        if self._step % self._every == 0:
            self._write("steps", logs)

    def on_epoch_end(self, epoch, logs=None):
        self._write("epochs", logs)
        if len(self._images) and self._due(epoch + 1):
            self._draw()
            self._events.flush()

    def _write(self, kind, logs):
        for name, value in (logs or {}).items():
            self._events.scalar(f"{kind}/{name}", value, self._step)
        # Before the checkpoint of this step, from which a killed run goes on.
        self._events.flush()

    def _due(self, epoch):
        return epoch in (1, self._epochs) or epoch % max(1, self._epochs // _PICTURES) == 0

    def _draw(self):
        student = self._measured.take()
        shown = scaled_gradients(student, self._images, self._labels)
        gradients = self._gradients | {"student": shown}
        self._events.picture(
            "input_gradients",
            *gradient_picture(self._images, gradients),
            self._step,
            f"{' | '.join(['image', *gradients])}: input gradients of the cross-entropy on test "
            "images, each scaled by itself; colours as in input_gradients.png.",
        )
        if self._maps is not None:
            maps = self._teachers_maps | {"student": self._maps(self._images)}
            self._events.picture(
                "channel_maps",
                *channel_map_picture(maps, len(self._images)),
                self._step,
                "Activated channel maps of each block, sorted (MixACM, Figure 5), over "
                f"{len(self._images)} test images.",
            )


def begin(events: Events, config, name: str) -> None:
    """The flags and the command of a run, as text and as its row of the tab HParams.

    name: of the run, such as seed0/mnist_igam; it tells runs of the same flags apart.
    """
    texts = to_text(config)
    defaults = to_texts(type(config)()) | to_texts(type(config.of_method)())
    flags = "".join(f"    --{name}={text}\n" for name, text in texts.items())
    events.text("run/flags", flags, "flags.txt: every flag of the run.")
    command = shlex.join(["python", *sys.orig_argv[1:]])
    again = "rt-train --flagfile=flags.txt --run_dir=NEW"
    events.text("run/command", f"    {command}\n\nThe same again: `{again}`", "What was typed.")
    differ = {
        flag: _value(text)
        for flag, text in texts.items()
        if flag not in FREE_FLAGS and (flag in ("method", "seed") or defaults.get(flag) != text)
    }
    events.settings(name, differ)
    events.flush()


def end(folder, step: int, accuracy: dict[str, float]) -> None:
    """The final accuracies: the metrics of the tab HParams."""
    with Events(folder, step) as events:
        for attack, value in accuracy.items():
            events.scalar(f"accuracy/{attack}", value, step)


def _value(text):
    try:
        return float(text)
    except ValueError:
        return {"true": True, "false": False}.get(text, text)
