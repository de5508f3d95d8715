"""Measures Theorem 4.1 of the MixACM paper for trained students of one teacher.

    python -m tf_robust_transfer.theorem41 --teacher=runs/results/seed2/mnist14_wrn_teacher \
        --models=runs/results/seed2/natural,runs/results/seed2/rkd,runs/results/seed2/mixacm \
        --dataset=mnist --image_size=14x14 --train_fraction=1/3 --eps=0.1 --gamma=1 --seed=2 \
        --output=gamma1.json

One row a student: the robust error of test images, and the two terms of the bound that depend on
the student, of training images. What each number is, and which way it errs:
tf_robust_transfer/analysis/theorem41.py. """

import dataclasses
import math
import sys

import numpy as np

from tf_robust_transfer.analysis import theorem41
from tf_robust_transfer.checkpoints import load_model
from tf_robust_transfer.command import run_command
from tf_robust_transfer.config import SPEC, SharedConfig, check_outputs, check_specs
from tf_robust_transfer.errors import InputError
from tf_robust_transfer.files import path_of, write_json
from tf_robust_transfer.flag_types import fraction, names
from tf_robust_transfer.options import above, at_least, one_of, option
from tf_robust_transfer.runs.folder import read_flags
from tf_robust_transfer.runs.images import load_split


@dataclasses.dataclass(frozen=True)
class Theorem41Config(SharedConfig):
    """Flags of `theorem41`."""

    models: tuple = option("", f"the students, comma-separated, each {SPEC}", names)
    teacher: str = option("", f"their teacher: {SPEC}")
    eps: float = option(
        "8/255", "linf radius, a fraction of the pixel range", fraction, **at_least(0)
    )
    train_fraction: float = option(
        "1",
        "part of the training images that the students were trained on, which --seed chose",
        fraction,
        **above(0, 1),
    )
    max_examples: int = option(
        "1000", "so many first examples of either split; 0: all", int, **at_least(0)
    )
    gamma: float = option("1", "temperature of the softmax in the loss", fraction, **above(0))
    logit_norm: str = option(
        "l2", "norm of the difference of logits: l2 or linf", **one_of("l2", "linf")
    )
    delta: float = option(
        "0.05",
        "the bound holds with probability 1 - delta",
        fraction,
        check=lambda value: 0 < value < 1,
        expected="a number above 0 and below 1",
    )
    output: str = option("", "all numbers as JSON; empty: only printed")

    def verify(self) -> None:
        super().verify()
        if not self.models or not self.teacher:
            raise InputError("give --models=A,B (the students) and --teacher=SPEC")
        check_outputs(self, "output")
        check_specs("models", *self.models)
        check_specs("teacher", self.teacher)
        for spec in self.models:
            self._check_images(spec)

    def _check_images(self, spec):
        """Raises an InputError where a student's flags.txt says that it saw other images."""
        path = path_of(spec)
        flags = read_flags(path.parent if path.is_file() else path)
        if fraction(flags.get("validation_fraction", "0")):
            raise InputError(
                f"the student {spec} was trained without --validation_fraction="
                f"{flags['validation_fraction']} of its images, which were held out: the terms are "
                "of all; give students of runs without it"
            )
        share = flags.get("train_fraction", str(self.train_fraction))
        seed = flags.get("seed", str(self.seed))
        # A fraction may have been written with fewer digits.
        other = not math.isclose(fraction(share), self.train_fraction, rel_tol=1e-5)
        if other or (self.train_fraction < 1 and seed != str(self.seed)):
            raise InputError(
                f"the student {spec} was trained on --train_fraction={share} of --seed={seed}: the "
                "terms are of its training images; give these two flags, and students of other "
                "images in a command of their own"
            )


def run(config: Theorem41Config) -> None:
    config.verify()
    teacher = load_model(config.teacher)
    students = {spec: load_model(spec) for spec in config.models}
    whole, test = load_split(config, "train"), load_split(config, "test")
    for spec, model in students.items():
        if model.output_shape[-1] != test.num_classes:
            raise InputError(
                f"the model {spec} has {model.output_shape[-1]} classes, {config.dataset} has "
                f"{test.num_classes}; give another --dataset"
            )
    # n is the size of all that the students were trained on.
    fixed = theorem41.other_terms(len(whole.labels), config.delta)
    used = slice(0, config.max_examples or None)
    sides = [
        (part.images[used].astype(np.float32) / np.float32(255), part.labels[used])
        for part in (test, whole)
    ]
    written = {
        "teacher": config.teacher,
        "dataset": config.dataset,
        "eps": config.eps,
        "gamma": config.gamma,
        "logit_norm": config.logit_norm,
        "seed": config.seed,
        "delta": config.delta,
        "train_fraction": config.train_fraction,
        "training_examples": len(whole.labels),
        "measured_examples": {"test": len(sides[0][1]), "train": len(sides[1][1])},
        "other_terms": fixed,
        "students": {},
    }
    sys.stdout.write(_head(config, fixed))
    for spec, model in students.items():
        terms = theorem41.measure(
            model,
            teacher,
            *sides,
            eps=config.eps,
            gamma=config.gamma,
            logit_norm=config.logit_norm,
            seed=config.seed,
            batch_size=config.batch_size,
        )
        written["students"][spec] = dataclasses.asdict(terms)
        sys.stdout.write(_row(spec, terms))
    if config.output:
        write_json(config.output, written)


def _head(config, fixed):
    return (
        f"Right side: 2 L + {8 / config.gamma:.3g} L_dis + 4 R + {fixed['examples']:.3g} + "
        f"{fixed['confidence_printed']:.3g} (with the logarithm that is missing there "
        f"{fixed['confidence']:.3g}); R, of the teacher alone, is not estimated.\n"
        "Robust error and L are too low, if anything; L_dis may err either way.\n"
        f"{'robust error':26s}{'L':26s}{'L_dis':26s}{'weighted sum':14s}student\n"
    )


def _row(spec, terms):
    numbers = (terms.robust_error, terms.adversarial_loss, terms.distillation_loss)
    cells = [
        f"{one.mean:.4g} [{one.confidence_interval_95[0]:.4g}, {one.confidence_interval_95[1]:.4g}]"
        for one in numbers
    ]
    return "".join(f"{cell:26s}" for cell in cells) + f"{terms.weighted_sum:<14.4g}{spec}\n"


def main(argv=None) -> None:
    """argv: the arguments without the program's name; None: the command line's."""
    run_command(run, Theorem41Config, argv)


if __name__ == "__main__":
    main()
