"""Robust networks by name: what `teacher_rows.py` says, as objects."""

import collections
import dataclasses
import fnmatch
import functools

from tf_robust_transfer.checkpoints import teacher_rows
from tf_robust_transfer.checkpoints.teacher_kinds import KINDS, STATISTICS, Form
from tf_robust_transfer.errors import InputError, nearest

CLASSES = {"cifar10": 10, "cifar100": 100, "imagenet": 1000}
NORMS = ("linf", "l2")


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a network costs, as `scripts/teacher_costs.py` measured it.

    Attributes:
        parameters: trainable, in millions.
        gibibytes: memory of one input gradient of 128 images, the weights and TensorFlow included.
        seconds: of one core's time for it.
    """

    parameters: float
    gibibytes: float
    seconds: float


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
    def cost(self) -> Cost | None:
        """What the network costs; None where it was not measured."""
        return _costs().get((self.network, self.kind, self.size))

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
def _costs():
    costs = {}
    for line in teacher_rows.COSTS.strip().splitlines():
        network, kind, size, *figures = line.split()
        costs[network, kind, int(size)] = Cost(*map(float, figures))
    return costs


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


COLUMNS = (
    "id",
    "network",
    "kind",
    "M parameters",
    "eps",
    "clean",
    "AutoAttack",
    "other attack",
    "GiB",
    "s",
    "licence",
)


def table(teachers: list[Teacher]) -> list[tuple[str, ...]]:
    """A line of `COLUMNS` for each teacher, as the command and the page show it."""
    lines = []
    for teacher in teachers:
        cost = teacher.cost
        measured = (
            (f"{cost.parameters:.1f}", f"{cost.gibibytes:.1f}", f"{cost.seconds:.0f}")
            if cost
            else ("-", "-", "-")
        )
        lines.append(
            (
                f"{teacher.id}@{teacher.dataset}_{teacher.norm}",
                teacher.network,
                teacher.kind,
                measured[0],
                teacher.eps,
                f"{teacher.clean:.2f}",
                f"{teacher.autoattack:.2f}",
                "-" if teacher.external is None else f"{teacher.external:.2f}",
                *measured[1:],
                teacher.license,
            )
        )
    return lines
