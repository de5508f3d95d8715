"""Basic iterative method, Kurakin et al. (2017), "Adversarial machine learning at scale"."""

import dataclasses

from tf_robust_transfer.attacks.base import Attack
from tf_robust_transfer.attacks.pgd import PGD
from tf_robust_transfer.flag_types import boolean, fraction_or_none
from tf_robust_transfer.options import above, at_least, none_or, option


class BIM(PGD):
    """PGD from the image itself, on the cross-entropy.

    Args:
        steps: number of gradient steps, at least 1.
        step_size: in the units of eps. None: eps / steps, which just reaches the border. The paper
            takes 1/255 and min(eps + 4, 1.25 eps) steps (eps in 255ths).
        stop_when_fooled: as in PGD.
    """

    random_start, restarts, loss = False, 1, "cross_entropy"

    @dataclasses.dataclass(frozen=True)
    class Options(Attack.Options):
        steps: int = option(10, "gradient steps", int, **at_least(1))
        step_size: float | None = option(
            None, "of a step; empty: eps / steps", fraction_or_none, **none_or(above(0))
        )
        stop_when_fooled: bool = option(False, "an example that fools stays where it is", boolean)

    def _default_step_size(self, eps):
        return eps / self.steps
