"""The input gradient, and with an outer tape around it the double gradient that IGAM trains on."""

import tensorflow as tf


def input_gradient(score_of, images):
    """Gradient of a per-example score with respect to the images (Eqs. 8, 9 and 17 of the IGAM
    paper).

    The gradient is that of the sum over the batch, which is each example's own gradient wherever
    the examples do not meet inside the model (batch norm on batch statistics makes them meet).

    Called inside an outer `tf.GradientTape`, everything here is recorded by it, so that the outer
    tape differentiates the input gradient with respect to the weights.

    Args:
        score_of: images -> (scores float [batch], anything else that the caller wants back, such as
            logits).
        images: float [batch, height, width, channels].

    Returns:
        (gradient with the shape of images, scores, the second value of score_of).
    """
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(images)
        scores, extra = score_of(images)
    gradient = tape.gradient(scores, images, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    return gradient, scores, extra
