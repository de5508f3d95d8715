"""Draws figures: python -m tf_robust_transfer.visualize --models=runs/a,runs/b --dataset=mnist --output=gradients.png"""

import pathlib

import numpy as np

from tf_robust_transfer.checkpoints import load_model
from tf_robust_transfer.command import run_command
from tf_robust_transfer.config import VisualizeConfig
from tf_robust_transfer.errors import InputError, look_up
from tf_robust_transfer.plots.input_gradients import plot_input_gradients
from tf_robust_transfer.training import build

KINDS = {"input_gradients": plot_input_gradients}


def main(config: VisualizeConfig) -> None:
    plot = look_up("kind of figure", config.kind, KINDS)
    if not config.models or not config.output:
        raise InputError("give --models=A,B (saved models or run folders) and --output=FILE.png")
    if not pathlib.Path(config.output).absolute().parent.is_dir():
        raise InputError(f"cannot write {config.output!r}: its folder does not exist")
    shown = build.load_split(config, config.split)
    models = {}
    for spec in config.models:
        path = pathlib.Path(spec)
        title = path.parent.name if path.name == "model.keras" else path.stem
        models[title if title not in models else spec] = load_model(spec)
    images = shown.images[: config.num_images].astype(np.float32) / np.float32(255)
    plot(models, images, shown.labels[: config.num_images], config.output)


if __name__ == "__main__":
    run_command(main, VisualizeConfig)
