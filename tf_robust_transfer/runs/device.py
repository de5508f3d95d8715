"""The device that a command works on: what is set up for it, what it decides, how it is told."""

import dataclasses
import logging
import os
import pathlib
import re

import tensorflow as tf
from tensorflow.python.framework.config import disable_op_determinism, is_op_determinism_enabled

from tf_robust_transfer import startup
from tf_robust_transfer.evaluation import origin

_LOG = logging.getLogger("tf_robust_transfer")
_CACHE = "--tf_xla_persistent_cache_directory="


def prepare() -> None:
    """Before TensorFlow starts: memory that grows as needed, compiled code that is kept.

    Warns in a line of an NVIDIA GPU that TensorFlow cannot use."""
    gpus = tf.config.get_visible_devices("GPU")
    if not gpus:
        if startup.misses_a_gpu(gpus):
            _LOG.warning(
                "an NVIDIA driver is here, but TensorFlow finds no GPU, so the CPU does the work: "
                'install its CUDA libraries (pip install "tensorflow[and-cuda]"), or hide the GPU '
                "(CUDA_VISIBLE_DEVICES=-1)"
            )
        return
    _keep_what_xla_compiles()
    for gpu in gpus:
        try:
            tf.config.experimental.set_memory_growth(gpu, True)
        except RuntimeError:  # it has started, in a process that runs several commands
            pass


def _keep_what_xla_compiles():
    """XLA's programs for a GPU, in the user's cache folder; read by TensorFlow at its first use of
    XLA. A folder that TF_XLA_FLAGS names already stays.
    """
    flags = os.environ.get("TF_XLA_FLAGS", "")
    if _CACHE in flags:
        return
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    folder = pathlib.Path(base) / "tf_robust_transfer" / f"xla-{tf.__version__}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    kinds = "--tf_xla_persistent_cache_device_types=GPU"
    os.environ["TF_XLA_FLAGS"] = f"{flags} {_CACHE}{folder} {kinds}".strip()


def resolved(config):
    """The config of a training with every "auto" as what it is on this device.

    A CPU: operations are deterministic and not compiled by XLA, which is slower there. A GPU: XLA,
    where one device takes the steps, and no determinism, which cost 2.8 times together (one H200,
    PreAct-ResNet-18; XLA under determinism is not measured). float32 on both: whether bfloat16
    leaves the figures as they are is not measured.
    """
    gpus = tf.config.get_visible_devices("GPU")
    several = config.distribution_strategy.endswith("mirrored") or (
        config.distribution_strategy == "auto" and len(gpus) > 1
    )
    here = {
        "jit": "on" if gpus and not several else "off",
        "deterministic": "off" if gpus else "on",
        "mixed_precision": "none",
    }
    chosen = {name: value for name, value in here.items() if getattr(config, name) == "auto"}
    return dataclasses.replace(config, **chosen)


def set_determinism(on: bool) -> None:
    """Of all operations of this process from now on."""
    if on:
        tf.config.experimental.enable_op_determinism()
    else:  # an earlier run of this process, such as the teacher's, may have asked for it
        disable_op_determinism()


def record(*, precision: str, jit: bool) -> dict:
    """What a command works on and with, for results.json and `line`; call it after
    `set_determinism`.
    """
    return {
        "device": origin.device(),
        "precision": precision,
        "jit": jit,
        "deterministic": is_op_determinism_enabled(),
    }


def line(found: dict) -> str:
    """A `record` as one line."""
    on = {True: "on", False: "off"}
    return (
        f"device: {found['device']}; {found['precision']}; XLA {on[found['jit']]}; "
        f"deterministic operations {on[found['deterministic']]}"
    )


def is_out_of_memory(error: tf.errors.ResourceExhaustedError) -> bool:
    """TensorFlow calls a full disk and too many open files by the same name."""
    return re.search(r"\bOOM\b|out of memory|\ballocat", error.message, re.IGNORECASE) is not None


def out_of_memory(config) -> str:
    """What to do where the device's memory did not suffice."""
    size = getattr(config, "batch_size", None)
    if not size or size == 1:
        return "out of memory: take a smaller network or another device"
    new = ", in a new --run_dir where it trains" if hasattr(config, "train_steps") else ""
    return f"out of memory at --batch_size={size}: give a smaller --batch_size={size // 2}{new}"
