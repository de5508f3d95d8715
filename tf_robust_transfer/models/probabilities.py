"""Networks that end in probabilities: whether they do, and the logits before them."""

import warnings

import keras
import numpy as np
from keras.src.models.functional import Functional

from tf_robust_transfer.errors import InputError
from tf_robust_transfer.models.graphs import graph_of

# Probabilities below it count as it: a logarithm needs one, and float32 has little below.
PROBABILITY_FLOOR = 1e-30


def probability_layer(model) -> str | None:
    """The name of the softmax or sigmoid that a functional model ends in, or None."""
    return squashing_layer(built_outputs(model))


def squashing_layer(tensor) -> str | None:
    """The name of the softmax or sigmoid that a symbolic tensor comes from, or None."""
    while hasattr(tensor, "_keras_history"):
        operation, node, index = tensor._keras_history
        if isinstance(operation, (Functional, keras.Sequential)):
            outputs = built_outputs(operation)
            tensor = None if outputs is None else keras.tree.flatten(outputs)[index]
        elif getattr(operation, "activation", None) is keras.activations.linear and isinstance(
            operation, keras.layers.Activation
        ):  # such as what brings half precision to float32
            tensor = operation._inbound_nodes[node].input_tensors[0]
        else:
            ends = type(operation).__name__ in ("Softmax", "Sigmoid") or _squashes(operation)
            return operation.name if ends else None
    return None


def without_probabilities(inputs, outputs, bounds):
    """Logits for probabilities: what the last softmax or sigmoid takes, else their logarithms."""
    before = _before_probabilities(outputs)
    if before is not None:
        return before
    probe = np.random.default_rng(0).uniform(*bounds, (2, *(s or 32 for s in inputs.shape[1:])))
    found = keras.ops.convert_to_numpy(keras.Model(inputs, outputs)(probe, training=False))
    if found.min() < -1e-5 or found.max() > 1 + 1e-5:
        raise InputError(
            f"the model gives no probabilities but values from {found.min():.3g} to "
            f"{found.max():.3g}; leave probabilities=True out"
        )
    warnings.warn(
        "the model ends in no softmax or sigmoid layer that can be taken off: its logits are "
        f"logarithms of its probabilities, at least {PROBABILITY_FLOOR:g}; where these are rounded "
        "to 0 or 1 gradients vanish",
        stacklevel=4,
    )
    if outputs.shape[-1] == 1:
        outputs = keras.ops.concatenate([1.0 - outputs, outputs], axis=-1)
    return keras.ops.log(keras.ops.maximum(outputs, PROBABILITY_FLOOR))


def _before_probabilities(outputs):
    """The tensor that the last softmax or sigmoid takes, or None where none is last."""
    operation, node, index = outputs._keras_history
    node = operation._inbound_nodes[node]
    given = node.input_tensors[0]
    if isinstance(operation, (Functional, keras.Sequential)):
        returned = operation.call(*node.arguments.args)
        return _before_probabilities(keras.tree.flatten(returned)[index])
    if type(operation).__name__ in ("Softmax", "Sigmoid") or (
        isinstance(operation, keras.layers.Activation) and _squashes(operation)
    ):
        return given
    if isinstance(operation, keras.Layer) and _squashes(operation):
        linear = _without_activation(operation)
        return None if linear is None else linear(given)
    return None


def _squashes(layer):
    return getattr(layer, "activation", None) in (
        keras.activations.softmax,
        keras.activations.sigmoid,
    )


def _without_activation(layer):
    """A layer of the same variables without an activation, or None where they cannot be shared."""
    linear = type(layer).from_config(layer.get_config() | {"activation": "linear"})
    linear.build_from_config(layer.get_build_config())
    linear._tracker.unlock()
    for name, variable in list(vars(layer).items()):
        if isinstance(variable, keras.Variable):
            linear._untrack_variable(getattr(linear, name))
            linear._tracker.unlock()
            setattr(linear, name, variable)
    linear._tracker.lock()
    same = list(map(id, linear.variables)) == list(map(id, layer.variables))
    return linear if same else None


def built_outputs(model):
    """The structure of symbolic outputs of a functional or built sequential model, or None."""
    graph = graph_of(model)
    return None if graph is None else graph.output
