"""Fast gradient sign method, Goodfellow et al. (2015), and its random-start form, Wong et al.
(2020).
"""

from tf_robust_transfer.attacks.pgd import PGD


class FGSM(PGD):
    """One step of steepest ascent on the cross-entropy, to the border of the ball.

    Args:
        step_size: in the units of eps; None: eps. "Fast is better than free" trains with
            random_start and 1.25 eps.
        random_start: start at a uniform point of the ball.
    """

    def __init__(self, step_size=None, *, random_start=False):
        super().__init__(steps=1, step_size=step_size, random_start=random_start)

    def _default_step_size(self, eps):
        # From the image itself a step of eps reaches the border; PGD's rule of 2.5 eps would get
        # there by projection too, but for l2 balls cut by the bounds the two differ.
        return eps
