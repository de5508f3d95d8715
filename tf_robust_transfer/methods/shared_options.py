"""Options that several methods share, each with defaults of its own."""

import dataclasses

from tf_robust_transfer.attacks import FGSM, PGD, ThreatModel
from tf_robust_transfer.errors import InputError
from tf_robust_transfer.flag_types import fraction
from tf_robust_transfer.methods.n_fgsm import NFGSM
from tf_robust_transfer.options import Options, at_least, option

INNER_ATTACKS = ("pgd", "n-fgsm")


@dataclasses.dataclass(frozen=True)
class InnerAttack(Options):
    """The attack that a training step makes its examples by. In Python a method takes the attack
    itself.
    """

    eps: float = option(
        0.0, "radius of the training's examples; 0: eps", fraction, **at_least(0), flag="train_eps"
    )
    kind: str = option(
        "pgd",
        "pgd, or n-fgsm: one step of eps from noise",
        choices=INNER_ATTACKS,
        flag="train_attack",
    )
    steps: int = option(
        7, "PGD steps; 1: FGSM, random start", int, **at_least(1), flag="train_attack_steps"
    )
    step_size: float = option(
        0.0,
        "0: 2.5 eps / steps, FGSM 1.25 eps, n-fgsm eps",
        fraction,
        **at_least(0),
        flag="train_attack_step_size",
    )
    warm_up_steps: int = option(
        0.0,
        "the radius grows from 0 for so long",
        fraction,
        **at_least(0),
        flag="eps_warm_up_epochs",
        in_epochs=True,
    )

    def attack(self, eps: float, loss="cross_entropy"):
        """The attack at a radius. loss: of `PGD`; a single step on another than the cross-entropy
        is PGD's as well.
        """
        if self.kind == "n-fgsm":
            if loss != "cross_entropy":
                raise InputError(f"--train_attack=n-fgsm climbs the cross-entropy, not {loss}")
            return NFGSM(step_size=self.step_size or None)
        if self.steps == 1 and loss == "cross_entropy":
            return FGSM(self.step_size or 1.25 * eps, random_start=True)
        return PGD(self.steps, self.step_size or None, loss=loss)

    def arguments(self, context, loss="cross_entropy") -> dict:
        """The arguments of `AdversarialTraining` that these options stand for. context:
        `base.Context`.
        """
        eps, norm = self.eps or context.threat_model.eps, context.threat_model.norm
        if self.kind == "n-fgsm" and norm != "linf":
            raise InputError(f"--train_attack=n-fgsm is for linf, got --norm={norm}")
        return {
            "threat_model": ThreatModel(norm=norm, eps=eps),
            "attack": self.attack(eps, loss),
            "warm_up_steps": context.steps(self.warm_up_steps),
        }
