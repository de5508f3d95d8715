"""Draws figures: python -m tf_robust_transfer.visualize --models=runs/a,runs/b --dataset=mnist
--output=gradients.png

--kind=input_gradients is Figures 1, 4 and 6 of the IGAM paper, by the models that are given,
--kind=loss_landscape its Figure 7, and --kind=channel_maps is Figure 5 of the MixACM paper.
--kind=sweep draws the accuracies of run folders against a flag (--runs=runs/small
--x=train_fraction), among them the MixACM paper's Figures 3, 6 and 7 (--paper=mixacm_figure3)."""

import pathlib

import numpy as np

from tf_robust_transfer.attacks import ThreatModel
from tf_robust_transfer.checkpoints import load_model
from tf_robust_transfer.command import run_command
from tf_robust_transfer.config import VisualizeConfig
from tf_robust_transfer.errors import InputError, look_up
from tf_robust_transfer.plots.channel_maps import plot_channel_maps
from tf_robust_transfer.plots.input_gradients import plot_input_gradients
from tf_robust_transfer.plots.loss_landscape import plot_loss_landscapes
from tf_robust_transfer.training import build, sweep


def _draw_landscapes(models, images, labels, config):
    threat_model = ThreatModel(norm=config.norm, eps=config.eps)
    plot_loss_landscapes(
        models,
        images,
        labels,
        config.output,
        threat_model=threat_model,
        extent=config.landscape_extent,
        seed=config.seed,
    )


# Figure -> (how it is drawn of models, images, labels and the flags; how many images by default).
KINDS = {
    "input_gradients": (
        lambda models, images, labels, flags: plot_input_gradients(
            models, images, labels, flags.output
        ),
        8,
    ),
    "channel_maps": (
        lambda models, images, _, flags: plot_channel_maps(models, images, flags.output),
        500,
    ),
    "loss_landscape": (_draw_landscapes, 2),
    "sweep": (None, 0),  # of run folders, not of models
}


def main(config: VisualizeConfig) -> None:
    plot, default_images = look_up("kind of figure", config.kind, KINDS)
    if config.kind == "sweep":
        _check_output(config.output)
        sweep.draw(config)
        return
    if not config.models or not config.output:
        raise InputError("give --models=A,B (saved models or run folders) and --output=FILE.png")
    ThreatModel(norm=config.norm, eps=config.eps)  # raises for an eps that does not fit the norm
    _check_output(config.output)
    shown = build.load_split(config, config.split)
    models = {}
    for spec in config.models:
        path = pathlib.Path(spec)
        title = path.parent.name if path.name == "model.keras" else path.stem
        models[title if title not in models else spec] = load_model(spec)
    used = slice(0, config.num_images or default_images)
    plot(
        models, shown.images[used].astype(np.float32) / np.float32(255), shown.labels[used], config
    )


def _check_output(output):
    if not output:
        raise InputError("give --output=FILE.png")
    if not pathlib.Path(output).absolute().parent.is_dir():
        raise InputError(f"cannot write {output!r}: its folder does not exist")


if __name__ == "__main__":
    run_command(main, VisualizeConfig)
