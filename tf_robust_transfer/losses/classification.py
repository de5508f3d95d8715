"""Losses of logits and labels, one value per example.

Shapes: logits float [batch, classes], labels int [batch]; the result is float [batch].
"""

import tensorflow as tf

from tf_robust_transfer.errors import InputError


def cross_entropy(logits, labels):
    """-log softmax(logits)[label] (Eq. 1 of the IGAM paper)."""
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)


def soft_cross_entropy(logits, probabilities):
    """Cross-entropy against soft labels. probabilities: float [batch, classes], rows sum to 1."""
    return tf.nn.softmax_cross_entropy_with_logits(labels=probabilities, logits=logits)


def true_class_probability(logits, labels):
    """softmax(logits)[label]: what the IGAM reference code takes the gradient of."""
    return tf.gather(tf.nn.softmax(logits), labels, batch_dims=1)


def margin(logits, labels):
    """Largest other logit minus the label's (the CW margin at confidence 0; positive where
    misclassified).
    """
    label = tf.one_hot(labels, tf.shape(logits)[1], on_value=True, off_value=False, dtype=tf.bool)
    own = tf.gather(logits, labels, batch_dims=1)
    other = tf.reduce_max(tf.where(label, tf.constant(-float("inf"), logits.dtype), logits), axis=1)
    return other - own


def dlr(logits, labels):
    """Difference of logits ratio of Croce & Hein (2020): -(z_y - max_{i != y} z_i) / (z_p1 - z_p3 +
    1e-12).

    p1, p2, ... are the classes from the largest logit down. Positive where misclassified. Neither a
    shift nor a scale of the logits changes it, so that its gradient does not vanish where they are
    huge. 1e-12 is the official code's and not the paper's. Where logits tie for the largest, one of
    them gets the gradient.

    Raises:
        InputError: fewer than 3 classes.
    """
    largest, classes = _largest(logits, 3, "the DLR loss")
    label_leads = classes[:, 0] == tf.cast(labels, classes.dtype)
    rival = tf.where(label_leads, largest[:, 1], largest[:, 0])
    return (rival - tf.gather(logits, labels, batch_dims=1)) / (
        largest[:, 0] - largest[:, 2] + 1e-12
    )


def targeted_dlr(logits, labels, targets):
    """The targeted form of `dlr`, of the same paper: -(z_y - z_t) / (z_p1 - (z_p3 + z_p4) / 2 +
    1e-12).

    targets: int [batch], the class t that is to overtake the label's; positive once it has.

    Raises:
        InputError: fewer than 4 classes.
    """
    largest, _ = _largest(logits, 4, "the targeted DLR loss")
    lead = tf.gather(logits, targets, batch_dims=1) - tf.gather(logits, labels, batch_dims=1)
    return lead / (largest[:, 0] - 0.5 * (largest[:, 2] + largest[:, 3]) + 1e-12)


def _largest(logits, count, name):
    """(The `count` largest logits from the largest down, their classes), both [batch, count]."""
    if logits.shape[1] < count:
        raise InputError(
            f"{name} needs at least {count} classes, got {logits.shape[1]}; use cross_entropy or "
            "margin"
        )
    return tf.math.top_k(logits, count)


def is_correct(logits, labels):
    """Whether the largest logit is the label's. A row with a NaN counts as wrong. Returns bool
    [batch].
    """
    predicted = tf.argmax(logits, axis=1, output_type=labels.dtype)
    right = tf.equal(predicted, labels)  # not `==`, which is False for two of other lengths
    return tf.logical_and(right, tf.reduce_all(tf.math.is_finite(logits), axis=1))
