"""What an evaluation found, in memory and as results.json."""

import dataclasses
import re
import sys

import keras
import numpy as np
import tensorflow as tf
from scipy import stats

from tf_robust_transfer.attacks.threat_model import ThreatModel
from tf_robust_transfer.evaluation import origin


class RobustnessWarning(UserWarning):
    """Something about the model or an attack makes a robust accuracy doubtful."""


@dataclasses.dataclass(frozen=True)
class WorstCase:
    """Robustness against the best of several attacks, chosen for each example.

    Attributes:
        correct: bool [num_examples].
        accuracy: fraction in [0, 1].
        confidence_interval_95: (low, high), as in RobustnessResult.
    """

    correct: np.ndarray
    accuracy: float
    confidence_interval_95: tuple[float, float]


@dataclasses.dataclass(frozen=True)
class RobustnessResult:
    """What `evaluate_robustness` found. Every dict is keyed by the attacks' names.

    Attributes:
        threat_model: the ball and the bounds.
        num_examples: number of examples.
        seed: of the attacks.
        attacks: the names, "clean" first, in the order in which they ran.
        correct: bool [num_examples], whether the model is right on everything that the attack
            tried.
        accuracy: the fraction of those, in [0, 1].
        confidence_interval_95: (low, high) of the accuracy, Clopper & Pearson (1934).
        seconds: wall time of each attack, compilation included.
        components: for an ensemble such as "autoattack": accuracy after each of its attacks, in
            order.
        warnings: what makes the figures doubtful, a line each.
        worst_case: None unless there are at least two attacks besides "clean".
        adversarial: float32 [num_examples, height, width, channels] in the threat model's ball and
            bounds; the clean image where the model errs on it, else an image that fools the model,
            else the one that came closest to it. Empty unless asked for.
        radii: of an evaluation at several radii the result at each, by eps, the smallest first;
            what stands above is that of the largest.
        batch_norm: "moving", or "batch" where it ran on the statistics of each batch.
        settings: of each attack but "clean" its name with every option, `attacks.names.full_name`.
        image_shape: (height, width, channels).
        batch_size: examples that were attacked at once.
        precision: of what the attacks saw of the model.
    """

    threat_model: ThreatModel
    num_examples: int
    seed: int
    attacks: tuple[str, ...]
    correct: dict[str, np.ndarray]
    accuracy: dict[str, float]
    confidence_interval_95: dict[str, tuple[float, float]]
    seconds: dict[str, float]
    components: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    worst_case: WorstCase | None = None
    adversarial: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    radii: dict[float, "RobustnessResult"] = dataclasses.field(default_factory=dict)
    batch_norm: str = "moving"
    settings: dict[str, str] = dataclasses.field(default_factory=dict)
    image_shape: tuple[int, ...] = ()
    batch_size: int | None = None
    precision: str = "float32"

    def to_json_dict(
        self, *, model: str, dataset: str, split: str, order: str | None = None
    ) -> dict:
        """What stands in results.json: plain strings, numbers, lists and dicts.

        model, dataset, split: where model and examples came from; order: of the examples, see
        `data.ImageData`. Returns a dict that `json.dump`
        takes."""
        result = {
            "model": model,
            "dataset": dataset,
            "split": split,
            "num_examples": self.num_examples,
            "seed": self.seed,
            "threat_model": self._threat_model(),
            **self._figures(),
            "warnings": self._warnings(),
            "versions": {
                "tensorflow": tf.__version__,
                "keras": keras.__version__,
                # Not imported, since the package's own __init__ imports this module.
                "tf_robust_transfer": sys.modules["tf_robust_transfer"].__version__,
            },
        }
        if self.image_shape:
            result["image_shape"] = list(self.image_shape)
        if self.batch_size is not None:
            result |= {"batch_size": self.batch_size, "precision": self.precision}
        result["device"] = origin.device()
        if origin.commit():
            result["commit"] = origin.commit()
        if self.settings:
            result["settings"] = dict(self.settings)
        if order is not None:
            result["order"] = order
        if self.radii:
            result["radii"] = [
                {"eps": at._threat_model()["eps"]} | at._figures() for at in self.radii.values()
            ]
        if self.batch_norm != "moving":
            result["batch_norm"] = self.batch_norm
        return result

    def _threat_model(self):
        """eps a fraction of the pixel range, as reports compare it; the bounds, if they are others
        than (0, 1).
        """
        given = self.threat_model
        found = {"norm": given.norm, "eps": given.eps}
        if given.bounds != (0.0, 1.0):
            found |= {"eps": given.in_unit().eps, "bounds": list(given.bounds)}
        return found

    def _warnings(self):
        """As they are, of several radii with the radius that is stored."""
        stored = {f"eps {eps:.4g}: ": at._threat_model()["eps"] for eps, at in self.radii.items()}
        return [
            next(
                (
                    f"eps {eps:.4g}: {line.removeprefix(own)}"
                    for own, eps in stored.items()
                    if line.startswith(own)
                ),
                line,
            )
            for line in self.warnings
        ]

    def _figures(self):
        """What stands in results.json for a radius."""
        figures = {
            "accuracy": dict(self.accuracy),
            "confidence_interval_95": {
                name: list(pair) for name, pair in self.confidence_interval_95.items()
            },
            "seconds": dict(self.seconds),
            "components": {name: dict(after) for name, after in self.components.items()},
        }
        if self.worst_case is not None:
            figures["worst_case"] = {
                "accuracy": self.worst_case.accuracy,
                "confidence_interval_95": list(self.worst_case.confidence_interval_95),
            }
        return figures


def clopper_pearson(correct) -> tuple[float, float]:
    """The exact 95% interval of an accuracy, Clopper & Pearson (1934). correct: bool [n]. Returns
    (low, high).
    """
    interval = stats.binomtest(int(correct.sum()), correct.size).proportion_ci(0.95, method="exact")
    return float(interval.low), float(interval.high)


def warnings_of(attack: str, results: dict) -> tuple[str, ...]:
    """Which warnings of an evaluation are of this attack's figure: those about it, and those about
    the model but on clean images. results: what stands in results.json."""
    return tuple(line for line in results.get("warnings", ()) if _names(line, attack, results))


def at_each_radius(results: dict) -> list[dict]:
    """What stands in results.json, as one such dict for each radius that was evaluated, the
    smallest first."""
    threat, lines = results["threat_model"], results.get("warnings", ())
    found = []
    for at in results.get("radii") or [{"eps": threat["eps"]}]:
        own = f"eps {at['eps']:.4g}: "
        said = [line for line in lines if line.startswith(own) or not _OF_A_RADIUS.match(line)]
        figures = {name: value for name, value in at.items() if name != "eps"}
        figures["threat_model"] = threat | {"eps": at["eps"]}
        figures["warnings"] = [line.removeprefix(own) for line in said]
        found.append(results | figures | {"radii": []})
    return found


_OF_A_RADIUS = re.compile(r"eps [\d.e+-]+: ")


def _names(warning, attack, results):
    if re.search(r"\bAutoAttack is\b.*\bbelow PGD\b", warning):
        # Said of PGD's figure, which is the one not to quote.
        return attack != "clean" and not attack.startswith("autoattack")
    if "statistics of each batch" in warning:
        return True
    # What a line is about comes with what it did; others name attacks as advice.
    named = [
        name
        for name in results["accuracy"]
        if any(
            re.search(rf"(?<![\w-]){re.escape(part)}(?:'s |: | took )", warning)
            for part in (name, *results.get("components", {}).get(name, ()))
        )
    ]
    return attack in named if named else attack != "clean"
