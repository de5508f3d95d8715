"""In which bounds a network takes its pixels, where these are not 0 and 1.

Keras only: what is made here loads under any Keras backend.
"""

import keras

from tf_robust_transfer.errors import InputError


@keras.saving.register_keras_serializable(package="tf_robust_transfer")
class PixelBounds(keras.layers.Layer):
    """Returns its images as they are, and says in which bounds the network takes them.

    images: float [batch, height, width, channels].

    Args:
        bounds: (lowest, highest) pixel value.
    """

    def __init__(self, bounds=(0.0, 1.0), **kwargs):
        super().__init__(**kwargs)
        self.bounds = tuple(float(bound) for bound in bounds)

    def call(self, images):
        return images

    def get_config(self):
        return {**super().get_config(), "bounds": self.bounds}


def pixel_bounds(model) -> tuple[float, float]:
    """(lowest, highest) pixel value of the images that a network takes: (0, 1), unless
    `as_classifier` was told other bounds.
    """
    found = [layer for layer in getattr(model, "layers", ()) if isinstance(layer, PixelBounds)]
    return found[0].bounds if found else (0.0, 1.0)


def as_floats(bounds) -> str:
    """The advice where images in whole numbers are given: "divide by 255 first"."""
    unit = tuple(bounds) == (0.0, 1.0)
    return "divide by 255 first" if unit else "write images.astype('float32')"


def divided_already(bounds, highest) -> str:
    """What is wrong with images whose highest pixel is this, where bounds are those of 255 grey
    levels and the images lie in [0, 1]; "": nothing.
    """
    if bounds[0] == 0 and bounds[1] > 2 and 0 < highest <= 1:
        return (
            f"the bounds are {tuple(bounds)}, and no pixel is above {highest:g}: the images are "
            f"divided by {bounds[1]:g} already; multiply them by it"
        )
    return ""


def check_unit_pixels(model, what: str) -> None:
    """Raises an InputError where a network takes other pixels than the [0, 1] of the data sets.

    what: how it was given, such as "--model"."""
    if pixel_bounds(model) != (0.0, 1.0):
        raise InputError(
            f"{what} takes images in {pixel_bounds(model)}, the data set's are in (0, 1); in "
            "Python, put a Rescaling before it and save it anew"
        )
