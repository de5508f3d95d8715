"""How exactly float32 numbers are multiplied."""

import contextlib

import tensorflow as tf


@contextlib.contextmanager
def full_float32():
    """Within it GPUs multiply float32 numbers as such. From Ampere on they else round them to
    TF32's 10 bits of mantissa.
    """
    before = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    try:
        yield
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(before)
