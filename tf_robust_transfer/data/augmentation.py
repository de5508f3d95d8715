"""Random changes of the training images. Stateless: the same seed gives the same images, so that a run can resume."""

import tensorflow as tf

from tf_robust_transfer.data.rand_augment import rand_augment
from tf_robust_transfer.errors import look_up

CROP_PADDING = 4


def random_crop(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Pads each side with `CROP_PADDING` black pixels and cuts out the original size at a random place.

    The usual CIFAR augmentation (He et al. 2016, section 4.2). Each example has its own place, the offsets of row and
    column uniform in 0..8.

    Args:
        images: float32 [batch, height, width, channels] in [0, 1].
        seed: int32 [2].

    Returns:
        float32, same shape and range.
    """
    shape = tf.shape(images)
    offsets = tf.random.stateless_uniform([2, shape[0]], seed, 0, 2 * CROP_PADDING + 1, tf.int32, alg="philox")
    return crop_at(images, offsets)


def crop_at(images: tf.Tensor, offsets: tf.Tensor) -> tf.Tensor:
    """`random_crop` with given offsets, int32 [2, batch] in 0..8 (rows, columns); 4 is the image itself."""
    shape = tf.shape(images)
    border = [CROP_PADDING, CROP_PADDING]
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
    mirrored = tf.random.stateless_uniform([shape[0], 1], seed, alg="philox") < 0.5
    columns = tf.range(shape[2])[tf.newaxis]
    columns = tf.where(mirrored, shape[2] - 1 - columns, columns)  # [batch, width]; a gather beats reverse and where
    return tf.ensure_shape(tf.gather(images, columns, axis=2, batch_dims=1), images.shape)


AUGMENTATIONS = {"crop": random_crop, "flip": random_flip, "randaugment": rand_augment}


def augment(images: tf.Tensor, names: tuple[str, ...], seed: tf.Tensor) -> tf.Tensor:
    """Applies augmentations in the order given, each with a random stream of its own.

    Args:
        images: float32 [batch, height, width, channels] in [0, 1].
        names: keys of `AUGMENTATIONS`.
        seed: int32 or int64 [2].

    Returns:
        float32, same shape and range.

    Raises:
        InputError: an unknown name.
    """
    for i, name in enumerate(names):
        function = look_up("augmentation", name, AUGMENTATIONS)
        images = function(images, tf.random.experimental.stateless_fold_in(seed, i, alg="philox"))
    return images
