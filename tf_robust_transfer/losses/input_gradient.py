"""The terms of input gradient adversarial matching (IGAM), one value per example.

J_s and J_t are the input gradients of student and teacher, float [batch, height, width, channels].
"""

import tensorflow as tf

DISCRIMINATOR_INPUTS = ("raw", "l2", "zero_mean_l2")


def gradient_difference(student_gradient, teacher_gradient):
    """||J_s - J_t||_2^2 of each example (Eq. 13). The reference code sums it over the batch, the
    paper leaves it open; IGAM's argument `difference_reduction` chooses. Returns float [batch]."""
    return tf.reduce_sum(
        tf.square(student_gradient - teacher_gradient),
        axis=list(range(1, student_gradient.shape.rank)),
    )


def discriminator_input(gradient, normalization: str, epsilon=1e-24):
    """What the discriminator sees of an input gradient.

    Input gradients are tiny (1e-3 and below on [0, 1] images), so that a discriminator sees nothing
    in raw ones.

    Args:
        gradient: float [batch, height, width, channels].
        normalization: "raw"; "l2": divided by its l2 norm; "zero_mean_l2": first minus its own mean
            over height, width and channels (the reference code). The paper says nothing about it.
        epsilon: smaller squared norms are divided as if they were this (the reference code: 1e-12,
            of gradients by 0-255 pixels). A gradient of zero stays zero.

    Returns:
        The shape of gradient.
    """
    if normalization == "raw":
        return gradient
    axes = list(range(1, gradient.shape.rank))
    if normalization == "zero_mean_l2":
        gradient = gradient - tf.reduce_mean(gradient, axis=axes, keepdims=True)
    elif normalization != "l2":
        raise ValueError(
            f"normalization must be one of {DISCRIMINATOR_INPUTS}, got {normalization!r}"
        )
    # The norm's own gradient at zero is infinite, which a masked-out example would turn into NaN
    # weights.
    squares = tf.reduce_sum(tf.square(gradient), axis=axes, keepdims=True)
    return gradient * tf.math.rsqrt(tf.maximum(squares, epsilon))


def adversarial(teacher_scores, student_scores):
    """log f_disc(J_t) + log(1 - f_disc(J_s)) of each example (Eq. 10): the discriminator maximises
    it, the student minimises it.

    teacher_scores, student_scores: the discriminator's logits, float [batch]; f_disc is their
    sigmoid, the probability that a gradient is the teacher's. Returns float [batch], at most 0, and
    -log 4 where the discriminator cannot tell."""
    return tf.math.log_sigmoid(teacher_scores) + tf.math.log_sigmoid(-student_scores)


def non_saturating(student_scores):
    """-log f_disc(J_s) of each example, which the student may minimise in place of log(1 -
    f_disc(J_s)): its gradient does not vanish where the discriminator is sure that J_s is the
    student's (section 3 of Goodfellow et al.'s "Generative adversarial nets"). Not in the IGAM
    paper, nor in its reference code.

    student_scores: the discriminator's logits, float [batch]. Returns float [batch], at least 0.
    """
    return -tf.math.log_sigmoid(student_scores)
