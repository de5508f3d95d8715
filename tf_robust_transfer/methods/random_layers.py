"""The random numbers of dropout and its like inside a method's networks."""

import keras
import tensorflow as tf

from tf_robust_transfer.ops.random import fold_seed

# Apart from the attacks' and the terms' streams of the same step.
_STREAM = 5


def seed_layers(model: keras.Model, seed) -> None:
    """Sets every `keras.random.SeedGenerator` of a method's or a network's layers for one step.

    Keras counts its draws in variables that are no weights, so that neither `save_weights` nor a
    checkpoint of the student has them. As a function of the step's seed a resumed run draws what an
    uninterrupted one would have. A seed that a layer was given of its own is not used.

    Args:
        seed: int32 [2], of the step.
    """
    states = [variable for variable in model.variables if variable.name == "seed_generator_state"]
    for place, state in enumerate(states):
        # Keras adds 1 to the second number with each draw.
        state.assign(tf.cast(fold_seed(seed, _STREAM, place), state.dtype))
