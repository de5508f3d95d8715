"""Adversarially robust distillation (ARD), Goldblum et al. 2020, https://arxiv.org/abs/1905.09747."""

import dataclasses

import tensorflow as tf

from tf_robust_transfer.methods.adversarial import AdversarialTraining
from tf_robust_transfer.methods.base import Method
from tf_robust_transfer.methods.shared_options import InnerAttack
from tf_robust_transfer.models.pairs import check_pair
from tf_robust_transfer.options import group, keywords_of
from tf_robust_transfer.terms import CrossEntropy, Logits, SoftLabels


class AdversarialDistillation(AdversarialTraining):
    """kld_weight gamma^2 KL(teacher(x) || student(x + delta)) + (1 - kld_weight)
    cross-entropy(student(x)).

    delta maximises the student's cross-entropy; the teacher is asked about the natural image. A
    baseline that pays for adversarial examples, which MixACM and IGAM do not.

    Args (keyword-only), beside those of `AdversarialTraining`:
        teacher: keras.Model of the student's input shape and classes, frozen, called with
            training=False.
        kld_weight: alpha in [0, 1]. With 1, as in the authors' runs, the natural images do not pass
            the student at all.
        temperature: gamma of the soft labels; the authors' code has 30.

    Departures from the authors' code: its inner attack takes 10 steps of 2/255 at eps 8/255 (ours 7
    of 2.5 eps / 7 by default: `PGD(10, step_size=2 / 255)`), from a start that is not cut to the
    pixels' bounds; its KL is also divided by the number of classes, the paper's
    is not; its examples are made on batch statistics, ours on frozen ones; its cross-entropy's pass
    moves the batch statistics even at weight 0. The training accuracy in the logs is that on the
    adversarial examples."""

    @dataclasses.dataclass(frozen=True)
    class Options(Method.Options):
        soft_labels: SoftLabels.Options = group(
            SoftLabels.Options, kld_weight=1.0, temperature=30.0
        )

    @dataclasses.dataclass(frozen=True)
    class Flags(Options):
        inner: InnerAttack = group(InnerAttack)

    takes_teacher = True

    def __init__(self, *, student, teacher, threat_model, **kwargs):
        super().__init__(student=student, threat_model=threat_model, **kwargs)
        check_pair(student, teacher)
        self.teacher = teacher
        teacher.trainable = False
        soft_labels = self.options.soft_labels
        self.terms = [SoftLabels(of=self.adversarial, **keywords_of(soft_labels))]
        if soft_labels.kld_weight < 1:
            natural = CrossEntropy(1.0 - soft_labels.kld_weight, of=Logits(student))
            self.terms = [*self.terms, natural]

    def adversarial(self, images, labels, seed):
        """The pass of the moved images, with the teacher's logits of the images as they come."""
        seen = super().adversarial(images, labels, seed)
        return seen | {"teacher_logits": tf.stop_gradient(self.teacher(images, training=False))}

    def accuracy_of(self):
        return self.adversarial
