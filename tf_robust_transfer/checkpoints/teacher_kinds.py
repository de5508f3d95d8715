"""Whose networks the teachers are: names in PyTorch, options, normalisation."""

import dataclasses

from tf_robust_transfer.checkpoints import torch_names
from tf_robust_transfer.checkpoints.torch_names import Names


@dataclasses.dataclass(frozen=True)
class Kind:
    """What networks of one code base have in common.

    Attributes:
        names: of their modules in PyTorch.
        about: whose code, in a line.
        options: of `build_model`.
        sub_block: TRADES's code has a second first group, "sub_block1", that no image passes.
    """

    names: Names
    about: str
    options: dict = dataclasses.field(default_factory=dict)
    sub_block: bool = False


_SWISH = {"activation": "swish", "padding": "same"}
_RAW_SHORTCUT = {"activated_shortcut": False}
KINDS = {
    "wide": Kind(torch_names.WIDE_RESNET, "Wide-ResNet of Zagoruyko's PyTorch code"),
    "trades": Kind(
        torch_names.WIDE_RESNET, "the same with TRADES's unused group sub_block1", sub_block=True
    ),
    "hypersphere": Kind(
        torch_names.WIDE_RESNET,
        "TRADES's with cosines as logits (Pang et al. 2020)",
        {"cosine_logits": True},
        sub_block=True,
    ),
    "mma": Kind(
        torch_names.WIDE_RESNET,
        "Wide-ResNet that standardises each image (Ding et al. 2020)",
        {"preprocessing": "per_image_standardization_01"},
    ),
    "deepmind": Kind(torch_names.DEEPMIND, "DeepMind's Wide-ResNet: Swish, padding 'same'", _SWISH),
    "dm_preact": Kind(
        torch_names.DEEPMIND_PREACT,
        "DeepMind's PreAct-ResNet-18: Swish, padding 'same', raw 3x3 shortcuts",
        {**_SWISH, **_RAW_SHORTCUT, "shortcut_kernel": 3},
    ),
    "wrn_34_r": Kind(
        torch_names.WRN_34_R,
        "Wide-ResNet with a narrow last group (Huang et al. 2021)",
        {"blocks": (5, 5, 5), "widths": (20, 20, 8)},
    ),
    "wrn_a4": Kind(
        torch_names.WRN_A4,
        "Wide-ResNet whose groups differ in depth and width, Swish (Huang et al. 2022)",
        {"blocks": (27, 28, 13), "widths": (10, 14, 6), "activation": "swish"},
    ),
    "preact": Kind(torch_names.PREACT_RESNET, "PreAct-ResNet"),
    "preact_wong": Kind(
        torch_names.PREACT_RESNET,
        "PreAct-ResNet without the last batch norm, raw shortcuts (Wong et al. 2020)",
        {**_RAW_SHORTCUT, "final_batch_norm": False},
    ),
    "resnet": Kind(torch_names.CIFAR_RESNET, "ResNet for CIFAR, post-activation"),
    "torchvision": Kind(torch_names.TORCHVISION, "torchvision's ResNet"),
}

# (mean, std) of the images in [0, 1], for each channel. Raw: the network takes them as they are,
# or normalises them by an option of its kind.
STATISTICS = {
    "raw": (None, None),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)),
    "engstrom": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "augustin": (
        (0.4913997551666284, 0.48215855929893703, 0.4465309133731618),
        (0.24703225141799082, 0.24348516474564, 0.26158783926049628),
    ),
    "rony": ((0.491, 0.482, 0.447), (0.247, 0.243, 0.262)),
    "cifar100": (
        (0.5070751592371323, 0.48654887331495095, 0.4409178433670343),
        (0.2673342858792401, 0.2564384629170883, 0.27615047132568404),
    ),
    "short100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "chen": ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
    "centered": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),  # 2x - 1
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


@dataclasses.dataclass(frozen=True)
class Form:
    """A network in the form that a checkpoint has it.

    Attributes:
        network: its name in `models.MODELS`.
        names: of its modules in PyTorch.
        classes: number of logits; None where the file says it.
        mean, std: for each channel, of the images in [0, 1], or None. They are often not in the
            file.
        size: height and width of the images.
        options: of `build_model`.
        sub_block: see `Kind`.
    """

    network: str
    names: Names
    classes: int | None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    size: int = 32
    options: dict = dataclasses.field(default_factory=dict)
    sub_block: bool = False
