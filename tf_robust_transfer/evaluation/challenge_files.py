"""Adversarial examples as files, in the form of MadryLab's challenges.

MNIST: float32 [n, 784] in [0, 1]. Colour images: float32 [n, height, width, channels] in [0, 255].
"""

import zipfile

import numpy as np

from tf_robust_transfer.errors import InputError
from tf_robust_transfer.files import check_unpacked, path_of, replacing

_SLACK = 1e-4  # of the challenges' run_attack.py, at both ends of the pixels and of the ball


def write(path, images) -> None:
    """Writes images, float [n, height, width, channels] in [0, 1]. path: ends in .npy."""
    images = np.asarray(images, np.float32)
    stored = images.reshape(len(images), -1) if images.shape[-1] == 1 else images * np.float32(255)
    with replacing(path) as temporary:
        np.save(temporary, stored)


def read(path, images, threat_model, order: str = "as stored") -> np.ndarray:
    """Reads adversarial examples and checks them as the challenges do.

    Args:
        path: the .npy file, or an .npz file of one array. MNIST's may have axes [n, 784], [n, 28,
            28] or [n, 28, 28, 1], colour images [n, height, width, channels], or [n, channels,
            height, width] where that is another shape; floats, or whole pixels 0 to 255 as uint8.
        images: the clean images, float [n, height, width, channels] in [0, 1].
        threat_model: the ball that they have to lie in.
        order: of the clean images, see `data.ImageData`.

    Returns:
        float32 [n, height, width, channels] in [0, 1].

    Raises:
        InputError: no array file, another length or shape, NaN, outside the pixel range or the
            ball.
    """
    where, stored = repr(str(path)), _array(path)
    grey = images.shape[-1] == 1
    examples = _in_the_shape_of(where, stored, images, grey)
    if examples.dtype == np.uint8:
        highest = 255.0
    elif examples.dtype.kind != "f":
        raise InputError(
            f"{where}: expected floats, or whole pixels as uint8, got {examples.dtype}"
        )
    else:
        highest = 1.0 if grey else 255.0
    if not np.isfinite(examples).all():
        raise InputError(f"{where} holds NaN or infinite pixels")
    low, high = float(examples.min()), float(examples.max())
    other = 255.0 if grey else 1.0
    outside = low < -_SLACK or high > highest + _SLACK
    if outside or (not grey and high <= 1.0 < 255 * images.max()):
        looks = f"; it looks like [0, {other:g}]" if low >= -_SLACK and high <= other else ""
        raise InputError(
            f"{where}: pixels must lie in [0, {highest:g}], as in the challenge, got {low:g} to "
            f"{high:g}{looks}"
        )
    examples = examples.astype(np.float32) / np.float32(highest)
    moved = (examples - images).reshape(len(images), -1)
    radius = (
        np.abs(moved).max(axis=1) if threat_model.norm == "linf" else np.linalg.norm(moved, axis=1)
    )
    # In the file's own units, as there; the rounding of an l2 norm grows with the image.
    allowed = threat_model.eps + _SLACK / (highest if threat_model.norm == "linf" else 1.0)
    if radius.max() > allowed:
        rows = int((radius > allowed).sum())
        hint = (
            f"; the data's order is {order}, not known to be the original's, so that the rows may "
            "belong to other images"
            if order != "original" and rows > len(images) // 2
            else ""
        )
        raise InputError(
            f"{where}: example {int(radius.argmax())} is {radius.max():.5g} from its image in "
            f"{threat_model.norm}, allowed is eps {threat_model.eps:.5g} ({rows} rows are too "
            f"far){hint}"
        )
    return np.clip(examples, 0.0, 1.0)


def _array(path) -> np.ndarray:
    path = path_of(path)
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                check_unpacked(path, archive)
        stored = np.load(path, allow_pickle=False)
        if isinstance(stored, np.lib.npyio.NpzFile):
            with stored:
                if len(stored.files) != 1:
                    raise InputError(
                        f"{str(path)!r} holds {len(stored.files)} arrays, expected one: give a "
                        ".npy file of the examples"
                    )
                stored = stored[stored.files[0]]
    except FileNotFoundError:
        raise InputError(f"no file {str(path)!r}") from None
    except InputError:
        raise
    except Exception as error:  # whatever a damaged file, or one of Python objects, makes of it
        what = "of numbers" if "pickle" in str(error) or "Object" in str(error) else ""
        raise InputError(
            f"{str(path)!r} is no NumPy array file {what}".rstrip() + " (.npy)"
        ) from None
    return stored


def _in_the_shape_of(where, stored, images, grey):
    n, height, width, channels = images.shape
    shapes = [(height, width, channels), (height * width * channels,)]
    shapes += [(height, width)] if grey else []
    if stored.ndim < 2 or stored.shape[1:] not in (*shapes, (channels, height, width)):
        wanted = f"[{n}, {height * width}]" if grey else f"[{n}, {height}, {width}, {channels}]"
        raise InputError(
            f"{where}: expected examples {wanted}, got {stored.dtype} {list(stored.shape)}"
        )
    if len(stored) != n:
        few = f"; judge the first so many images with --max_examples={len(stored)}"
        many = f"; the data has {n} examples, give its file or leave --max_examples out"
        raise InputError(
            f"{where}: expected {n} examples, one for each image, got {len(stored)}"
            + (few if len(stored) < n else many)
        )
    if stored.shape[1:] not in shapes:
        stored = np.moveaxis(stored, 1, -1)
    return stored.reshape(images.shape)
