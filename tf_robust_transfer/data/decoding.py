"""One encoded image, whole or a random part of it, as the streamed sets and folders read it."""

from collections.abc import Callable

import tensorflow as tf

from tf_robust_transfer.data.augmentation import crop_boxes
from tf_robust_transfer.data.images import resize_tensor


def decode(
    contents: tf.Tensor, shape: tuple[int, int, int], fit: Callable, crop_seed: tf.Tensor | None
) -> tf.Tensor:
    """Decodes a JPEG or PNG image, grey or in colour.

    Args:
        contents: string [], the encoded image.
        shape: (height, width, channels) of the result.
        fit: function of (image, size) that brings the whole image to a size.
        crop_seed: int [2]: a random part, resized, in place of the whole image; None for the whole.

    Returns:
        uint8 of that shape.
    """
    *size, channels = shape

    def whole():
        return tf.io.decode_image(contents, channels, expand_animations=False)

    def part_of_jpeg():
        box = crop_boxes(tf.io.extract_jpeg_shape(contents)[tf.newaxis, :2], crop_seed)[0]
        return tf.io.decode_and_crop_jpeg(contents, box, channels)

    def part_of_another():
        image = whole()
        row, column, height, width = tf.unstack(
            crop_boxes(tf.shape(image)[tf.newaxis, :2], crop_seed)[0]
        )
        return image[row : row + height, column : column + width]

    if crop_seed is None:
        image = fit(whole(), size)
    else:
        image = resize_tensor(tf.cond(tf.io.is_jpeg(contents), part_of_jpeg, part_of_another), size)
    return tf.ensure_shape(image, shape)
