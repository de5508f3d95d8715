"""Models as Keras's files: saved whole or not at all, and loaded with an error that a person can
use.
"""

import json
import pathlib
import zipfile

import h5py
import keras
import numpy as np

from tf_robust_transfer.errors import InputError
from tf_robust_transfer.files import check_unpacked, path_of, replacing
from tf_robust_transfer.models.classifier import write_line

_MOST_MEMBERS = 1000


def native_file(spec: str) -> pathlib.Path:
    """The `.keras` or `.h5` file that spec names: the file itself, or the `model.keras` of a run
    folder.

    Raises:
        InputError: nothing there, or a SavedModel.
    """
    path = path_of(spec)
    if (path / "saved_model.pb").is_file():
        advice = write_line(of=str(path), input_shape=(32, 32, 3))
        raise InputError(
            f"{str(path)!r} is a SavedModel, a graph without layers; in Python {advice} with the "
            "shape of your images, or save the network as a .keras file"
        )
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
    """Loads a model that Keras saved, as it is.

    Args:
        spec: a `.keras` or `.h5` file, or a run folder that holds a `model.keras`.

    Returns:
        keras.Model.

    Raises:
        InputError: nothing there, a file that is no Keras model, one that would run code of its own
            (a Lambda layer), or one with a class that is not known.
    """
    path = native_file(spec)
    config = _config(path)
    # What the file was compiled with is not loaded, and may be of any class.
    _check_classes(path, {key: config[key] for key in config if key != "compile_config"})
    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except (
        Exception
    ) as error:  # Keras lets through whatever zipfile, h5py or a layer's constructor raised.
        raise InputError(
            f"{str(path)!r} cannot be loaded: {' '.join(str(error).split())[:300]}"
        ) from error
    if not isinstance(model, keras.Model):
        raise InputError(f"{str(path)!r} holds no model but a {type(model).__name__}")
    return model


def _config(path):
    """The model's description in a `.keras` or `.h5` file."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                _check_archive(path, archive)
                return json.loads(archive.read("config.json"))
        if h5py.is_hdf5(path):
            with h5py.File(path, "r") as file:
                text = file.attrs.get("model_config")
            if text is None:
                raise InputError(
                    f"{str(path)!r} holds weights and no model; build the network in Python and "
                    "call its load_weights"
                )
            return json.loads(text)
    except InputError:
        raise
    # A damaged file; one nested deeply ends in a RecursionError.
    except Exception as error:
        raise InputError(f"{str(path)!r} is damaged: {type(error).__name__}") from error
    raise InputError(f"{str(path)!r} is no .keras or .h5 file: it is damaged or of another format")


def _check_archive(path, archive):
    """Raises an InputError for an archive that Keras never writes, before anything is unpacked.

    Its members are few, of different names, and lie inside."""
    check_unpacked(path, archive)
    names = archive.namelist()
    outside = [name for name in names if name[:1] in "/\\" or ".." in name or ":" in name]
    if outside:
        what = f"a member outside the archive, {outside[0]!r}"
    elif len(names) > _MOST_MEMBERS or len(set(names)) < len(names):
        what = f"{len(names)} members, of {len(set(names))} names"
    else:
        return
    raise InputError(f"{str(path)!r} is no file that Keras wrote: it holds {what}")


def _check_classes(path, config):
    """Raises an InputError for what would run code of the file's own, before anything is built."""
    for part in _parts(config):
        if part["class_name"] in ("Lambda", "__lambda__"):
            raise InputError(
                f"{str(path)!r} holds a Lambda layer, whose code is not run; put a Keras layer "
                "(such as Rescaling) or an operation of keras.ops in its place, and save it anew"
            )
        if part["class_name"] == "TFSMLayer":
            raise InputError(
                f"{str(path)!r} holds a TFSMLayer, which reads a SavedModel elsewhere; wrap that "
                "one: rt.as_classifier(its folder, input_shape=...)"
            )
        module, name = part.get("module") or "", part.get("registered_name")
        keras_own = module == "builtins" or module.split(".")[0] == "keras"
        known = name and keras.saving.get_registered_object(name) is not None
        if (name or module) and not keras_own and not known:
            raise InputError(
                f"{str(path)!r} holds the class {part['class_name']} ({name or module}), which is "
                "neither Keras's nor this package's; in Python, import the module that registers "
                "it (keras.saving.register_keras_serializable) before rt.load_model"
            )


def _parts(config):
    """Every serialised object inside a description."""
    if isinstance(config, dict):
        if isinstance(config.get("class_name"), str):
            yield config
        config = list(config.values())
    if isinstance(config, list):
        for value in config:
            yield from _parts(value)


def save_model(model: keras.Model, path) -> None:
    """Saves a model as a `.keras` file, which appears whole or not at all; of a method its student.

    Raises:
        InputError: another ending; a weight is NaN or infinite; a part of it is a SavedModel, which
            no `.keras` file holds.
    """
    if pathlib.Path(path).suffix != ".keras":
        raise InputError(f"a model is saved as a file that ends in .keras, got {str(path)!r}")
    model = getattr(model, "student", model)
    if any(type(part).__name__ == "TFSMLayer" for part in model._flatten_layers()):
        raise InputError(
            "a classifier around a SavedModel is not saved, since a .keras file does not hold the "
            "SavedModel: keep that folder, and call rt.as_classifier on it again"
        )
    bad = non_finite(model)
    if bad:
        raise InputError(f"the model is not saved: not finite are its weights {bad}")
    with replacing(path) as temporary:
        model.save(temporary)


def non_finite(model) -> str:
    """The names of the weights of a model that hold NaN or infinity, the first three; "": none."""
    bad = [
        variable.path
        for variable in model.weights
        if keras.backend.is_float_dtype(variable.dtype)
        and not np.isfinite(keras.ops.convert_to_numpy(variable)).all()
    ]
    return ", ".join(bad[:3]) + (f" and {len(bad) - 3} more" if len(bad) > 3 else "")
