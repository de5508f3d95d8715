"""TRADES, Zhang et al. (2019), "Theoretically principled trade-off between robustness and
accuracy", https://arxiv.org/abs/1901.08573.
"""

import dataclasses

from tf_robust_transfer.attacks import PGD
from tf_robust_transfer.flag_types import fraction
from tf_robust_transfer.losses.distillation import kl_divergence
from tf_robust_transfer.methods.adversarial import AdversarialTraining
from tf_robust_transfer.methods.base import Method
from tf_robust_transfer.methods.shared_options import InnerAttack
from tf_robust_transfer.options import at_least, group, option
from tf_robust_transfer.terms import CrossEntropy, Term


class TRADES(AdversarialTraining):
    """cross-entropy(student(x)) + beta KL(student(x) || student(x + delta)).

    delta maximises the divergence, without the label. The gradient goes through both predictions,
    as in the authors' code (github.com/yaodongyu/TRADES).

    Args (keyword-only), beside those of `AdversarialTraining`:
        attack: by default PGD on the divergence, 10 steps.
        beta: weight of the divergence, the paper's 1 / lambda; 6 in its CIFAR-10 table, and 1 for
            more clean accuracy.

    Departures from the authors' code: the examples start at a uniform point of the ball, there at
    the image plus normal noise of 0.001; a step is 2.5 eps / steps, there 0.007 of 0.031 in 10
    steps for CIFAR-10; the student's batch statistics move with the images and then with the
    examples, there with the images once more, which pass again for the divergence. As there the
    examples are made on frozen batch statistics.

    The training accuracy in the logs is that on the images.

    >>> method = rt.TRADES(student=model, threat_model=rt.ThreatModel(eps=8 / 255), beta=6.0)
    """

    @dataclasses.dataclass(frozen=True)
    class Options(Method.Options):
        beta: float = option(6.0, "weight of the divergence", fraction, **at_least(0))

    @dataclasses.dataclass(frozen=True)
    class Flags(Options):
        inner: InnerAttack = group(InnerAttack, steps=10)

    inner_loss = "kl"

    def __init__(self, *, student, threat_model, attack=None, **kwargs):
        attack = attack or PGD(10, loss="kl")
        super().__init__(student=student, threat_model=threat_model, attack=attack, **kwargs)
        self.terms = [
            CrossEntropy(of=self.both),
            Term("divergence", self.options.beta, _divergence, of=self.both),
        ]

    def both(self, images, labels, seed):
        """The pass of the images and of their adversarial examples."""
        moved = self.adversarial_examples(images, labels)
        return {
            "labels": labels,
            "logits": self.student(images, training=True),
            "moved_logits": self.student(moved, training=True),
        }


def _divergence(seen):
    return kl_divergence(seen["logits"], seen["moved_logits"], temperature=1.0)
