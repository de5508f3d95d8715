"""Adam, Kingma & Ba (2015), for the attacks that optimise with it: every example has moments and a
step count of its own.
"""

import tensorflow as tf

from tf_robust_transfer.ops.examples import beside_images

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8


def adam_start(images):
    """Moments before the first step, a dict of two zero tensors of the images' shape."""
    return {"first_moment": tf.zeros_like(images), "second_moment": tf.zeros_like(images)}


def adam_step(gradient, state, step):
    """The direction of a step, to be multiplied by the learning rate, and the new moments.

    Args:
        gradient: float32 [batch, height, width, channels].
        state: a dict that holds the moments, see adam_start.
        step: int32 [batch], from 0.

    Returns:
        (direction of the gradient's shape, dict of the new moments).
    """
    count = beside_images(tf.cast(step + 1, tf.float32))
    first = BETA_1 * state["first_moment"] + (1 - BETA_1) * gradient
    second = BETA_2 * state["second_moment"] + (1 - BETA_2) * tf.square(gradient)
    direction = first / (1 - BETA_1**count) / (tf.sqrt(second / (1 - BETA_2**count)) + EPSILON)
    return direction, {"first_moment": first, "second_moment": second}
