"""An evaluation in parts at once, as processes on this machine, one a GPU."""

import os
import subprocess
import sys

import tensorflow as tf

from tf_robust_transfer.errors import InputError

MODULE = "tf_robust_transfer.evaluate"


def num_devices() -> int:
    """GPUs of this machine that TensorFlow may use, or 1. None of them is used by asking."""
    return max(1, len(tf.config.get_visible_devices("GPU")))


def run(texts: dict[str, str], count: int) -> None:
    """Runs `evaluate` with these flags in so many parts. Each writes its file, and what is printed
    of it to stderr.

    Raises:
        InputError: a part failed; the others are done.
    """
    arguments = [f"--{name}={text}" for name, text in texts.items()]
    own = ["--distribution_strategy=one_device"]
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(count)))).split(",")
    parts = []
    for i in range(count):
        command = [sys.executable, "-m", MODULE, *arguments, *own, f"--part={i}/{count}"]
        environment = os.environ | {"CUDA_VISIBLE_DEVICES": gpus[i % len(gpus)]}
        parts.append(subprocess.Popen(command, env=environment, stdout=sys.stderr))
    failed = [i for i, part in enumerate(parts) if part.wait()]
    if failed:
        raise InputError(
            f"part {failed[0]}/{count} failed, what it wrote says why; start the same command "
            "again to go on"
        )
