"""The form that every data set is brought to, and what can be done to it: take a part, resize."""

import dataclasses

import numpy as np
import tensorflow as tf

from tf_robust_transfer.errors import InputError

_RESIZE_CHUNK = 1024


@dataclasses.dataclass(frozen=True, eq=False)
class ImageData:
    """One split of a labelled image data set, in memory.

    Attributes:
        images: uint8 [n, height, width, channels] in 0..255.
        labels: int32 [n] in [0, num_classes).
        num_classes: the number of classes.
        class_names: one name for each class.
        name: the data set's name, as `load_data` takes it.
        split: the split's name.
        order: of the examples: "original", that of the original files, or "as stored".

    Raises:
        InputError: the arrays do not have these types and shapes, or a label is out of range.
    """

    images: np.ndarray
    labels: np.ndarray
    num_classes: int
    class_names: tuple[str, ...]
    name: str
    split: str
    order: str = "as stored"

    def __post_init__(self):
        where = f"split {self.split!r} of {self.name!r}"
        if self.images.dtype != np.uint8 or self.images.ndim != 4:
            raise InputError(
                f"{where}: expected images uint8 [n, height, width, channels], got "
                f"{self.images.dtype} {list(self.images.shape)}"
            )
        if self.labels.dtype != np.int32 or self.labels.shape != self.images.shape[:1]:
            raise InputError(
                f"{where}: expected labels int32 [{len(self.images)}], got "
                f"{self.labels.dtype} {list(self.labels.shape)}"
            )
        if not len(self.images):
            raise InputError(f"{where} holds no images; choose another split")
        low, high = int(self.labels.min()), int(self.labels.max())
        if low < 0 or high >= self.num_classes:
            raise InputError(
                f"{where}: expected labels in [0, {self.num_classes}), got {low}..{high}; "
                "a split without labels (a hidden test set) cannot be used, choose another one"
            )
        if len(self.class_names) != self.num_classes:
            raise InputError(
                f"{where}: expected {self.num_classes} class names, got {len(self.class_names)}"
            )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        return tuple(self.images.shape[1:])


def stratified_indices(
    labels: np.ndarray, fraction: float, seed: int | tuple[int, ...]
) -> np.ndarray:
    """Indices of a random part of the examples in which every class keeps its share.

    A class of `m` examples keeps `max(1, round(fraction * m))` of them: the first ones of a
    permutation that depends on the seed and the class alone, so that for one seed a smaller
    fraction is a subset of a larger one.

    Args:
        labels: int [n].
        fraction: the part to keep, in (0, 1].
        seed: int >= 0, or several.

    Returns:
        int64 [kept], ascending.
    """
    kept, seeds = [], seed if isinstance(seed, tuple) else (seed,)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        count = max(1, int(np.floor(fraction * len(members) + 0.5)))
        kept.append(np.random.default_rng([*seeds, int(label)]).permutation(members)[:count])
    return np.sort(np.concatenate(kept))


def hold_out(data: ImageData, fraction: float, seed: int) -> tuple[ImageData, ImageData]:
    """(what is trained on, what is held out): every class gives its share, but for its last image;
    the order stays.

    Args:
        data: in memory; streamed data cannot be parted.
        fraction: that is held out, in (0, 1).
        seed: of the choice, int >= 0.

    Raises:
        InputError: streamed data, a fraction that leaves no images, classes of one image each.
    """
    if not isinstance(data, ImageData):
        raise InputError("validation_fraction needs images in memory, and these are streamed")
    # Not those that the same seed's `train_fraction` keeps: a network may have seen them.
    held = stratified_indices(data.labels, fraction, (seed, 1))
    # A class that is not trained would be judged all the same.
    untrained = np.setdiff1d(data.labels, np.delete(data.labels, held))
    held = np.setdiff1d(held, [held[data.labels[held] == label][-1] for label in untrained])
    if not len(held):
        raise InputError(
            f"validation_fraction {fraction:g} holds out no image: every class has one alone; give "
            "more images"
        )
    kept = np.setdiff1d(np.arange(len(data)), held)

    def part(indices):
        return dataclasses.replace(data, images=data.images[indices], labels=data.labels[indices])

    return part(kept), part(held)


def resize(images: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear resize (half-pixel centres), with antialiasing where a side shrinks, rounded to
    whole pixel values.

    Args:
        images: uint8 [n, height, width, channels].
        size: the new (height, width).

    Returns:
        uint8 [n, size[0], size[1], channels]; the same array where the size is already that.
    """
    if tuple(images.shape[1:3]) == tuple(size):
        return images
    out = np.empty((len(images), *size, images.shape[3]), np.uint8)
    for start in range(
        0, len(images), _RESIZE_CHUNK
    ):  # in parts: the float32 copy is four times the memory
        out[start : start + _RESIZE_CHUNK] = resize_tensor(
            images[start : start + _RESIZE_CHUNK], size
        ).numpy()
    return out


def resize_tensor(images: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
    """`resize` for one image or a batch, uint8 [..., height, width, channels], inside a TensorFlow
    graph or out.

    `size` may be an int32 tensor [2] too.
    """
    images = tf.convert_to_tensor(images)
    shape = tf.shape(images)[-3:-1]
    shrinks = tf.reduce_any(shape > tf.convert_to_tensor(size))
    images = tf.cast(images, tf.float32)
    resized = tf.cond(
        shrinks,
        lambda: tf.image.resize(images, size, method="bilinear", antialias=True),
        lambda: tf.image.resize(images, size, method="bilinear", antialias=False),
    )
    return tf.cast(tf.clip_by_value(tf.round(resized), 0.0, 255.0), tf.uint8)


def centre_crop(image: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
    """ImageNet's usual test image: resized, sides in proportion, to 8/7 of the size, then the size
    in the middle.

    For 224x224, the shorter side becomes 256 and the longer one floor(256 * longer / shorter), as
    torchvision's Resize(256) and CenterCrop(224) have it, which the ImageNet teachers were tested
    with, but for RobustBench's Wong2020Fast: there 288 pixels are cut from the picture as it is.

    Args:
        image: uint8 [height, width, channels].
        size: the new (height, width).

    Returns:
        uint8 [size[0], size[1], channels].
    """
    image = tf.convert_to_tensor(image)
    shape = tf.shape(image)[:2]
    height, width = (round(side * 8 / 7) for side in size)
    by_height = (
        shape[0] * width <= shape[1] * height
    )  # the image is at least as wide, for its height, as the target
    resized = tf.where(
        by_height,
        tf.stack([height, shape[1] * height // shape[0]]),
        tf.stack([shape[0] * width // shape[1], width]),
    )
    image = resize_tensor(image, resized)
    row, column = tf.unstack(tf.cast(tf.round((resized - size) / 2), tf.int32))
    return image[row : row + size[0], column : column + size[1]]
