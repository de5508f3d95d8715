"""Trains a model: python -m tf_robust_transfer.train --flagfile=flags/small/mnist_igam.flags"""

import dataclasses
import functools
import sys
from collections.abc import Sequence

from tf_robust_transfer.command import run_command
from tf_robust_transfer.command_line import default_run_dir, effective
from tf_robust_transfer.config import TrainConfig
from tf_robust_transfer.ops import workers
from tf_robust_transfer.reports.records import records
from tf_robust_transfer.reports.table import as_text, files
from tf_robust_transfer.runs import check_training, run_training
from tf_robust_transfer.runs.strategy import distribution_strategy


def run(config: TrainConfig, arguments: Sequence[str] = ()) -> None:
    """arguments: those that the config was read from, whose flag file names the run folder."""
    if not config.run_dir:
        named = (
            default_run_dir(arguments)
            or f"runs/{config.dataset.replace('/', '_')}_{config.method}_{config.model}"
        )
        config = dataclasses.replace(config, run_dir=named)
    if config.check:
        config.verify()
        check_training(config)
        sys.stdout.write(effective(config))
        return
    folder = run_training(config)
    if workers.is_chief(distribution_strategy(config.distribution_strategy)):
        found = records([folder.path])
        sys.stdout.write(as_text(found) + files(found))


def main(argv=None) -> None:
    """argv: the arguments without the program's name; None: the command line's."""
    arguments = sys.argv[1:] if argv is None else argv
    run_command(functools.partial(run, arguments=arguments), TrainConfig, arguments)


if __name__ == "__main__":
    main()
