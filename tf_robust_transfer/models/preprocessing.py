"""Normalisation layers: a network takes images in [0, 1] and normalises them itself."""

import keras
from keras import ops

from tf_robust_transfer.errors import InputError

PREPROCESSINGS = ("none", "centered", "standardized", "per_image_standardization")


@keras.saving.register_keras_serializable(package="tf_robust_transfer")
class PerImageStandardization(keras.layers.Layer):
    """(image - mean) / max(std, 1 / sqrt(pixels)), as tf.image.per_image_standardization (MadryLab's CIFAR-10 network).

    images: float [batch, height, width, channels], any range. On [0, 1] images the floor is divided by 255, so that the
    result is what the original gives on 0-255 images.
    """

    def call(self, images):
        pixels = images.shape[1] * images.shape[2] * images.shape[3]
        mean = ops.mean(images, axis=(1, 2, 3), keepdims=True)
        std = ops.sqrt(ops.maximum(ops.var(images, axis=(1, 2, 3), keepdims=True), 0.0) + 1e-20)
        return (images - mean) / ops.maximum(std, 1.0 / (255.0 * pixels**0.5))


def preprocessing_layer(kind: str, mean=None, std=None) -> keras.layers.Layer:
    """The layer between [0, 1] images and the first convolution.

    Args:
        kind: "none"; "centered": 2x - 1; "standardized": (x - mean) / std with one number for each channel;
            "per_image_standardization".
        mean, std: for "standardized", in [0, 1] pixels.
    """
    if kind == "none":
        return keras.layers.Identity(name="preprocessing")
    if kind == "centered":
        return keras.layers.Rescaling(2.0, offset=-1.0, name="preprocessing")
    if kind == "standardized":
        if mean is None or std is None:
            raise InputError("preprocessing 'standardized' needs mean and std, one number for each channel")
        return keras.layers.Normalization(mean=mean, variance=[s**2 for s in std], name="preprocessing")
    if kind == "per_image_standardization":
        return PerImageStandardization(name="preprocessing")
    raise InputError(f"preprocessing must be one of {', '.join(PREPROCESSINGS)}, got {kind!r}")
