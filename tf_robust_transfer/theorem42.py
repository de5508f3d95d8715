"""Measures Theorem 4.2 of the MixACM paper on real images of two classes.

    python -m tf_robust_transfer.theorem42 --dataset=digits --classes=0,1 --output=theorem42.json

For logistic regression and for a ReLU network without biases it trains a robust teacher
(adversarial training), then a student of the same form on the teacher's soft labels, checks the
theorem's assumptions, and prints both sides of its inequality for eps from 0 to what it allows and
beyond. What each number is: tf_robust_transfer/analysis/theorem42.py."""

import dataclasses
import sys

import numpy as np
from scipy import special

from tf_robust_transfer.analysis import relu_network, theorem42
from tf_robust_transfer.command import run_command
from tf_robust_transfer.config import SharedConfig, check_outputs
from tf_robust_transfer.errors import InputError
from tf_robust_transfer.files import write_json
from tf_robust_transfer.flag_types import fraction, whole_numbers
from tf_robust_transfer.options import above, at_least, option
from tf_robust_transfer.runs.images import load_split

TEACHER_EPS = 0.05
TEACHER_STEPS = 400
# Few, and from a small last layer: a student that is less sure than its teacher has k <= 1. Trained
# longer it becomes surer than its teacher at some point, where |e| is then tiny, k large, and the
# theorem allows no eps.
STUDENT_STEPS = 100
# Of the eps that the theorem allows.
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0)


@dataclasses.dataclass(frozen=True)
class Theorem42Config(SharedConfig):
    """Flags of `theorem42`."""

    classes: tuple = option("0,1", "the two classes", whole_numbers)
    num_points: int = option("200", "training images, half of each class", int, **at_least(4))
    alpha: float = option("0.5", "weight of the distillation term", fraction, **above(0))
    mixup_alpha: float = option("1", "mixup weights from Beta(alpha, alpha)", fraction, **above(0))
    hidden_units: tuple = option("64", "widths of the ReLU network", whole_numbers)
    output: str = option("", "all numbers as JSON; empty: only printed")

    def verify(self) -> None:
        super().verify()
        check_outputs(self, "output")


def run(config: Theorem42Config) -> None:
    config.verify()
    points, labels = two_class_points(config)
    measured = {
        "dataset": config.dataset,
        "classes": list(config.classes),
        "points": len(points),
        "alpha": config.alpha,
        "mixup_alpha": config.mixup_alpha,
        "seed": config.seed,
    }
    for name, hidden in (("logistic regression", ()), ("ReLU network", config.hidden_units)):
        measured[name] = _measure(config, points, labels, hidden)
        sys.stdout.write(_text(name, measured[name]) + "\n")
    if config.output:
        write_json(config.output, measured)


def two_class_points(config):
    """(float64 [n, d] of mean zero, labels float64 [n]): the first training images of the two
    classes, half of each.
    """
    images = load_split(config, "train")
    if (
        sorted(set(config.classes)) != sorted(config.classes)
        or len(config.classes) != 2
        or not all(0 <= c < images.num_classes for c in config.classes)
    ):
        raise InputError(
            f"--classes: expected two classes in 0..{images.num_classes - 1}, got {config.classes}"
        )
    rows = [np.flatnonzero(images.labels == c)[: config.num_points // 2] for c in config.classes]
    rows = [part[: min(map(len, rows))] for part in rows]
    points = (
        np.concatenate([images.images[part] for part in rows]).reshape(sum(map(len, rows)), -1)
        / 255.0
    )
    return points - points.mean(axis=0), np.repeat([0.0, 1.0], len(rows[0]))


def _measure(config, points, labels, hidden_units):
    teacher = relu_network.train_network(
        points, labels, hidden_units, config.seed + 1, TEACHER_STEPS, TEACHER_EPS
    )
    soft_labels = special.expit(teacher(points))
    student = relu_network.train_network(
        points, soft_labels, hidden_units, config.seed + 2, STUDENT_STEPS
    )
    options = {"alpha": config.alpha, "mixup": (config.mixup_alpha, config.mixup_alpha)}
    checked = theorem42.assumptions(student, points, labels, soft_labels, **options)
    # Where the theorem allows nothing, the losses are shown at 1/255 and its multiples.
    unit = checked.eps_proof or 1 / 255
    sides = theorem42.measure(
        student, points, labels, soft_labels, [share * unit for share in SHARES], **options
    )
    result = {
        "assumptions": dataclasses.asdict(checked),
        "sides": [dataclasses.asdict(side) for side in sides],
    }
    if not hidden_units:
        result["largest_eps"] = theorem42.largest_eps(
            student, points, labels, soft_labels, **options
        )
    return result


def _text(name, measured):
    found = measured["assumptions"]
    lines = [
        f"\n{name}",
        f"  training errors {found['training_errors']}, k {found['closeness']:.3g}, c_x "
        f"{found['c_x']:.3g}, R {found['cosine']:.3g}, E[1 - lambda] "
        f"{found['expected_weight']:.3g}, |mean| {found['mean_norm']:.1g}",
        f"  allowed eps: {found['eps_proof']:.3g} by the proof, {found['eps_paper']:.3g} as printed"
        + ("" if found["eps_proof"] else " (an assumption fails)")
        + (
            f"; the exact sides meet at {measured['largest_eps']:.3g}"
            if "largest_eps" in measured
            else ""
        ),
        "  eps         left side              right side   holds    expanded: left     right    "
        "holds",
    ]
    for side in measured["sides"]:
        low, high = side["left_lower"], side["left_upper"]
        left = f"{high:.5f}" if high - low < 5e-6 else f"{low:.5f}..{high:.5f}"
        holds = "yes" if high <= side["right"] else "no" if low > side["right"] else "open"
        expanded = "yes" if side["expanded_left"] <= side["expanded_right"] else "no"
        lines.append(
            f"  {side['eps']:<10.3g}  {left:<21}  {side['right']:<11.5f}  {holds:<7}  "
            f"{side['expanded_left']:<15.5f}    {side['expanded_right']:<7.5f}  {expanded}"
        )
    return "\n".join(lines)


def main(argv=None) -> None:
    """argv: the arguments without the program's name; None: the command line's."""
    run_command(run, Theorem42Config, argv)


if __name__ == "__main__":
    main()
