"""Normalisation layers: a network takes images in [0, 1] and normalises them itself."""

import keras
from keras import ops

from tf_robust_transfer.errors import InputError

PREPROCESSINGS = (
    "none",
    "centered",
    "standardized",
    "per_image_standardization",
    "per_image_standardization_01",
    "zero_mean_l2",
    "l2",
)


@keras.saving.register_keras_serializable(package="tf_robust_transfer")
class PerImageStandardization(keras.layers.Layer):
    """(image - mean) / max(std, 1 / sqrt(pixels)), as tf.image.per_image_standardization
    (MadryLab's CIFAR-10 network).

    The original takes images in 0-255, and so does the formula here after a multiplication by 255.

    images: float [batch, height, width, channels] in [0, 1].

    Args:
        scale: factor of the images before the formula; 1 for networks that take [0, 1] (Ding et
            al. 2020): only the floor of the division differs.
        correction: the variance divides by pixels - correction (1 in PyTorch's `std`).
    """

    def __init__(self, scale=255.0, correction=0, **kwargs):
        super().__init__(**kwargs)
        self.scale = scale
        self.correction = correction

    def call(self, images):
        # In 0-255 the mean of a grey image is exact; in [0, 1] its rounding error would be divided
        # by a tiny floor.
        images = self.scale * images
        pixels = images.shape[1] * images.shape[2] * images.shape[3]
        mean = ops.mean(images, axis=(1, 2, 3), keepdims=True)
        # 1e-20: the square root has a gradient at 0.
        variance = ops.maximum(ops.var(images, axis=(1, 2, 3), keepdims=True), 0.0)
        if self.correction:
            variance = variance * (pixels / (pixels - self.correction))
        std = ops.sqrt(variance + 1e-20)
        return (images - mean) / ops.maximum(std, pixels**-0.5)

    def get_config(self):
        # Nothing more where nothing differs from what files before version 0.2 say.
        if (self.scale, self.correction) == (255.0, 0):
            return super().get_config()
        return {**super().get_config(), "scale": self.scale, "correction": self.correction}


@keras.saving.register_keras_serializable(package="tf_robust_transfer")
class L2Normalization(keras.layers.Layer):
    """x / sqrt(max(sum of x^2, 1e-12)) with x = 255 image - its mean, the input of IGAM's student
    (or without the mean).

    That is model_new.py of alvinchangw/IGAM_CVPR2020: the mean over height, width and channels,
    then tf.math.l2_normalize with its default epsilon of 1e-12, on images in 0-255. Mean and sum
    are those of one example.

    images: float [batch, height, width, channels] in [0, 1].

    Args:
        zero_mean: subtract the mean first (--normalize_zero_mean of that code).
    """

    def __init__(self, zero_mean=True, **kwargs):
        super().__init__(**kwargs)
        self.zero_mean = zero_mean

    def call(self, images):
        # In 0-255 the mean of a grey image is exact; in [0, 1] its rounding error would be scaled
        # up to length 1.
        images = 255.0 * images
        if self.zero_mean:
            images = images - ops.mean(images, axis=(1, 2, 3), keepdims=True)
        squared_norm = ops.sum(ops.square(images), axis=(1, 2, 3), keepdims=True)
        return images * ops.rsqrt(ops.maximum(squared_norm, 1e-12))

    def get_config(self):
        return {**super().get_config(), "zero_mean": self.zero_mean}


def preprocessing_layer(kind: str, mean=None, std=None) -> keras.layers.Layer:
    """The layer between [0, 1] images and the first convolution.

    Args:
        kind: "none"; "centered": 2x - 1; "standardized": (x - mean) / std with one number for each
            channel; "per_image_standardization": see `PerImageStandardization`, and
            "per_image_standardization_01" for its form in [0, 1] pixels with the unbiased
            variance; "zero_mean_l2" and "l2": see `L2Normalization`.
        mean, std: for "standardized", in [0, 1] pixels.
    """
    if kind == "none":
        return keras.layers.Identity(name="preprocessing")
    if kind == "centered":
        return keras.layers.Rescaling(2.0, offset=-1.0, name="preprocessing")
    if kind == "standardized":
        if mean is None or std is None:
            raise InputError(
                "preprocessing 'standardized' needs mean and std, one number for each channel"
            )
        return keras.layers.Normalization(
            mean=mean, variance=[s**2 for s in std], name="preprocessing"
        )
    if kind == "per_image_standardization":
        return PerImageStandardization(name="preprocessing")
    if kind == "per_image_standardization_01":
        return PerImageStandardization(scale=1.0, correction=1, name="preprocessing")
    if kind in ("zero_mean_l2", "l2"):
        return L2Normalization(zero_mean=kind == "zero_mean_l2", name="preprocessing")
    raise InputError(f"preprocessing must be one of {', '.join(PREPROCESSINGS)}, got {kind!r}")
