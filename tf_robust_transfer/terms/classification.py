"""Terms of the logits: against labels, hard or soft, and against a teacher's."""

import dataclasses

from tf_robust_transfer.flag_types import fraction
from tf_robust_transfer.losses import classification, distillation
from tf_robust_transfer.options import Options, above, between, from_keywords, option
from tf_robust_transfer.terms.term import Term


class CrossEntropy(Term):
    """Cross-entropy of "logits" against "labels", integers or mixed ones."""

    def __init__(self, weight=1.0, *, of, name="cross_entropy"):
        super().__init__(name, weight, _cross_entropy, of=of)


def _cross_entropy(seen):
    of_labels = classification.cross_entropy
    if seen["labels"].dtype.is_floating:
        of_labels = classification.soft_cross_entropy
    return of_labels(seen["logits"], seen["labels"])


class SoftLabels(Term):
    """kld_weight gamma^2 KL(teacher || student), "kld" in the logs (section 5.3 of the MixACM
    paper). The cross-entropy beside it has weight 1 - kld_weight there.
    """

    @dataclasses.dataclass(frozen=True)
    class Options(Options):
        """A teacher's soft labels: (1 - alpha) cross-entropy + alpha gamma^2 KL."""

        kld_weight: float = option(
            0.95, "weight of the soft labels", fraction, **between(0, 1), flag="alpha_kld"
        )
        temperature: float = option(
            10.0, "temperature of the soft labels", fraction, **above(0), flag="gamma"
        )

    def __init__(self, *, of, **keywords):
        options = from_keywords(self.Options, keywords)
        super().__init__("kld", options.kld_weight, self._kld, of=of)
        self.temperature = options.temperature

    def _kld(self, seen):
        return distillation.kl_divergence(seen["teacher_logits"], seen["logits"], self.temperature)
