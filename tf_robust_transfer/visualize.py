"""Draws figures: python -m tf_robust_transfer.visualize --models=runs/a,runs/b --dataset=mnist
--output=gradients.png

--kind=input_gradients is Figures 1, 4 and 6 of the IGAM paper, by the models that are given,
--kind=loss_landscape its Figure 7, and --kind=channel_maps is Figure 5 of the MixACM paper.
--kind=sweep draws the accuracies of run folders against a flag (--runs=runs/small
--x=train_fraction), among them the MixACM paper's Figures 3, 6 and 7 (--paper=mixacm_figure3).
--kind=radii draws accuracies against eps, of evaluations at several (--results=results.json)."""

import dataclasses

from tf_robust_transfer.attacks import ThreatModel
from tf_robust_transfer.checkpoints import load_model
from tf_robust_transfer.command import run_command
from tf_robust_transfer.config import SPEC, SharedConfig, check_outputs, check_specs
from tf_robust_transfer.errors import InputError
from tf_robust_transfer.files import path_of, told_apart
from tf_robust_transfer.flag_types import fraction, names, paths
from tf_robust_transfer.models.bounds import check_unit_pixels
from tf_robust_transfer.options import at_least, one_of, option
from tf_robust_transfer.papers.figures import SWEEPS
from tf_robust_transfer.plots.channel_maps import plot_channel_maps
from tf_robust_transfer.plots.input_gradients import check_figure_name, plot_input_gradients
from tf_robust_transfer.plots.loss_landscape import plot_loss_landscapes
from tf_robust_transfer.reports import radii, sweep
from tf_robust_transfer.runs.images import load_split, pixels


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
    # Of results, not of models: how they are drawn of the flags.
    "sweep": (sweep.draw, 0),
    "radii": (radii.draw, 0),
}


@dataclasses.dataclass(frozen=True)
class VisualizeConfig(SharedConfig):
    """Flags of `visualize`."""

    kind: str = option(
        "input_gradients",
        "input_gradients, channel_maps, loss_landscape, sweep or radii",
        choices=tuple(KINDS),
    )
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
        paths,
    )
    x: str = option(
        "",
        "sweep: flag on the x axis, such as train_fraction; also depth and width of "
        "--model=wrn_DEPTH_WIDTH",
    )
    series: str = option("", "sweep: flag whose values are lines of their own")
    results: tuple = option(
        "",
        "radii: results of evaluate at several --eps, or their run folders, comma-separated",
        paths,
    )
    attacks: tuple = option(
        "", "sweep, radii: attacks that are drawn; empty: clean and all that were run", names
    )
    paper: str = option(
        "",
        "sweep: a paper's figure, drawn from the runs of its flag files: mixacm_figure3, 6a, 6b, "
        "7a, 7b",
        choices=("", *SWEEPS),
    )

    def verify(self) -> None:
        needed = {"sweep": "", "radii": " and --results=A.json,B.json"}.get(
            self.kind, " and --models=A,B (saved models or run folders)"
        )
        given = {"sweep": self.runs, "radii": self.results}.get(self.kind, self.models)
        if not self.output or not given:
            raise InputError(f"give --output=FILE.png{needed}")
        check_outputs(self, "output")
        check_figure_name(self.output)
        if self.kind in ("sweep", "radii"):
            return
        super().verify()
        check_specs("models", *self.models)
        self.check_split(self.split)
        # Raises for an eps that does not fit the norm.
        ThreatModel(norm=self.norm, eps=self.eps)


def run(config: VisualizeConfig) -> None:
    config.verify()
    plot, default_images = KINDS[config.kind]
    if config.kind in ("sweep", "radii"):
        plot(config)
        return
    shown = load_split(config, config.split, config.num_images or default_images)
    specs = list(dict.fromkeys(config.models))
    titles = told_apart([_parts(spec) for spec in specs])
    models = {title: load_model(spec) for title, spec in zip(titles, specs, strict=True)}
    for title, model in models.items():
        check_unit_pixels(model, f"the model {title}")
    plot(models, pixels(shown.images), shown.labels, config)


def _parts(spec: str) -> tuple[str, ...]:
    """What a model may be called by: its file without the suffix, of a run its folder."""
    path = path_of(spec)
    # A folder may be "noise_0.6", which has no suffix.
    path = (
        path.parent
        if path.name == "model.keras"
        else path
        if path.is_dir()
        else path.with_suffix("")
    )
    return path.absolute().parts


def main(argv=None) -> None:
    """argv: the arguments without the program's name; None: the command line's."""
    run_command(run, VisualizeConfig, argv)


if __name__ == "__main__":
    main()
