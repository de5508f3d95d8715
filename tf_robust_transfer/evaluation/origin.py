"""Where a figure was measured: what results.json says of the device and of the code."""

import functools
import os
import pathlib
import platform
import re
import subprocess

import tensorflow as tf


@functools.cache
def device() -> str:
    """The GPUs that TensorFlow uses, or else the processor: `NVIDIA H200`, `CPU, 2 cores, AMD EPYC
    9R14`.
    """
    gpus = tf.config.get_visible_devices("GPU")
    if gpus:
        details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
        return ", ".join(found.get("device_name", "GPU") for found in details)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.*)", cpuinfo.read_text()) if cpuinfo.exists() else None
    name = found[1].strip() if found else platform.processor() or platform.machine()
    return f"CPU, {cores} cores, {name}"


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
