"""From a SPEC, the text that names a model in flags and in `load_model`, to its files and to the
model.

A SPEC is a path (a `.keras` file or a run folder), the address of a `.keras` file (hf://...,
https://...), or "SCHEME:LOCATION" with a scheme of `SCHEMES`. A path that exists is a path,
whatever colons its name has."""

import dataclasses
import hashlib
import pathlib
import re
from collections.abc import Callable

import keras

from tf_robust_transfer.checkpoints import robustbench, tf1
from tf_robust_transfer.checkpoints.downloads import is_address, local_file
from tf_robust_transfer.checkpoints.igam_reference import load_igam, role_and_path
from tf_robust_transfer.checkpoints.madry import load_madry_cifar10, load_madry_mnist
from tf_robust_transfer.checkpoints.native import load_native, native_file
from tf_robust_transfer.checkpoints.teachers import find_teachers
from tf_robust_transfer.checkpoints.zoo import load_zoo, zoo_file
from tf_robust_transfer.errors import InputError, look_up
from tf_robust_transfer.files import path_of
from tf_robust_transfer.models.classifier import as_model


def _id_and_file(location):
    model_id, _, file = location.partition(":")
    find_teachers(model_id)
    if not file:
        raise InputError(
            f"'robustbench:{location}' names no file; write robustbench:MODEL_ID:FILE.pt"
        )
    return model_id, local_file(file)


@dataclasses.dataclass(frozen=True)
class Scheme:
    """A format in which robust models exist.

    Attributes:
        location: how the part after the colon is written.
        files: location -> the files that the model is read from, the one with the weights first.
        load: location -> keras.Model.
    """

    location: str
    files: Callable[[str], list[pathlib.Path]]
    load: Callable[[str], keras.Model]


SCHEMES = {
    "igam": Scheme(
        "DIR_OR_PREFIX", lambda location: tf1.files(role_and_path(location)[1]), load_igam
    ),
    "madry_cifar10": Scheme("DIR_OR_PREFIX", tf1.files, load_madry_cifar10),
    "madry_mnist": Scheme("DIR_OR_PREFIX", tf1.files, load_madry_mnist),
    "robustbench": Scheme(
        "MODEL_ID:FILE.pt",
        lambda location: [_id_and_file(location)[1]],
        lambda location: robustbench.load_robustbench(*_id_and_file(location)),
    ),
    "zoo": Scheme("NAME", lambda name: [zoo_file(name)], load_zoo),
}
_NATIVE = Scheme("", lambda spec: [native_file(spec)], load_native)


def _keras_file(address):
    name = address.partition("#")[0]
    if not name.endswith(".keras"):
        raise InputError(
            f"{name!r} is no .keras file; of a PyTorch file write robustbench:ID:{name}"
        )
    return local_file(address)


_ADDRESS = Scheme(
    "", lambda spec: [_keras_file(spec)], lambda spec: load_native(str(_keras_file(spec)))
)


def load_model(spec: str, *, sha256: str | None = None) -> keras.Model:
    """Loads a model from wherever robust models exist.

    Args:
        spec: a `.keras` or `.h5` file, a run folder that holds a `model.keras`, or
            "SCHEME:LOCATION": "madry_mnist:DIR_OR_PREFIX", "madry_cifar10:DIR_OR_PREFIX",
            "igam:DIR_OR_PREFIX" (a run's student; "igam:teacher:DIR_OR_PREFIX" its teacher),
            "robustbench:MODEL_ID:FILE.pt", "zoo:NAME" (a network that comes with this package). In
            place of a `.keras` file or of FILE.pt may stand its address, "hf://ORG/REPO/FILE" or
            "https://...", with "#sha256=" and the sum behind it: see `downloads.local_file`.
        sha256: the expected SHA-256, 64 hexadecimal digits, checked before the file is read: of the
            `.keras` or `.pt` file; of a TF1 checkpoint its `.data-00000-of-00001` file, which holds
            the weights.

    Returns:
        keras.Model: images float32 [batch, height, width, channels] in [0, 1] -> logits.

    Raises:
        InputError: unknown scheme, nothing there, another SHA-256, or a file that is not what the
            scheme says.
    """
    return as_model(load_as_it_is(spec, sha256=sha256), spec=str(spec))


def load_as_it_is(spec: str, *, sha256: str | None = None) -> keras.Model:
    """As `load_model`, but a model of another kind, such as one of several outputs, is left so."""
    scheme, location = _parse(spec)
    if sha256 is not None:
        _check_sha256(spec, scheme.files(location), sha256)
    return scheme.load(location)


def source_files(spec: str) -> list[pathlib.Path]:
    """The files that `load_model(spec)` reads, the one with the weights first.

    Raises:
        InputError: unknown scheme, or nothing there (of a .pt file, that is left to `load_model`).
    """
    scheme, location = _parse(spec)
    return scheme.files(location)


def check_spec(spec: str) -> None:
    """Raises an InputError unless the files that the SPEC names are there; none is read."""
    for file in source_files(spec):
        if not file.exists():
            raise InputError(f"{spec!r}: there is no file {str(file)!r}")


def check_sha256(text: str) -> None:
    """Raises an InputError unless the text has the form of a SHA-256."""
    if not re.fullmatch(r"[0-9a-fA-F]{64}", text):
        raise InputError(f"a SHA-256 has 64 hexadecimal digits, got {text!r}")


def file_sha256(path) -> str:
    """SHA-256 of a file, 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_native(spec: str) -> bool:
    """Whether a SPEC is a file of Keras's or a run folder on this machine."""
    return _parse(spec)[0] is _NATIVE


def _parse(spec):
    """(Scheme, location)."""
    if is_address(str(spec)):
        return _ADDRESS, str(spec)
    name, colon, location = str(spec).partition(":")
    if not colon or not re.fullmatch(r"\w+", name) or path_of(spec).exists():
        return _NATIVE, str(spec)
    scheme = look_up("kind of model", name, SCHEMES)
    if not location:
        raise InputError(f"{spec!r} names no file; write {name}:{scheme.location}")
    return scheme, location


def _check_sha256(spec, files, expected):
    check_sha256(expected)
    weights = files[0]
    if sum(".data-" in file.name for file in files) > 1:
        raise InputError(
            f"{spec!r} has its weights in several files, of which one SHA-256 would say nothing"
        )
    if not weights.is_file():
        raise InputError(
            f"{spec!r}: there is no file {str(weights)!r}, so that its SHA-256 cannot be checked"
        )
    found = file_sha256(weights)
    if found != expected.lower():
        raise InputError(
            f"{str(weights)!r} is not the expected file: its SHA-256 is {found}, expected "
            f"{expected.lower()}"
        )
