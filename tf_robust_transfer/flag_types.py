"""How the value of a flag is read from text, and written as one."""

import ast
import math
import re
from collections.abc import Callable

from tf_robust_transfer.errors import InputError
from tf_robust_transfer.files import path_of


def fraction(text) -> float:
    """A number, which may be written as a fraction: "8/255" or "0.1"."""
    numerator, slash, denominator = str(text).partition("/")
    try:
        return float(numerator) / float(denominator) if slash else float(numerator)
    except (ValueError, ZeroDivisionError):
        raise InputError(f"expected a number or a fraction such as 8/255, got {text!r}") from None


def fractions(text) -> tuple[float, ...]:
    """A comma-separated list of one or more numbers, see `fraction`."""
    found = tuple(map(fraction, names(text)))
    if not found:
        raise InputError(f"expected numbers or fractions such as 2/255,8/255, got {text!r}")
    return found


def fraction_or_none(text) -> float | None:
    """As `fraction`; "" is None."""
    return None if text == "" else fraction(text)


def names(text) -> tuple[str, ...]:
    """A comma-separated list."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def paths(text) -> tuple[str, ...]:
    """A comma-separated list of files and folders, see `files.path_of`."""
    return tuple(str(path_of(name)) for name in names(text))


def whole_numbers(text) -> tuple[int, ...]:
    """A comma-separated list of whole numbers."""
    try:
        return tuple(int(part) for part in names(text))
    except ValueError:
        raise InputError(f"expected whole numbers such as 0,1, got {text!r}") from None


def size(text) -> tuple[int, int] | None:
    """An image size, "28x28" (height x width), or nothing."""
    if not text:
        return None
    height, _, width = text.partition("x")
    if not (height.isdigit() and width.isdigit() and int(height) and int(width)):
        raise InputError(f"expected an image size such as 28x28, got {text!r}")
    return int(height), int(width)


def options(text) -> dict:
    """Keyword arguments, "stem_stride=2,activation=swish,mean=[0.5,0.5,0.5]": numbers in brackets
    are one tuple.
    """
    result = {}
    for part in split_outside_brackets(text):
        key, equals, value = part.partition("=")
        if not equals:
            raise InputError(
                f"expected key=value,key=value, got {text!r}; a list is written in brackets: "
                "key=[1,2]"
            )
        result[key.strip()] = (
            _numbers(value.strip()) if value.strip().startswith("[") else _scalar(value)
        )
    return result


def split_outside_brackets(text):
    """The parts between commas, but for those in brackets."""
    if re.search(r"\[[^\]]*(\[|$)|(^|\])[^\[]*\]", text):
        raise InputError(
            f"expected each list in a pair of brackets, such as mean=[0.5,0.5,0.5], got {text!r}"
        )
    return [part.strip() for part in re.split(r",(?![^\[]*\])", text) if part.strip()]


def _numbers(text):
    """The numbers of "[1,0.5]", as a tuple."""
    found = re.fullmatch(r"\[(.*)\]", text)
    numbers = [_scalar(part) for part in names(found[1])] if found else []
    if not numbers or not all(
        type(number) in (int, float) and math.isfinite(number) for number in numbers
    ):
        raise InputError(f"expected a list of numbers such as [0.1,0.2], got {text!r}")
    return tuple(numbers)


def _scalar(text):
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def written(value, parse: Callable) -> str:
    """The text that parse reads as this value."""
    if isinstance(value, dict):
        return ",".join(f"{key}={_written_option(item)}" for key, item in value.items())
    if parse is size:
        return "x".join(map(str, value)) if value else ""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _written_option(value):
    return "[" + ",".join(map(str, value)) + "]" if isinstance(value, tuple) else str(value)


def boolean(text) -> bool:
    if str(text).lower() in ("true", "1", "yes"):
        return True
    if str(text).lower() in ("false", "0", "no"):
        return False
    raise InputError(f"expected true or false, got {text!r}")
