"""Files that appear whole or not at all."""

import contextlib
import json
import os
import pathlib

from tf_robust_transfer.errors import InputError


def check_readable(path) -> None:
    """Raises an InputError unless there is a file of this name."""
    if not pathlib.Path(path).is_file():
        raise InputError(f"there is no file {str(path)!r}")


def check_writable(path) -> None:
    """Raises an InputError unless a file of this name can be written; "": nothing is to be."""
    folder = pathlib.Path(path).absolute().parent
    if not path:
        return
    if not folder.is_dir():
        raise InputError(f"cannot write {str(path)!r}: its folder does not exist")
    if not os.access(folder, os.W_OK) or pathlib.Path(path).is_dir():
        raise InputError(
            f"cannot write {str(path)!r}: it is a folder, or lies in one that is not writable"
        )


@contextlib.contextmanager
def replacing(path):
    """Yields a temporary path beside `path`, of the same ending, and renames it to `path` if
    nothing was raised.

    So an interrupted run leaves no half-written file, and what was there before stays until the new
    one is complete."""
    path = pathlib.Path(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path, text: str) -> None:
    """Writes a text file."""
    with replacing(path) as temporary:
        temporary.write_text(text)


def write_json(path, content) -> None:
    """Writes a JSON file."""
    write_text(path, json.dumps(content, indent=1) + "\n")
