"""Where a run works: its `tf.distribute` strategy."""

import functools

import tensorflow as tf

from tf_robust_transfer.errors import InputError


@functools.cache
def distribution_strategy(name: str) -> tf.distribute.Strategy:
    """The strategy of --distribution_strategy. "auto" mirrors over the GPUs where there is more
    than one.

    On a machine without GPUs, "mirrored" mirrors over its logical CPU devices.

    Raises:
        InputError: "multi_worker_mirrored", which Keras's fit does not run under.
    """
    if name == "multi_worker_mirrored":
        raise InputError(
            "multi_worker_mirrored is not supported: Keras 3's fit fails under "
            "MultiWorkerMirroredStrategy; use mirrored"
        )
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    if name == "mirrored" or (
        name == "auto" and len(devices) > 1 and devices[0].device_type == "GPU"
    ):
        return tf.distribute.MirroredStrategy([device.name for device in devices])
    return tf.distribute.get_strategy()
