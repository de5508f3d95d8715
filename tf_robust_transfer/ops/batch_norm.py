"""Batch norm whose statistics are of the whole batch, where several replicas share it, and whose
second gradients are right.

Keras has a switch for it, `synchronized`. It is not used: it would be saved with the network, which
then loads under TensorFlow alone; it makes three all-reduces of each layer where two do; and its
variance, E[x^2] - E[x]^2, rounds otherwise than one device's, and has another second gradient."""

import contextlib

import keras

from tf_robust_transfer.ops import replicas


def batch_norm_layers(networks) -> list[keras.layers.BatchNormalization]:
    """Those of the networks, keras.Models or layers, and of all that is inside them; each once."""
    layers = {id(layer): layer for network in networks for layer in network._flatten_layers()}
    return [x for x in layers.values() if isinstance(x, keras.layers.BatchNormalization)]


@contextlib.contextmanager
def with_our_moments(layers, whole_batch: bool):
    """Within it, what is traced of these batch-norm layers in training takes `replicas.moments`.

    The layers themselves are changed, and changed back: networks of your own need not be copied.
    """
    # One that has ours already, of the whole batch, keeps them.
    changed = [layer for layer in layers if "_moments" not in vars(layer)]
    for layer in changed:
        layer._moments = _moments_of(layer, whole_batch)
    try:
        yield
    finally:
        for layer in changed:
            del layer._moments


def _moments_of(layer, whole_batch):
    of_its_own = layer._moments

    def moments(inputs, mask):
        if mask is not None:  # of sequences; Keras does not synchronise it either
            return of_its_own(inputs, mask)
        return replicas.moments(inputs, layer._reduction_axes, whole_batch)

    return moments
