"""The pass that takes the input gradients of student and teacher (Eqs. 8, 9 and 17 of the IGAM
paper)."""

import dataclasses

import tensorflow as tf

from tf_robust_transfer.adapters import random_positions, seen_region
from tf_robust_transfer.adapters.layers import RandomPad
from tf_robust_transfer.errors import InputError
from tf_robust_transfer.flag_types import fraction
from tf_robust_transfer.inference.faster_copy import PRECISIONS, FasterCopy
from tf_robust_transfer.losses import classification
from tf_robust_transfer.models.batch_statistics import BATCH_NORMS, with_batch_statistics
from tf_robust_transfer.models.bounds import pixel_bounds
from tf_robust_transfer.models.copies import give_weights
from tf_robust_transfer.ops.batch_norm import batch_norm_layers, with_our_moments
from tf_robust_transfer.ops.gradients import input_gradient
from tf_robust_transfer.ops.moments import with_second_gradients
from tf_robust_transfer.ops.random import fold_seed
from tf_robust_transfer.options import Options, above, from_keywords, option

# What the matched gradient is taken of: the paper's choice and that of its reference code.
GRADIENT_OF = {
    "cross_entropy": classification.cross_entropy,
    "probability": classification.true_class_probability,
}


class InputGradients:
    """The images as they come: labels, the student's logits, both input gradients.

    The logits are of the forward pass that the student's gradient takes, so that the student runs
    once. Called under a `tf.GradientTape`, the student's gradient is differentiated by it in turn.

    Args:
        student: keras.Model, images -> logits.
        teacher: keras.Model of the same images and classes, an adapter inside where it has one. It
            is copied as it is now; `refresh` takes weights that it got since.
        keywords: gradient_of, pixel_range, teacher_batch_norm, teacher_precision; see `rt.IGAM`.

    Attributes:
        matched_teacher: whose gradient is taken: the teacher, or its form on batch statistics.
        seen_region: (rows, columns), the slices of the image that the teacher's adapter reads.
        seen_shape: (height, width, channels) of a gradient there.
    """

    @dataclasses.dataclass(frozen=True)
    class Options(Options):
        gradient_of: str = option(
            "cross_entropy", "cross_entropy or probability (of the true class)", choices=GRADIENT_OF
        )
        pixel_range: float = option(
            1.0, "gradients with respect to [0, 1] or [0, 255] pixels", fraction, **above(0)
        )
        teacher_batch_norm: str = option(
            "moving",
            "the teacher's moving averages, or batch: those of the current batch",
            choices=BATCH_NORMS,
        )
        teacher_precision: str = option(
            "float32",
            "of the teacher's gradients: float32, mixed, bfloat16 or auto",
            choices=PRECISIONS,
        )

    def __init__(self, student, teacher, **keywords):
        self.options = from_keywords(self.Options, keywords)
        self.student, self._teacher = student, teacher
        # A gradient is with respect to pixels in [0, 1], whatever bounds `as_classifier` was told.
        low, high = pixel_bounds(student)
        self._range = high - low
        self.matched_teacher = teacher
        if self.options.teacher_batch_norm == "batch":
            self.matched_teacher = with_batch_statistics(teacher)
            self.matched_teacher.trainable = False
        # The teacher is frozen, so that its batch norm can be folded: its gradient costs less.
        # A compiled function of its own would keep the places of the step that traced it first.
        placed = any(isinstance(layer, RandomPad) for layer in teacher._flatten_layers())
        # Nor would one reduce the statistics of a batch over the replicas.
        shared = self.matched_teacher is not teacher and (
            tf.distribute.get_strategy().num_replicas_in_sync > 1
        )
        self._copy = FasterCopy(
            self.matched_teacher,
            precision=self.options.teacher_precision,
            compile_with_xla=False if placed or shared else None,
        )
        if None in teacher.input_shape[1:]:
            raise InputError(
                f"the teacher takes images of any size, {teacher.input_shape[1:]}, and input "
                "gradients are matched at one: rt.as_classifier(model, input_shape=(32, 32, 3))"
            )
        rows, columns = self.seen_region = seen_region(teacher)
        self.seen_shape = (
            rows.stop - rows.start,
            columns.stop - columns.start,
            teacher.input_shape[-1],
        )

    def __call__(self, images, labels, seed):
        # The loss differentiates this gradient once more.
        layers = batch_norm_layers([self.student])
        with with_our_moments(layers, whole_batch=False), with_second_gradients():
            student_gradient, logits = self._gradient(
                lambda x: self.student(x, training=True), images, labels
            )
        with random_positions(fold_seed(seed, 4), tf.shape(images)[0]):
            teacher_gradient = self.teacher_gradient(images, labels)
        return {
            "labels": labels,
            "logits": logits,
            "student_gradient": student_gradient,
            "teacher_gradient": tf.stop_gradient(teacher_gradient),
        }

    def teacher_gradient(self, images, labels):
        """J_t, float32 of the shape of images."""
        return self._gradient(self._teacher_logits, images, labels)[0]

    def refresh(self):
        """Takes the teacher's present weights."""
        if self.matched_teacher is not self._teacher:
            give_weights(self.matched_teacher, self._teacher.get_weights())
        self._copy.refresh()

    def seen_part(self, gradient):
        """What the teacher's adapter reads of a gradient."""
        rows, columns = self.seen_region
        return gradient[:, rows, columns, :]

    def _teacher_logits(self, images):
        # A copy that cannot be made cheaper gives float32 logits, whatever the teacher computes in.
        if self._copy.follows_model:
            return self.matched_teacher(images, training=False)
        return self._copy(images)

    def _gradient(self, logits_of, images, labels):
        """(input gradient, logits)"""

        def score_of(x):
            logits = logits_of(x)
            return GRADIENT_OF[self.options.gradient_of](logits, labels), logits

        gradient, _, logits = input_gradient(score_of, images)
        return gradient * (self._range / self.options.pixel_range), logits
