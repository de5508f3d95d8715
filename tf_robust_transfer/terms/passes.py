"""Passes: how a batch of images goes through the networks.

A pass is a callable (images, labels, seed) -> what it has seen, a dict, of which terms are taken:

- "labels": int [batch], or float [batch, classes] where they are mixed; then also
- "classes": int [batch], those that the logged accuracy is of (else the largest of each row);
- "logits", "teacher_logits": float [batch, classes];
- "endpoints", "teacher_endpoints": {name: float [batch, height, width, channels]};
- "student_gradient", "teacher_gradient": input gradients, float [batch, height, width, channels].

Each has what its terms need, and may have more for terms of its own. The student is in training
mode, the teacher never is, and no gradient reaches it."""

import dataclasses

import tensorflow as tf

from tf_robust_transfer.data.mixup import mixup, mixup_weights
from tf_robust_transfer.flag_types import boolean, fraction
from tf_robust_transfer.inference.faster_copy import FasterCopy
from tf_robust_transfer.models.endpoints import endpoints
from tf_robust_transfer.ops import replicas
from tf_robust_transfer.options import Options, at_least, from_keywords, option


class FrozenTeacher:
    """What a teacher makes of images, float32 and without a gradient.

    Args:
        model: keras.Model, images -> logits, or a dict of endpoints.
        teacher_precision: "float32", the model itself; or "bfloat16", a copy of it that computes in
            it (`FasterCopy`), which a subclassed model does not have.
    """

    @dataclasses.dataclass(frozen=True)
    class Options(Options):
        teacher_precision: str = option(
            "float32",
            "of the teacher's forward pass: float32 or bfloat16",
            choices=("float32", "bfloat16"),
        )

    def __init__(self, model, teacher_precision="float32"):
        self.model, self._copy = model, None
        if teacher_precision == "bfloat16":
            # The step is compiled as a whole, where it is.
            self._copy = FasterCopy(model, precision=teacher_precision, compile_with_xla=False)

    def __call__(self, images):
        seen = self._copy(images) if self._copy else self.model(images, training=False)
        return tf.nest.map_structure(lambda x: tf.stop_gradient(tf.cast(x, tf.float32)), seen)

    def refresh(self):
        """Takes the teacher's present weights."""
        if self._copy:
            self._copy.refresh()


class Logits:
    """The images as they come: labels, logits, and the teacher's logits where there is one.

    Args:
        student, teacher: keras.Models, images -> logits.
        teacher_precision: see `rt.MixACM`.
    """

    def __init__(self, student, teacher=None, *, teacher_precision="float32"):
        self.student, self.teacher = student, teacher
        self._frozen = FrozenTeacher(teacher, teacher_precision) if teacher else None

    def __call__(self, images, labels, seed):
        seen = {"labels": labels, "logits": self.student(images, training=True)}
        if self._frozen is not None:
            seen["teacher_logits"] = self._frozen(images)
        return seen

    def refresh(self):
        """Takes the teacher's present weights."""
        if self._frozen is not None:
            self._frozen.refresh()


class MixedExamples:
    """Mixup examples (section 5.4 of the MixACM paper), the same for both networks: mixed labels,
    logits and endpoints of both.

    What is seen is float32 whatever the networks compute in.

    Args:
        student, teacher: functional keras.Models, images -> logits.
        student_endpoints, teacher_endpoints: for models of your own, the submodels made by
            `rt.endpoints(model, {...})`.
        teacher_precision: see `rt.MixACM`.
        mixup_alpha, mixup_per_example: see `rt.MixACM`.

    Attributes:
        student_endpoints, teacher_endpoints: keras.Models, images -> dict of endpoints.
    """

    @dataclasses.dataclass(frozen=True)
    class Options(Options):
        mixup_alpha: float = option(1.0, "Beta(alpha, alpha); 0: no mixup", fraction, **at_least(0))
        mixup_per_example: bool = option(False, "a mixup weight for each example", boolean)

    def __init__(
        self,
        student,
        teacher,
        *,
        student_endpoints=None,
        teacher_endpoints=None,
        teacher_precision="float32",
        **keywords,
    ):
        self.options = from_keywords(self.Options, keywords)
        self.student_endpoints = student_endpoints or endpoints(student)
        self.teacher_endpoints = teacher_endpoints or endpoints(teacher)
        self._frozen = FrozenTeacher(self.teacher_endpoints, teacher_precision)

    def __call__(self, images, labels, seed):
        classes = labels
        labels = tf.one_hot(labels, self.student_endpoints.output["logits"].shape[-1])
        if self.options.mixup_alpha:
            images, labels = mixup(images, labels, lam=self._weights(tf.shape(images)[0], seed))
        student = self.student_endpoints(images, training=True)
        student = {name: tf.cast(value, tf.float32) for name, value in student.items()}
        teacher = self._frozen(images)
        return {
            "labels": labels,
            "classes": classes,
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

    def refresh(self):
        """Takes the teacher's present weights."""
        self._frozen.refresh()
