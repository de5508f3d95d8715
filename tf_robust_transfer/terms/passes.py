"""Passes: how a batch of images goes through the networks.

A pass is a callable (images, labels, seed) -> what it has seen, a dict, of which terms are taken:

- "labels": int [batch], or float [batch, classes] where they are mixed;
- "logits", "teacher_logits": float [batch, classes];
- "endpoints", "teacher_endpoints": {name: float [batch, height, width, channels]};
- "student_gradient", "teacher_gradient": input gradients, float [batch, height, width, channels].

Each has what its terms need, and may have more for terms of its own. The student is in training
mode, the teacher never is, and no gradient reaches it."""

import dataclasses

import tensorflow as tf

from tf_robust_transfer.data.mixup import mixup, mixup_weights
from tf_robust_transfer.flag_types import boolean, fraction
from tf_robust_transfer.models.endpoints import endpoints
from tf_robust_transfer.ops import replicas
from tf_robust_transfer.options import Options, at_least, from_keywords, option


class Logits:
    """The images as they come: labels, logits, and the teacher's logits where there is one."""

    def __init__(self, student, teacher=None):
        self.student, self.teacher = student, teacher

    def __call__(self, images, labels, seed):
        seen = {"labels": labels, "logits": self.student(images, training=True)}
        if self.teacher is not None:
            seen["teacher_logits"] = tf.stop_gradient(self.teacher(images, training=False))
        return seen


class MixedExamples:
    """Mixup examples (section 5.4 of the MixACM paper), the same for both networks: mixed labels,
    logits and endpoints of both.

    What is seen is float32 whatever the networks compute in.

    Args:
        student, teacher: functional keras.Models, images -> logits.
        student_endpoints, teacher_endpoints: for models of your own, the submodels made by
            `rt.endpoints(model, {...})`.
        mixup_alpha, mixup_per_example: see `rt.MixACM`.

    Attributes:
        student_endpoints, teacher_endpoints: keras.Models, images -> dict of endpoints.
    """

    @dataclasses.dataclass(frozen=True)
    class Options(Options):
        mixup_alpha: float = option(1.0, "Beta(alpha, alpha); 0: no mixup", fraction, **at_least(0))
        mixup_per_example: bool = option(False, "a mixup weight for each example", boolean)

    def __init__(
        self, student, teacher, *, student_endpoints=None, teacher_endpoints=None, **keywords
    ):
        self.options = from_keywords(self.Options, keywords)
        self.student_endpoints = student_endpoints or endpoints(student)
        self.teacher_endpoints = teacher_endpoints or endpoints(teacher)

    def __call__(self, images, labels, seed):
        labels = tf.one_hot(labels, self.student_endpoints.output["logits"].shape[-1])
        if self.options.mixup_alpha:
            images, labels = mixup(images, labels, lam=self._weights(tf.shape(images)[0], seed))
        student = _float32(self.student_endpoints(images, training=True))
        teacher = _float32(self.teacher_endpoints(images, training=False))
        teacher = {name: tf.stop_gradient(value) for name, value in teacher.items()}
        return {
            "labels": labels,
            "logits": student["logits"],
            "teacher_logits": teacher["logits"],
            "endpoints": student,
            "teacher_endpoints": teacher,
        }

    def _weights(self, rows, seed):
        per_example = self.options.mixup_per_example

        def draw(count):
            return mixup_weights(
                count, alpha=self.options.mixup_alpha, per_example=per_example, seed=seed
            )

        return replicas.own_rows(draw, rows) if per_example else draw(rows)


def _float32(tensors: dict) -> dict:
    return {name: tf.cast(tensor, tf.float32) for name, tensor in tensors.items()}
