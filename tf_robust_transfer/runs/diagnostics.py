"""The quantities of section 6 of the IGAM paper in TensorBoard, epoch by epoch."""

import keras
import numpy as np

from tf_robust_transfer.analysis.alignment import Alignment

# In an epoch: each example takes one for each class but one, so that 200 classes leave 25 of 500
# examples.
_BACKWARD_PASSES = 5000


class GradientDiagnostics(keras.callbacks.Callback):
    """Writes alignment and linearised robustness of the student to TensorBoard at the end of each
    epoch.

    The scalars diagnostics/alpha, rho and rho_minus_alpha are means of the finite values of the
    examples (`gradient_alignment`); one without any is left out. With a teacher come cosine and
    l2_distance, between the input gradients of the two, and teacher_alpha and teacher_rho, which
    are found once and written with every epoch as a line to compare with. Nothing random is drawn
    and nothing of the training is touched.

    Args:
        events: `Events` of the run.
        measured: `measured.Measured`, what is measured of the method.
        images, labels: float32 [n, height, width, channels] in [0, 1] and int [n]; of many classes
            only the first of them are looked at. n = 0: nothing is written.
        count: `callbacks.BatchCount`, called before this.
        teacher: keras.Model or None; one of other images or classes than the student's is not
            compared with.
    """

    def __init__(self, events, measured, images, labels, count, teacher=None):
        super().__init__()
        self._count = count
        self._events, self._measured, self._teacher = events, measured, teacher
        self._images, self._labels = images, labels
        self._alignment, self._teachers = None, {}

    def on_epoch_end(self, epoch, logs=None):
        if not len(self._images):
            return
        student = self._measured.take()
        if self._alignment is None:
            self._begin(student)
        found = self._alignment(self._images, self._labels)
        names = ("alpha", "rho", "rho_minus_alpha", "cosine", "l2_distance")
        scalars = {
            name: getattr(found, name) for name in names if getattr(found, name) is not None
        } | self._teachers
        for name, values in scalars.items():
            if np.isfinite(values).any():
                mean = np.mean(values[np.isfinite(values)])
                self._events.scalar(f"diagnostics/{name}", mean, self._count.done)

    def _begin(self, student):
        """Once for all epochs, so that it is compiled once."""
        shapes = student.input_shape[1:], student.output_shape[-1]
        if (
            self._teacher is not None
            and (self._teacher.input_shape[1:], self._teacher.output_shape[-1]) != shapes
        ):
            self._teacher = None
        count = max(1, _BACKWARD_PASSES // (shapes[1] - 1))
        self._images, self._labels = self._images[:count], self._labels[:count]
        self._alignment = Alignment(student, self._teacher)
        if self._teacher is not None:
            found = Alignment(self._teacher)(self._images, self._labels)
            self._teachers = {"teacher_alpha": found.alpha, "teacher_rho": found.rho}
