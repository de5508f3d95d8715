"""Copies of networks with weights of the same values."""

import keras

from tf_robust_transfer.errors import InputError


def give_weights(copy: keras.Model, weights) -> None:
    """As `copy.set_weights(weights)`, after which the copy also computes with them.

    An adapted `keras.layers.Normalization` computes with what it made of its weights when they were
    loaded, and Keras's `set_weights` does not tell it.
    """
    copy.set_weights(weights)
    for layer in copy._flatten_layers():
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()


def copy_of(network: keras.Model, **cloning) -> keras.Model:
    """A copy with weights of the same values. cloning: of `keras.models.clone_model`.

    Raises:
        InputError: a network that Keras cannot clone, such as a subclassed one.
    """
    try:
        copy = keras.models.clone_model(network, **cloning)
    except (ValueError, TypeError, NotImplementedError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"a copy of the network is needed, and Keras cannot clone {type(network).__name__}: "
            f"give a functional or sequential model ({reason})"
        ) from None
    give_weights(copy, network.get_weights())
    return copy
