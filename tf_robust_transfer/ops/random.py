"""Every random number that a step, an attack or the data draw: a pure function of a seed, the same
with and without XLA.

TensorFlow 2.21's float draws (`stateless_uniform`, `stateless_normal`, with alg="philox" too)
differ between its own kernels and XLA's from one seed, and so would a run on a CPU from one on a
GPU. Its 32-bit integers by "philox" do not differ. Everything here is made of those: uniform
numbers are equal to the bit, normal ones to about 2e-5.

Seeds are int32 or int64 [2].
"""

import numpy as np
import tensorflow as tf

_PHILOX = "philox"
# What keeps a seed that is a single number apart from one that is a pair.
_SECOND_HALF = 0x5EED


def fold_seed(seed, *numbers):
    """A seed, int [2], that is a function of all its arguments; each may be a tensor.

    seed: a seed, or a single number. numbers: whole numbers that tell streams of a seed apart.
    """
    if np.ndim(seed) == 0:
        seed = tf.stack([tf.cast(seed, tf.int32), tf.constant(_SECOND_HALF, tf.int32)])
    for number in numbers:
        seed = tf.random.experimental.stateless_fold_in(seed, number, alg=_PHILOX)
    return seed


def uniform(shape, seed):
    """Uniform float32 numbers in [0, 1), multiples of 2^-23.

    shape: ints or an int tensor. Returns float32 of that shape.
    """
    bits = tf.random.stateless_uniform(shape, seed, None, None, tf.int32, alg=_PHILOX)
    # The sign bit has to be shifted like any other.
    high = tf.bitwise.right_shift(tf.bitcast(bits, tf.uint32), tf.constant(9, tf.uint32))
    return tf.cast(high, tf.float32) * 2.0**-23


def open_uniform(shape, seed):
    """As `uniform`, but in the open interval (0, 1): moved up by half a step, so that a logarithm
    is finite.
    """
    return uniform(shape, seed) + 2.0**-24


def normal(shape, seed):
    """Standard normal float32 numbers, of at most 5.3 in absolute value; see `uniform`."""
    return tf.math.ndtri(open_uniform(shape, seed))


def integers(shape, seed, low: int, high: int):
    """Uniform int32 numbers in low..high - 1; see `uniform`."""
    return tf.random.stateless_uniform(shape, seed, low, high, tf.int32, alg=_PHILOX)


def shuffle(tensor, seed):
    """The rows of a tensor in random order."""
    return tf.random.experimental.stateless_shuffle(tensor, seed, alg=_PHILOX)
