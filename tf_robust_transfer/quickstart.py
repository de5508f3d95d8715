"""The whole chain on data that ships with scikit-learn, in minutes on two CPU cores:
scripts/quickstart.sh
"""

import dataclasses
import os
import pathlib
import sys

from tf_robust_transfer.checkpoints import load_model
from tf_robust_transfer.command import run_command
from tf_robust_transfer.command_line import parse
from tf_robust_transfer.config import TrainConfig
from tf_robust_transfer.files import path_of
from tf_robust_transfer.options import Options, at_least, option
from tf_robust_transfer.plots.input_gradients import plot_input_gradients
from tf_robust_transfer.reports.records import records
from tf_robust_transfer.reports.table import as_text
from tf_robust_transfer.runs import run_training
from tf_robust_transfer.runs.images import load_split

ROWS = ("natural", "teacher", "igam", "mixacm")


_NEXT = """
what to try next:
  a stronger attack
    {start}evaluate --model={model} --dataset=digits --eps=0.15 --attacks=autoattack \\
      --output={model}/results_autoattack.json
  another weight of IGAM's first term
    {start}train --flagfile=quickstart/igam.flags --lambda_diff=3 --run_dir=runs/lambda_diff_3
  the same on MNIST, which is downloaded
    {start}train --flagfile=small/mnist_igam.flags
"""


@dataclasses.dataclass(frozen=True)
class QuickstartConfig(Options):
    """Flags of the quickstart."""

    run_dir: str = option("runs/quickstart", "parent of the run folders")
    seed: int = option("0", "of everything random", int, **at_least(0))


def run(config: QuickstartConfig) -> None:
    parent = path_of(config.run_dir).absolute()
    folders, models = [], {}
    for row in ROWS:
        arguments = [
            f"--flagfile=flags/quickstart/{row}.flags",
            f"--run_dir={parent / row}",
            f"--seed={config.seed}",
        ]
        row_config = parse(TrainConfig, arguments)
        folders.append(run_training(row_config).path)
        models[row] = load_model(str(folders[-1]))
    sys.stdout.write(as_text(records(folders)))
    test = load_split(row_config, "test")
    figure = parent / "input_gradients.png"
    plot_input_gradients(models, test.images[:8].astype("float32") / 255, test.labels[:8], figure)
    python = min(os.path.relpath(sys.executable), sys.executable, key=len)
    by_name = pathlib.Path(sys.argv[0]).name.startswith("rt-")
    start = "rt-" if by_name else f"{python} -m tf_robust_transfer."
    sys.stdout.write(
        f"\nmodels and results:  {parent}\ninput gradients:     {figure}\n"
        f"TensorBoard:         tensorboard --logdir {parent}\n"
        + _NEXT.format(start=start, model=os.path.relpath(folders[-1]))
    )


def main(argv=None) -> None:
    """argv: the arguments without the program's name; None: the command line's."""
    run_command(run, QuickstartConfig, argv)


if __name__ == "__main__":
    main()
