"""Whether a teacher will do: python -m tf_robust_transfer.fitness
--teacher=runs/small/mnist_teacher --dataset=mnist --eps=0.1
"""

import dataclasses
import sys

from tf_robust_transfer.analysis.fitness import teacher_fitness
from tf_robust_transfer.attacks import ThreatModel
from tf_robust_transfer.checkpoints import load_model
from tf_robust_transfer.command import run_command
from tf_robust_transfer.config import SPEC, SharedConfig, check_specs
from tf_robust_transfer.errors import InputError
from tf_robust_transfer.flag_types import fraction
from tf_robust_transfer.options import at_least, one_of, option
from tf_robust_transfer.runs.images import load_split, pixels


@dataclasses.dataclass(frozen=True)
class FitnessConfig(SharedConfig):
    """Flags of `fitness`."""

    teacher: str = option("", f"the teacher to try: {SPEC}")
    split: str = option("test", "split of the data set")
    max_examples: int = option("256", "so many first examples; 0: all", int, **at_least(0))
    norm: str = option("linf", "of PGD-20: linf or l2", **one_of("linf", "l2"))
    eps: float = option("8/255", "radius of PGD-20's ball", fraction, **at_least(0))

    def verify(self) -> None:
        super().verify()
        check_specs("teacher", self.teacher)
        self.check_split(self.split)


def run(config: FitnessConfig) -> None:
    config.verify()
    threat_model = ThreatModel(norm=config.norm, eps=config.eps)
    model = load_model(config.teacher)
    test = load_split(config, config.split)
    if model.output_shape[-1] != test.num_classes:
        raise InputError(
            f"the teacher has {model.output_shape[-1]} classes, {config.dataset} has "
            f"{test.num_classes}; give another --dataset"
        )
    found = teacher_fitness(
        model,
        pixels(test.images),
        test.labels,
        threat_model=threat_model,
        seed=config.seed,
        batch_size=config.batch_size,
    )
    result = found.robustness
    for attack in result.accuracy:
        low, high = result.confidence_interval_95[attack]
        ball = "" if attack == "clean" else f", {config.norm} {config.eps:.4g}"
        sys.stdout.write(
            f"{attack + ball:18s} {100 * result.accuracy[attack]:6.2f}%  [{100 * low:.2f}, "
            f"{100 * high:.2f}] on {result.num_examples} images\n"
        )
    sys.stdout.write(
        f"{'alignment':18s} {found.alpha:6.3f}   mean |<x, g>| / ||g||; no gradient on "
        f"{100 * found.zero_gradients:.1f}%\n"
        f"{'endpoints':18s} {', '.join(found.endpoints)}\n"
        f"{'spread of logits':18s} {found.spread:6.2f}   over the images, against their mean\n"
    )
    for note in found.notes:
        sys.stdout.write(f"note: {note}\n")
    for problem in found.problems:
        sys.stdout.write(f"wrong: {problem}\n")
    if found.problems:
        raise InputError(f"{config.teacher!r} will not do as a teacher: {found.problems[0]}")
    sys.stdout.write("it will do as a teacher\n")


def main(argv=None) -> None:
    """argv: the arguments without the program's name; None: the command line's."""
    run_command(run, FitnessConfig, argv)


if __name__ == "__main__":
    main()
