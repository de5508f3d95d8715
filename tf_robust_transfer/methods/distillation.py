"""Knowledge distillation on natural images: the baseline that does not transfer robustness (Table 1
of MixACM, RKD).
"""

import dataclasses

import tensorflow as tf

from tf_robust_transfer.losses import classification, distillation
from tf_robust_transfer.methods.base import Method, check_pair
from tf_robust_transfer.methods.shared_options import SoftLabels
from tf_robust_transfer.ops import replicas
from tf_robust_transfer.options import group


class Distillation(Method):
    """(1 - kld_weight) cross-entropy + kld_weight gamma^2 KL(teacher || student) on the images as
    they come.

    Args (keyword-only), beside those of `Method`:
        teacher: keras.Model of the student's input shape and classes, frozen, called with
        training=False. kld_weight: alpha_kld in [0, 1]. temperature: gamma of the soft labels.
    """

    @dataclasses.dataclass(frozen=True)
    class Options(Method.Options):
        soft_labels: SoftLabels = group(SoftLabels)

    takes_teacher = True

    def __init__(self, *, student, teacher, **kwargs):
        super().__init__(student=student, **kwargs)
        check_pair(student, teacher)
        self.teacher = teacher
        teacher.trainable = False
        soft_labels = self.options.soft_labels
        self.kld_weight, self.temperature = soft_labels.kld_weight, soft_labels.temperature

    def term_names(self):
        return "cross_entropy", "kld"

    def loss_terms(self, images, labels):
        logits = self.student(images, training=True)
        teacher_logits = tf.stop_gradient(self.teacher(images, training=False))
        kld = distillation.kl_divergence(teacher_logits, logits, self.temperature)
        cross_entropy = classification.cross_entropy(logits, labels)
        return logits, {
            "cross_entropy": (1.0 - self.kld_weight, replicas.global_mean(cross_entropy)),
            "kld": (self.kld_weight, replicas.global_mean(kld)),
        }
