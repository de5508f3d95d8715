"""Perturbation balls: norms, projection onto a ball, steepest ascent in it, and random starts.

Everything works on a batch of perturbations and treats each example alone.
"""

import math

import tensorflow as tf

NORMS = ("linf", "l2")
# Below this l2 norm a direction is rounding noise; dividing by it would turn noise into a full
# step.
_TINY = 1e-12


def _per_example(values, like):
    """Reshapes [batch] to [batch, 1, ...] so that it broadcasts against `like`."""
    return tf.reshape(values, [-1] + [1] * (like.shape.rank - 1))


def l2_norm(tensor):
    """l2 norm of each example. tensor: float [batch, ...]. Returns float [batch]."""
    # Scaling by the largest entry keeps squares of tiny gradients (1e-25) from underflowing to
    # zero.
    flat = tf.reshape(tensor, [tf.shape(tensor)[0], math.prod(tensor.shape[1:])])
    largest = tf.reduce_max(tf.abs(flat), axis=1, keepdims=True)
    scaled = tf.math.divide_no_nan(flat, largest)
    return largest[:, 0] * tf.sqrt(tf.reduce_sum(tf.square(scaled), axis=1))


def lp_norm(tensor, norm: str):
    """Norm of each example. tensor: float [batch, ...]; norm: "linf" or "l2". Returns float
    [batch].
    """
    if norm == "linf":
        return tf.reduce_max(
            tf.abs(tf.reshape(tensor, [tf.shape(tensor)[0], math.prod(tensor.shape[1:])])), axis=1
        )
    if norm == "l2":
        return l2_norm(tensor)
    raise ValueError(f"norm must be one of {NORMS}, got {norm!r}")


def project(perturbation, norm: str, eps):
    """Nearest point of the ball of radius eps. perturbation: float [batch, ...]. Returns the same
    shape.
    """
    if norm == "linf":
        return tf.clip_by_value(perturbation, -eps, eps)
    if norm == "l2":
        length = l2_norm(perturbation)
        scale = tf.where(length > eps, eps / tf.maximum(length, _TINY), tf.ones_like(length))
        return perturbation * _per_example(scale, perturbation)
    raise ValueError(f"norm must be one of {NORMS}, got {norm!r}")


def steepest_ascent(gradient, norm: str):
    """Unit step of the norm that raises a linear function most: sign (linf) or the unit vector
    (l2).

    gradient: float [batch, ...]. Returns the same shape; zero where the gradient is zero.
    """
    if norm == "linf":
        return tf.sign(gradient)
    if norm == "l2":
        return tf.math.divide_no_nan(gradient, _per_example(l2_norm(gradient), gradient))
    raise ValueError(f"norm must be one of {NORMS}, got {norm!r}")


def ball_from_noise(uniform, normal, norm: str, eps):
    """A point uniformly distributed in the ball, made from noise drawn by the caller.

    Args:
        uniform: float [batch, ...] in [0, 1).
        normal: float [batch, ...], standard normal; used by l2 only.
        norm: "linf" or "l2".
        eps: radius, scalar.

    Returns:
        float [batch, ...]. l2: a uniform direction times eps * u^(1/d), which is uniform in the
        ball of dimension d.
    """
    if norm == "linf":
        return (2.0 * uniform - 1.0) * eps
    if norm == "l2":
        dimension = math.prod(uniform.shape[1:])
        radius = tf.reshape(uniform, [tf.shape(uniform)[0], dimension])[:, 0] ** (1.0 / dimension)
        return steepest_ascent(normal, "l2") * _per_example(radius * eps, normal)
    raise ValueError(f"norm must be one of {NORMS}, got {norm!r}")
