"""Activated channel maps (ACM), section 5 of the MixACM paper, and the direct feature loss of its
Table 9.

Endpoints are float [batch, height, width, channels]; maps are float [batch, channels]. A loss is

    reduction over channels of (unit(transform(map(A_T))) - unit(map(A_S)))^2        (section 5.1)

with the transform on the teacher's side or on the student's (section 5.2, Table 10). Without a
mapping, features are matched directly, place by place: "maps" are then the endpoints themselves.
"""

import numpy as np
import tensorflow as tf

from tf_robust_transfer.errors import look_up

REDUCTIONS = ("mean", "sum")
# The function g_c, from an endpoint to its map. "none" keeps the endpoint (direct feature
# matching).
MAPPINGS = {
    "maximum": lambda endpoint: tf.reduce_max(endpoint, axis=[1, 2]),
    "mean": lambda endpoint: tf.reduce_mean(endpoint, axis=[1, 2]),
    "mean_of_squares": lambda endpoint: tf.reduce_mean(tf.square(endpoint), axis=[1, 2]),
    "none": tf.identity,
}


def activated_channel_map(endpoint, mapping: str = "maximum"):
    """The map of an endpoint (the mapping function g_c): by default each channel's largest
    activation.

    mapping: a key of `MAPPINGS`. Returns float [batch, channels]; with mapping "none" the endpoint.
    """
    return look_up("mapping", mapping, MAPPINGS)(endpoint)


def match_channels(channel_map, channels: int, pooling: str = "max"):
    """Adaptive pooling of a map to another number of channels (section 5.2; "max" is the paper's
    default).

    Windows start at floor(i n / m) and end at ceil((i + 1) n / m), as in PyTorch's
    adaptive_max_pool1d and adaptive_avg_pool1d, so that it also enlarges.

    Args:
        channel_map: float [batch, ..., n]; the last axis is pooled.
        channels: m, at least 1.
        pooling: "max" or "average".

    Returns:
        float [batch, ..., m]; the map itself where m = n.
    """
    width = channel_map.shape[-1]
    pool = look_up("pooling", pooling, POOLINGS)
    if width == channels:
        return channel_map
    return pool(
        channel_map,
        [range(i * width // channels, -(-(i + 1) * width // channels)) for i in range(channels)],
    )


def _pool_max(channel_map, windows):
    # Not keras.layers.AdaptiveMaxPooling2D (3.15): it also pools with a window one larger than
    # needed, and where that exceeds the input, as it does here, TensorFlow 2.21's CPU kernel ends
    # the process (SIGFPE, tensorflow #125509).
    longest = max(len(window) for window in windows)
    # A shorter window repeats its last channel.
    indices = [[*window, *[window[-1]] * (longest - len(window))] for window in windows]
    return tf.reduce_max(tf.gather(channel_map, indices, axis=-1), axis=-1)


def _pool_average(channel_map, windows):
    weights = np.zeros((channel_map.shape[-1], len(windows)))
    for column, window in enumerate(windows):
        weights[window, column] = 1.0 / len(window)
    return tf.tensordot(channel_map, tf.constant(weights, channel_map.dtype), axes=1)


POOLINGS = {"max": _pool_max, "average": _pool_average}


def acm_loss(
    teacher_endpoint,
    student_endpoint,
    reduction: str = "mean",
    *,
    mapping: str = "maximum",
    normalized: bool = True,
    transform="max",
    transform_of: str = "teacher",
):
    """|| a_T / ||a_T|| - a_S / ||a_S|| ||_2^2 of one block, one value per example (section 5.1).

    Args:
        teacher_endpoint, student_endpoint: float activations of the block. Their sizes may differ;
            with mapping "none" height and width must agree.
        reduction: over channels (with mapping "none" over height and width as well). The paper
            writes a norm ("sum") and does not say what alpha_acm = 5000 multiplies; attention
            transfer, which it builds on, takes the mean, and so does the default here.
        mapping: g_c, a key of `MAPPINGS`. "none" matches features directly: Table 9's "direct" or
            "full" l2 loss. (How that loss was normalised and met other numbers of channels the
            paper does not say; here as ACM does.)
        normalized: whether maps are divided by their l2 norm first, as the paper's are.
        transform: what makes the channels equal in number where they are not: "max" or "average"
            (see `match_channels`), or a callable such as a dense layer (Table 10's affine
            transformation), map -> map of the other side's channels.
        transform_of: whose map is transformed, "teacher" or "student".

    Returns:
        float [batch]; exactly zero for equal endpoints.
    """
    teacher_map = activated_channel_map(teacher_endpoint, mapping)
    student_map = activated_channel_map(student_endpoint, mapping)
    if transform_of == "teacher":
        teacher_map = _transformed(teacher_map, student_map.shape[-1], transform)
    elif transform_of == "student":
        student_map = _transformed(student_map, teacher_map.shape[-1], transform)
    else:
        raise ValueError(f"transform_of must be 'teacher' or 'student', got {transform_of!r}")
    if normalized:
        teacher_map, student_map = _unit(teacher_map), _unit(student_map)
    difference = tf.square(teacher_map - student_map)
    axes = list(range(1, difference.shape.rank))
    if reduction == "mean":
        return tf.reduce_mean(difference, axis=axes)
    if reduction == "sum":
        return tf.reduce_sum(difference, axis=axes)
    raise ValueError(f"reduction must be one of {REDUCTIONS}, got {reduction!r}")


def _transformed(channel_map, channels, transform):
    if channel_map.shape[-1] == channels:
        return channel_map
    return (
        transform(channel_map)
        if callable(transform)
        else match_channels(channel_map, channels, transform)
    )


def _unit(channel_map):
    # A dead block has an all-zero map; the floor keeps its gradient finite.
    squares = tf.reduce_sum(
        tf.square(channel_map), axis=list(range(1, channel_map.shape.rank)), keepdims=True
    )
    return channel_map * tf.math.rsqrt(tf.maximum(squares, 1e-24))
