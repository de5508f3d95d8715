"""L2 weight decay, of which variables and what it is the gradient of."""

import tensorflow as tf


def kernels(variables) -> list:
    """Those of two axes or more: without biases and batch-norm parameters."""
    return [v for v in variables if len(v.shape) > 1]


def half_squares(variables):
    """Half the sum of the squares: what L2 weight decay is the gradient of. Returns a scalar."""
    return 0.5 * tf.add_n([tf.reduce_sum(tf.square(tf.convert_to_tensor(v))) for v in variables])
