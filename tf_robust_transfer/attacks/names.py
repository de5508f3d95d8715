"""The names of attacks in flags and results, and what they stand for.

A name is that of a class in `ATTACKS`, with its options in brackets: `pgd[steps=50;restarts=5]`.
What is not said there has the default of evaluations. `ALIASES` are the field's short names, such
as pgd50x5.
"""

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
from tf_robust_transfer.options import flags_of, from_texts, keywords_of, to_texts
from tf_robust_transfer.plugins import find

MAX_STEPS = 500

ATTACKS = {
    "fgsm": FGSM,
    "pgd": PGD,
    "bim": BIM,
    "mim": MIM,
    "apgd": APGD,
    "apgd-t": APGDTargeted,
    "fab": FAB,
    "fab-t": FABTargeted,
    "square": Square,
    "cw-l2": CarliniWagnerL2,
    "spsa": SPSA,
    "autoattack": AutoAttack,
    "cleverhans": CleverHans,
}
# Short name, as a pattern -> the name and options that it stands for.
ALIASES = {
    r"pgd(?P<steps>[1-9]\d*)(?:x(?P<restarts>[1-9]\d*))?": "pgd[steps={steps};restarts={restarts}]",
    r"cw-pgd(?P<steps>[1-9]\d*)(?:x(?P<restarts>[1-9]\d*))?": (
        "pgd[steps={steps};restarts={restarts};loss=cw]"
    ),
    r"(?P<kind>bim|mim)(?P<steps>[1-9]\d*)": "{kind}[steps={steps}]",
    r"apgd-ce": "apgd[loss=cross_entropy]",
    r"apgd-dlr": "apgd[loss=dlr]",
    r"autoattack-(?P<version>\w+)": "autoattack[version={version}]",
    r"autoattack:(?P<attacks>[\w+-]+)": "autoattack[attacks={attacks}]",
    r"cleverhans:(?P<name>\w+)": "cleverhans[name={name}]",
}
# Names as examples for messages; of the aliases with numbers one each.
EXAMPLES = (
    *("clean", *ATTACKS, "apgd-ce", "apgd-dlr", "pgd20", "pgd100x5", "cw-pgd20", "cw-pgd100x5"),
    *("bim20", "mim20", "autoattack:apgd-ce+square", *(f"autoattack-{v}" for v in VERSIONS)),
    *(f"cleverhans:{name}" for name in CLEVERHANS),
)
_NAME = re.compile(r"(?P<name>[^\[\];=]+)(?:\[(?P<options>[^\[\]]*)\])?")


def parse_attack(name: str, step_size: float | None = None) -> Attack | None:
    """The attack that a name stands for.

    Args:
        name: "clean"; a name of `ATTACKS` or of a plug-in (`package.module:Class`, a subclass of
            `Attack`), its options in brackets or not: "pgd[steps=50;restarts=5]". Or a short name:
            "pgdK" with K from 1 to 500 steps from a random start; "pgdKxR" with R restarts;
            "cw-pgdK" and "cw-pgdKxR", the same on the CW margin; "bimK" and "mimK", from the image;
            "apgd-ce", "apgd-dlr"; "autoattack-VERSION"; "autoattack:A+B+..." with components of
            your choice; "cleverhans:NAME".
        step_size: of the attacks that have one and are not given one in their name, in the units
            of eps; None: each one's own rule.

    Returns:
        The attack, set up for evaluation. None for "clean".

    Raises:
        InputError: unknown name or option, or a value that is not allowed.

    >>> parse_attack("pgd20").steps
    20
    """
    return None if name == "clean" else _made(name, step_size)


def training_attack(name: str) -> Attack:
    """The attack of a name as a training step runs it: one round, to its last step, past the
    decision boundary.

    Raises:
        InputError: as `parse_attack`; and "clean", ensembles, restarts and several targets.
    """
    attack = None if name == "clean" else _made(name, evaluating=False)
    if attack is None or isinstance(attack, AutoAttack) or attack.rounds(3) > 1:
        raise InputError(
            f"attack {name!r}: training takes an attack of one round, such as pgd7, fgsm or apgd-ce"
        )
    if attack.stop_when_fooled and "stop_when_fooled=true" in name:
        raise InputError(
            f"attack {name!r}: training runs to the last step, past the decision boundary; leave "
            "stop_when_fooled out"
        )
    attack.stop_when_fooled = False
    return attack


def check_training_attack(attack: Attack) -> None:
    """Raises an InputError for an attack that a training step would run otherwise than it says."""
    if isinstance(attack, AutoAttack) or attack.rounds(3) > 1:
        raise InputError(
            f"training takes an attack of one round, got {full_name(attack)}: leave restarts and "
            "several targets out"
        )


def full_name(attack: Attack) -> str:
    """The name with every option of an attack: what `parse_attack` makes the same of, for records.

    An attack of a class without a name is called by its class.

    >>> full_name(FGSM())
    'fgsm[step_size=;random_start=false]'
    """
    named = {made: name for name, made in ATTACKS.items()}
    made = type(attack)
    name = named.get(made, f"{made.__module__}:{made.__qualname__}")
    joined = ";".join(
        f"{option}={text.replace(',', '+')}" for option, text in to_texts(attack.options).items()
    )
    return f"{name}[{joined}]" if joined else name


def list_attacks(pattern: str = "*") -> list[str]:
    """The names of attacks that a pattern such as "apgd*" matches; of families with numbers in
    their names an example each.
    """
    return fnmatch.filter(EXAMPLES, pattern)


def _made(name, step_size=None, evaluating=True):
    made, texts = _read(name)
    known = {flag.name for flag in flags_of(made.Options)}
    for option in texts:
        if option not in known:
            raise InputError(f"attack {name!r} has no option {option!r}; {nearest(option, known)}")
    # FGSM's one step reaches the border.
    if step_size is not None and {"steps", "step_size"} <= known:
        texts = {"step_size": str(step_size)} | texts
    if evaluating:
        texts = made.in_evaluations | texts
    try:
        options = from_texts(made.Options, texts, dashes="")
        if getattr(options, "steps", 0) > MAX_STEPS:
            raise InputError(f"steps must be 1 to {MAX_STEPS}, got {options.steps}")
        return made(**keywords_of(options))
    except InputError as error:
        raise InputError(f"attack {name!r}: {error}") from None


def _read(name):
    """(class, {option: text}) of a name."""
    found = _NAME.fullmatch(name)
    if not found:
        raise InputError(f"unknown attack {name!r}; options stand in brackets: pgd[steps=50]")
    texts = dict(_option(name, part) for part in (found["options"] or "").split(";") if part)
    for pattern, form in ALIASES.items():
        short = re.fullmatch(pattern, found["name"])
        if short and found["name"] not in ATTACKS:
            made, own = _read(form.format(**short.groupdict()))
            own = {option: text for option, text in own.items() if text != "None"}
            twice = sorted(set(own) & set(texts))
            if twice:
                raise InputError(f"attack {name!r} gives {twice[0]} twice")
            return made, own | texts
    if found["name"] not in ATTACKS and ":" not in found["name"]:
        raise InputError(f"unknown attack {name!r}; {nearest(found['name'], EXAMPLES)}")
    made = find("attack", found["name"], ATTACKS)
    if not (isinstance(made, type) and issubclass(made, Attack)):
        raise InputError(
            f"the attack {name!r}: expected a subclass of tf_robust_transfer.attacks.Attack, "
            f"got {made!r}"
        )
    return made, texts


def _option(name, part):
    key, equals, text = part.partition("=")
    if not equals:
        raise InputError(f"attack {name!r}: expected option=value in the brackets, got {part!r}")
    return key.strip(), text.strip()
