"""The attack names of flags and results, such as "pgd100x5", and what they stand for."""

import fnmatch
import re

from tf_robust_transfer.attacks.apgd import APGD, APGDTargeted
from tf_robust_transfer.attacks.autoattack import VERSIONS, AutoAttack
from tf_robust_transfer.attacks.base import Attack
from tf_robust_transfer.attacks.bim import BIM
from tf_robust_transfer.attacks.carlini_wagner import CarliniWagnerL2
from tf_robust_transfer.attacks.cleverhans import ATTACKS as CLEVERHANS
from tf_robust_transfer.attacks.cleverhans import CleverHans
from tf_robust_transfer.attacks.fab import FAB, FABTargeted
from tf_robust_transfer.attacks.fgsm import FGSM
from tf_robust_transfer.attacks.mim import MIM
from tf_robust_transfer.attacks.pgd import PGD
from tf_robust_transfer.attacks.spsa import SPSA
from tf_robust_transfer.attacks.square import Square
from tf_robust_transfer.errors import InputError, nearest
from tf_robust_transfer.plugins import is_plugin, load

MAX_STEPS = 500

# Names without a number in them.
ATTACKS = {
    "fgsm": FGSM,
    "apgd-ce": lambda: APGD("cross_entropy"),
    "apgd-dlr": lambda: APGD("dlr"),
    "apgd-t": APGDTargeted,
    "fab": FAB,
    "fab-t": FABTargeted,
    "square": Square,
    "cw-l2": CarliniWagnerL2,
    "spsa": SPSA,
    "autoattack": AutoAttack,
    **{
        f"autoattack-{version}": lambda version=version: AutoAttack(version) for version in VERSIONS
    },
}
# Names as examples for the error message; of the families with numbers one each.
EXAMPLES = (
    *(
        "clean",
        *ATTACKS,
        "pgd20",
        "pgd100x5",
        "cw-pgd20",
        "cw-pgd100x5",
        "bim20",
        "mim20",
        "autoattack:apgd-ce+square",
    ),
    *(f"cleverhans:{name}" for name in CLEVERHANS),
)

_NUMBERED = re.compile(
    r"(?P<kind>pgd|cw-pgd|bim|mim)(?P<steps>[1-9]\d*)(?:x(?P<restarts>[1-9]\d*))?"
)


def parse_attack(name: str, step_size: float | None = None) -> Attack | None:
    """The attack that a name stands for.

    Args:
        name: "clean"; a name of `ATTACKS`; "pgdK" with K from 1 to 500 steps from a random start;
            "pgdKxR" with R restarts; "cw-pgdK" and "cw-pgdKxR", the same on the CW margin; "bimK"
            and "mimK", from the image; "autoattack:A+B+..." with components of your choice;
            "cleverhans:NAME" with a name of `attacks.cleverhans.ATTACKS`;
            "package.module:Class", a subclass of `Attack` from outside the package.
        step_size: of PGD, BIM, MIM and CleverHans's attacks, in the units of eps;
            None: each one's own rule.

    Returns:
        The attack, set up for evaluation. None for "clean".

    Raises:
        InputError: unknown name, too many steps, or a step size that is not positive.
    """
    if name == "clean":
        return None
    if name in ATTACKS:
        return ATTACKS[name]()
    if is_plugin(name):
        return _plugin(name)
    if name.startswith("autoattack:"):
        return AutoAttack(attacks=name.removeprefix("autoattack:").split("+"))
    if name.startswith("cleverhans:"):
        return CleverHans(name.removeprefix("cleverhans:"), step_size=step_size)
    found = _NUMBERED.fullmatch(name)
    if found is None or (found["restarts"] and not found["kind"].endswith("pgd")):
        raise InputError(f"unknown attack {name!r}; {nearest(name, EXAMPLES)}")
    steps, restarts = int(found["steps"]), int(found["restarts"] or 1)
    if steps > MAX_STEPS:
        raise InputError(f"attack {name!r}: steps must be 1 to {MAX_STEPS}, got {steps}")
    if found["kind"] in ("bim", "mim"):
        return {"bim": BIM, "mim": MIM}[found["kind"]](steps, step_size, stop_when_fooled=True)
    loss = "cw" if found["kind"] == "cw-pgd" else "cross_entropy"
    return PGD(steps, step_size, restarts=restarts, loss=loss, stop_when_fooled=True)


def training_attack(name: str) -> Attack:
    """The attack of a name as a training step runs it: one round, to its last step, past the
    decision boundary.

    Raises:
        InputError: as `parse_attack`; and "clean", ensembles, restarts and several targets.
    """
    attack = parse_attack(name)
    if attack is None or isinstance(attack, AutoAttack) or attack.rounds(3) > 1:
        raise InputError(
            f"attack {name!r}: training takes an attack of one round, such as pgd7, fgsm or apgd-ce"
        )
    attack.stop_when_fooled = False
    return attack


def list_attacks(pattern: str = "*") -> list[str]:
    """The names of attacks that a pattern such as "apgd*" matches; of families with numbers in
    their names an example each.
    """
    return fnmatch.filter(EXAMPLES, pattern)


def _plugin(name):
    made = load("attack", name)
    if not (isinstance(made, type) and issubclass(made, Attack)):
        raise InputError(
            f"the attack {name!r}: expected a subclass of tf_robust_transfer.attacks.Attack, "
            f"got {made!r}"
        )
    return made()
