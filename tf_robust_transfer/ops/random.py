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


def seed_sequence(words, count: int):
    """What `np.random.SeedSequence(words).generate_state(count)` gives, for many at once.

    Args:
        words: list of whole numbers, each an int or an array or tensor [n]; taken modulo 2^32.
        count: numbers wanted.

    Returns:
        uint32 [n, count]; a tensor where one of the words is one.
    """
    in_graph = any(map(tf.is_tensor, words))
    words = [
        tf.bitcast(tf.cast(word, tf.int32), tf.uint32)
        if tf.is_tensor(word)
        else np.atleast_1d(np.asarray(word).astype(np.int64) % 2**32).astype(np.uint32)
        for word in words
    ]
    if in_graph:
        words = [tf.convert_to_tensor(word) for word in words]

    def shifted(value):
        return value ^ value // 2**16

    def hashing(constant, factor):
        """The hash of NumPy's source, whose constant changes from call to call."""

        def hashed(value):
            nonlocal constant
            value = value ^ constant
            constant = constant * factor % 2**32
            return shifted(value * constant)

        return hashed

    def mixed(one, other):
        return shifted(one * 0xCA01F9DD - other * 0x4973F715)

    hashed = hashing(0x43B0D7E5, 0x931E8875)
    words = words + [words[0] * 0] * (4 - len(words))
    pool = [hashed(word) for word in words[:4]]
    for source in range(4):
        for target in range(4):
            if source != target:
                pool[target] = mixed(pool[target], hashed(pool[source]))
    for word in words[4:]:
        for target in range(4):
            pool[target] = mixed(pool[target], hashed(word))
    hashed = hashing(0x8B51F9DD, 0x58F38DED)
    state = [hashed(pool[i % 4]) for i in range(count)]
    return tf.stack(state, -1) if in_graph else np.stack(np.broadcast_arrays(*state), -1)


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
