"""Draws decision regions and loss landscapes, Figure 7 of the IGAM paper: see
`analysis.loss_landscape` for the numbers.
"""

from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from tf_robust_transfer.analysis.loss_landscape import loss_landscapes
from tf_robust_transfer.errors import InputError
from tf_robust_transfer.plots.input_gradients import write_figure

EXTENT = 3  # times eps, where nothing else is asked for
_LEVELS = 24


def plot_loss_landscapes(
    models: dict, images, labels, path, *, threat_model, extent: float = 0.0, seed: int = 0
) -> None:
    """Draws a row for each model, and for each image two panels: the decision regions and the
    cross-entropy.

    All panels of the cross-entropy share one scale, from 0 to the largest value of the figure. The
    cross marks the image, the dashed line the ball of radius eps. In the paper's Figure 7 the
    models are (a) standard training, IGAM with (b) the adversarial and (c) the l2 term alone, and
    (d) with both.

    Args:
        models: title -> keras.Model or SPEC, images in [0, 1] -> logits.
        images: float [n, height, width, channels] in [0, 1]; one to three are well readable.
        labels: int [n], the true classes.
        path: file to write; its suffix (.png, .pdf, .svg) sets the format. It appears only when
            complete.
        threat_model: its norm is that of the plane, its eps the ball that is marked.
        extent: half the width of the plane, in the norm; 0: `EXTENT` times eps.
        seed: of the random directions.

    Raises:
        InputError: no models or images, images that do not fit a model, an eps of 0 without an
            extent, or a suffix that matplotlib cannot write.
    """
    path, images = Path(path), np.asarray(images)
    if not models or images.ndim != 4 or not len(images):
        raise InputError(
            "a loss landscape needs at least one model and images [n, height, width, channels], "
            f"got {len(models)} models and images of shape {list(images.shape)}"
        )
    eps, norm = threat_model.eps, threat_model.norm
    shown = {"extent": extent or EXTENT * eps, "norm": norm, "seed": seed}
    found = {
        title: loss_landscapes(model, images, labels, **shown) for title, model in models.items()
    }

    every = [landscape for row in found.values() for landscape in row]
    classes = np.unique([landscape.predicted for landscape in every]).tolist()
    palette = colormaps["tab10" if len(classes) <= 10 else "tab20"]
    colours = {name: palette(number % palette.N) for number, name in enumerate(classes)}
    highest = float(np.max([landscape.cross_entropy for landscape in every]))
    if not np.isfinite(highest):
        raise InputError(
            "a model gives NaN or infinite logits on the plane: its loss cannot be drawn"
        )
    levels = np.linspace(0, highest or 1.0, _LEVELS + 1)

    columns = 2 * len(images)
    figure = Figure(
        figsize=(1.9 * columns + 1.4, 1.9 * len(models) + 1.0), dpi=150, layout="constrained"
    )
    axes = figure.subplots(len(models), columns, squeeze=False)
    surface = None
    for row, (title, landscapes) in enumerate(found.items()):
        for number, landscape in enumerate(landscapes):
            regions, losses = axes[row, 2 * number : 2 * number + 2]
            a = b = landscape.coordinates
            picture = np.array(
                [[colours[name] for name in line] for line in landscape.predicted.tolist()]
            )
            step = (a[1] - a[0]) / 2
            edges = (a[0] - step, a[-1] + step, b[0] - step, b[-1] + step)
            regions.imshow(picture, origin="lower", extent=edges, interpolation="nearest")
            surface = losses.contourf(a, b, landscape.cross_entropy, levels=levels, cmap="viridis")
            for axis, ink in ((regions, "black"), (losses, "white")):
                axis.plot(*_ball(eps, norm), color=ink, lw=0.8, ls="--")
                axis.plot(0, 0, marker="+", color=ink, ms=5)
                axis.set(xlim=(a[0], a[-1]), ylim=(b[0], b[-1]), aspect="equal")
                axis.tick_params(labelsize=5)
            if row == 0:
                regions.set_title(
                    f"image {number + 1}, correct class #{int(labels[number])}:\ndecision regions",
                    fontsize=7,
                )
                losses.set_title("\ncross-entropy", fontsize=7)
            if row == len(found) - 1:
                regions.set_xlabel("adversarial direction", fontsize=6)
                losses.set_xlabel("adversarial direction", fontsize=6)
        axes[row, 0].set_ylabel(
            f"{title}\nrandom direction", fontsize=min(7, 7 * 22 / max(len(title), 1))
        )
    figure.colorbar(surface, ax=axes, shrink=0.8, pad=0.01, ticks=MaxNLocator(8)).ax.tick_params(
        labelsize=6
    )
    handles = [Patch(color=colours[name], label=f"#{name}") for name in classes]
    figure.legend(
        handles=handles,
        loc="outside right upper",
        fontsize=6,
        frameon=False,
        ncols=-(-len(classes) // 20),
    )
    figure.supxlabel(
        "Predicted class and cross-entropy (nats, one scale for all panels) on the plane of each "
        "model's own\n"
        f"adversarial direction and a random one. Dashed: the {norm} ball of eps {eps:.3g}.",
        fontsize=6,
    )
    write_figure(figure, path)


def _ball(eps, norm):
    """(a, b) of the points on its edge."""
    angles = np.linspace(0, 2 * np.pi, 5 if norm == "linf" else 181)
    return eps * np.cos(angles), eps * np.sin(angles)
