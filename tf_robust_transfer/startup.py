"""TensorFlow's own first lines, kept off the terminal of a command.

TensorFlow writes about six lines as it is imported and looks for GPUs, which no setting silences.
In a command they are held back, and printed where they matter: the import fails or the process dies
in it, or there is an NVIDIA GPU that TensorFlow cannot use. Python's own lines go through at once,
and stdout is not touched. `import tf_robust_transfer` in a program holds nothing back."""

import atexit
import os
import pathlib
import shutil
import signal
import sys

_held = None


class _Held:
    """File descriptor 2 leads to a process that prints what it got when its pipe closes: by
    `replay`, or because this process died. `drop` ends that process before.
    """

    def __init__(self):
        self._stderr, self._terminal = sys.stderr, os.dup(2)
        reader, writer = os.pipe()
        self._keeper = os.fork()
        if not self._keeper:
            _keep(reader, writer)
        os.dup2(writer, 2)
        os.close(reader)
        os.close(writer)
        # Handlers that are made meanwhile go on writing to this one.
        sys.stderr = os.fdopen(
            os.dup(self._terminal), "w", buffering=1, errors="backslashreplace", closefd=True
        )

    def drop(self):
        os.kill(self._keeper, signal.SIGKILL)
        self.replay()

    def replay(self):
        sys.stderr.flush()
        os.dup2(self._terminal, 2)
        os.close(self._terminal)
        sys.stderr = self._stderr
        os.waitpid(self._keeper, 0)


def _keep(reader, writer):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.close(writer)
    kept = b""
    while more := os.read(reader, 65536):
        kept += more
    while kept:
        kept = kept[os.write(2, kept) :]
    os._exit(0)


def is_command() -> bool:
    """Whether this process is one of the commands, by `python -m` or by name."""
    name = sys.argv[0] if sys.argv else ""
    return name == "-m" or pathlib.Path(name).name.startswith("rt-")


def hold() -> None:
    """Begins to hold lines back, in a command; before TensorFlow is imported."""
    global _held
    if is_command() and sys.stderr is not None and hasattr(os, "fork"):
        # Progress of cuDNN and XLA, later in the run; warnings and errors stay.
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
        _held = _Held()
        atexit.register(_end, failed=True)


def release() -> None:
    """Ends it, when TensorFlow has been imported: looks for GPUs first, which has lines too."""
    if _held is not None:
        import tensorflow as tf

        # What to do about it says `runs.device.prepare`.
        _end(failed=misses_a_gpu(tf.config.list_physical_devices("GPU")))


def _end(failed):
    global _held
    held, _held = _held, None
    if held is not None:
        (held.replay if failed else held.drop)()


def misses_a_gpu(found: list) -> bool:
    """Whether TensorFlow found no GPU where an NVIDIA GPU is, and is not hidden on purpose."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    return not found and not hidden and has_nvidia_driver()


def has_nvidia_driver() -> bool:
    """Whether this machine looks as if it had an NVIDIA GPU."""
    devices = pathlib.Path("/dev").glob("nvidia[0-9]*")
    return any(devices) or shutil.which("nvidia-smi") is not None
