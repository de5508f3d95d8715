"""Robust networks that come with the package, in its folder `zoo`: a `.keras` file each, with its
model card beside it. Their kernels are stored as float16 and computed with as float32.

`scripts/add_to_zoo.py` writes them."""

import pathlib

import keras

from tf_robust_transfer.checkpoints.native import load_native
from tf_robust_transfer.errors import look_up

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "zoo"


def zoo_files() -> dict[str, pathlib.Path]:
    """The file of each network, by its name."""
    return {file.stem: file for file in sorted(FOLDER.glob("*.keras"))}


def zoo_file(name: str) -> pathlib.Path:
    """The file of a network.

    Raises:
        InputError: no such name; the nearest are named.
    """
    return look_up("network of the zoo", name, zoo_files())


def load_zoo(name: str) -> keras.Model:
    """Loads a network of the zoo.

    Args:
        name: such as "cifar10_preact_resnet_18".

    Returns:
        keras.Model: images float32 [batch, height, width, channels] in [0, 1] -> logits.

    Raises:
        InputError: no such name; the nearest are named.

    Example:
        >>> import tf_robust_transfer as rt
        >>> rt.load_model("zoo:cifar10_preact_resnet_18").output_shape
        (None, 10)
    """
    return load_native(str(zoo_file(name)))
