"""The l2 term of the input gradients (Eq. 13 of the IGAM paper)."""

import dataclasses

from tf_robust_transfer.flag_types import fraction
from tf_robust_transfer.losses import input_gradient as losses
from tf_robust_transfer.ops import replicas
from tf_robust_transfer.options import Options, at_least, from_keywords, option
from tf_robust_transfer.terms.term import Term

REDUCTIONS = {"mean": replicas.global_mean, "sum": replicas.global_sum}


class GradientDifference(Term):
    """lambda_diff ||J_s - J_t||_2^2, "difference" in the logs.

    Args:
        of: `InputGradients`.
        keywords: lambda_diff, difference_reduction, difference_region; see `rt.IGAM`.
    """

    @dataclasses.dataclass(frozen=True)
    class Options(Options):
        lambda_diff: float = option(10.0, "weight of the l2 term", fraction, **at_least(0))
        difference_reduction: str = option(
            "mean", "l2 term as mean over examples or sum over the batch", choices=REDUCTIONS
        )
        difference_region: str = option(
            "whole",
            "l2 term of the whole image or of what a crop leaves: whole or seen",
            choices=("whole", "seen"),
        )

    def __init__(self, *, of, **keywords):
        self.options = from_keywords(self.Options, keywords)
        super().__init__("difference", self.options.lambda_diff, self._difference, of=of)

    def __call__(self, seen):
        reduce = REDUCTIONS[self.options.difference_reduction]
        return {"difference": (self.weight, reduce(self.loss(seen)))}

    def _difference(self, seen):
        gradients = seen["student_gradient"], seen["teacher_gradient"]
        if self.options.difference_region == "seen":
            gradients = map(self.of.seen_part, gradients)
        return losses.gradient_difference(*gradients)
