"""Disks that are full, read-only, gone, or a file where a folder should be.

Each fault is a mount in a mount namespace of its own (`unshare -m`), since root may write
everywhere. Right is one line and code 2, and what was good before is good still: with room again
the same command ends as one in one piece does."""

import ctypes
import functools
import os
import pathlib
import shutil

from scripts.torture import kills, processes
from tf_robust_transfer import convert, evaluate, train
from tf_robust_transfer.evaluation import state

_CLONE_NEWNS, _MS_RDONLY, _MS_REMOUNT, _MS_REC, _MS_PRIVATE = 0x20000, 1, 32, 16384, 1 << 18
_MS_BIND, _MNT_DETACH = 4096, 2
_LONGEST = 180
_LIBC = ctypes.CDLL(None, use_errno=True)


def run(record, folder: pathlib.Path, seed: int, quick: bool) -> None:
    """Puts each fault before each command; quick: `train` on a full disk."""
    folder.mkdir(parents=True)
    refused = processes.start(_unshare, folder=folder / "unshare")
    if refused.wait(30) != 0:
        record.add("mounts in a namespace of its own", f"refused: {refused.lines()[-1:]}")
        return
    whole = folder / "whole"
    process = processes.start(
        functools.partial(train.main, [*kills.TRAIN, f"--run_dir={whole}"]), folder=folder / "log"
    )
    if process.wait(_LONGEST) != 0:
        record.add("train, in one piece", f"{process.lines()[-1:]}")
        return
    for name, fault in _FAULTS.items():
        for command in ("train", "evaluate", "convert"):
            if not quick or (name, command) == ("full after a checkpoint", "train"):
                _judge(record, folder / f"{command} {name}", name, fault, command, whole)


def _judge(record, folder, name, fault, command, whole):
    """The command runs in folder/disk, a file system in memory that the fault befalls."""
    place = folder / "disk"
    place.mkdir(parents=True)
    kept = folder / "kept"  # what lay on the disk, copied at the end: the mount ends with its owner
    call = _COMMANDS[command](place / "run", whole)

    def faulty():
        _unshare()
        fault(place, call, command)

    def mended():
        _unshare()
        _mount(place, 2**28)
        if (kept / "run").exists():
            shutil.copytree(kept / "run", place / "run")
        call()
        shutil.copytree(place / "run", folder / "result")

    def watched():
        try:
            faulty()
        finally:
            if (place / "run").is_dir():
                shutil.copytree(place / "run", kept / "run")

    process = processes.start(watched, folder=folder / "log")
    code = process.wait(_LONGEST)
    errors = [line for line in process.lines() if line.startswith("error: ")]
    what = f"{command}, {name}"
    if code != 2 or len(errors) != 1 or "Traceback" in process.err.read_text():
        record.add(what, f"code {code}: {' | '.join(process.lines()[-3:])[:400]}")
        return
    again = processes.start(mended, folder=folder / "log")
    code = again.wait(_LONGEST)
    if code != 0:
        record.add(what, f"does not go on, code {code}: {' | '.join(again.lines()[-2:])[:300]}")
        return
    if command == "train":
        expected, found = kills.of_run(whole), kills.of_run(folder / "result")
        different = [key for key in {*expected, *found} if expected.get(key) != found.get(key)]
        record.add(what, f"other {', '.join(sorted(different))}" if different else "")
    else:
        names = sorted(path.name for path in (folder / "result").iterdir())
        right = {
            "evaluate": ["results.json"],
            "convert": ["copy.keras", "copy.keras.json", "copy.keras.md"],
        }[command]
        record.add(what, f"left {names}" if names != right else "")


def _training(place, whole):
    return functools.partial(train.main, [*kills.TRAIN, f"--run_dir={place}"])


def _evaluating(place, whole):
    def call():
        state.SECONDS_BETWEEN_WRITES = 0.0
        place.mkdir(exist_ok=True)
        evaluate.main([
            f"--model={whole}", "--dataset=digits", "--eps=0.1", "--max_examples=50",
            "--attacks=fgsm,pgd10", f"--output={place}/results.json",
        ])  # fmt: skip

    return call


def _converting(place, whole):
    def call():
        place.mkdir(exist_ok=True)
        convert.main([f"--model={whole}", f"--output={place}/copy.keras"])

    return call


_COMMANDS = {"train": _training, "evaluate": _evaluating, "convert": _converting}

# --- faults: (place, call, command) -> None, in a process with mounts of its own ---


def _full(place, call, command):
    """No room from the start."""
    _mount(place, 4096)
    (place / "run").mkdir()
    _fill(place)
    call()


def _full_later(place, call, command):
    """Room for the first writes, then none."""
    _mount(place, 2**28)
    (place / "run").mkdir()
    _after_first_write(command, lambda: _fill(place))
    call()


def _read_only(place, call, command):
    _mount(place, 2**28)
    (place / "run").mkdir()
    _remount(place)
    call()


def _read_only_later(place, call, command):
    _mount(place, 2**28)
    _after_first_write(command, lambda: _remount(place))
    call()


def _gone_later(place, call, command):
    """The disk is taken away; an empty folder that cannot be written is there in its place."""
    _mount(place, 2**28)

    def away():
        _called(_LIBC.umount2(str(place).encode(), _MNT_DETACH))
        _mount(place, 4096)
        _remount(place)

    _after_first_write(command, away)
    call()


def _removed_later(place, call, command):
    """The run's folder is removed, and a file stands in its place."""
    _mount(place, 2**28)

    def removed():
        shutil.rmtree(place / "run")
        (place / "run").write_text("a file")

    _after_first_write(command, removed)
    call()
    (place / "run").unlink()


def _a_file(place, call, command):
    _mount(place, 2**28)
    (place / "run").write_text("a file")
    if command == "train":
        call()
    output = {"evaluate": "results.json", "convert": "copy.keras"}[command]
    main = {"evaluate": evaluate, "convert": convert}[command].main
    main(["--model=digits.keras", "--dataset=digits", f"--output={place}/run/{output}"])


_FAULTS = {
    "full from the start": _full,
    "full after a checkpoint": _full_later,
    "read-only from the start": _read_only,
    "read-only after a checkpoint": _read_only_later,
    "gone after a checkpoint": _gone_later,
    "removed, a file in its place": _removed_later,
    "a file where its folder should be": _a_file,
}


def _after_first_write(command, happens):
    """Calls `happens` once: within `train` after the second checkpoint, else at the first write."""
    from tf_robust_transfer import files
    from tf_robust_transfer.runs import checkpoints

    count = [0]

    def at_point(what, path):
        wanted = "checkpoint synced" if command == "train" else "written"
        count[0] += what == wanted
        if what == wanted and count[0] == (2 if command == "train" else 1):
            happens()

    files.at_point = checkpoints.at_point = at_point


def _unshare():
    if not hasattr(os, "unshare"):
        _called(_LIBC.unshare(_CLONE_NEWNS))
    else:
        os.unshare(_CLONE_NEWNS)
    _called(_LIBC.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None))


def _mount(place, size):
    options = f"size={size}".encode()
    _called(_LIBC.mount(b"tmpfs", str(place).encode(), b"tmpfs", 0, options))


def _remount(place):
    """Read-only, by a mount of its own: the disk's is busy with files that are open."""
    path = str(place).encode()
    _called(_LIBC.mount(path, path, None, _MS_BIND, None))
    _called(_LIBC.mount(None, path, None, _MS_BIND | _MS_REMOUNT | _MS_RDONLY, None))


def _called(result):
    if result:
        number = ctypes.get_errno()
        raise SystemExit(f"mounts are refused: {os.strerror(number)}; run as root")


def _fill(place):
    """Takes all the room that is left."""
    with open(place / "filling", "wb", buffering=0) as file:
        size = 2**20
        while size:
            try:
                file.write(bytes(size))
            except OSError:
                size //= 2
