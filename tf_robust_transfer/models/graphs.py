"""What calling a model runs, where that is its graph of layers and nothing else."""

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
