"""Errors that are the user's to mend: one line that says what was expected, what came, and what to
do.
"""

import contextlib
import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Bad input: a flag, a file, a shape, a value. The commands print its message alone and exit
    with code 2.
    """


class LostWorkerError(RuntimeError):
    """Another process of the same training is gone. The commands print its message alone and exit
    with code 1.
    """


@contextlib.contextmanager
def of_flag(name: str):
    """Within it an InputError that does not name the flag gets --NAME before it."""
    try:
        yield
    except InputError as error:
        if f"--{name}" in str(error):
            raise
        raise InputError(f"--{name}: {error}") from error


def nearest(name: str, known: Iterable[str]) -> str:
    """The valid names nearest to an unknown one, as the end of an error message.

    Args:
        name: what came.
        known: the valid names.

    Returns:
        "nearest valid names: a, b" with at most three close matches, or every valid name where none
        is close.
    """
    known = sorted(known)
    # Of a very long one, comparing would take minutes.
    close = difflib.get_close_matches(name[:100], known, n=3, cutoff=0.5)
    return (
        f"nearest valid names: {', '.join(close)}" if close else f"valid names: {', '.join(known)}"
    )


def look_up(kind: str, name: str, registry: dict):
    """The entry of a literal registry, or an InputError that names the nearest entries."""
    if name not in registry:
        raise InputError(f"unknown {kind} {name!r}; {nearest(name, registry)}")
    return registry[name]
