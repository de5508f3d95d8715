"""Knowledge distillation on natural images: the baseline that does not transfer robustness (Table 1 of MixACM, RKD)."""

import tensorflow as tf

from tf_robust_transfer.errors import InputError
from tf_robust_transfer.losses import classification, distillation
from tf_robust_transfer.methods.base import Method, check_pair
from tf_robust_transfer.ops import replicas


class Distillation(Method):
    """(1 - kld_weight) cross-entropy + kld_weight gamma^2 KL(teacher || student) on the images as they come.

    Args (keyword-only), beside those of `Method`:
        teacher: keras.Model of the student's input shape and classes, frozen, called with training=False.
        kld_weight: alpha_kld in [0, 1].
        temperature: gamma of the soft labels.
    """

    def __init__(self, *, student, teacher, kld_weight=0.95, temperature=10.0, **kwargs):
        super().__init__(student=student, terms=("cross_entropy", "kld"), **kwargs)
        check_pair(student, teacher)
        if not 0 <= kld_weight <= 1 or temperature <= 0:
            raise InputError(f"kld_weight must be in [0, 1] and temperature above 0, got {kld_weight}, {temperature}")
        self.teacher = teacher
        teacher.trainable = False
        self.kld_weight, self.temperature = kld_weight, temperature

    def loss_terms(self, images, labels):
        logits = self.student(images, training=True)
        teacher_logits = tf.stop_gradient(self.teacher(images, training=False))
        kld = distillation.kl_divergence(teacher_logits, logits, self.temperature)
        cross_entropy = classification.cross_entropy(logits, labels)
        return logits, {
            "cross_entropy": (1.0 - self.kld_weight, replicas.global_mean(cross_entropy)),
            "kld": (self.kld_weight, replicas.global_mean(kld)),
        }
