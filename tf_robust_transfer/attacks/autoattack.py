"""AutoAttack, Croce & Hein (2020), "Reliable evaluation of adversarial robustness with an ensemble
of diverse parameter-free attacks": the ensemble, as the official implementation
(github.com/fra31/auto-attack) sets it up."""

import dataclasses

from tf_robust_transfer.attacks.apgd import APGD, APGDTargeted, fallback
from tf_robust_transfer.attacks.base import Attack
from tf_robust_transfer.attacks.fab import FAB, FABTargeted
from tf_robust_transfer.attacks.square import Square
from tf_robust_transfer.errors import InputError
from tf_robust_transfer.options import option

VERSIONS = {
    "standard": ("apgd-ce", "apgd-t", "fab-t", "square"),
    "plus": ("apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"),
    "rand": ("apgd-ce", "apgd-dlr"),
}
COMPONENTS = ("apgd-ce", "apgd-dlr", "apgd-t", "fab", "fab-t", "square")


def _components(text):
    return tuple(part for part in text.split("+") if part)


class AutoAttack(Attack):
    """Several attacks in order, each on what resisted those before it.

    Where the model has too few classes, apgd-t (4) and apgd-dlr (3) take another loss by
    themselves, see `apgd.fallback`.

    Args:
        version: "standard" (apgd-ce, apgd-t, fab-t, square); "plus" (all six, the untargeted with 5
            restarts); "rand", for models with randomness inside (apgd-ce and apgd-dlr, each
            gradient the mean of 20; what each found is judged by one pass, as in the official
            code, which judges the image itself where nothing was found, and here the point of the
            highest loss is).
        attacks: names of `COMPONENTS` in place of a version's own list. The untargeted have 1
            restart, in the official version "custom" 5.

    Raises:
        InputError: unknown version or component, or no component at all.
    """

    @dataclasses.dataclass(frozen=True)
    class Options(Attack.Options):
        version: str = option("standard", "whose components are run", choices=tuple(VERSIONS))
        attacks: tuple = option(
            (),
            "components in place of the version's own, joined by +",
            _components,
            lambda names: set(names) <= set(COMPONENTS) and len(set(names)) == len(names),
            f"different ones of {', '.join(COMPONENTS)}",
        )

    def __init__(self, *values, **keywords):
        super().__init__(*values, **keywords)
        self.names = tuple(self.attacks) or VERSIONS[self.version]

    def components(self, num_classes, norm):
        restarts = 5 if self.version == "plus" else 1
        untargeted = {"restarts": restarts, "eot_iterations": 20 if self.version == "rand" else 1}
        made = {
            "apgd-ce": lambda: APGD("cross_entropy", **untargeted),
            "apgd-dlr": lambda: APGD("dlr", **untargeted),
            "apgd-t": APGDTargeted,
            "fab": lambda: FAB(restarts=restarts),
            "fab-t": FABTargeted,
            "square": Square,
        }
        return {name: made[name]() for name in self.names}

    def start(self, problem, images, labels, round, noise):
        raise InputError("AutoAttack is for evaluation; inside a training step take PGD or APGD")


def fewer_classes(components: dict, num_classes: int) -> list[str]:
    """What takes another loss than it was asked for, a line each. components: attacks by name;
    num_classes: of the model.
    """
    notes = (
        (name, fallback(attack.loss, num_classes)[1])
        for name, attack in components.items()
        if isinstance(attack, APGD)
    )
    return [f"{name}: {note}" for name, note in notes if note]
