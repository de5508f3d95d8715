"""Pictures of input gradients, in the form of Figures 1, 4 and 6 of the IGAM paper.

Figure 1 is the images beside a naturally and an adversarially trained model, Figures 4 and 6 are
the images beside standard training, adversarial training, fine-tuned teachers and students:
`plot_input_gradients` with these models.

The paper does not say how it scales its gradients. Here each is divided by the 99th percentile of
its own absolute values and clipped to [-1, 1]: a gradient's scale says little about its structure,
and a few outliers would otherwise leave the rest grey."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from tf_robust_transfer.attacks.threat_model import ThreatModel, check_batch
from tf_robust_transfer.checkpoints import as_model
from tf_robust_transfer.errors import InputError
from tf_robust_transfer.files import replacing
from tf_robust_transfer.losses import classification
from tf_robust_transfer.ops.examples import beside_images
from tf_robust_transfer.ops.gradients import input_gradient

PERCENTILE = 99
_CELL = 1.3  # inches


def input_gradient_image(model, images, labels) -> np.ndarray:
    """Input gradients of the cross-entropy as pictures, for TensorBoard's image tab.

    Args:
        model: keras.Model or SPEC, images in [0, 1] -> logits; called with training=False.
        images: float [n, height, width, channels] in [0, 1].
        labels: int [n], the true classes.

    Returns:
        uint8 [n, height, width, channels]; 128 is a gradient of zero, brighter pixels raise the
        loss.

    Raises:
        InputError: images or labels that do not fit the model.
    """
    return np.round(255 * (0.5 + 0.5 * _scaled_gradients(model, images, labels))).astype(np.uint8)


def plot_input_gradients(models: dict, images, labels, path) -> None:
    """Draws a row for each image: the image, then each model's input gradient of the cross-entropy.

    Gradients of one channel are blue where darkening the pixel raises the loss and red where
    brightening does; those of three are shown as 0.5 + 0.5 g in RGB.

    Args:
        models: column title -> keras.Model or SPEC, images in [0, 1] -> logits.
        images: float [n, height, width, channels] in [0, 1], with 1 or 3 channels; 8 rows are well
            readable.
        labels: int [n], the true classes.
        path: file to write; its suffix (.png, .pdf, .svg) sets the format. It appears only when
            complete.

    Raises:
        InputError: no models or images, images that do not fit a model, or a suffix that matplotlib
            cannot write.
    """
    path, images = Path(path), np.asarray(images)
    if not models or images.ndim != 4 or not len(images) or images.shape[-1] not in (1, 3):
        raise InputError(
            "a figure of input gradients needs at least one model and images [n, height, width, 1 "
            "or 3], "
            f"got {len(models)} models and images of shape {list(images.shape)}"
        )
    gradients = {title: _scaled_gradients(model, images, labels) for title, model in models.items()}

    rows, columns = len(images), 1 + len(models)
    header, footer = 0.3, 0.45
    width, height = max(columns * _CELL, 3.9), rows * _CELL + header + footer
    figure = Figure(figsize=(width, height), dpi=150)
    axes = figure.subplots(rows, columns, squeeze=False)
    figure.subplots_adjust(
        0.01, footer / height, 0.99, 1 - header / height, wspace=0.05, hspace=0.05
    )
    grey = images.shape[-1] == 1
    for row in range(rows):
        _show(axes[row, 0], images[row], cmap="gray", vmin=0, vmax=1)
        for axis, gradient in zip(axes[row, 1:], gradients.values(), strict=True):
            picture = gradient[row] if grey else 0.5 + 0.5 * gradient[row]
            _show(axis, picture, cmap="RdBu_r", vmin=-1, vmax=1)
    for axis, title in zip(axes[0], ("image", *models), strict=True):
        # Long names shrink rather than run into their neighbours.
        axis.set_title(title, fontsize=min(9, 9 * 15 / max(len(title), 1)), pad=4)
    shown = "-1 blue, 1 red" if grey else "shown as 0.5 + 0.5 g"
    caption = (
        f"Input gradients g of the cross-entropy, each divided by the {PERCENTILE}th\n"
        f"percentile of its own |values| and clipped to [-1, 1]; {shown}."
    )
    figure.text(0.5, footer / height / 2, caption, ha="center", va="center", fontsize=6.5)
    write_figure(figure, path)


def _scaled_gradients(model, images, labels):
    """float32 [n, height, width, channels] in [-1, 1]; a gradient of zero stays zero."""
    model = as_model(model, np.shape(images)[1:])
    images, labels = check_batch(model, images, labels, ThreatModel())

    def score_of(x):
        return classification.cross_entropy(model(x, training=False), labels), None

    gradient = input_gradient(score_of, images)[0].numpy().astype(np.float64)
    size = np.abs(gradient).reshape(len(gradient), -1)
    scale = np.percentile(size, PERCENTILE, axis=1)
    # A gradient with fewer than one pixel in a hundred: its percentile is zero, its maximum is not.
    scale = beside_images(np.where(scale > 0, scale, size.max(axis=1)))
    return np.clip(
        np.divide(gradient, scale, out=np.zeros_like(gradient), where=scale > 0), -1, 1
    ).astype(np.float32)


def _show(axis, picture, **colors):
    axis.imshow(
        picture[..., 0] if picture.shape[-1] == 1 else picture, interpolation="nearest", **colors
    )
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set(linewidth=0.5, color="0.6")


def write_figure(figure, path):
    formats = figure.canvas.get_supported_filetypes()
    suffix = path.suffix[1:].lower()
    if suffix not in formats:
        raise InputError(
            f"a figure cannot be written as {str(path)!r}; end the name in .png, .pdf or .svg"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        figure.savefig(temporary, format=suffix)
