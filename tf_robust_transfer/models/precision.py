"""Networks that compute in half precision, and their copies in float32."""

import keras

from tf_robust_transfer.models.copies import copy_of, give_weights

_HALF = ("bfloat16", "float16")


def with_precision(network: keras.Model, precision: str) -> keras.Model:
    """The network with Keras's own layers computing in "bfloat16" or "float16", weights float32 and
    of the same values.

    What comes before the first layer with weights stays float32, as pixels are normalised there,
    and so does all from the last layer with weights on: logits, and with them every loss, are
    float32. Nested models count by their layers."""
    layers = list(_layers(network))
    weighted = [
        place
        for place, layer in enumerate(layers)
        if layer.weights and not isinstance(layer, keras.layers.Normalization)
    ]
    half = layers[weighted[0] : weighted[-1]] if weighted else []

    def dtype(layer):
        known = type(layer).__module__.startswith("keras.")
        changed = known and any(layer is one for one in half)
        return f"mixed_{precision}" if changed else None

    return _recast(network, dtype)


def same_precision(network: keras.Model) -> keras.Model:
    """A copy of a network in the same precision, with weights of the same values.

    Raises an InputError for one that Keras cannot clone, such as a subclassed one.
    """
    return _recast(network, lambda layer: None)


def in_float32(network: keras.Model) -> keras.Model:
    """The network itself where all of it computes in float32, else a copy that does, with weights
    of the same values.

    What `with_precision` made is trained and nothing else: its copy is what is measured, saved and
    attacked. Layers inside of nested models too, such as those of a teacher that was fine-tuned.
    """
    if not any(layer.compute_dtype in _HALF for layer in _layers(network)):
        return network
    return _recast(network, lambda layer: "float32" if layer.compute_dtype in _HALF else None)


def take_weights(copy: keras.Model, network: keras.Model) -> None:
    """Gives what `in_float32` made of a network the weights that the network has by now."""
    if copy is not network:
        give_weights(copy, network.get_weights())


def _recast(network, dtype):
    """A copy with the same weights. dtype: from a layer to its policy's name, or None where the
    layer keeps its own.
    """

    def clone(layer):
        # Between nested models Keras puts operations that are no layers.
        settings, chosen = (
            layer.get_config(),
            dtype(layer) if isinstance(layer, keras.Layer) else None,
        )
        return type(layer).from_config(settings | {"dtype": chosen} if chosen else settings)

    return copy_of(network, clone_function=clone, recursive=True)


def _layers(model):
    for layer in model.layers:
        yield from _layers(layer) if isinstance(layer, keras.Model) else (layer,)
