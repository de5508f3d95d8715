"""The event files of a run, which TensorBoard reads: one run of it for each run folder."""

import contextlib
import time

import numpy as np
import tensorflow as tf
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.plugins.hparams import summary_v2 as hparams
from tensorboard.plugins.image import metadata as image_metadata
from tensorboard.plugins.scalar.summary_v2 import scalar_pb
from tensorboard.plugins.text.summary_v2 import text_pb
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from tensorboard.util.tensor_util import make_tensor_proto

from tf_robust_transfer.errors import InputError

_DESCRIPTIONS = {
    "accuracy": "Final accuracy on the test images under this attack, as in results.json.",
    "diagnostics/alpha": "Alignment of image and input gradient, mean over test images (IGAM, 6).",
    "diagnostics/rho": "Linearised robustness: distance to the nearest class, mean.",
    "diagnostics/rho_minus_alpha": "What linearised robustness has over alignment, mean.",
    "diagnostics/cosine": "Cosine between the input gradients of student and teacher, mean.",
    "diagnostics/l2_distance": "l2 distance between the input gradients of the two, mean.",
    "diagnostics/teacher_alpha": "The teacher's alpha, which does not change: a line to compare.",
    "diagnostics/teacher_rho": "The teacher's rho, which does not change: a line to compare.",
    "loss": "Weighted sum of the terms, on training batches.",
    "accuracy of training": "Share of training images that are classified right.",
    "test_clean_accuracy": "Accuracy on the first test images (--watch_examples).",
    "test_robust_accuracy": "The same under --watch_attack.",
    "learning_rate": "At the end of the epoch.",
    "images_per_second": "Training images a second, without what is measured between epochs.",
    "gradient_norm": "Global l2 norm of the gradient before it is clipped.",
    "weight_decay": "Half the sum of the squared weights that decay, without its weight.",
    "discriminator_accuracy": "Share of gradients that the discriminator tells apart; 0.5: none.",
    "vanished_gradients": "Share of examples whose input gradient is below a millionth of the "
    "teacher's norm.",
}
_MEANS = {
    "steps": "Mean from the start of the epoch to this step.",
    "epochs": "Of the whole epoch, at its last step.",
}


def describe(tag: str) -> str:
    """What a scalar is, for the person who hovers over it."""
    kind, _, name = tag.partition("/")
    if kind not in _MEANS:
        return _DESCRIPTIONS.get(tag) or _DESCRIPTIONS[kind]
    name = "accuracy of training" if name == "accuracy" else name
    known = _DESCRIPTIONS.get(name, f"Loss term {name}, without its weight, on training batches.")
    return f"{known} {_MEANS[kind]}"


class Events:
    """Writes one event file, from a step on; what earlier files have of later steps is void. A
    context manager, which closes it.

    Args:
        folder: run folder's `tensorboard`.
        step: training steps that are done; 0 begins a run.

    Raises:
        InputError: it cannot be written, such as on a full disk; every method too.
    """

    def __init__(self, folder, step: int):
        self._folder = str(folder)
        with self._told_when_unwritable():
            self._writer = EventFileWriter(self._folder)
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._add(step + 1 if step else 0, session_log=start)

    def scalar(self, tag: str, value, step: int) -> None:
        self._add(step, summary=scalar_pb(tag, np.float32(value), describe(tag)))

    def picture(self, tag: str, png: bytes, size: tuple[int, int], step: int, description) -> None:
        """png: of that size, (width, height)."""
        metadata = image_metadata.create_summary_metadata(None, description)
        tensor = make_tensor_proto([str(size[0]).encode(), str(size[1]).encode(), png])
        value = summary_pb2.Summary.Value(tag=tag, metadata=metadata, tensor=tensor)
        self._add(step, summary=summary_pb2.Summary(value=[value]))

    def text(self, tag: str, text: str, description: str) -> None:
        """text: Markdown."""
        self._add(0, summary=text_pb(tag, text, description))

    def settings(self, name: str, values: dict) -> None:
        """A row of the tab HParams. values: name -> bool, number or text."""
        self._add(0, summary=hparams.hparams_pb(values, trial_id=name))

    def _add(self, step, **what):
        with self._told_when_unwritable():
            self._writer.add_event(event_pb2.Event(wall_time=time.time(), step=step, **what))

    def flush(self) -> None:
        with self._told_when_unwritable():
            self._writer.flush()

    def close(self) -> None:
        with self._told_when_unwritable():
            self._writer.close()

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        # What ended the training already is the news.
        with contextlib.suppress(*([InputError] if kind else [])):
            self.close()

    @contextlib.contextmanager
    def _told_when_unwritable(self):
        try:
            yield
        except (tf.errors.OpError, OSError) as error:
            reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:200]
            raise InputError(
                f"cannot write TensorBoard's events in {self._folder!r}: {reason}; once it can be "
                "written, start the same command again to go on"
            ) from error
