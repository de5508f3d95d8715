"""Files that appear whole or not at all."""

import contextlib
import json
import os
import pathlib


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
