"""Copies of networks with weights of the same values."""

import contextlib

import keras
from keras.src.models.functional import Functional

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
    """A copy with weights of the same values, not compiled. cloning: of `keras.models.clone_model`.

    Raises:
        InputError: a network that Keras cannot clone, such as a subclassed one, or one with layers
            that its graph does not call.
    """
    # Only so do layers that two nested models share stay shared, and layers of classes that are not
    # registered are copied. Of a nested model of another class Keras would make a plain one.
    nested = [part for part in network._flatten_layers(include_self=False) if _has_a_graph(part)]
    plain = all(type(part) in (Functional, keras.Sequential) for part in nested)
    try:
        with uncompiled(network):
            copy = keras.models.clone_model(network, **{"recursive": plain} | cloning)
        give_weights(copy, network.get_weights())
    except (ValueError, TypeError, NotImplementedError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"a copy of the network is needed, and Keras cannot clone {type(network).__name__}: "
            "give a functional or sequential model, without further layers as attributes "
            f"({reason})"
        ) from None
    return copy


@contextlib.contextmanager
def uncompiled(network: keras.Model):
    """Within it a network and what is nested in it pass for not compiled: a clone is compiled as
    they are, which fails where a loss or metric is not registered.
    """
    compiled = [part for part in network._flatten_layers() if getattr(part, "compiled", False)]
    try:
        for part in compiled:
            part.compiled = False
        yield
    finally:
        for part in compiled:
            part.compiled = True


def _has_a_graph(layer):
    return isinstance(layer, (Functional, keras.Sequential))
