"""A command line, flag files and all, as a list of flags in their order, each with where it stands.

Flag files are read as their users write them: one flag a line, `--name=value` or `--name value`,
value with or without quotes, comments in lines of their own or behind ` # `, with a byte-order mark
or without. `find` says where a file of a name is looked for."""

import dataclasses
import pathlib
import re
from collections.abc import Collection, Sequence

from tf_robust_transfer.errors import InputError, nearest
from tf_robust_transfer.files import path_of

_FLAGFILE = "flagfile"
# Beside the package in a checkout; in it where setup.py has put them into a wheel.
_HERE = pathlib.Path(__file__).resolve().parent
PACKAGED = _HERE / "flags" if (_HERE / "flags").is_dir() else _HERE.parent / "flags"


@dataclasses.dataclass(frozen=True)
class Given:
    """A flag as it was given.

    Attributes:
        name, text: of the flag, without dashes and quotes.
        file, line: where it stands; "" and 0 for one that was typed.
    """

    name: str
    text: str
    file: str = ""
    line: int = 0

    @property
    def place(self) -> str:
        """ " (FILE, line N)", or "" for what was typed."""
        return f" ({self.file}, line {self.line})" if self.file else ""


def read(
    arguments: Sequence[str], known: Collection[str], switches: Collection[str] = ()
) -> list[Given]:
    """The flags of a command line, those of its flag files in their places.

    Args:
        arguments: without the program's name.
        known: the names of the command's flags.
        switches: those of them that are true or false: a bare --NAME is true, --noNAME false.

    Raises:
        InputError: an unknown flag, one without a value, what is no flag, a file that is missing or
            names itself. It says the file and the line.
    """
    return list(_expanded([(text, "", 0) for text in arguments], known, switches, ()))


def last_value(arguments: Sequence[str], name: str) -> str | None:
    """The last value of a flag on a command line and in its flag files, all else unread.

    A first look, which tells who owns the flags that `read` then has to know.
    """
    return _last_value([(text, "", 0) for text in arguments], name, ())


def first_file(arguments: Sequence[str]) -> str:
    """The first flag file that a command line names; "" where it names none."""
    return next((text for _, text, *_ in _values([(a, "", 0) for a in arguments], _FLAGFILE)), "")


def _values(words, *names):
    """(name, text, file, line) of each flag of these names, all else unread."""
    words = iter(words)
    for word, file, line in words:
        found = re.fullmatch(rf"--?({'|'.join(names)})(?:=(.*))?", word, flags=re.DOTALL)
        if found:
            text = found[2] if found[2] is not None else next(words, ("",))[0]
            yield found[1], text, file, line


def _last_value(words, name, files):
    value = None
    for found, text, file, line in _values(words, name, _FLAGFILE):
        if found == name:
            value = text
        else:
            place = f" ({file}, line {line})" if file else ""
            inside = _lines(text, file, place, files)
            value = _last_value(inside, name, (*files, _key(text, file))) or value
    return value


def _expanded(words, known, switches, files):
    words = iter(words)
    for word, file, line in words:
        found = re.fullmatch(r"--?([^-=\s][^=\s]*)(?:=(.*))?", word, flags=re.DOTALL)
        place = f" ({file}, line {line})" if file else ""
        if not found:
            raise InputError(f"unexpected argument {word!r}{place}; flags are written --name=value")
        name, text = found[1], found[2]
        if text is None and name in switches:
            text = "true"
        elif text is None and name.startswith("no") and name[2:] in switches:
            name, text = name[2:], "false"
        elif name != _FLAGFILE and name not in known:
            raise InputError(
                f"unknown flag --{name}{place}; {nearest(name.replace('-', '_'), known)}"
            )
        if text is None:
            text, *at = next(words, (None, file, line))
            if text is None or at != [file, line]:
                raise InputError(
                    f"--{name}{place}: expected a value, got none; flags are written --name=value"
                )
        if name == _FLAGFILE:
            yield from _expanded(
                _lines(text, file, place, files), known, switches, (*files, _key(text, file))
            )
        else:
            yield Given(name, text, file, line)


def find(name: str, naming: str = "") -> pathlib.Path:
    """The flag file of a name: in the working folder, beside the file that names it, or the
    package's own, with `flags/` before its name or without. Where there is none: the name itself.

    naming: the file that names it; "" for a command line.

    Example:
        find("small/mnist_igam.flags")  # anywhere that the package is installed
    """
    path = path_of(name)
    beside = [pathlib.Path(naming).parent / path] if naming else []
    own = path.relative_to("flags") if path.parts[:1] == ("flags",) else path
    places = [path, *beside, PACKAGED / own]
    return next((place for place in places if place.is_file()), path)


def _key(text, naming):
    return str(find(text, naming).resolve())


def _lines(text, naming, place, files):
    """(word, file, line) of each flag of a file. naming: the file that names it, "" for a command
    line.
    """
    path = find(text, naming)
    try:
        content = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        where = f", nor beside {naming}" if naming else ""
        raise InputError(
            f"cannot read the flag file {text!r}{place}: {error.strerror}{where}, nor among the "
            "package's own"
        ) from None
    except UnicodeDecodeError:
        raise InputError(f"the flag file {text!r}{place} is not text in UTF-8") from None
    if str(path.resolve()) in files:
        raise InputError(f"the flag file {text!r}{place} names itself")
    for number, line in enumerate(content.splitlines(), start=1):
        line = line.strip()
        if not line or line.startswith(("#", "//")):
            continue
        # `--name value` is two words; a value may hold spaces.
        found = re.fullmatch(r"(--?[^=\s]+)(?:(=)\s*|\s+)(.*)", line)
        if not found or found[3].startswith("#"):
            yield re.sub(r"\s+#.*$", "", line), str(path), number
        elif found[2]:
            yield f"{found[1]}={_value(found[3])}", str(path), number
        else:
            yield found[1], str(path), number
            yield _value(found[3]), str(path), number


_QUOTED = r"""(?P<quote>['"])(?P<value>.*?)(?P=quote)"""


def _value(text):
    """A value without its quotes and without the comment behind it."""
    quoted = re.fullmatch(_QUOTED + r"(\s+#.*)?", text)
    return quoted["value"] if quoted else re.sub(r"\s+#.*$", "", text)


def to_line(name: str, value: str) -> str:
    """The line of a flag file that gives a flag this value, in quotes where it would be read as
    another.
    """
    quote = "" if _value(value) == value.strip() == value else "'" if '"' in value else '"'
    return f"--{name}={quote}{value}{quote}"


def from_line(line: str) -> tuple[str, str]:
    """(name, value) of a line of `to_line`, older ones without quotes too."""
    name, _, text = line.removeprefix("--").partition("=")
    quoted = re.fullmatch(_QUOTED, text)
    return name, quoted["value"] if quoted else text
