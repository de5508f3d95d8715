"""Pictures of input gradients, in the form of Figures 1, 4 and 6 of the IGAM paper.

Figure 1 is the images beside a naturally and an adversarially trained model, Figures 4 and 6 are
the images beside standard training, adversarial training, fine-tuned teachers and students:
`plot_input_gradients` with these models.

The paper does not say how it scales its gradients. Here each is divided by the 99th percentile of
its own absolute values and clipped to [-1, 1]: a gradient's scale says little about its structure,
and a few outliers would otherwise leave the rest grey."""

import io
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from tf_robust_transfer.attacks.threat_model import ThreatModel, check_batch
from tf_robust_transfer.checkpoints import as_model
from tf_robust_transfer.errors import InputError
from tf_robust_transfer.files import path_of, replacing
from tf_robust_transfer.inference.kept import compiled, kept
from tf_robust_transfer.losses import classification
from tf_robust_transfer.models.bounds import pixel_bounds
from tf_robust_transfer.ops.examples import beside_images
from tf_robust_transfer.ops.gradients import input_gradient

PERCENTILE = 99
# Of images that can be shown.
CHANNELS = (1, 3)
_CELL = 1.3  # inches
_PIXELS, _GAP, _HEADER = 96, 4, 20  # of a picture for TensorBoard


def scaled_gradients(model, images, labels) -> np.ndarray:
    """Input gradients of the cross-entropy as the pictures show them.

    Args:
        model: keras.Model or SPEC, images in [0, 1] -> logits; called with training=False.
        images: float [n, height, width, channels] in [0, 1].
        labels: int [n], the true classes.

    Returns:
        float32 [n, height, width, channels] in [-1, 1]; a gradient of zero stays zero, positive
        ones raise the loss where the pixel is brightened.

    Raises:
        InputError: images or labels that do not fit the model.
    """
    model = as_model(model, np.shape(images)[1:])
    images, labels = check_batch(model, images, labels, ThreatModel(bounds=pixel_bounds(model)))

    def gradient_of(images, labels):
        def score_of(x):
            return classification.cross_entropy(model(x, training=False), labels), None

        return input_gradient(score_of, images)[0]

    # As a graph it leaves out the gradients of the kernels, which nobody asked for: those of some
    # crash on a CPU (docs/guide/trouble.md). A run asks for it every epoch.
    gradient = kept(
        model, ("input gradients", images.shape[1:]), lambda: compiled(gradient_of, images, labels)
    )(images, labels)
    gradient = gradient.numpy().astype(np.float64)
    size = np.abs(gradient).reshape(len(gradient), -1)
    scale = np.percentile(size, PERCENTILE, axis=1)
    # A gradient with fewer than one pixel in a hundred: its percentile is zero, its maximum is not.
    scale = beside_images(np.where(scale > 0, scale, size.max(axis=1)))
    return np.clip(
        np.divide(gradient, scale, out=np.zeros_like(gradient), where=scale > 0), -1, 1
    ).astype(np.float32)


def gradient_picture(images, gradients: dict) -> tuple[bytes, tuple[int, int]]:
    """One picture for TensorBoard, in the colours of `plot_input_gradients`: a row for each image,
    the image and then each model's input gradient.

    Args:
        images: float [n, height, width, 1 or 3] in [0, 1].
        gradients: column title -> `scaled_gradients` of these images.

    Returns:
        (PNG, (width, height) in pixels).
    """
    grey = images.shape[-1] == 1
    columns = [np.repeat(images, 3, axis=-1) if grey else images]
    for gradient in gradients.values():
        shown = 0.5 + 0.5 * gradient
        columns.append(colormaps["RdBu_r"](shown[..., 0])[..., :3] if grey else shown)
    cells = np.stack(columns, axis=1)  # [rows, columns, height, width, 3]
    larger = max(1, _PIXELS // max(cells.shape[2:4]))
    cells = cells.repeat(larger, axis=2).repeat(larger, axis=3)
    cells = np.pad(cells, ((0, 0), (0, 0), (0, _GAP), (0, _GAP), (0, 0)), constant_values=1)
    rows, count, height, width, _ = cells.shape
    whole = cells.transpose(0, 2, 1, 3, 4).reshape(rows * height, count * width, 3)
    size = whole.shape[1], whole.shape[0] + _HEADER
    figure = Figure(figsize=(size[0] / 100, size[1] / 100), dpi=100)
    figure.figimage(whole, 0, 0)
    for column, title in enumerate(("image", *gradients)):
        place = (column + 0.5) * width / size[0], 1 - _HEADER / 2 / size[1]
        figure.text(*place, title, ha="center", va="center", fontsize=9)
    return png_of(figure), size


def png_of(figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()


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
    if not models or images.ndim != 4 or not len(images) or images.shape[-1] not in CHANNELS:
        raise InputError(
            "a figure of input gradients needs at least one model and images [n, height, width, 1 "
            f"or 3], got {len(models)} models and images of shape {list(images.shape)}"
        )
    gradients = {title: scaled_gradients(model, images, labels) for title, model in models.items()}

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


def _show(axis, picture, **colors):
    axis.imshow(
        picture[..., 0] if picture.shape[-1] == 1 else picture, interpolation="nearest", **colors
    )
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set(linewidth=0.5, color="0.6")


def check_figure_name(path) -> None:
    """Raises an InputError for a name with an ending that matplotlib does not write."""
    from matplotlib.backend_bases import FigureCanvasBase

    if path_of(path).suffix[1:].lower() not in FigureCanvasBase.get_supported_filetypes():
        raise InputError(
            f"a figure cannot be written as {str(path)!r}; end the name in .png, .pdf or .svg"
        )


def write_figure(figure, path):
    check_figure_name(path)
    path = path_of(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:].lower())
