"""Knowledge distillation on natural images: the baseline that does not transfer robustness (Table 1
of MixACM, RKD).
"""

import dataclasses

from tf_robust_transfer.methods.base import Method
from tf_robust_transfer.models.pairs import check_pair
from tf_robust_transfer.options import group, keywords_of
from tf_robust_transfer.terms import CrossEntropy, Logits, SoftLabels
from tf_robust_transfer.terms.passes import FrozenTeacher


class Distillation(Method):
    """(1 - kld_weight) cross-entropy + kld_weight gamma^2 KL(teacher || student) on the images as
    they come.

    Args (keyword-only), beside those of `Method`:
        teacher: keras.Model of the student's input shape and classes, frozen, called with
            training=False.
        kld_weight: alpha_kld in [0, 1].
        temperature: gamma of the soft labels.
        teacher_precision: "float32" or "bfloat16", see `MixACM`.
    """

    @dataclasses.dataclass(frozen=True)
    class Options(Method.Options):
        soft_labels: SoftLabels.Options = group(SoftLabels.Options)
        teacher: FrozenTeacher.Options = group(FrozenTeacher.Options)

    takes_teacher = True

    def __init__(self, *, student, teacher, **kwargs):
        super().__init__(student=student, **kwargs)
        check_pair(student, teacher)
        self.teacher = teacher
        teacher.trainable = False
        soft_labels = self.options.soft_labels
        of = Logits(student, teacher, **keywords_of(self.options.teacher))
        self.terms = [
            CrossEntropy(1.0 - soft_labels.kld_weight, of=of),
            SoftLabels(of=of, **keywords_of(soft_labels)),
        ]
