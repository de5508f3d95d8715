"""Files that appear whole or not at all, and folders that one process writes at a time."""

import contextlib
import fcntl
import itertools
import json
import os
import pathlib
import re
import time
import zipfile
from collections.abc import Callable, Sequence

from tf_robust_transfer.errors import InputError

# For `scripts/torture`, which kills a process inside its writes: "NUMBER:SECONDS:FILE". At the
# NUMBER-th point from 0 what is written goes into FILE and the process sleeps; -1 notes all points.
_PAUSE = "TF_ROBUST_TRANSFER_TEST_PAUSE"
_LOCK = ".lock"
# Weights and examples hardly shrink when they are packed.
_SMALL, _MOST_GROWTH = 2**26, 20
_points = itertools.count()


def path_of(text) -> pathlib.Path:
    """The path that a user named; a leading `~` is the home folder, as in a shell."""
    # A shell leaves that of --flag=~/file as it is. `Path.expanduser` raises for an unknown user.
    return pathlib.Path(os.path.expanduser(text))


def told_apart(paths: Sequence[Sequence[str]]) -> list[str]:
    """A name for each path, given by its parts: its last part; with those above it as far as
    another has the same."""
    ends = [["/".join(parts[at:]) for at in reversed(range(len(parts)))] for parts in paths]
    return [
        next((end for end in own if sum(end in other for other in ends) == 1), own[-1])
        for own in ends
    ]


def check_local(path, what: str) -> None:
    """Raises an InputError for an address such as gs://bucket/run; what: what it would name."""
    if re.match(r"\w+://", str(path)):
        raise InputError(
            f"{what} is a path of this machine, got {str(path)!r}: nothing is written to an "
            "address; mount it, or copy what was written"
        )


def check_readable(path) -> None:
    """Raises an InputError unless there is a file of this name."""
    if not path_of(path).is_file():
        raise InputError(f"there is no file {str(path)!r}")


def check_writable(path) -> None:
    """Raises an InputError unless a file of this name can be written; "": nothing is to be."""
    if not path:
        return
    check_local(path, "what is written")
    file = path_of(path)
    folder = file.absolute().parent
    if not folder.is_dir():
        raise InputError(f"cannot write {str(path)!r}: its folder does not exist")
    if not os.access(folder, os.W_OK) or file.is_dir():
        raise InputError(
            f"cannot write {str(path)!r}: it is a folder, or lies in one that is not writable"
        )


def check_unpacked(path, archive: zipfile.ZipFile) -> None:
    """Raises an InputError for a zip file that fills the memory or the disk when it is unpacked."""
    size = sum(member.file_size for member in archive.infolist())
    packed = pathlib.Path(path).stat().st_size
    if size > _SMALL + _MOST_GROWTH * packed:
        raise InputError(
            f"{str(path)!r} is no file of ours: its {packed / 2**20:.2g} MiB are "
            f"{size / 2**30:.2g} GiB, unpacked"
        )


@contextlib.contextmanager
def replacing(path):
    """Yields a temporary path beside `path`, of the same ending, and renames it to `path` if
    nothing was raised.

    So an interrupted run leaves no half-written file, and what was there before stays until the new
    one is complete. What a killed process left is removed by the next one that writes this file.

    Raises:
        InputError: the file cannot be written: a full disk, no right to, a folder that is gone.
    """
    path = path_of(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    with _told_when_unwritable(path):
        _remove_left(path)
        with open(temporary, "ab") as lock:
            try:
                # Held while this process lives: see `_remove_left`.
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                yield temporary
                at_point("written", path)
                _sync(temporary)
                os.replace(temporary, path)
                at_point("renamed", path)
            finally:
                temporary.unlink(missing_ok=True)
        sync_folder(path.parent)
        at_point("synced", path)


def write_text(path, text: str) -> None:
    """Writes a text file."""
    with replacing(path) as temporary:
        temporary.write_text(text)


def write_json(path, content) -> None:
    """Writes a JSON file."""
    write_text(path, as_json(content))


def as_json(content) -> str:
    """The text of a JSON file."""
    return json.dumps(content, indent=1) + "\n"


@contextlib.contextmanager
def locked(folder, when_taken: Callable[[], None]):
    """Within it this process holds a folder's lock, which the kernel drops when the process ends.

    Args:
        folder: an existing folder; in one that cannot be written there is no lock.
        when_taken: called where another process holds the lock. It raises; or it returns, and the
            lock is waited for.
    """
    path = pathlib.Path(folder) / _LOCK
    file = _own(path, when_taken)
    try:
        yield
    finally:
        if file is not None:
            with contextlib.suppress(OSError):  # a folder that is gone, which is no news by now
                path.unlink()
            file.close()


def _own(path, when_taken):
    """A lock file, open and locked; None where there can be none: whoever writes there says why."""
    while True:
        with contextlib.ExitStack() as stack:
            try:
                file = stack.enter_context(open(path, "ab"))
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                when_taken()
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError:
                return None
            # Its owner before may have removed the file while this process waited for it.
            if path.exists() and os.path.samestat(path.stat(), os.fstat(file.fileno())):
                stack.pop_all()
                return file


def sync_folder(folder, *files) -> None:
    """Brings a folder's list of names to the disk, after the contents of these files of it."""
    for file in files:
        _sync(file)
    with contextlib.suppress(OSError):  # not every file system takes it
        _sync(folder)


def at_point(what: str, path) -> None:
    """A moment of a write, at which a test may stop the process; see `_PAUSE`."""
    setting = os.environ.get(_PAUSE)
    if not setting:
        return
    number, seconds, file = setting.split(":", 2)
    point = next(_points)
    if int(number) in (-1, point):
        with open(file, "a") as marks:
            marks.write(f"{point} {what} {path}\n")
        time.sleep(float(seconds))


def _sync(path):
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_left(path):
    """Removes temporary files of `replacing(path)` whose writers have died: nobody locks them."""
    name = re.compile(rf"{re.escape(f'.{path.stem}.')}\d+{re.escape(path.suffix)}")
    for left in [entry for entry in path.parent.iterdir() if name.fullmatch(entry.name)]:
        with contextlib.suppress(OSError), open(left, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            left.unlink()


@contextlib.contextmanager
def _told_when_unwritable(path):
    try:
        yield
    except OSError as error:
        reason = error.strerror or " ".join(str(error).split())[:200]
        raise InputError(f"cannot write {str(path)!r}: {reason}") from error
