"""`tf.nn.moments` with right second gradients.

TensorFlow's takes the mean inside the variance for a constant, which changes no first gradient, but
the gradient of one. Keras's layers of group and layer norm, and what users write, call it; batch
norm has `replicas.moments` (`ops/batch_norm.py`)."""

import contextlib
import threading

import tensorflow as tf

_LOCK, _INSIDE, _TENSORFLOWS = threading.Lock(), [0], tf.nn.moments


@contextlib.contextmanager
def with_second_gradients():
    """Within it, whatever is traced of `tf.nn.moments` may be differentiated twice.

    The name in TensorFlow is changed, and changed back by the last that leaves: threads of replicas
    are inside it in turns."""
    with _LOCK:
        _INSIDE[0] += 1
        tf.nn.moments = moments
    try:
        yield
    finally:
        with _LOCK:
            _INSIDE[0] -= 1
            if not _INSIDE[0]:
                tf.nn.moments = _TENSORFLOWS


def moments(x, axes, shift=None, keepdims=False, name=None):
    """Mean and (biased) variance along the axes, as `tf.nn.moments`, whose arguments it has."""
    full = tf.cast(x, tf.float32) if x.dtype in (tf.float16, tf.bfloat16) else x
    mean = tf.reduce_mean(full, axes, keepdims=True)
    variance = tf.reduce_mean(tf.math.squared_difference(full, mean), axes, keepdims=True)
    if not keepdims:
        mean, variance = tf.squeeze(mean, axes), tf.squeeze(variance, axes)
    return tf.cast(mean, x.dtype), tf.cast(variance, x.dtype)
