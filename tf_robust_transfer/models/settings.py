"""Keras's settings of a whole process, as far as networks and trainings here depend on them."""

import keras

from tf_robust_transfer.errors import InputError


def require_tensorflow(what: str) -> None:
    """Raises an InputError unless Keras runs on TensorFlow. what: needs it, such as "attacks"."""
    backend = keras.config.backend()
    if backend != "tensorflow":
        raise InputError(
            f"Keras runs on {backend}, {what} on TensorFlow alone: set the environment variable "
            'KERAS_BACKEND=tensorflow, or "backend" in ~/.keras/keras.json'
        )


def check_settings() -> None:
    """Raises an InputError where a global setting of Keras would change what is built here.

    What is loaded keeps the types that it was saved with, and needs no such check."""
    for name, found, wanted, how in (
        (
            "dtype policy",
            keras.config.dtype_policy().name,
            "float32",
            "keras.config.set_dtype_policy('float32'); `train` has --mixed_precision",
        ),
        ("floatx", keras.config.floatx(), "float32", "keras.config.set_floatx('float32')"),
        (
            "image_data_format",
            keras.config.image_data_format(),
            "channels_last",
            "keras.config.set_image_data_format('channels_last')",
        ),
    ):
        if found != wanted:
            raise InputError(
                f"Keras's global {name} is {found}, networks and methods here are built with "
                f"{wanted}: call {how}, or correct ~/.keras/keras.json"
            )
