"""Robust networks by name: what `teacher_rows.py` says, as objects."""

import collections
import dataclasses
import fnmatch
import functools

from tf_robust_transfer.checkpoints import teacher_rows, torch_names
from tf_robust_transfer.checkpoints.torch_names import Names
from tf_robust_transfer.errors import InputError, nearest

CLASSES = {"cifar10": 10, "cifar100": 100, "imagenet": 1000}
NORMS = ("linf", "l2")


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


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A published robust network: a row of `teacher_rows.py`.

    Attributes:
        id: RobustBench's name.
        dataset: "cifar10", "cifar100" or "imagenet".
        norm, eps: of the threat model, as RobustBench's records have them.
        network: its name in `models.MODELS`.
        kind: a key of `KINDS`: whose code, and so whose names in the file.
        statistics: a key of `STATISTICS`.
        clean, autoattack: published accuracies in percent, on clean images and under AutoAttack.
        external: a lower accuracy that another attack found, or None.
        size: height and width of the images.
    """

    id: str
    dataset: str
    norm: str
    eps: str
    network: str
    kind: str
    statistics: str
    clean: float
    autoattack: float
    external: float | None = None
    size: int = 32

    @property
    def form(self) -> Form:
        """The network as the file has it."""
        kind = KINDS[self.kind]
        mean, std = STATISTICS[self.statistics]
        # The authors of Hendrycks2019Using share it for further data sets too.
        classes = None if self.id == "Hendrycks2019Using" else CLASSES[self.dataset]
        options, sub_block = kind.options, kind.sub_block
        return Form(self.network, kind.names, classes, mean, std, self.size, options, sub_block)

    @property
    def spec(self) -> str:
        """The SPEC, with FILE.pt in the file's place."""
        return f"robustbench:{self.id}@{self.dataset}_{self.norm}:FILE.pt"

    @property
    def paper(self) -> tuple[str, str]:
        """(title, address)."""
        return _papers()[self.id.split("_")[0]]

    @property
    def license(self) -> str:
        """SPDX name of the weights' licence, as RobustBench's LICENSE has it."""
        key, names = self.id.split("_")[0], teacher_rows.LICENSES
        return names.get(f"{key}@{self.dataset}") or names.get(key) or "MIT"


def _blocks(text):
    """(words of a heading in brackets, words of a line) for each line below it."""
    for line in text.strip().splitlines():
        if line.startswith("["):
            heading = line.strip("[]").split()
        else:
            yield heading, line.split()


def _teacher(heading, words):
    dataset, norm, eps = heading
    model_id, network, kind, statistics, clean, autoattack, *rest = words
    further = {"eps": eps}
    if dataset == "imagenet":
        further["size"] = 224
    for word in rest:
        key, equals, value = word.partition("=")
        further |= {key: value} if equals else {"external": float(key)}
    further["size"] = int(further.get("size", 32))
    accuracies = float(clean), float(autoattack)
    return Teacher(
        model_id,
        dataset,
        norm,
        further.pop("eps"),
        network,
        kind,
        statistics,
        *accuracies,
        **further,
    )


TEACHERS = tuple(_teacher(*line) for line in _blocks(teacher_rows.TEACHERS))
# (data set, norm, id) -> the reason.
LEFT_OUT = {
    (*heading, words[0]): " ".join(words[1:]) for heading, words in _blocks(teacher_rows.LEFT_OUT)
}
# RobustBench gives one id to the models of one paper on several data sets and for several norms.
CHECKPOINTS = {
    model_id: tuple(teacher for teacher in TEACHERS if teacher.id == model_id)
    for model_id in sorted({teacher.id for teacher in TEACHERS})
}


@functools.cache
def _papers():
    titles, addresses = collections.defaultdict(list), {}
    for line in teacher_rows.PAPERS.strip().splitlines():
        if not line.startswith(" "):
            key, addresses[key] = line.split()
        else:
            titles[key].append(line.strip())
    return {key: (" ".join(titles[key]), address) for key, address in addresses.items()}


def find_teachers(model_id: str) -> tuple[Teacher, ...]:
    """The rows that "ID" or "ID@cifar100", "ID@l2", "ID@cifar10_l2" names.

    Raises:
        InputError: unknown id, or nothing of it for that data set and norm.
    """
    name, at, which = model_id.partition("@")
    if name not in CHECKPOINTS:
        raise InputError(f"unknown RobustBench model {name!r}; {nearest(name, CHECKPOINTS)}")
    found = CHECKPOINTS[name]
    for word in which.split("_") if at else ():
        found = tuple(teacher for teacher in found if word in (teacher.dataset, teacher.norm))
    if not found:
        known = ", ".join(f"{name}@{row.dataset}_{row.norm}" for row in CHECKPOINTS[name])
        raise InputError(f"there is no {model_id!r}; there is {known}")
    return found


def list_teachers(
    pattern: str = "*",
    *,
    dataset: str | None = None,
    norm: str | None = None,
    min_autoattack: float = 0.0,
) -> list[Teacher]:
    """The published robust networks whose files `load_model` reads.

    Args:
        pattern: of the id, with * and ? as in a shell; small and large letters are alike.
        dataset: "cifar10", "cifar100" or "imagenet"; None: all.
        norm: "linf" or "l2"; None: both.
        min_autoattack: least published accuracy under AutoAttack, in percent.

    Returns:
        list[Teacher]: the most robust first. `load_model(teacher.spec.replace("FILE.pt", file))`
        reads one.

    Raises:
        InputError: unknown data set or norm.
    """
    for what, value, known in (("dataset", dataset, CLASSES), ("norm", norm, NORMS)):
        if value is not None and value not in known:
            raise InputError(f"{what} must be one of {', '.join(known)}, got {value!r}")
    found = [
        teacher
        for teacher in TEACHERS
        if fnmatch.fnmatchcase(teacher.id.lower(), pattern.lower())
        and dataset in (None, teacher.dataset)
        and norm in (None, teacher.norm)
        and teacher.autoattack >= min_autoattack
    ]
    return sorted(found, key=lambda teacher: -teacher.autoattack)
