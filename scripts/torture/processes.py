"""Processes forked from this one, which has imported the package and run nothing of TensorFlow.

An import takes ten seconds, a fork milliseconds; each child has a state of its own."""

import contextlib
import dataclasses
import os
import pathlib
import signal
import sys
import time
import traceback
from collections.abc import Callable

_POLL = 0.01


@dataclasses.dataclass
class Process:
    """A forked process.

    Attributes:
        pid: its number.
        out, err: files of what it prints.
        started: `time.monotonic()` of the fork.
        resident: bytes in memory at the fork.
        peak: the most bytes seen beyond these.
        cpu: seconds of processor time seen.
        code: exit code, the negative signal that ended it, or None while it runs.
    """

    pid: int
    out: pathlib.Path
    err: pathlib.Path
    started: float
    resident: int
    peak: int = 0
    cpu: float = 0.0
    code: int | None = None

    def poll(self) -> int | None:
        """The exit code, None while it runs."""
        if self.code is None:
            # Ended, it has no memory to look at.
            self.peak = max(self.peak, _resident(self.pid) - self.resident)
            self.cpu = max(self.cpu, _processor_seconds(self.pid))
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
        return self.code

    def wait(
        self, seconds: float, most_bytes: int | None = None, most_cpu: float | None = None
    ) -> int | None:
        """The exit code; None where it runs longer than that, or takes more memory or processor
        time, and is ended then.
        """
        while self.poll() is None:
            slow = time.monotonic() - self.started > seconds
            slow |= most_cpu is not None and self.cpu > most_cpu
            if slow or (most_bytes is not None and self.peak > most_bytes):
                self.kill()
                return None
            time.sleep(_POLL)
        return self.code

    def kill(self) -> None:
        """Ends it by SIGKILL, if it still runs."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
            _, status = os.waitpid(self.pid, 0)
            self.code = os.waitstatus_to_exitcode(status)

    def lines(self) -> list[str]:
        """What it said on stderr, without TensorFlow's own words."""
        text = self.err.read_text(errors="replace")
        lines = [part for line in text.splitlines() for part in line.split("\r")]
        return [line for line in lines if line.strip() and not _of_tensorflow(line)]


def start(
    function: Callable[[], object],
    *,
    folder: pathlib.Path,
    environment: dict[str, str] | None = None,
) -> Process:
    """Forks; the child calls the function in `folder`, where its output goes too.

    The child ends with the function's exit code, 1 after an exception that nobody caught."""
    folder.mkdir(parents=True, exist_ok=True)
    number = sum(1 for _ in folder.glob("*.err"))
    out, err = folder / f"{number}.out", folder / f"{number}.err"
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return Process(pid, out, err, time.monotonic(), _resident(pid))
    code = 1
    try:
        for stream, path in ((1, out), (2, err)):
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            os.dup2(descriptor, stream)
        os.environ.update(environment or {})
        os.chdir(folder)
        function()
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
        if isinstance(stop.code, str):
            sys.stderr.write(f"{stop.code}\n")
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code or 0)


def _resident(pid):
    try:
        pages = int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGESIZE")


def _processor_seconds(pid):
    try:
        parts = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(parts[11]) + int(parts[12])) / os.sysconf("SC_CLK_TCK")


def _of_tensorflow(line):
    return line.startswith(("WARNING: All log", "I0000", "W0000", "E0000"))
