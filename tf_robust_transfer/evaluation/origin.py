"""Where a figure was measured: what results.json says of the device and of the code."""

import functools
import pathlib
import platform
import re
import subprocess

import tensorflow as tf


@functools.cache
def device() -> str:
    """The GPUs that TensorFlow uses, or else the processor: `NVIDIA H200`, `AMD EPYC 9R14`."""
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        names = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
        first = names[0].get("device_name", "GPU")
        return first if len(gpus) == 1 else f"{len(gpus)} x {first}"
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.*)", cpuinfo.read_text()) if cpuinfo.exists() else None
    return found[1].strip() if found else platform.processor() or platform.machine()


@functools.cache
def commit() -> str | None:
    """The commit of the checkout that this package lies in, with `+` where files differ from it.

    None where it is installed, or git is not there."""
    root = pathlib.Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    git = ("git", "-C", str(root))
    try:
        head = subprocess.run(
            [*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
        )
        changed = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no", "tf_robust_transfer"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")
