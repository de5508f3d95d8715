"""What calling a model runs: its graph of layers, where it is nothing else, and plain values."""

import keras
from keras.src.models.functional import Functional


def graph_of(model):
    """The functional graph of a functional or built sequential keras.Model; None for other models,
    subclasses with a `call` of their own among them, which may do more than their layers.
    """
    graph, runs = model, Functional.call
    if isinstance(model, keras.Sequential):
        # A sequential model keeps its graph there, once it is built.
        graph, runs = getattr(model, "_functional", None), keras.Sequential.call
    return graph if isinstance(graph, Functional) and type(model).call is runs else None


# What training a model sets.
_OF_TRAINING = {"compiled", "stop_training"}


def plain_values(model) -> tuple:
    """(attribute, value) of the numbers, switches and texts that a model and its layers hold, such
    as `layer.scale`, which need not stand in a configuration.
    """
    return tuple(
        (name, value)
        for layer in model._flatten_layers()
        for name, value in vars(layer).items()
        if isinstance(value, (bool, int, float, str))
        and not name.startswith("_")
        and name not in _OF_TRAINING
    )
