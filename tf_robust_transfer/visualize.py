"""Draws figures: python -m tf_robust_transfer.visualize --models=runs/a,runs/b --dataset=mnist
--output=gradients.png

--kind=input_gradients is Figures 1, 4 and 6 of the IGAM paper, by the models that are given,
--kind=loss_landscape its Figure 7, and --kind=channel_maps is Figure 5 of the MixACM paper.
--kind=sweep draws the accuracies of run folders against a flag (--runs=runs/small
--x=train_fraction), among them the MixACM paper's Figures 3, 6 and 7 (--paper=mixacm_figure3)."""

import dataclasses
import pathlib

import numpy as np

from tf_robust_transfer.attacks import ThreatModel
from tf_robust_transfer.checkpoints import load_model
from tf_robust_transfer.command import run_command
from tf_robust_transfer.config import SPEC, SharedConfig
from tf_robust_transfer.errors import InputError, look_up
from tf_robust_transfer.flag_types import fraction, names
from tf_robust_transfer.options import at_least, one_of, option
from tf_robust_transfer.plots.channel_maps import plot_channel_maps
from tf_robust_transfer.plots.input_gradients import plot_input_gradients
from tf_robust_transfer.plots.loss_landscape import plot_loss_landscapes
from tf_robust_transfer.reports import sweep
from tf_robust_transfer.runs.images import load_split


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


@dataclasses.dataclass(frozen=True)
class VisualizeConfig(SharedConfig):
    """Flags of `visualize`."""

    kind: str = option("input_gradients", "input_gradients, channel_maps, loss_landscape or sweep")
    models: tuple = option("", f"comma-separated, each {SPEC}", names)
    split: str = option("test", "split of the data set")
    num_images: int = option(
        "0", "test images; 0: 8, for channel_maps 500, for loss_landscape 2", int, **at_least(0)
    )
    output: str = option("", "PNG to write")
    norm: str = option(
        "linf", "loss_landscape: norm of the directions: linf or l2", **one_of("linf", "l2")
    )
    eps: float = option(
        "8/255", "loss_landscape: radius of the ball that is marked", fraction, **at_least(0)
    )
    landscape_extent: float = option(
        "0", "loss_landscape: half the plane's width; 0: 3 eps", fraction, **at_least(0)
    )
    runs: tuple = option(
        "runs",
        "sweep: run folders or folders of them, comma-separated; * and ? may stand in names",
        names,
    )
    x: str = option(
        "",
        "sweep: flag on the x axis, such as train_fraction; also depth and width of "
        "--model=wrn_DEPTH_WIDTH",
    )
    series: str = option("", "sweep: flag whose values are lines of their own")
    attacks: tuple = option(
        "", "sweep: attacks that are drawn; empty: clean and all that were run", names
    )
    paper: str = option(
        "",
        "sweep: a paper's figure, drawn from the runs of its flag files: mixacm_figure3, 6a, 6b, "
        "7a, 7b",
    )


def run(config: VisualizeConfig) -> None:
    plot, default_images = look_up("kind of figure", config.kind, KINDS)
    if config.kind == "sweep":
        _check_output(config.output)
        sweep.draw(config)
        return
    if not config.models or not config.output:
        raise InputError("give --models=A,B (saved models or run folders) and --output=FILE.png")
    ThreatModel(norm=config.norm, eps=config.eps)  # raises for an eps that does not fit the norm
    _check_output(config.output)
    shown = load_split(config, config.split)
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


def main(argv=None) -> None:
    """argv: the arguments without the program's name; None: the command line's."""
    run_command(run, VisualizeConfig, argv)


if __name__ == "__main__":
    main()
