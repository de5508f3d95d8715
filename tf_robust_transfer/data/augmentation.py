"""Random changes of the training images. Stateless: the same seed gives the same images, so that a
run can resume.
"""

import functools
import math

import tensorflow as tf

from tf_robust_transfer.data.rand_augment import CHANNELS, rand_augment
from tf_robust_transfer.errors import InputError, look_up
from tf_robust_transfer.ops import random

CROP_PADDING = 4  # MixACM's, as PyTorch code for CIFAR has it; MadryLab's and IGAM's is 2
_AREA = 0.08, 1.0  # share of the image that `resized_crop` keeps
_ASPECT = 3 / 4, 4 / 3  # width over height of that part
_TRIES = 10


def random_crop(images: tf.Tensor, seed: tf.Tensor, padding: int = CROP_PADDING) -> tf.Tensor:
    """Pads each side with black pixels and cuts out the original size at a random place.

    The usual CIFAR augmentation (He et al. 2016, section 4.2). Each example has its own place, the
    offsets of row and column uniform in 0..2 padding.

    Args:
        images: float32 [batch, height, width, channels] in [0, 1].
        seed: int32 [2].
        padding: pixels on each side, at least 1.

    Returns:
        float32, same shape and range.
    """
    shape = tf.shape(images)
    offsets = random.integers([2, shape[0]], seed, 0, 2 * padding + 1)
    return crop_at(images, offsets, padding)


def crop_at(images: tf.Tensor, offsets: tf.Tensor, padding: int = CROP_PADDING) -> tf.Tensor:
    """`random_crop` with given offsets, int32 [2, batch] in 0..2 padding (rows, columns); padding
    is the image itself.
    """
    shape = tf.shape(images)
    border = [padding, padding]
    padded = tf.pad(images, [[0, 0], border, border, [0, 0]])
    rows = offsets[0][:, tf.newaxis] + tf.range(shape[1])  # [batch, height]
    columns = offsets[1][:, tf.newaxis] + tf.range(shape[2])  # [batch, width]
    cropped = tf.gather(padded, rows, axis=1, batch_dims=1)
    cropped = tf.gather(cropped, columns, axis=2, batch_dims=1)
    return tf.ensure_shape(cropped, images.shape)


def random_flip(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Mirrors each example left to right with probability 1/2.

    Args:
        images: float32 [batch, height, width, channels] in [0, 1].
        seed: int32 [2].

    Returns:
        float32, same shape and range.
    """
    shape = tf.shape(images)
    mirrored = random.uniform([shape[0], 1], seed) < 0.5
    columns = tf.range(shape[2])[tf.newaxis]
    columns = tf.where(
        mirrored, shape[2] - 1 - columns, columns
    )  # [batch, width]; a gather beats reverse and where
    return tf.ensure_shape(tf.gather(images, columns, axis=2, batch_dims=1), images.shape)


def resized_crop(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Enlarges a random part of each example, as `crop_boxes` draws it, to the size of the whole,
    bilinearly.

    Where the images are streamed (`streaming`), the part is cut out of the stored image while that
    is decoded.

    Args:
        images: float32 [batch, height, width, channels] in [0, 1].
        seed: int32 [2].

    Returns:
        float32, same shape and range.
    """
    shape = tf.shape(images)
    boxes = crop_boxes(tf.tile(shape[tf.newaxis, 1:3], [shape[0], 1]), seed)
    first, last = boxes[:, :2], boxes[:, :2] + boxes[:, 2:] - 1
    corners = tf.cast(
        tf.concat([first, last], axis=1), tf.float32
    )  # centres of the outermost pixels
    corners /= tf.cast(tf.maximum(tf.tile(shape[1:3], [2]) - 1, 1), tf.float32)
    cropped = tf.image.crop_and_resize(images, corners, tf.range(shape[0]), shape[1:3])
    return tf.ensure_shape(tf.clip_by_value(cropped, 0.0, 1.0), images.shape)


def crop_boxes(sizes: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """A random part of each image: 8% to 100% of its area, width over height 3/4 to 4/3.

    The training crop of ImageNet (Szegedy et al. 2015, https://arxiv.org/abs/1409.4842, section 6),
    drawn as torchvision's RandomResizedCrop draws it: the first of ten draws that lies inside the
    image; if none does, the largest part in the middle whose aspect ratio is allowed.

    Args:
        sizes: int32 [batch, 2], (height, width) of each image.
        seed: int32 or int64 [2].

    Returns:
        int32 [batch, 4]: (row, column, height, width), inside the image and at least 1x1.
    """
    sizes = tf.convert_to_tensor(sizes)
    whole = tf.cast(sizes, tf.float32)
    count = tf.shape(sizes)[0]
    draws = random.uniform([2, _TRIES, count], seed)
    area = tf.reduce_prod(whole, axis=1) * (_AREA[0] + (_AREA[1] - _AREA[0]) * draws[0])
    low, high = (math.log(ratio) for ratio in _ASPECT)
    aspect = tf.exp(low + (high - low) * draws[1])
    drawn = tf.round(
        tf.sqrt(tf.stack([area / aspect, area * aspect], axis=-1))
    )  # [tries, batch, 2]
    fits = tf.reduce_all((drawn >= 1.0) & (drawn <= whole), axis=-1)
    first = tf.argmax(tf.cast(fits, tf.int32), axis=0, output_type=tf.int32)
    drawn = tf.gather(tf.transpose(drawn, [1, 0, 2]), first, batch_dims=1)  # [batch, 2]
    height, width = whole[:, 0], whole[:, 1]
    narrowest, widest = tf.round(width / _ASPECT[0]), tf.round(height * _ASPECT[1])
    middle = tf.stack([tf.minimum(height, narrowest), tf.minimum(width, widest)], axis=1)
    found = tf.reduce_any(fits, axis=0)[:, tf.newaxis]
    parts = tf.cast(tf.where(found, drawn, middle), tf.int32)
    place_seed = random.fold_seed(seed, 1)
    places = random.uniform([count, 2], place_seed) * tf.cast(sizes - parts + 1, tf.float32)
    # float32 may round a number just below the upper end to that end itself.
    places = tf.minimum(tf.cast(places, tf.int32), sizes - parts)
    return tf.concat([tf.where(found, places, (sizes - parts) // 2), parts], axis=1)


AUGMENTATIONS = {
    "crop": random_crop,
    "flip": random_flip,
    "randaugment": rand_augment,
    "resized_crop": resized_crop,
}


def find_augmentation(name: str):
    """The function of an augmentation's name, from (images, seed) to images.

    Args:
        name: a key of `AUGMENTATIONS`, or "crop:2", the crop with that many pixels of padding on
            each side.

    Raises:
        InputError: an unknown name, a padding that is no whole number of at least 1, or one that is
            not crop's.
    """
    kind, colon, padding = name.partition(":")
    function = look_up("augmentation", kind, AUGMENTATIONS)
    if not colon:
        return function
    if kind != "crop":
        raise InputError(
            f"expected augmentation {kind!r} without a number, got {name!r}; only crop:PADDING has "
            "one"
        )
    if not padding.isdecimal() or int(padding) < 1:
        raise InputError(
            f"expected crop:PADDING with a whole number of at least 1, such as crop:2, got {name!r}"
        )
    return functools.partial(random_crop, padding=int(padding))


def check_augmentations(names: tuple[str, ...], channels: int | None) -> None:
    """Raises an InputError for what `find_augmentation` does not know, and for one that does not
    take images of so many channels; None: not known yet.
    """
    for name in names:
        function = find_augmentation(name)
        if function is rand_augment and channels not in (None, *CHANNELS):
            raise InputError(
                f"augmentation {name!r} takes images of 1 or 3 channels, got {channels}; take "
                "others, such as crop,flip"
            )


def augment(images: tf.Tensor, names: tuple[str, ...], seed: tf.Tensor) -> tf.Tensor:
    """Applies augmentations in the order given, each with a random stream of its own.

    Args:
        images: float32 [batch, height, width, channels] in [0, 1].
        names: as `find_augmentation` takes them.
        seed: int32 or int64 [2].

    Returns:
        float32, same shape and range.

    Raises:
        InputError: as `check_augmentations`.
    """
    check_augmentations(names, images.shape[-1])
    for i, name in enumerate(names):
        function = find_augmentation(name)
        images = function(images, random.fold_seed(seed, i))
    return images
