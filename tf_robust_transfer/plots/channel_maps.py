"""Sorted activated channel maps, Figure 5 of the MixACM paper."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure

from tf_robust_transfer.checkpoints import as_model
from tf_robust_transfer.errors import InputError
from tf_robust_transfer.losses import channel_maps
from tf_robust_transfer.models import endpoints
from tf_robust_transfer.plots.input_gradients import png_of, write_figure

_BATCH = 100


def mean_channel_maps(model, images, mapping: str = "maximum") -> dict[str, np.ndarray]:
    """The normalised map of each block, averaged over images (section A.2).

    Args:
        model: keras.Model or SPEC, images in [0, 1] -> logits; called with training=False.
        images: float [n, height, width, channels] in [0, 1].
        mapping: g_c; see `losses.channel_maps.activated_channel_map`.

    Returns:
        block -> float64 [channels] in the order of the channels; a sorted one is a curve of Figure
        5.

    Raises:
        InputError: no images, or images that do not fit the model.
    """
    images = np.asarray(images, np.float32)
    return channel_maps_of(as_model(model, images.shape[1:]), mapping)(images)


def channel_maps_of(model, mapping: str = "maximum") -> Callable:
    """`mean_channel_maps` of a model as a function of images, compiled once: for one that is
    looked at again while it trains.
    """
    submodel = endpoints(model)
    names = [name for name, tensor in submodel.output.items() if len(tensor.shape) == 4]

    @tf.function
    def maps_of(batch):
        found = submodel(batch, training=False)
        return {
            name: channel_maps.activated_channel_map(tf.cast(found[name], tf.float32), mapping)
            for name in names
        }

    def mean_maps(images):
        images = np.asarray(images, np.float32)
        taken = (None, *model.input_shape[1:])
        if not tf.TensorShape(taken).is_compatible_with(images.shape) or not len(images):
            raise InputError(
                f"model {model.name!r} takes images {model.input_shape}, got {list(images.shape)}"
            )
        sums = dict.fromkeys(names, 0.0)
        for start in range(0, len(images), _BATCH):
            for name, maps in maps_of(images[start : start + _BATCH]).items():
                maps = maps.numpy().astype(np.float64)
                lengths = np.linalg.norm(maps, axis=1, keepdims=True)
                unit = np.divide(maps, lengths, out=np.zeros_like(maps), where=lengths > 0)
                sums[name] = sums[name] + unit.sum(axis=0)
        return {name: total / len(images) for name, total in sums.items()}

    return mean_maps


def plot_channel_maps(models: dict, images, path) -> None:
    """Draws a panel for each block that all models have: each model's mean map, sorted in ascending
    order.

    Args:
        models: title -> keras.Model or SPEC, such as {"natural": ..., "teacher": ..., "student":
            ...}. Where their numbers of channels differ, the horizontal axis is the share of the
            channels; a map of more channels is also lower, for all have length 1.
        images: float [n, height, width, channels] in [0, 1]; the paper has 500 of CIFAR-10's test
            set.
        path: file to write; its suffix (.png, .pdf, .svg) sets the format. It appears only when
            complete.

    Raises:
        InputError: no models or images, images that do not fit a model, no common block, or a
            suffix that matplotlib cannot write.
    """
    path = Path(path)
    if not models:
        raise InputError("a figure of channel maps needs at least one model")
    maps = {title: mean_channel_maps(model, images) for title, model in models.items()}
    write_figure(_figure(maps, len(images)), path)


def channel_map_picture(maps: dict, count: int) -> tuple[bytes, tuple[int, int]]:
    """The figure of `plot_channel_maps` for TensorBoard.

    Args:
        maps: title -> `mean_channel_maps` of a model.
        count: images that they are the mean of.

    Returns:
        (PNG, (width, height) in pixels).
    """
    figure = _figure(maps, count)
    return png_of(figure), figure.canvas.get_width_height()


def _figure(maps, count):
    first, *others = maps.values()
    blocks = [block for block in first if all(block in other for other in others)]
    if not blocks:
        raise InputError(
            "the models have no block in common: "
            f"{', '.join(f'{t} has {sorted(m)}' for t, m in maps.items())}"
        )

    figure = Figure(figsize=(max(3.2 * len(blocks), 3.9), 2.9), dpi=150, layout="constrained")
    for axis, block in zip(figure.subplots(1, len(blocks), squeeze=False)[0], blocks):
        equal = len({len(found[block]) for found in maps.values()}) == 1
        for title, found in maps.items():
            values = np.sort(found[block])
            axis.plot(
                np.arange(len(values)) if equal else np.linspace(0, 1, len(values)),
                values,
                label=title,
                lw=1.2,
            )
        axis.set_title(block, fontsize=9)
        axis.set_xlabel("channel, sorted" if equal else "share of the channels, sorted", fontsize=8)
        axis.tick_params(labelsize=7)
    figure.axes[0].set_ylabel(f"mean map over {count} images", fontsize=8)
    figure.axes[0].legend(fontsize=7, frameon=False)
    return figure
