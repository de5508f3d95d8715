"""Feature-extraction submodels: images -> {"block1": ..., "logits": ...}, which ACM reads."""

import collections
import re

import keras

from tf_robust_transfer.errors import InputError, nearest
from tf_robust_transfer.models.copies import uncompiled
from tf_robust_transfer.models.graphs import graph_of

_ENDPOINT = re.compile(r"block\d+|logits")


def endpoints(model: keras.Model, layers: dict[str, str] | None = None) -> keras.Model:
    """The submodel that returns a functional model's named endpoints in one pass. It shares the
    model's layers.

    Args:
        model: a functional or sequential `keras.Model`, images [batch, height, width, channels] ->
            logits. Layers of it may be such models in turn, as a base of `keras.applications` is
            under a new head.
        layers: endpoint name -> layer name, for a model of your own, such as {"block1":
            "conv2d_3"}. A layer inside a nested model is found by its own name where no other has
            it, and by "base/layer" (any number of levels) everywhere. By default every layer named
            block1, block2, ... is an endpoint, a nested one if its name is unique; the model's
            output is always the endpoint "logits".

    Returns:
        keras.Model: images -> dict of tensors. A nested layer's is its activation for the model's
        images.

    Raises:
        InputError: a layer that the model does not have, has more than once or calls more than
            once; a subclassed model, whose layers have no fixed outputs.
    """
    if graph_of(model) is None:
        if type(model) is keras.Sequential:
            raise InputError(
                f"endpoints need a model of known input shape, but {model.name!r} is not built yet"
            )
        raise InputError(
            "endpoints need a functional or sequential keras.Model of known input shape, got the "
            f"subclass {type(model).__name__}"
        )
    found = _layers_by_name(model)
    if layers is None:
        layers = {name: name for name, paths in found.items() if _is_default(name, paths)}
    paths = {
        endpoint: _one_path(model, found, layer, endpoint) for endpoint, layer in layers.items()
    }
    inputs, logits, tensors = _read(model, list(paths.values()))
    outputs = dict(zip(paths, tensors, strict=True))
    outputs.setdefault("logits", logits)
    return keras.Model(inputs[0], outputs, name=f"{model.name}_endpoints")


def _layers_by_name(model):
    """{name: paths of the layers that it may mean}. A path holds the names from the model down to
    the layer.
    """
    found = collections.defaultdict(list)
    for path in _paths(model):
        for name in dict.fromkeys((path[-1], "/".join(path))):
            found[name].append(path)
    # An outer layer hides inner ones of its name.
    return {
        name: [path for path in paths if len(path) == 1] or paths for name, paths in found.items()
    }


def _paths(model, above=()):
    for layer in model.layers:
        if above and isinstance(layer, keras.layers.InputLayer):
            continue
        path = *above, layer.name
        yield path
        if _is_graph(layer):
            yield from _paths(layer, path)


def _is_graph(layer):
    """Whether a layer is a model that does nothing but run its graph of layers, from one input to
    one output.
    """
    graph = graph_of(layer)
    return graph is not None and len(graph.inputs) == 1 and len(graph.outputs) == 1


def _is_default(name, paths):
    # A nested model's "logits" need not be what the whole model returns.
    return (
        bool(_ENDPOINT.fullmatch(name))
        and len(paths) == 1
        and (len(paths[0]) == 1 or name != "logits")
    )


def _one_path(model, found, layer, endpoint):
    if layer not in found:
        raise InputError(
            f"model {model.name!r} has no layer {layer!r} for {endpoint!r}; {nearest(layer, found)}"
        )
    if len(found[layer]) > 1:
        raise InputError(
            f"model {model.name!r} has {len(found[layer])} layers {layer!r} for {endpoint!r}; give "
            "one of " + ", ".join("/".join(path) for path in found[layer])
        )
    return found[layer][0]


def _read(model, paths):
    """(inputs, output, the tensor at each path) in a graph with the model's layers."""
    graph = keras.Model(model.inputs, model.outputs)
    calls = collections.defaultdict(list)
    # Keras has no public way to walk a graph.
    for nodes in graph._nodes_by_depth.values():
        for node in nodes:
            calls[node.operation.name].append(node)
    for path in paths:
        if len(calls[path[0]]) != 1:
            raise InputError(
                f"model {model.name!r} calls {path[0]!r} {len(calls[path[0]])} times, so that it "
                f"has no one output {'/'.join(path)!r}; take a layer that is called once"
            )
    if all(len(path) == 1 for path in paths):
        return graph.inputs, graph.outputs[0], [calls[path[0]][0].outputs[0] for path in paths]

    # What follows a nested model that has to show its inside is called again, on what the same
    # model then returns.
    tensors = {}

    def call(operation, *args, **kwargs):
        inside = [path for path in paths if path[0] == operation.name and len(path) > 1]
        if inside:
            inputs, output, shown = _read(operation, [path[1:] for path in inside])
            result, *shown = keras.Model(inputs, [output, *shown], name=operation.name)(
                *args, **kwargs
            )
            tensors.update(zip(inside, shown, strict=True))
        else:
            result = operation(*args, **kwargs)
        tensors[(operation.name,)] = result
        return result

    with uncompiled(graph):
        again = keras.models.clone_model(
            graph, clone_function=lambda layer: layer, call_function=call
        )
    tensors.update({(tensor.name,): tensor for tensor in again.inputs})
    return again.inputs, again.outputs[0], [tensors[path] for path in paths]
