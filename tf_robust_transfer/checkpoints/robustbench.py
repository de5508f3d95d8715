"""RobustBench's PyTorch checkpoints (github.com/RobustBench/robustbench at 78fcc9e) as Keras
models.
"""

import dataclasses
import re

import keras
import numpy as np

from tf_robust_transfer.checkpoints.torch_files import read_state_dict
from tf_robust_transfer.errors import InputError
from tf_robust_transfer.models import build_model


@dataclasses.dataclass(frozen=True)
class Names:
    """How a PyTorch network names the modules that correspond to our layers.

    Attributes:
        outer: layer -> module, outside the groups. "logits" is always here.
        block: a block's module, with {group} and {block}.
        first_group: the {group} of our group2. Blocks count from 0 in both.
        inner: layer -> module, inside a block.
    """

    outer: dict[str, str]
    block: str
    first_group: int
    inner: dict[str, str]

    def module(self, layer: str) -> str:
        """The module of a layer: of "group2_0_conv1" Gowal's "layer.0.block.0.conv_0"."""
        if layer in self.outer:
            return self.outer[layer]
        group, block, part = re.fullmatch(r"group(\d)_(\d+)_(\w+)", layer).groups()
        prefix = self.block.format(group=int(group) - 2 + self.first_group, block=block)
        return f"{prefix}.{self.inner[part]}"


_GOWAL = Names(
    {"conv1": "init_conv", "final_batch_norm": "batchnorm", "logits": "logits"},
    "layer.{group}.block.{block}",
    0,
    {
        "1_batch_norm": "batchnorm_0",
        "conv1": "conv_0",
        "2_batch_norm": "batchnorm_1",
        "conv2": "conv_1",
        "shortcut": "shortcut",
    },
)
_PREACTIVATION = {"1_batch_norm": "bn1", "conv1": "conv1", "2_batch_norm": "bn2", "conv2": "conv2"}
_WIDE_RESNET = Names(
    {"conv1": "conv1", "final_batch_norm": "bn1", "logits": "fc"},
    "block{group}.layer.{block}",
    1,
    {**_PREACTIVATION, "shortcut": "convShortcut"},
)
_PREACT_RESNET = Names(
    {"conv1": "conv1", "final_batch_norm": "bn", "logits": "linear"},
    "layer{group}.{block}",
    1,
    {**_PREACTIVATION, "shortcut": "shortcut.0"},
)
_CONVOLUTIONS = {f"conv{i}": f"conv{i}" for i in (1, 2, 3)} | {
    f"conv{i}_batch_norm": f"bn{i}" for i in (1, 2, 3)
}
_TORCHVISION = Names(
    {"conv1": "conv1", "conv1_batch_norm": "bn1", "logits": "fc"},
    "layer{group}.{block}",
    1,
    {**_CONVOLUTIONS, "shortcut": "downsample.0", "shortcut_batch_norm": "downsample.1"},
)
_CIFAR_RESNET = Names(
    {"conv1": "conv1", "conv1_batch_norm": "bn1", "logits": "linear"},
    "layer{group}.{block}",
    1,
    {**_CONVOLUTIONS, "shortcut": "shortcut.0", "shortcut_batch_norm": "shortcut.1"},
)


@dataclasses.dataclass(frozen=True)
class Form:
    """A network in the form that a checkpoint has it.

    Attributes:
        network: its name in `models.MODELS`.
        names: of its modules in PyTorch.
        classes: number of logits; None where the file says it.
        mean, std: for each channel, of the images in [0, 1]. They are often not in the file.
        size: height and width of the images.
        options: of `build_model`.
    """

    network: str
    names: Names
    classes: int | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: int = 32
    options: dict = dataclasses.field(default_factory=dict)


_CIFAR10 = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)
_CIFAR10_ENGSTROM = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
_CIFAR100 = (
    (0.5070751592371323, 0.48654887331495095, 0.4409178433670343),
    (0.2673342858792401, 0.2564384629170883, 0.27615047132568404),
)
_CENTERED = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)  # 2x - 1
_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_SWISH_SAME = {"activation": "swish", "padding": "same"}
_WITHOUT_FINAL_BATCH_NORM = {"activated_shortcut": False, "final_batch_norm": False}

# RobustBench gives one id to the models of one paper on several data sets and for several norms.
# The file says which of the forms it is; which norm it was trained for makes no difference here.
CHECKPOINTS = {
    "Engstrom2019Robustness": (
        Form("cifar_resnet_50", _CIFAR_RESNET, 10, *_CIFAR10_ENGSTROM),
        Form("resnet_50", _TORCHVISION, 1000, *_IMAGENET, size=224),
    ),
    "Gowal2020Uncovering_28_10_extra": (
        Form("wrn_28_10", _GOWAL, 10, *_CIFAR10, options=_SWISH_SAME),
    ),
    "Gowal2020Uncovering_34_20": (Form("wrn_34_20", _GOWAL, 10, *_CIFAR10, options=_SWISH_SAME),),
    # CIFAR-10, CIFAR-100; the authors' network before the fine-tuning has 1,000 classes
    # (Downsampled ImageNet).
    "Hendrycks2019Using": (Form("wrn_28_10", _WIDE_RESNET, None, *_CENTERED),),
    "Rice2020Overfitting": (
        Form("wrn_34_20", _WIDE_RESNET, 10, *_CIFAR10),  # linf
        Form("preact_resnet_18", _PREACT_RESNET, 10, *_CIFAR10),  # l2
        Form("preact_resnet_18", _PREACT_RESNET, 100, *_CIFAR100),
    ),
    "Salman2020Do_R18": (Form("resnet_18", _TORCHVISION, 1000, *_IMAGENET, size=224),),
    "Salman2020Do_R50": (Form("resnet_50", _TORCHVISION, 1000, *_IMAGENET, size=224),),
    "Wong2020Fast": (
        Form("preact_resnet_18", _PREACT_RESNET, 10, *_CIFAR10, options=_WITHOUT_FINAL_BATCH_NORM),
        Form("resnet_50", _TORCHVISION, 1000, *_IMAGENET, size=288),
    ),
}

# Buffers of the normalisation: MadryLab's robustness library, RobustBench's ImageNet models, its
# other models.
_MEANS = ("normalizer.new_mean", "attacker.normalize.new_mean", "normalize.mean", "mu", "mean")
_STDS = ("normalizer.new_std", "attacker.normalize.new_std", "normalize.std", "sigma", "std")


def load_robustbench(model_id: str, path: str) -> keras.Model:
    """Reads a checkpoint of RobustBench's model zoo.

    The file may be RobustBench's own or the authors': a state_dict, alone or under "state_dict",
    "model_state_dict" or "model", with or without the prefixes "module." and "model.".

    Args:
        model_id: a name of `CHECKPOINTS`.
        path: the .pt file.

    Returns:
        keras.Model: images float32 [batch, height, width, 3] in [0, 1] -> logits float32 [batch,
        classes]. Height and width are 32, on ImageNet 224 (288 for Wong2020Fast). The normalisation
        lies inside the model; RobustBench's resizing and cropping of ImageNet's pictures (to 256,
        then 224) does not.

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
        model_id: a name of `CHECKPOINTS`; of several forms the first for these images and classes,
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
    if model_id not in CHECKPOINTS:
        raise InputError(
            f"unknown RobustBench model {model_id!r}; known are {', '.join(CHECKPOINTS)}"
        )
    return CHECKPOINTS[model_id]


def _network(form, classes):
    return build_model(
        form.network,
        (form.size, form.size, 3),
        classes,
        preprocessing="standardized",
        mean=form.mean,
        std=form.std,
        **form.options,
    )


def load_form(forms: tuple[Form, ...], path: str, title: str) -> keras.Model:
    """Reads a file as the nearest of the forms. See `load_robustbench`; title names the model in
    errors.
    """
    tensors = read_state_dict(path)

    def classes_in_file(form):
        logits = tensors.get(f"{form.names.outer['logits']}.weight")
        return len(logits) if logits is not None and logits.ndim == 2 else 0

    def fits(form):
        found = classes_in_file(form)
        return (found > 0) + (found > 0 and form.classes in (None, found))

    form = max(forms, key=fits)  # the first of equals
    classes = form.classes or max(classes_in_file(form), 2)
    complaint = f"{str(path)!r} is not {title} ({form.network}, {classes} classes)"
    _check_normalisation(tensors, form, complaint)
    model = _network(form, classes)
    _fill(model, tensors, form, complaint)
    return model


def _check_normalisation(tensors, form, complaint):
    """Takes the normalisation's buffers, if any, out of tensors. They have to be the form's."""
    for names, expected in ((_MEANS, form.mean), (_STDS, form.std)):
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
    missing = [name for name in weights if name not in tensors]
    extra = [name for name in tensors if name not in weights]
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
        raise InputError(f"{complaint}: {listed}")
    for name, (variable, axes) in weights.items():
        variable.assign(np.transpose(tensors[name], axes))


def _some(names, most=3):
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
