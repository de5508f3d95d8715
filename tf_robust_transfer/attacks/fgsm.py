"""Fast gradient sign method, Goodfellow et al. (2015), and its random-start form, Wong et al.
(2020).
"""

import dataclasses

from tf_robust_transfer.attacks.base import Attack
from tf_robust_transfer.attacks.pgd import PGD
from tf_robust_transfer.flag_types import boolean, fraction_or_none
from tf_robust_transfer.options import above, none_or, option


class FGSM(PGD):
    """One step of steepest ascent on the cross-entropy, to the border of the ball.

    Args:
        step_size: in the units of eps; None: eps. "Fast is better than free" trains with
            random_start and 1.25 eps.
        random_start: start at a uniform point of the ball.
    """

    steps, restarts, loss = 1, 1, "cross_entropy"
    stop_when_fooled, in_evaluations = False, {}

    @dataclasses.dataclass(frozen=True)
    class Options(Attack.Options):
        step_size: float | None = option(
            None, "of the step; empty: eps", fraction_or_none, **none_or(above(0))
        )
        random_start: bool = option(False, "from a random point of the ball", boolean)

    def _default_step_size(self, eps):
        # From the image itself a step of eps reaches the border; PGD's rule of 2.5 eps would get
        # there by projection too, but for l2 balls cut by the bounds the two differ.
        return eps
