"""A gradient clipped by its norm over all replicas."""

import keras
import tensorflow as tf

from tf_robust_transfer.ops import replicas


def clip(gradients, most: float, optimizer):
    """Scales a gradient down to an l2 norm of at most `most`, all variables together.

    Args:
        gradients: this replica's share, with the optimizer's loss scale; None for a variable that
            the loss does not depend on. The norm is of their sum over the replicas.

    Returns:
        (gradients, norm before clipping, without the loss scale: 0 in a step that float16's
        scaling skips).
    """
    norm = replicas.summed_norm(gradients) / optimizer.scale_loss(tf.constant(1.0))
    # What is not finite stays so: float16's scaling looks for it, and so does who watches the run.
    factor = most / tf.maximum(norm, most)
    factor = tf.where(tf.math.is_finite(norm), factor, float("nan"))
    clipped = [None if g is None else g * tf.cast(factor, g.dtype) for g in gradients]
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        norm = tf.where(tf.math.is_finite(norm), norm, 0.0)
    return clipped, norm
