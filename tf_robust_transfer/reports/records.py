"""Run folders and kept records as rows: what was measured of one network, its files joined."""

import dataclasses
import pathlib
from collections.abc import Iterable

from tf_robust_transfer.evaluation.result import warnings_of
from tf_robust_transfer.runs.folder import is_of_best, read_flags, results_of, run_folders

NOT_RECORDED = "not recorded"


@dataclasses.dataclass(frozen=True)
class Figure:
    """The accuracy of one network under one attack.

    Attributes:
        accuracy: a fraction in [0, 1].
        interval: (low, high), its 95% interval; none where the file has none.
        num_examples: images that were attacked.
        warnings: of the evaluation, those that name this attack or no attack.
        result: the whole results file that it stands in.
    """

    accuracy: float
    interval: tuple[float, float] | None
    num_examples: int
    warnings: tuple[str, ...]
    result: dict

    @property
    def text(self) -> str:
        """`76.0 [72.0, 79.7]`, in %."""
        shown = f"{100 * self.accuracy:.1f}"
        if self.interval is None:
            return shown
        return f"{shown} [{100 * self.interval[0]:.1f}, {100 * self.interval[1]:.1f}]"

    @property
    def precision(self) -> str:
        """Of what the attack saw of the network, as its file has it."""
        return self.result.get("precision", NOT_RECORDED)


@dataclasses.dataclass(frozen=True)
class Record:
    """What was measured of one network on one data set under one threat model.

    Attributes:
        folder: where it lies.
        flags: of its flags.txt; empty where there is none.
        results: its results files of this data and threat model.
    """

    folder: pathlib.Path
    flags: dict[str, str]
    results: tuple[dict, ...]

    @property
    def name(self) -> str:
        return self.folder.name + (", best epoch" if is_of_best(self.results[0]) else "")

    @property
    def seed(self) -> int:
        return self.results[0].get("seed", 0)

    @property
    def split(self) -> str:
        """ "train" or "test", without the part of it."""
        return self.results[0]["split"].partition("[")[0]

    @property
    def heading(self) -> str:
        """Data, size and threat model: records of one heading stand in one table."""
        first = self.results[0]
        threat = first["threat_model"]
        size = image_size(first, self.flags)
        return (
            f"{first['dataset']} {first['split']}, images of {size}, {threat['norm']} eps "
            f"{threat['eps']:.4g}"
        )

    @property
    def attacks(self) -> tuple[str, ...]:
        """ "clean" first, then as they ran."""
        return tuple(dict.fromkeys(name for result in self.results for name in result["accuracy"]))

    def figure(self, attack: str) -> Figure | None:
        """That of the most images, where several files have it; None where it was not measured."""
        having = [result for result in self.results if attack in result["accuracy"]]
        if not having:
            return None
        result = max(having, key=lambda result: result["num_examples"])
        interval = result.get("confidence_interval_95", {}).get(attack)
        return Figure(
            result["accuracy"][attack],
            tuple(interval) if interval else None,
            result["num_examples"],
            warnings_of(attack, result),
            result,
        )


def records(folders: Iterable[pathlib.Path]) -> list[Record]:
    """A record for each folder, data set, image size and threat model, in the folders' order; of a
    run that kept its best epoch beside its last one for each of the two networks.

    Raises:
        InputError: a results file of other content.
    """
    found = []
    for folder in map(pathlib.Path, folders):
        flags = read_flags(folder)
        alike: dict[tuple[str, str], list] = {}
        for _, results in results_of(folder):
            one = Record(folder, flags, (results,))
            alike.setdefault((one.heading, one.name), []).append(results)
        found += [Record(folder, flags, tuple(same)) for same in alike.values()]
    return found


def records_of(root) -> list[Record]:
    """Those of a run folder, or of all run folders below a folder."""
    return records(run_folders(root))


def image_size(result: dict, flags: dict[str, str]) -> str:
    """`28x28`, as the results file or else flags.txt has it; "not recorded" where neither does."""
    if "image_shape" in result:
        return "x".join(str(side) for side in result["image_shape"][:2])
    # Where the flag is empty the images had the data set's own size.
    own = _OWN_SIZES.get(result["dataset"], NOT_RECORDED) if flags else NOT_RECORDED
    return flags.get("image_size") or own


# For records that were written before the size was.
_OWN_SIZES = {
    "digits": "8x8",
    "mnist": "28x28",
    "fashion_mnist": "28x28",
    "cifar10": "32x32",
    "cifar100": "32x32",
}
