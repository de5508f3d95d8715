"""The whole chain on data that ships with scikit-learn, in minutes on two CPU cores: scripts/quickstart.sh"""

import pathlib
import sys

from tf_robust_transfer.checkpoints import load_model
from tf_robust_transfer.command import run_command
from tf_robust_transfer.config import QuickstartConfig, TrainConfig, parse
from tf_robust_transfer.plots.input_gradients import plot_input_gradients
from tf_robust_transfer.report import show
from tf_robust_transfer.training import build, run_training

FLAGS = pathlib.Path(__file__).resolve().parents[1] / "flags" / "quickstart"
ROWS = ("natural", "teacher", "igam", "mixacm")


def main(config: QuickstartConfig) -> None:
    folders, models = [], {}
    for row in ROWS:
        arguments = [f"--flagfile={FLAGS / row}.flags", f"--run_dir={config.run_dir}/{row}", f"--seed={config.seed}"]
        row_config = parse(TrainConfig, arguments)
        folders.append(run_training(row_config).path)
        models[row] = load_model(str(folders[-1]))
    show(folders)
    test = build.load_split(row_config, "test")
    figure = pathlib.Path(config.run_dir) / "input_gradients.png"
    plot_input_gradients(models, test.images[:8].astype("float32") / 255, test.labels[:8], figure)
    sys.stdout.write(f"\ninput gradients of all four: {figure}\nlook at the runs: tensorboard --logdir {config.run_dir}\n")


if __name__ == "__main__":
    run_command(main, QuickstartConfig)
