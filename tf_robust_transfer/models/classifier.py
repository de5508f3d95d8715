"""Any classifier as a functional model from images to logits, which every part of the package
takes.

Keras only: what is made here loads under any Keras backend.
"""

import inspect

import keras
import numpy as np

from tf_robust_transfer.errors import InputError, nearest
from tf_robust_transfer.models.bounds import PixelBounds
from tf_robust_transfer.models.graphs import graph_of, plain_values
from tf_robust_transfer.models.probabilities import (
    built_outputs,
    squashing_layer,
    without_probabilities,
)
from tf_robust_transfer.models.settings import check_settings

# Under `vars(model)`, where Keras tracks nothing: whatever begins so is no part of a saved model.
_MADE = "__tf_robust_transfer_classifiers"


def classifier(
    model,
    *,
    bounds=(0.0, 1.0),
    mean=None,
    std=None,
    output=None,
    probabilities=False,
    classes=None,
    input_shape=None,
    spec=None,
) -> keras.Model:
    """`as_classifier` of a model in memory; see `checkpoints.as_classifier`.

    spec: what the model was loaded from, if it was.
    """
    _check_floating(model)
    shape = tuple(input_shape) if input_shape is not None else known_input_shape(model)
    if shape is None or len(shape) != 3:
        raise InputError(
            f"the input shape of {_named(model)} is not known, or not (height, width, channels); "
            + write_line(spec, input_shape=(32, 32, 3))
            + " with the shape of your images"
        )
    low, high = bounds
    if not low < high:
        raise InputError(f"bounds must be (lowest, highest), got {tuple(bounds)}")
    inputs = keras.Input(shape, dtype="float32")
    images = inputs
    if (low, high) != (0.0, 1.0):
        images = PixelBounds(bounds, dtype="float32", name="pixel_bounds")(images)
    if mean is not None or std is not None:
        images = _standardisation(mean, std, shape[-1])(images)
    logits = _chosen(model, _outputs(model, images), output, shape, spec)
    if probabilities:
        logits = without_probabilities(inputs, logits, bounds)
    elif logits.shape[-1] == 1 and (last := squashing_layer(logits)):
        raise InputError(
            f"{_named(model)} has one output, a probability (its last layer is {last!r}); "
            + write_line(spec, probabilities=True)
        )
    if logits.shape[-1] == 1:
        logits = keras.ops.concatenate([keras.ops.zeros_like(logits), logits], axis=-1)
    if classes is not None:
        logits = _of_classes(logits, classes)
    if logits.dtype != "float32":
        logits = keras.layers.Activation("linear", dtype="float32", name="float32_logits")(logits)
    name = getattr(model, "name", None)
    return keras.Model(inputs, logits, name=name if isinstance(name, str) else None)


def as_model(model, input_shape=None, spec=None) -> keras.Model:
    """What a part of the package calls for the model that it is given.

    Args:
        model: a functional or sequential keras.Model of one input and one output [batch, logits],
            which is returned itself; one of logits in another precision, a subclassed model, a
            Sequential of open input shape, a layer, or a model of a dict with the one entry
            "logits", around which a functional model of the same layers is put, once; a method,
            which stands for its student.
        input_shape: (height, width, channels) where the model does not know it.
        spec: what the model was loaded from, if it was.

    Raises:
        InputError: anything else, with the line of `as_classifier` that takes it.
    """
    if isinstance(getattr(model, "student", None), keras.Model):
        model = model.student
    if not isinstance(model, keras.Layer):
        what = "a function" if callable(model) else type(model).__name__
        advice = write_line(input_shape=tuple(input_shape or (32, 32, 3)))
        raise InputError(f"expected a keras.Model or a SPEC, got {what}; {advice}")
    found, outputs = known_input_shape(model), built_outputs(model)
    if outputs is not None and len(model.inputs) != 1:
        raise InputError(
            f"{_named(model)} takes {len(model.inputs)} inputs; put a model of the images alone "
            "around it: keras.Model(images, model([images, ...]))"
        )
    _check_floating(model)
    if outputs is not None and hasattr(outputs, "shape") and len(outputs.shape) == 2:
        # The losses are of float32 logits; another's are cast by the classifier around it.
        if keras.backend.standardize_dtype(outputs.dtype) == "float32":
            return model
    shape = found or (tuple(input_shape) if input_shape is not None else None)
    # What is added to an open Sequential later makes another model of it.
    key = shape, tuple(map(id, getattr(model, "layers", ()))), plain_values(model)
    made = vars(model).setdefault(_MADE, {})
    if key not in made:
        made[key] = classifier(model, input_shape=shape, spec=spec)
    return made[key]


def _check_floating(model):
    """Raises an InputError for a network whose input casts images to whole numbers: in [0, 1] they
    would be 0 or 1, and no gradient passes.
    """
    if built_outputs(model) is None or len(model.inputs) != 1:
        return
    dtype = keras.backend.standardize_dtype(model.inputs[0].dtype)
    if "float" not in dtype:
        raise InputError(
            f"{_named(model)} casts its images to {dtype}, through which no gradient passes; build "
            "it with keras.Input(shape), which is float32, and set its weights"
        )


def known_input_shape(model):
    """(height, width, channels) of the images that a model takes, as far as it says so, or None."""
    try:
        shape = model.input_shape
    except (AttributeError, ValueError):
        config = model.get_build_config() if isinstance(model, keras.Layer) else None
        config = config or {}
        shapes = list((config.get("shapes_dict") or {}).values())
        shape = config.get("input_shape") or (shapes[0] if len(shapes) == 1 else None)
    if not isinstance(shape, (tuple, list)) or len(shape) != 4:
        return None
    return tuple(shape[1:])


def write_line(of: str | None = None, **options) -> str:
    """The advice to wrap a model: "write model = rt.as_classifier(model, input_shape=(8, 8, 1))".

    of: the SPEC that is to stand there in place of the model."""
    given = "".join(f", {name}={value!r}" for name, value in options.items())
    return f"write model = rt.as_classifier({'model' if of is None else repr(of)}{given})"


def _named(model):
    name = getattr(model, "name", None)
    return f"the {type(model).__name__} {name!r}" if isinstance(name, str) else "the function"


def _standardisation(mean, std, channels):
    check_settings()
    given = [
        np.asarray(default if value is None else value, np.float64)
        for value, default in ((mean, 0.0), (std, 1.0))
    ]
    for values in given:
        if values.shape not in ((), (1,), (channels,)):
            raise InputError(
                f"mean and std: a number each, or one for each of the {channels} channels, got "
                f"{values.tolist()}"
            )
    mean, std = (np.broadcast_to(values, (channels,)) for values in given)
    if not (std > 0).all():
        raise InputError(f"std must be above 0, got {std.tolist()}")
    # Not Normalization, which keeps the variance: its square root is another float32.
    return keras.layers.Rescaling(
        (1.0 / std).tolist(), (-mean / std).tolist(), dtype="float32", name="standardisation"
    )


def _outputs(model, images):
    """The model's outputs for symbolic images.

    The model's own layers become layers of the graph where its call says no more than that:
    endpoints can name them, and a saved file needs no class of its own."""
    try:
        if not isinstance(model, keras.Model):
            return model(images)
        if graph_of(model) is not None or type(model) is keras.Sequential:  # an unbuilt one too
            return model.call(images)
        whole = model(images)
        inlined = _inlined(model, images)
        return whole if inlined is None else inlined
    except InputError:
        raise
    except Exception as error:  # whatever a model of another's making raises
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{_named(model)} cannot be called on images of shape {images.shape}: {reason}"
        ) from error


def _inlined(model, images):
    """The outputs of a subclassed model's `call`, or None where its graph is not all that it is."""
    takes_training = "training" in inspect.signature(model.call).parameters
    graphs = []
    try:
        for training in (None, True):
            outputs = model.call(images, **({"training": training} if takes_training else {}))
            graphs.append((outputs, keras.Model(images, outputs)))
    except Exception:  # TensorFlow's operations take no symbolic tensors
        return None
    (outputs, graph), (_, in_training) = graphs
    names = [[operation.name for operation in g.operations] for _, g in graphs]
    # Keras numbers its operations anew in each graph; layers keep their names.
    kinds = [[type(operation).__name__ for operation in g.operations] for _, g in graphs]
    if kinds[0] != kinds[1] or len(names[0]) != len(names[1]):
        return None
    if {id(v) for v in graph.weights} != {id(v) for v in model.weights}:
        return None
    # Of a base that is called with training=False whatever is asked for, a graph forgets that.
    said = [
        {node.arguments.kwargs.get("training") for nodes in levels.values() for node in nodes}
        for levels in (g._nodes_by_depth for _, g in graphs)
    ]
    if not said[0] <= {None} or False in said[1]:
        return None
    probe = np.random.default_rng(0).uniform(size=(2, *(s or 32 for s in images.shape[1:])))
    same = [
        keras.tree.map_structure(keras.ops.convert_to_numpy, m(probe, training=False))
        for m in (graph, model)
    ]
    flat = zip(*map(keras.tree.flatten, same), strict=True)
    return outputs if all(np.allclose(a, b, rtol=1e-5, atol=1e-6) for a, b in flat) else None


def _chosen(model, outputs, output, shape, spec):
    """One tensor [batch, logits] of a model's outputs."""
    if hasattr(outputs, "shape"):
        outputs = {"output": outputs}
    elif not isinstance(outputs, dict):
        outputs = dict(enumerate(keras.tree.flatten(outputs)))
        names = getattr(model, "output_names", None) or ()
        if isinstance(output, str) and output in names:
            output = names.index(output)
    if output is None and len(outputs) > 1 and "logits" in outputs:
        output = "logits"
    if output is None:
        if len(outputs) > 1:
            widths = ", ".join(f"{key!r}: {tuple(t.shape)}" for key, t in outputs.items())
            known = known_input_shape(model)
            options = {"output": next(iter(outputs))} | ({} if known else {"input_shape": shape})
            raise InputError(
                f"{_named(model)} has {len(outputs)} outputs ({widths}); choose the logits: "
                + write_line(spec, **options)
            )
        output = next(iter(outputs))
    if output not in outputs:
        known = map(str, outputs)
        raise InputError(f"{_named(model)} has no output {output!r}; {nearest(str(output), known)}")
    logits = outputs[output]
    if len(logits.shape) > 2 and set(logits.shape[1:-1]) == {1}:
        logits = keras.layers.Reshape(logits.shape[-1:], dtype=logits.dtype)(logits)
    if len(logits.shape) != 2 or logits.shape[-1] is None:
        raise InputError(
            f"{_named(model)} gives {tuple(logits.shape)} and no logits [batch, classes]; put a "
            "layer behind it that does"
        )
    return logits


def _of_classes(logits, classes):
    if isinstance(classes, (int, np.integer)):
        if logits.shape[-1] != classes:
            raise InputError(f"expected {classes} logits, the model gives {logits.shape[-1]}")
        return logits
    classes = [int(index) for index in classes]
    if not classes or min(classes) < 0 or max(classes) >= logits.shape[-1]:
        raise InputError(
            f"classes must be of the model's {logits.shape[-1]} outputs, counted from 0, got "
            f"{classes[:5]}..."
        )
    return keras.ops.take(logits, classes, axis=-1)
