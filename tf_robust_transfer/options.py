"""Options: keyword arguments in Python and flags on the command line, stated once.

    @dataclasses.dataclass(frozen=True)
    class SoftLabels(Options):
        temperature: float = option(10.0, "of the soft labels", fraction, **above(0), flag="gamma")

A field's name is the keyword, `flag` the paper's name for it, by default the same. Whoever has
options (a method) is their owner. Owners share a set of options by a `group`, each with defaults of
its own; keywords and flags do not show that there is one."""

import dataclasses
import inspect
import math
import numbers
from collections.abc import Callable, Iterator, Mapping

from tf_robust_transfer.errors import InputError, nearest
from tf_robust_transfer.flag_types import boolean, fraction, fraction_or_none, written


def option(
    default,
    help_text: str,
    parse: Callable = str,
    check: Callable | None = None,
    expected: str = "",
    *,
    flag: str = "",
    choices=(),
    in_epochs: bool = False,
):
    """A field of `Options`.

    Args:
        default: the value, or its text where `parse` reads one.
        help_text: one line, of the flag.
        parse: reads the flag's text.
        check, expected: whether a value is allowed, and the words for what is; see `at_least` and
            its like.
        flag: its name on the command line; "": the field's own.
        choices: the names that are allowed, in place of a check.
        in_epochs: the flag is a number of epochs, the keyword one of steps.
    """
    # bool("false") is True; and where no parser is given the default says what is read.
    parse = boolean if parse is bool else parse
    if parse is str and not isinstance(default, str):
        of_type: dict[type, Callable] = {bool: boolean, int: int, float: fraction}
        parse = of_type.get(type(default), parse)
    value = parse(default) if isinstance(default, str) else default
    shown = default if isinstance(default, str) else written(default, parse)
    metadata = {
        "help": help_text,
        "parse": parse,
        "check": check,
        "expected": expected,
        "flag": flag,
        "choices": tuple(choices),
        "in_epochs": in_epochs,
        "shown": shown,
    }
    if isinstance(value, dict):
        return dataclasses.field(default_factory=lambda: dict(value), metadata=metadata)
    return dataclasses.field(default=value, metadata=metadata)


def group(owner, **defaults):
    """A field that holds a set of options, with other defaults where they are given."""
    return dataclasses.field(
        default_factory=lambda: owner(**defaults), metadata={"group": owner, "defaults": defaults}
    )


@dataclasses.dataclass(frozen=True)
class Options:
    """A frozen set of options. Making one checks every value.

    Raises:
        InputError: a value that is not allowed; it begins with the option's name.
    """

    def __post_init__(self):
        for field in dataclasses.fields(self):
            if "help" in field.metadata:
                value = getattr(self, field.name)
                _check(field.name, value, field.metadata)
                object.__setattr__(self, field.name, _typed(value, field.metadata))

    @classmethod
    def implied(cls, texts: dict[str, str]) -> dict[str, str]:
        """Texts of flags that others imply and that win over defaults alone, as a preset does.
        texts: those given.
        """
        return {}


@dataclasses.dataclass(frozen=True)
class Flag:
    """One option of an owner, as a flag.

    Attributes:
        name: on the command line.
        path: the field's name, after those of the groups that it is in.
        metadata: of the field, see `option`.
        shown: the text of the owner's default.
    """

    name: str
    path: tuple[str, ...]
    metadata: Mapping
    shown: str

    def value(self, options):
        """Its value in a set of options."""
        for name in self.path:
            options = getattr(options, name)
        return options


def flags_of(owner: type[Options], defaults: dict | None = None) -> Iterator[Flag]:
    """The flags of a set of options, those of its groups among them, in their order."""
    for field in dataclasses.fields(owner):
        if "group" in field.metadata:
            for flag in flags_of(field.metadata["group"], field.metadata["defaults"]):
                yield dataclasses.replace(flag, path=(field.name, *flag.path))
        elif "help" in field.metadata:
            shown = field.metadata["shown"]
            if defaults and field.name in defaults:
                shown = written(defaults[field.name], field.metadata["parse"])
            yield Flag(field.metadata["flag"] or field.name, (field.name,), field.metadata, shown)


def from_texts(owner: type[Options], texts: dict[str, str], dashes: str = "--") -> Options:
    """The options of an owner, read from {flag: text}; flags of others are left alone.

    Raises:
        InputError: an unreadable or forbidden value; it begins with the dashes and the flag.
    """
    texts = owner.implied(texts) | texts
    values = {}
    for flag in flags_of(owner):
        value = read_text(flag, texts.get(flag.name, flag.shown), dashes)
        _check(f"{dashes}{flag.name}", value, flag.metadata, got=texts.get(flag.name, flag.shown))
        values[flag.path] = value
    return _made(owner, values)


def from_keywords(owner: type[Options], keywords: dict) -> Options:
    """The options of an owner from keyword arguments.

    Raises:
        InputError: an unknown keyword, or a forbidden value.
    """
    flags = list(flags_of(owner))
    known = {flag.path[-1]: flag.path for flag in flags}
    for name in keywords:
        if name not in known:
            raise InputError(f"unknown argument {name!r}; {nearest(name, known)}")
    values = {known[name]: value for name, value in keywords.items()}
    return _made(owner, values)


def keywords_of(options: Options) -> dict:
    """Keyword -> value, flat: what `from_keywords` makes the same options of."""
    return {flag.path[-1]: flag.value(options) for flag in flags_of(type(options))}


def from_arguments(owner: type[Options], values: tuple, keywords: dict) -> Options:
    """The options of an owner from positional arguments, in the order of its fields, and keywords.

    Raises:
        InputError: too many or unknown arguments, one given twice, or a forbidden value.
    """
    known = [flag.path[-1] for flag in flags_of(owner)]
    if len(values) > len(known):
        raise InputError(f"expected at most {len(known)} arguments, got {len(values)}")
    given = dict(zip(known, values))
    for name in keywords:
        if name in given:
            raise InputError(f"argument {name!r} is given twice")
    return from_keywords(owner, given | keywords)


def parameters_of(owner: type[Options]) -> list[inspect.Parameter]:
    """The keyword arguments of an owner, for a signature."""
    defaults = keywords_of(owner())
    return [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=value)
        for name, value in defaults.items()
    ]


def to_texts(options: Options) -> dict[str, str]:
    """Flag -> text, complete: what `from_texts` makes the same options of."""
    return {
        flag.name: written(flag.value(options), flag.metadata["parse"])
        for flag in flags_of(type(options))
    }


def _made(owner, values):
    """The owner of {path: value}; what is missing has the owner's default."""
    arguments = {}
    for field in dataclasses.fields(owner):
        if "group" in field.metadata:
            inner = {path[1:]: value for path, value in values.items() if path[0] == field.name}
            defaults = {(name,): value for name, value in field.metadata["defaults"].items()}
            arguments[field.name] = _made(field.metadata["group"], defaults | inner)
        elif (field.name,) in values:
            arguments[field.name] = values[field.name,]
    return owner(**arguments)


def read_text(flag: Flag, text: str, dashes: str = "--"):
    """The value that a flag's text stands for. Raises an InputError that begins with the flag."""
    try:
        return flag.metadata["parse"](text)
    except InputError as error:
        raise InputError(f"{dashes}{flag.name}: {error}") from None
    except ValueError as error:
        numbers_of = {int: "a whole number", float: "a number"}
        wanted = numbers_of.get(flag.metadata["parse"])
        reason = f"expected {wanted}, got {text!r}" if wanted else f"{error} (got {text!r})"
        raise InputError(f"{dashes}{flag.name}: {reason}") from None


def _check(name, value, metadata, got=None):
    """Raises unless the value is allowed. got: how it was written, where that is not Python."""
    if metadata["choices"]:
        if value not in metadata["choices"]:
            raise InputError(
                f"unknown {name} {value!r}; {nearest(str(value), metadata['choices'])}"
            )
        return
    expected = metadata["expected"]
    try:
        allowed = metadata["check"] is None or metadata["check"](value)
        if metadata["parse"] is int and value != int(value):
            allowed, expected = False, expected.replace("a number", "a whole number")
    except (TypeError, ValueError):
        allowed = False
    if not allowed:
        raise InputError(f"{name}: expected {expected}, got {value if got is None else got!r}")


def _typed(value, metadata):
    """A number of the type that the flag's text is read as.

    TensorFlow takes no 1 for 1.0, and what is compiled is kept by keys that are equal for both.
    """
    parse = metadata["parse"]
    if parse is int and isinstance(value, numbers.Real):
        return int(value)
    if parse in (float, fraction, fraction_or_none) and isinstance(value, numbers.Integral):
        return value if metadata["in_epochs"] else float(value)  # a keyword in steps stays whole
    return value


def none_or(rule: dict) -> dict:
    """What another rule allows, and None."""
    check = rule["check"]
    return rule | {"check": lambda value: value is None or check(value)}


def at_least(low):
    return {
        "check": lambda value: math.isfinite(value) and value >= low,
        "expected": f"a number of at least {low}",
    }


def above(low, high=math.inf):
    return {
        "check": lambda value: math.isfinite(value) and low < value <= high,
        "expected": f"a number above {low}" + (f" and at most {high}" if high < math.inf else ""),
    }


def between(low, high):
    return {"check": lambda value: low <= value <= high, "expected": f"a number in [{low}, {high}]"}


def one_of(*allowed):
    return {"check": lambda value: value in allowed, "expected": f"one of {', '.join(allowed)}"}
