"""The attack names of flags and results, such as "pgd100x5", and the attacks that they stand for."""

import re

from tf_robust_transfer.attacks.base import Attack
from tf_robust_transfer.attacks.cleverhans import ATTACKS as CLEVERHANS
from tf_robust_transfer.attacks.cleverhans import CleverHans
from tf_robust_transfer.attacks.fgsm import FGSM
from tf_robust_transfer.attacks.pgd import PGD
from tf_robust_transfer.errors import InputError, nearest

MAX_STEPS = 500
# Names as examples for the error message; of the families pgdK, pgdKxR, cw-pgdK and cw-pgdKxR one each.
EXAMPLES = ("clean", "fgsm", "pgd20", "pgd100x5", "cw-pgd20", "cw-pgd100x5", *(f"cleverhans:{n}" for n in CLEVERHANS))

_PGD = re.compile(r"(?P<cw>cw-)?pgd(?P<steps>[1-9]\d*)(?:x(?P<restarts>[1-9]\d*))?")


def parse_attack(name: str, step_size: float | None = None) -> Attack | None:
    """The attack that a name stands for.

    Args:
        name: "clean"; "fgsm"; "pgdK" with K from 1 to 500 steps from a random start; "pgdKxR" with R restarts;
            "cw-pgdK" and "cw-pgdKxR", the same on the CW margin; "cleverhans:NAME" with a name of
            `attacks.cleverhans.ATTACKS`.
        step_size: of the iterative attacks, as a fraction of the pixel range; None: each attack's own rule.

    Returns:
        The attack, set up for evaluation: an example that fools the model is left alone. None for "clean".

    Raises:
        InputError: unknown name, too many steps, or a step size that is not positive.
    """
    if name == "clean":
        return None
    if name == "fgsm":
        return FGSM()
    if name.startswith("cleverhans:"):
        return CleverHans(name.removeprefix("cleverhans:"), step_size=step_size)
    pgd = _PGD.fullmatch(name)
    if pgd is None:
        raise InputError(f"unknown attack {name!r}; {nearest(name, EXAMPLES)}")
    if int(pgd["steps"]) > MAX_STEPS:
        raise InputError(f"attack {name!r}: steps must be 1 to {MAX_STEPS}, got {pgd['steps']}")
    return PGD(
        steps=int(pgd["steps"]),
        step_size=step_size,
        restarts=int(pgd["restarts"] or 1),
        loss="cw" if pgd["cw"] else "cross_entropy",
        stop_when_fooled=True,
    )
