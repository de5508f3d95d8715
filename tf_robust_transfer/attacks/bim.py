"""Basic iterative method, Kurakin et al. (2017), "Adversarial machine learning at scale"."""

from tf_robust_transfer.attacks.pgd import PGD


class BIM(PGD):
    """PGD from the image itself, on the cross-entropy.

    Args:
        steps: number of gradient steps, at least 1.
        step_size: in the units of eps. None: eps / steps, which just reaches the border. The paper
            takes 1/255 and min(eps + 4, 1.25 eps) steps (eps in 255ths).
        stop_when_fooled: as in PGD.
    """

    def __init__(self, steps=10, step_size=None, *, stop_when_fooled=False):
        super().__init__(steps, step_size, random_start=False, stop_when_fooled=stop_when_fooled)

    def _default_step_size(self, eps):
        return eps / self.steps
