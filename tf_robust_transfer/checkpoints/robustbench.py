"""RobustBench's PyTorch checkpoints (github.com/RobustBench/robustbench at 78fcc9e) as Keras
models.
"""

import collections
import dataclasses
import re

import keras
import numpy as np

from tf_robust_transfer.checkpoints.teacher_kinds import Form
from tf_robust_transfer.checkpoints.teachers import CLASSES, TEACHERS, find_teachers
from tf_robust_transfer.checkpoints.torch_files import read_state_dict
from tf_robust_transfer.errors import InputError
from tf_robust_transfer.models import build_model
from tf_robust_transfer.models.wide_resnet import CosineLogits

# Buffers of the normalisation: MadryLab's robustness library, RobustBench's ImageNet models, its
# other models.
_MEANS = ("normalizer.new_mean", "attacker.normalize.new_mean", "normalize.mean", "mu", "mean")
_STDS = ("normalizer.new_std", "attacker.normalize.new_std", "normalize.std", "sigma", "std")


def load_robustbench(model_id: str, path: str) -> keras.Model:
    """Reads a checkpoint of RobustBench's model zoo.

    The file may be RobustBench's own or the authors', in each of the layouts of `read_state_dict`.

    Args:
        model_id: a name of `teachers.CHECKPOINTS`, such as "Rice2020Overfitting" or
            "Rice2020Overfitting@cifar100"; without "@" the file says which of the id's networks it
            is.
        path: the .pt or .safetensors file.

    Returns:
        keras.Model: images float32 [batch, height, width, 3] in [0, 1] -> logits float32 [batch,
        classes]. Height and width are 32, on ImageNet 224 (288 for Wong2020Fast). The normalisation
        lies inside the model; RobustBench's resizing and cropping of ImageNet's pictures (to 256,
        then 224; for Wong2020Fast a crop alone, to 288) does not.

    Raises:
        InputError: unknown id, PyTorch not installed, no such file, a web page, a damaged file or
            one with other Python objects than tensors, or a state_dict with something missing, left
            over, of another shape or not finite.
    """
    return load_form(_forms(model_id), path, model_id)


def build_robustbench(model_id: str, input_shape, num_classes: int) -> keras.Model:
    """The network of a checkpoint with fresh weights, which a smoke run takes where the file is
    absent.

    Args:
        model_id: as in `load_robustbench`; of several forms the first for these images and classes,
            or the first.
        input_shape: (height, width, channels) of the images.
        num_classes: of the data set.

    Returns:
        keras.Model: as `load_robustbench`.

    Raises:
        InputError: unknown id.
    """
    forms = _forms(model_id)
    fitting = [
        form
        for form in forms
        if form.size == input_shape[0] and form.classes in (None, num_classes)
    ]
    form = (fitting or forms)[0]
    return _network(form, form.classes or num_classes)


def _forms(model_id):
    teachers = find_teachers(model_id)
    forms = [teacher.form for teacher in teachers]
    if "@" not in model_id:
        return forms
    return [
        dataclasses.replace(form, classes=CLASSES[teacher.dataset])
        for form, teacher in zip(forms, teachers)
    ]


def _network(form, classes):
    normalised = {} if form.mean is None else {"preprocessing": "standardized"}
    return build_model(
        form.network,
        (form.size, form.size, 3),
        classes,
        mean=form.mean,
        std=form.std,
        **normalised,
        **form.options,
    )


def load_form(forms, path: str, title: str) -> keras.Model:
    """Reads a file as the nearest of the forms. See `load_robustbench`; title names the model in
    errors.
    """
    tensors = read_state_dict(path)
    form = min(forms, key=lambda form: len(differences(form, tensors)))  # the first of equals
    classes = form.classes or max(file_signature(tensors, form.names)["classes"], 2)
    complaint = f"{str(path)!r} is not {title} ({form.network}, {classes} classes)"
    _check_normalisation(tensors, form, complaint)
    model = _network(form, classes)
    _fill(model, tensors, form, complaint)
    return model


def signature(form: Form) -> dict:
    """What a form's file shows of its network: blocks and widths of the groups, classes, ..."""
    wide = re.fullmatch(r"wrn_(\d+)_(\d+)", form.network)
    if wide:
        blocks, widths = 3 * ((int(wide[1]) - 4) // 6,), 3 * (int(wide[2]),)
    else:
        blocks, widths = form.options.get("blocks"), form.options.get("widths")
    if widths:
        channels = tuple(2 ** (4 + group) * width for group, width in enumerate(widths))
    else:
        blocks = (3, 4, 6, 3) if "50" in form.network else (2, 2, 2, 2)
        base = form.options.get("base_channels", 64)
        # Of a bottleneck's first convolution; Wide-ResNet-50-2 has it twice as wide.
        base *= 2 if form.network == "wide_resnet_50_2" else 1
        channels = tuple(base << group for group in range(4))
    modules = {
        module
        for layer, module in form.names.outer.items()
        if layer != "final_batch_norm" or form.options.get("final_batch_norm", True)
    }
    for group in range(len(blocks)):
        block = form.names.block.format(group=group + form.names.first_group, block=0)
        modules.add(block.split(".")[0])
    return {
        "modules": modules | ({"sub_block1"} if form.sub_block else set()),
        "blocks": blocks,
        "channels": channels,
        "classes": form.classes,
        "logits' bias": not form.options.get("cosine_logits", False),
    }


def file_signature(tensors: dict, names) -> dict:
    """What `signature` says of the network whose tensors these are, by these names."""

    pattern = re.escape(f"{names.block}.{names.inner['conv1']}.weight")
    for field in ("group", "block"):
        pattern = pattern.replace(re.escape(f"{{{field}}}"), r"(\d+)")
    groups = collections.defaultdict(list)
    for name, tensor in tensors.items():
        if found := re.fullmatch(pattern, name):
            groups[int(found[1])].append(tensor.shape[0] if tensor.ndim == 4 else 0)
    logits = tensors.get(f"{names.outer['logits']}.weight")
    return {
        "modules": {name.split(".")[0] for name in tensors if name not in _MEANS + _STDS},
        "blocks": tuple(len(groups[group]) for group in sorted(groups)),
        "channels": tuple(max(groups[group]) for group in sorted(groups)),
        "classes": len(logits) if logits is not None and logits.ndim == 2 else 0,
        "logits' bias": f"{names.outer['logits']}.bias" in tensors,
    }


def differences(form: Form, tensors: dict) -> list[str]:
    """In which entries of `signature` the tensors of a file differ from a form."""
    found = file_signature(tensors, form.names)
    return [
        what
        for what, expected in signature(form).items()
        if expected is not None and expected != found[what]
    ]


def _check_normalisation(tensors, form, complaint):
    """Takes the normalisation's buffers, if any, out of tensors. They have to be the form's."""
    for names, expected in ((_MEANS, form.mean or (0.0,) * 3), (_STDS, form.std or (1.0,) * 3)):
        for name in names:
            found = tensors.pop(name, None)
            if found is not None and (
                found.size != 3 or not np.allclose(found.ravel(), expected, rtol=0, atol=1e-4)
            ):
                values = np.round(found.ravel()[:3].astype(float), 4).tolist()
                raise InputError(f"{complaint}: {name} is {values}, expected {list(expected)}")


# Of each kind of weight in Keras: its name in PyTorch, and the axes of PyTorch's tensor in Keras's
# order.
_WEIGHTS = {
    (keras.layers.Conv2D, "kernel"): ("weight", (2, 3, 1, 0)),
    (keras.layers.Dense, "kernel"): ("weight", (1, 0)),
    (keras.layers.Dense, "bias"): ("bias", (0,)),
    (CosineLogits, "kernel"): ("weight", (1, 0)),
    (keras.layers.BatchNormalization, "gamma"): ("weight", (0,)),
    (keras.layers.BatchNormalization, "beta"): ("bias", (0,)),
    (keras.layers.BatchNormalization, "moving_mean"): ("running_mean", (0,)),
    (keras.layers.BatchNormalization, "moving_variance"): ("running_var", (0,)),
}


def _fill(model, tensors, form, complaint):
    """Writes the tensors into the model. Every tensor and every weight is accounted for, or nothing
    is written.
    """
    weights = {}  # PyTorch name -> (Keras variable, axes)
    for layer in model.layers:
        for variable in () if layer.name == "preprocessing" else layer.weights:
            name, axes = _WEIGHTS[type(layer), variable.name]
            weights[f"{form.names.module(layer.name)}.{name}"] = variable, axes
    shapes = {
        name: tuple(variable.shape[i] for i in np.argsort(axes))
        for name, (variable, axes) in weights.items()
    }
    if form.sub_block:
        group = form.names.block.split(".")[0].format(group=form.names.first_group)
        unused = [name for name in shapes if name.startswith(f"{group}.")]
        shapes |= {f"sub_{name}": shapes[name] for name in unused}
    missing = [name for name in shapes if name not in tensors]
    extra = [name for name in tensors if name not in shapes]
    wrong = [
        f"{name} {tensors[name].shape} instead of {shape}"
        for name, shape in shapes.items()
        if name in tensors and tensors[name].shape != shape
    ]
    problems = (("missing", missing), ("extra", extra), ("of another shape", wrong))
    if missing or extra or wrong:
        listed = "; ".join(
            f"{len(names)} {what}: {_some(names)}" for what, names in problems if names
        )
        raise InputError(f"{complaint}: {listed}{_nearest(tensors, form)}")
    for name, (variable, axes) in weights.items():
        variable.assign(np.transpose(tensors[name], axes))


def _nearest(tensors, form):
    """The end of an error message: the row of the table that a file is nearest to."""
    row = min(TEACHERS, key=lambda teacher: len(differences(teacher.form, tensors)))
    if len(differences(row.form, tensors)) >= len(differences(form, tensors)):
        return ""
    return f"; nearest: {row.id}@{row.dataset}"


def _some(names, most=3):
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
