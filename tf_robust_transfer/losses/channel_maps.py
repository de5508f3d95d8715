"""Activated channel maps (ACM), section 5 of the MixACM paper.

Endpoints are float [batch, height, width, channels]; maps are float [batch, channels].
"""

import tensorflow as tf

REDUCTIONS = ("mean", "sum")


def activated_channel_map(endpoint):
    """Largest activation of each channel (the mapping function g_c). Returns float [batch, channels]."""
    return tf.reduce_max(endpoint, axis=[1, 2])


def match_channels(channel_map, channels: int):
    """Adaptive max pooling of a map to another number of channels (section 5.2; the default of the paper).

    Windows start at floor(i n / m) and end at ceil((i + 1) n / m), as in PyTorch's adaptive_max_pool1d, so that it
    also enlarges. channel_map: float [batch, n]. Returns float [batch, m], m = channels.
    """
    width = channel_map.shape[1]
    if width == channels:
        return channel_map
    # Not keras.layers.AdaptiveMaxPooling2D (3.15): it also pools with a window one larger than needed, and where that
    # exceeds the input, as it does here, TensorFlow 2.21's CPU kernel ends the process (SIGFPE, tensorflow #125509).
    windows = [range(i * width // channels, -(-(i + 1) * width // channels)) for i in range(channels)]
    longest = max(len(window) for window in windows)
    # A shorter window repeats its last channel.
    indices = [[*window, *[window[-1]] * (longest - len(window))] for window in windows]
    return tf.reduce_max(tf.gather(channel_map, indices, axis=1), axis=2)


def acm_loss(teacher_endpoint, student_endpoint, reduction: str = "mean"):
    """|| a_T / ||a_T|| - a_S / ||a_S|| ||_2^2 of one block, one value per example (section 5.1).

    Args:
        teacher_endpoint, student_endpoint: activations of the block; sizes may differ, the teacher's map is pooled to
            the student's channels.
        reduction: over channels. The paper writes a norm ("sum") and does not say what alpha_acm = 5000 multiplies;
            attention transfer, which it builds on, takes the mean, and so does the default here.

    Returns:
        float [batch]; exactly zero for equal endpoints.
    """
    student_map = activated_channel_map(student_endpoint)
    teacher_map = match_channels(activated_channel_map(teacher_endpoint), student_map.shape[1])
    difference = tf.square(_unit(teacher_map) - _unit(student_map))
    if reduction == "mean":
        return tf.reduce_mean(difference, axis=1)
    if reduction == "sum":
        return tf.reduce_sum(difference, axis=1)
    raise ValueError(f"reduction must be one of {REDUCTIONS}, got {reduction!r}")


def _unit(channel_map):
    # A dead block has an all-zero map; the floor keeps its gradient finite.
    return channel_map * tf.math.rsqrt(tf.maximum(tf.reduce_sum(tf.square(channel_map), axis=1, keepdims=True), 1e-24))
