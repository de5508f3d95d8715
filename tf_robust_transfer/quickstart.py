"""The whole chain on data that ships with scikit-learn, in minutes on two CPU cores:
scripts/quickstart.sh
"""

import os
import pathlib
import sys

from tf_robust_transfer.checkpoints import load_model
from tf_robust_transfer.command import run_command
from tf_robust_transfer.config import QuickstartConfig, TrainConfig, parse
from tf_robust_transfer.plots.input_gradients import plot_input_gradients
from tf_robust_transfer.report import show
from tf_robust_transfer.training import build, run_training

ROOT = pathlib.Path(__file__).resolve().parents[1]
ROWS = ("natural", "teacher", "igam", "mixacm")


def main(config: QuickstartConfig) -> None:
    parent = pathlib.Path(config.run_dir).absolute()
    # The paths in the flag files start at the root of the repository.
    os.chdir(ROOT)
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
    show(folders)
    test = build.load_split(row_config, "test")
    figure = parent / "input_gradients.png"
    plot_input_gradients(models, test.images[:8].astype("float32") / 255, test.labels[:8], figure)
    sys.stdout.write(
        f"\ninput gradients of all four: {figure}\nlook at the runs: tensorboard --logdir "
        f"{parent}\n"
    )


if __name__ == "__main__":
    run_command(main, QuickstartConfig)
