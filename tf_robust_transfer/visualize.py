"""Draws figures: python -m tf_robust_transfer.visualize --models=runs/a,runs/b --dataset=mnist --output=gradients.png

--kind=input_gradients is Figure 4 of the IGAM paper, --kind=channel_maps Figure 5 of the MixACM paper.
"""

import pathlib

import numpy as np

from tf_robust_transfer.checkpoints import load_model
from tf_robust_transfer.command import run_command
from tf_robust_transfer.config import VisualizeConfig
from tf_robust_transfer.errors import InputError, look_up
from tf_robust_transfer.plots.channel_maps import plot_channel_maps
from tf_robust_transfer.plots.input_gradients import plot_input_gradients
from tf_robust_transfer.training import build

# Figure -> (how it is drawn of models, images, labels and a path; how many images by default).
KINDS = {
    "input_gradients": (plot_input_gradients, 8),
    "channel_maps": (lambda models, images, labels, path: plot_channel_maps(models, images, path), 500),
}


def main(config: VisualizeConfig) -> None:
    plot, default_images = look_up("kind of figure", config.kind, KINDS)
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
    used = slice(0, config.num_images or default_images)
    plot(models, shown.images[used].astype(np.float32) / np.float32(255), shown.labels[used], config.output)


if __name__ == "__main__":
    run_command(main, VisualizeConfig)
