"""Models however they come: as objects of any kind, as SPECs, as SavedModels."""

import os

import keras

from tf_robust_transfer import models
from tf_robust_transfer.checkpoints.specs import load_as_it_is, load_model
from tf_robust_transfer.errors import InputError
from tf_robust_transfer.files import path_of
from tf_robust_transfer.models import classifier


def as_classifier(
    model,
    *,
    bounds=(0.0, 1.0),
    mean=None,
    std=None,
    output=None,
    probabilities=False,
    classes=None,
    input_shape=None,
) -> keras.Model:
    """Puts a functional keras.Model around a classifier, so that every part takes it.

    The result shares the model's layers where its call is a graph of them, and calls it as one
    layer elsewhere. Its weights train along. Attacks, methods, `endpoints` and `save_model` take
    it; to be loaded again, it must not hold a function, a SavedModel or an unregistered class.

    Args:
        model: a keras.Model of any kind, a layer (such as a `TFSMLayer`), a SPEC, the folder of a
            SavedModel, or a function of images.
        bounds: (lowest, highest) pixel value of the images that the result takes, as in
            `ThreatModel`. Methods and evaluations hold the images against them.
        mean, std: where the model takes (images - mean) / std: numbers, or one a channel, in the
            units of `bounds`.
        output: name or index of the output that is the logits, of several.
        probabilities: the output is a softmax, or a sigmoid. A last softmax or sigmoid is taken off
            where it is a layer or its activation; else logarithms are taken, with a floor and a
            warning.
        classes: the number of logits, which is then checked; or the outputs that are the classes,
            in their order, such as range(1, 1001).
        input_shape: (height, width, channels), where the model does not say it.

    Returns:
        keras.Model: images float32 [batch, height, width, channels] in bounds -> logits float32
        [batch, classes]. A model of one output z gives the logits (0, z).

    Raises:
        InputError: what does not fit, with what to write.
    """
    spec = None
    if isinstance(model, (str, os.PathLike)):
        spec = str(model)
        model = saved_model(spec) if is_saved_model(spec) else load_as_it_is(spec)
    if isinstance(getattr(model, "student", None), keras.Model):
        model = model.student
    if not callable(model):
        raise InputError(f"expected a model, a SPEC or a function, got {type(model).__name__}")
    return classifier.classifier(
        model,
        bounds=bounds,
        mean=mean,
        std=std,
        output=output,
        probabilities=probabilities,
        classes=classes,
        input_shape=input_shape,
        spec=spec,
    )


def as_model(model, input_shape=None) -> keras.Model:
    """As `models.classifier.as_model`, and a SPEC is loaded: what every part calls for its model.

    A functional model is returned itself. Raises an InputError that says what to write.
    """
    if isinstance(model, (str, os.PathLike)):
        model = load_model(str(model))
    return classifier.as_model(model, input_shape)


def is_saved_model(path) -> bool:
    """Whether a path is the folder of a TensorFlow SavedModel."""
    return (path_of(path) / "saved_model.pb").is_file()


def saved_model(path) -> keras.Layer:
    """The endpoint "serve" of a SavedModel folder, which Keras's `export` writes, or its only one,
    as a layer.

    Raises an InputError where it cannot be read, or has several others.
    """
    errors = []
    for endpoint in ("serve", "serving_default"):
        try:
            return keras.layers.TFSMLayer(str(path_of(path)), call_endpoint=endpoint)
        except Exception as error:  # whatever TensorFlow finds in a damaged one
            errors.append(" ".join(str(error).split())[:200])
    raise InputError(f"the SavedModel {str(path)!r} cannot be read: {errors[-1]}")


def endpoints(model, layers: dict[str, str] | None = None) -> keras.Model:
    """As `models.endpoints`; a SPEC is loaded, and a method stands for its student."""
    if isinstance(model, (str, os.PathLike)) or hasattr(model, "student"):
        model = as_model(model)
    return models.endpoints(model, layers)
