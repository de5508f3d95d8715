"""Adversarial training: how robust teachers are made (Eq. 3 of the IGAM paper)."""

import dataclasses

import tensorflow as tf

from tf_robust_transfer.attacks import Attack, ThreatModel
from tf_robust_transfer.attacks.names import check_training_attack, training_attack
from tf_robust_transfer.methods.base import Method
from tf_robust_transfer.methods.n_fgsm import NFGSM
from tf_robust_transfer.methods.shared_options import InnerAttack
from tf_robust_transfer.options import group
from tf_robust_transfer.terms import CrossEntropy


class AdversarialTraining(Method):
    """Cross-entropy on adversarial examples of the current weights.

    Args (keyword-only), beside those of `Method`:
        threat_model: ball and bounds of the examples.
        attack: an `Attack` without restarts, or a name that `evaluate_robustness` takes, such as
            "pgd7"; by default PGD with 7 steps and a random start. FGSM(random_start=True,
            step_size=1.25 * eps) is the cheap form of Wong et al. (2020), "n-fgsm" that of de Jorge
            et al. (2022), which a single step does not overfit to (`methods.n_fgsm`).
        warm_up_steps: eps grows linearly from 0 over the first so many steps. At large eps a small
            network otherwise stays at a constant output (seen on MNIST at eps 0.2 and above).

    The examples are made with frozen batch statistics (training=False); MadryLab's code used the
    batch's."""

    @dataclasses.dataclass(frozen=True)
    class Flags(Method.Options):
        inner: InnerAttack = group(InnerAttack)

    # What the attack of the command line climbs.
    inner_loss = "cross_entropy"

    @classmethod
    def keywords(cls, flags, context):
        return super().keywords(flags, context) | flags.inner.arguments(context, cls.inner_loss)

    def __init__(
        self,
        *,
        student,
        threat_model: ThreatModel,
        attack: Attack | NFGSM | str = "pgd7",
        warm_up_steps=0,
        **kwargs,
    ):
        super().__init__(student=student, **kwargs)
        self.threat_model = threat_model
        if isinstance(attack, str):
            attack = NFGSM() if attack == "n-fgsm" else training_attack(attack)
        elif isinstance(attack, Attack):
            check_training_attack(attack)
            attack.check_norm(threat_model.norm)
        self.attack = attack
        self.warm_up_steps = warm_up_steps
        self.terms = [CrossEntropy(of=self.adversarial)]

    def adversarial_examples(self, images, labels):
        """The images of this step, moved. Made with frozen batch statistics; no gradient passes
        them.
        """
        eps = self.threat_model.eps
        if self.warm_up_steps:
            eps = eps * tf.minimum(1.0, tf.cast(self.iterations, tf.float32) / self.warm_up_steps)
        return self.attack.perturb(
            lambda x: self.student(x, training=False),
            images,
            labels,
            self.threat_model,
            self.step_seed(),
            eps=eps,
        )

    def adversarial(self, images, labels, seed):
        """The pass of the moved images."""
        moved = self.adversarial_examples(images, labels)
        return {"labels": labels, "logits": self.student(moved, training=True)}
