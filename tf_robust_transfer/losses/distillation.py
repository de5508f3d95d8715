"""Knowledge distillation on soft labels."""

import tensorflow as tf


def kl_divergence(teacher_logits, student_logits, temperature: float):
    """gamma^2 KL(y_T(gamma) || y_S(gamma)), section 5.3 of the MixACM paper, with gamma the
    temperature.

    teacher_logits, student_logits: float [batch, classes]. Returns float [batch], never negative
    but for rounding, and exactly zero for equal logits."""
    teacher_log = tf.nn.log_softmax(teacher_logits / temperature)
    student_log = tf.nn.log_softmax(student_logits / temperature)
    return temperature**2 * tf.reduce_sum(tf.exp(teacher_log) * (teacher_log - student_log), axis=1)
