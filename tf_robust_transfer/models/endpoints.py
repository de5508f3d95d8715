"""Feature-extraction submodels: images -> {"block1": ..., "logits": ...}, which ACM reads."""

import re

import keras

from tf_robust_transfer.errors import InputError, nearest

_ENDPOINT = re.compile(r"block\d+|logits")


def endpoints(model: keras.Model, layers: dict[str, str] | None = None) -> keras.Model:
    """The submodel that returns a functional model's named endpoints in one pass. It shares the model's layers.

    Args:
        model: a functional or sequential `keras.Model`, images [batch, height, width, channels] -> logits.
        layers: endpoint name -> layer name, for a model of your own, such as {"block1": "conv2d_3"}. By default every
            layer named block1, block2, ... is an endpoint; the model's output is always the endpoint "logits".

    Returns:
        keras.Model: images -> dict of tensors.

    Raises:
        InputError: a layer that the model does not have, or a subclassed model, whose layers have no fixed outputs.
    """
    try:
        model.inputs, model.outputs  # noqa: B018 - absent in subclassed models and in a Sequential not yet built
    except (AttributeError, ValueError):
        raise InputError(
            "endpoints need a functional or sequential keras.Model of known input shape, got the subclass "
            f"{type(model).__name__}"
        ) from None
    if not model.inputs or not model.outputs:
        raise InputError(f"endpoints need a model of known input shape, but {model.name!r} is not built yet")
    names = {layer.name: layer for layer in model.layers}
    wanted = layers if layers is not None else {name: name for name in names if _ENDPOINT.fullmatch(name)}
    outputs = {}
    for endpoint, layer in wanted.items():
        if layer not in names:
            raise InputError(f"model {model.name!r} has no layer {layer!r} for {endpoint!r}; {nearest(layer, names)}")
        outputs[endpoint] = names[layer].output
    outputs.setdefault("logits", model.outputs[0])
    return keras.Model(model.inputs[0], outputs, name=f"{model.name}_endpoints")
