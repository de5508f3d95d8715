"""Models as `.keras` files: saved whole or not at all, and loaded with an error that a person can
use.
"""

import pathlib
import zipfile

import keras

from tf_robust_transfer.errors import InputError
from tf_robust_transfer.files import replacing


def native_file(spec: str) -> pathlib.Path:
    """The `.keras` file that spec names: the file itself, or the `model.keras` of a run folder.

    Raises:
        InputError: nothing there.
    """
    path = pathlib.Path(spec)
    if path.is_dir():
        path = path / "model.keras"
    if not path.exists():
        raise InputError(
            f"no model at {str(path)!r}; give a .keras file or a run folder that `train` has "
            "finished"
            if spec
            else "no model given; give a .keras file or a run folder that `train` has finished"
        )
    return path


def load_native(spec: str) -> keras.Model:
    """Loads a model that Keras saved.

    Args:
        spec: a `.keras` file, or a run folder that holds a `model.keras`.

    Returns:
        keras.Model: images float32 [batch, height, width, channels] in [0, 1] -> logits.

    Raises:
        InputError: nothing there, or a file that is no Keras model, or one that would run code of
            its own (a Lambda layer).
    """
    path = native_file(spec)
    if not zipfile.is_zipfile(path):
        raise InputError(f"{str(path)!r} is no .keras file: it is damaged or of another format")
    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except (
        Exception
    ) as error:  # Keras lets through whatever zipfile, h5py or a layer's constructor raised.
        raise InputError(
            f"{str(path)!r} cannot be loaded: {' '.join(str(error).split())[:300]}"
        ) from error
    if not isinstance(model, keras.Model) or len(model.outputs) != 1:
        raise InputError(f"{str(path)!r} holds no classifier with one output")
    return model


def save_model(model: keras.Model, path) -> None:
    """Saves a model as a `.keras` file, which appears whole or not at all."""
    with replacing(path) as temporary:
        model.save(temporary)
