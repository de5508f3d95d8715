"""Losses of logits and labels, one value per example.

Shapes: logits float [batch, classes], labels int [batch]; the result is float [batch].
"""

import tensorflow as tf


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
    """Largest other logit minus the label's (the CW margin at confidence 0; positive where misclassified)."""
    label = tf.one_hot(labels, tf.shape(logits)[1], on_value=True, off_value=False, dtype=tf.bool)
    own = tf.gather(logits, labels, batch_dims=1)
    other = tf.reduce_max(tf.where(label, tf.constant(-float("inf"), logits.dtype), logits), axis=1)
    return other - own


def is_correct(logits, labels):
    """Whether the largest logit is the label's. A row with a NaN counts as wrong. Returns bool [batch]."""
    predicted = tf.argmax(logits, axis=1, output_type=labels.dtype)
    return tf.logical_and(predicted == labels, tf.reduce_all(tf.math.is_finite(logits), axis=1))
