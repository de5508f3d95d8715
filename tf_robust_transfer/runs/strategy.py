"""Where a run works: its `tf.distribute` strategy."""

import functools
import json
import logging
import os
import re

import tensorflow as tf

from tf_robust_transfer.errors import InputError
from tf_robust_transfer.ops import workers

_LOG = logging.getLogger("tf_robust_transfer")
SEVERAL_WORKERS = "multi_worker_mirrored"


@functools.cache
def distribution_strategy(name: str) -> tf.distribute.Strategy:
    """The strategy of --distribution_strategy. "auto" mirrors over the GPUs where there is more
    than one.

    On a machine without GPUs, "mirrored" mirrors over its logical CPU devices, and
    "multi_worker_mirrored" takes one CPU device of each worker. The latter has to be made before
    TensorFlow does anything else, and waits for all workers.

    Raises:
        InputError: "multi_worker_mirrored" where neither TF_CONFIG nor Slurm says who the workers
            are.
    """
    if name == SEVERAL_WORKERS:
        os.environ["TF_CONFIG"] = json.dumps(cluster(os.environ))
        _LOG.info("worker of %s; waiting for the others", os.environ["TF_CONFIG"])
        return tf.distribute.MultiWorkerMirroredStrategy()
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    if name == "mirrored" or (
        name == "auto" and len(devices) > 1 and devices[0].device_type == "GPU"
    ):
        return tf.distribute.MirroredStrategy([device.name for device in devices])
    return tf.distribute.get_strategy()


def tell_others(arguments, error: InputError) -> None:
    """Of bad input that ended this process before it met the other workers: they hear of it."""
    asked = any(
        argument.endswith(f"distribution_strategy={SEVERAL_WORKERS}") for argument in arguments
    )
    if not asked or distribution_strategy.cache_info().currsize:
        return
    try:
        workers.exchange(distribution_strategy(SEVERAL_WORKERS), str(error))
    except (InputError, tf.errors.OpError):
        return


def cluster(variables) -> dict:
    """Who takes part and who this process is, as TF_CONFIG has it.

    variables: the environment. TF_CONFIG, or within `srun` what Slurm set there. (TensorFlow's own
    SlurmClusterResolver fails without GPUs and sorts n9 behind n10.)

    Raises:
        InputError: neither is there, or TF_CONFIG is not as TensorFlow reads it.
    """
    if "TF_CONFIG" not in variables and "SLURM_PROCID" in variables:
        return _of_slurm(variables)
    try:
        found = json.loads(variables["TF_CONFIG"])
        task, jobs = found["task"], found["cluster"]
        if not set(jobs) <= {"chief", "worker"} or not jobs[task["type"]][int(task["index"])]:
            raise ValueError
    except (KeyError, ValueError, TypeError, IndexError):
        raise InputError(
            f"--distribution_strategy={SEVERAL_WORKERS}: expected TF_CONFIG such as "
            '\'{"cluster": {"worker": ["host0:2222", "host1:2222"]}, "task": {"type": "worker", '
            f'"index": 0}}}}\', or to be started by srun; got {variables.get("TF_CONFIG")!r}'
        ) from None
    return found


def _of_slurm(variables):
    """Tasks are numbered node by node, which is srun's --distribution=block."""
    hosts = host_names(variables["SLURM_STEP_NODELIST"])
    counts = []  # "2(x3),1" is 2, 2, 2, 1
    for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", variables["SLURM_STEP_TASKS_PER_NODE"]):
        counts += [int(count)] * int(times or 1)
    # One that jobs on the same node do not share, below those that the system gives out.
    port = 12000 + 64 * (int(variables["SLURM_JOB_ID"]) % 300)
    names = [
        f"{host}:{port + task}"
        for host, count in zip(hosts, counts, strict=True)
        for task in range(count)
    ]
    task = {"type": "worker", "index": int(variables["SLURM_PROCID"])}
    return {"cluster": {"worker": names}, "task": task}


def host_names(nodes: str) -> list[str]:
    """Slurm's "gpu[1-3,08-10],login" as ["gpu1", "gpu2", "gpu3", "gpu08", ..., "login"]."""
    found = []
    for item in re.findall(r"(?:[^,\[]|\[[^\]]*\])+", nodes):
        names = [""]
        for plain, ranges in re.findall(r"([^\[]+)|\[([^\]]*)\]", item):
            parts = (
                [plain] if plain else [number for r in ranges.split(",") for number in _range(r)]
            )
            names = [name + part for name in names for part in parts]
        found += names
    return found


def _range(text):
    first, _, last = text.partition("-")
    return [f"{n:0{len(first)}}" for n in range(int(first), int(last or first) + 1)]
