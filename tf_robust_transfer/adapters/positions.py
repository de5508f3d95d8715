"""Where `random_pad` places the images of a training step."""

import contextlib

from tf_robust_transfer.adapters.layers import RANDOM_POSITIONS
from tf_robust_transfer.ops import random, replicas


@contextlib.contextmanager
def random_positions(seed, batch_size):
    """Inside, `RandomPad` places the images at random; outside it centres them.

    The places are a function of the seed alone, not of a state of the layer: a teacher stays
    bit-identical, a resumed run draws what an uninterrupted one would have, and several devices
    draw what one does.

    Args:
        seed: int32 [2], of the step.
        batch_size: examples of this replica, an int or a scalar tensor.
    """
    of_batch = random.uniform([1, 2], seed)
    of_examples = replicas.random_uniform([batch_size, 2], seed)
    token = RANDOM_POSITIONS.set((of_batch, of_examples))
    try:
        yield
    finally:
        RANDOM_POSITIONS.reset(token)
