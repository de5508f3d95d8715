"""The networks that a method is given, held against what it is documented for, before a step spends
time on them.
"""

import functools

import keras
import numpy as np

from tf_robust_transfer.checkpoints import as_model
from tf_robust_transfer.errors import InputError
from tf_robust_transfer.models.bounds import pixel_bounds
from tf_robust_transfer.models.classifier import known_input_shape, write_line
from tf_robust_transfer.models.probabilities import probability_layer

ROLES = ("student", "teacher")


def takes_any_model(init):
    """Decorates a method's `__init__`: student and teacher may be any that `as_model` takes, such
    as SPECs. One that does not know its input shape takes the other's.
    """

    @functools.wraps(init)
    def with_models(self, **kwargs):
        given = {role: kwargs[role] for role in ROLES if kwargs.get(role) is not None}
        for role, model in given.items():
            kwargs[role] = given[role] = as_model(model) if isinstance(model, str) else model
        shapes = [known_input_shape(model) for model in given.values() if _is_model(model)]
        shape = next((shape for shape in shapes if shape), None)
        init(self, **kwargs | {role: as_model(model, shape) for role, model in given.items()})

    return with_models


def check_networks(method) -> None:
    """Raises an InputError where a method's student or teacher gives probabilities or one number,
    or the teacher is random.

    The losses are of logits; of probabilities they are wrong without an error.
    """
    for role in ROLES:
        model = getattr(method, role, None)
        if not isinstance(model, keras.Model):
            continue
        if model.output_shape[-1] < 2:
            raise InputError(
                f"the {role} has one output, the losses are of logits of at least 2 classes; "
                + (write_line(probabilities=True) if probability_layer(model) else write_line())
            )
        last, (logits, again) = probability_layer(model), _two_passes(model)
        if role == "teacher" and not np.allclose(logits, again, rtol=1e-2, atol=1e-4):
            raise InputError(
                "the teacher is random: two passes of the same images differ; a dropout or noise "
                "layer in it is called with training=True"
            )
        if role == "student":
            check_losses(model)
        sums = np.abs(logits.sum(axis=1) - 1)
        if last is not None or (logits.min() >= -1e-5 and sums.max() <= 1e-5):
            raise InputError(
                f"the {role} returns probabilities"
                + (f" (its last layer is {last!r}, a softmax or sigmoid)" if last else "")
                + ", the losses are of logits; "
                + write_line(probabilities=True)
            )


def check_losses(student) -> None:
    """Raises an InputError for losses of a network's own that a step would leave out. Called after
    a pass, which makes those of `add_loss`.
    """
    adding = [
        layer.name
        for layer in student._flatten_layers()
        if getattr(layer, "activity_regularizer", None) is not None or layer._losses
    ]
    if adding:
        raise InputError(
            f"the student's {adding[0]!r} adds a loss of its own (add_loss, or an activity "
            "regularizer), which a method's step does not have: take it out, or make it a term "
            "(rt.terms); regularizers of weights are added"
        )


def check_bounds(method) -> None:
    """Raises an InputError where student, teacher and threat model take pixels of other ranges."""
    bounds, threat_model = bounds_of(method), getattr(method, "threat_model", None)
    if threat_model is not None and tuple(threat_model.bounds) != bounds:
        raise InputError(
            f"the student takes images in {bounds}, and the threat model has the bounds "
            f"{threat_model.bounds}; give ThreatModel(bounds={bounds}), with eps in the same units"
        )
    teacher = getattr(method, "teacher", None)
    # One that was told nothing may be of the threat model's bounds, as such a student may.
    allowed = (bounds, pixel_bounds(method.student))
    if isinstance(teacher, keras.Model) and pixel_bounds(teacher) not in allowed:
        raise InputError(
            f"the teacher takes images in {pixel_bounds(teacher)}, the student in {bounds}; "
            "rt.as_classifier(model, bounds=...) makes one of the other's range"
        )


def bounds_of(method) -> tuple[float, float]:
    """Of a method's images: what its student was told, else those of its threat model."""
    bounds, threat_model = pixel_bounds(method.student), getattr(method, "threat_model", None)
    return tuple(threat_model.bounds) if bounds == (0.0, 1.0) and threat_model else bounds


def _is_model(model):
    return isinstance(model, keras.Layer)


def _two_passes(model):
    """Outputs for two images of noise, float32 [2, classes], twice."""
    shape = [2, *(side or 32 for side in model.input_shape[1:])]
    noise = np.random.default_rng(0).uniform(*pixel_bounds(model), shape).astype(np.float32)
    passes = (model(noise, training=False) for _ in range(2))
    return [keras.ops.convert_to_numpy(keras.ops.cast(found, "float32")) for found in passes]
