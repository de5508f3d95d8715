"""Decision regions and loss landscapes, Figure 7 of the IGAM paper.

A plane through an image x: x + a u + b v, with u the adversarial direction of the model that is
drawn and v a random one. The paper says no more than "along the adversarial perturbation and a
random direction". Here, for the linf norm, u is the sign of the model's own input gradient of the
cross-entropy (the step of FGSM) and v has entries -1 and 1 with equal probability (Rademacher); for
l2, u is that gradient and v the part of such a v at a right angle to it, both of length 1. So a and
b are distances in the norm, and the ball of radius eps is |a| + |b| <= eps for linf (wherever u and
v agree in a pixel and differ in another) and a circle for l2. The points are those of the plane,
not clipped to [0, 1]."""

import dataclasses
from pathlib import Path

import numpy as np
import tensorflow as tf
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from tf_robust_transfer.attacks.threat_model import ThreatModel, check_batch
from tf_robust_transfer.errors import InputError
from tf_robust_transfer.losses import classification
from tf_robust_transfer.ops.gradients import input_gradient
from tf_robust_transfer.plots.input_gradients import _write

EXTENT = 3  # times eps, where nothing else is asked for
POINTS = 41
_BATCH = 123
_LEVELS = 24


@dataclasses.dataclass(frozen=True)
class Landscape:
    """A model on a plane through an image.

    Attributes:
        coordinates: float64 [points], of both axes, from -extent to extent.
        predicted: int [points, points], the class; [i, j] is at a = coordinates[j] along the
            adversarial direction and b = coordinates[i] along the random one, so that row 0 is the
            lowest.
        cross_entropy: float32 [points, points], of the true class, in the same order.
        adversarial, random: float32 [height, width, channels], the directions u and v.
    """

    coordinates: np.ndarray
    predicted: np.ndarray
    cross_entropy: np.ndarray
    adversarial: np.ndarray
    random: np.ndarray


def loss_landscapes(
    model, images, labels, *, extent: float, norm: str = "linf", points: int = POINTS, seed: int = 0
):
    """The landscape around each image, in batches of one compiled function.

    Args:
        model: keras.Model, images in [0, 1] -> logits; called with training=False.
        images: float [n, height, width, channels] in [0, 1].
        labels: int [n], the true classes.
        extent: half the width of the plane, in the norm; above 0.
        norm: "linf" or "l2".
        points: on each axis, at least 2; an odd number has the image itself in the middle.
        seed: of the random direction, which depends on nothing else but the image's place and
            shape: all models are shown along the same.

    Returns:
        list of n `Landscape`. Where the gradient is zero, so is the adversarial direction.

    Raises:
        InputError: images or labels that do not fit the model, an extent or a number of points that
            is too small.
    """
    if not 0 < extent < np.inf or points < 2:
        raise InputError(
            f"a landscape needs an extent above 0 and at least 2 points, got {extent} and {points}"
        )
    images, labels = check_batch(model, images, labels, ThreatModel(norm=norm))

    @tf.function
    def look(image, label, directions, places):
        batch = image + tf.tensordot(places, directions, 1)
        logits = tf.cast(model(batch, training=False), tf.float32)
        repeated = tf.fill([tf.shape(places)[0]], label)
        return tf.argmax(logits, axis=1), classification.cross_entropy(logits, repeated)

    coordinates = np.linspace(-extent, extent, points)
    places = np.stack(
        [grid.ravel() for grid in np.meshgrid(coordinates, coordinates)], axis=1
    ).astype(np.float32)
    found = []
    for number, adversarial in enumerate(_adversarial_directions(model, images, labels, norm)):
        directions = np.stack([adversarial, _random_direction(adversarial, norm, (seed, number))])
        parts = []
        for start in range(0, len(places), _BATCH):
            # The last batch is filled up with the last place, for one compiled function.
            used = np.minimum(np.arange(start, start + _BATCH), len(places) - 1)
            result = look(
                images[number], labels[number], tf.constant(directions), tf.constant(places[used])
            )
            parts.append([values.numpy()[: len(places) - start] for values in result])
        predicted, losses = (
            np.concatenate(values).reshape(points, points) for values in zip(*parts, strict=True)
        )
        found.append(Landscape(coordinates, predicted, losses, *directions))
    return found


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
        models: title -> keras.Model, images in [0, 1] -> logits.
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
            f"got {len(models)} models "
            f"and images of shape {list(images.shape)}"
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
        "model's own\nadversarial "
        f"direction and a random one. Dashed: the {norm} ball of eps {eps:.3g}.",
        fontsize=6,
    )
    _write(figure, path)


def _adversarial_directions(model, images, labels, norm):
    """float32 [n, height, width, channels]."""

    def score_of(x):
        return classification.cross_entropy(
            tf.cast(model(x, training=False), tf.float32), labels
        ), None

    gradient = input_gradient(score_of, images)[0].numpy()
    if norm == "linf":
        return np.sign(gradient)
    return np.stack([_unit(part) for part in gradient])


def _random_direction(adversarial, norm, seed):
    random = np.random.default_rng(seed).choice(np.array([-1, 1], np.float32), adversarial.shape)
    if norm == "linf":
        return random
    return _unit(random - np.vdot(adversarial, random) * adversarial)


def _unit(array):
    """Of l2 length 1; zero stays zero."""
    # Squares of a sure model's gradients underflow in float32.
    length = np.linalg.norm(array.astype(np.float64))
    return (array / length if length > 0 else array).astype(np.float32)


def _ball(eps, norm):
    """(a, b) of the points on its edge."""
    angles = np.linspace(0, 2 * np.pi, 5 if norm == "linf" else 181)
    return eps * np.cos(angles), eps * np.sin(angles)
