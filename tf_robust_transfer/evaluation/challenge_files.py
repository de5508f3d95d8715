"""Adversarial examples as files, in the form of MadryLab's challenges.

MNIST: float32 [n, 784] in [0, 1]. Colour images: float32 [n, height, width, channels] in [0, 255].
"""

import numpy as np

from tf_robust_transfer.errors import InputError
from tf_robust_transfer.files import replacing


def write(path, images) -> None:
    """Writes images, float [n, height, width, channels] in [0, 1]. path: ends in .npy."""
    images = np.asarray(images, np.float32)
    stored = images.reshape(len(images), -1) if images.shape[-1] == 1 else images * np.float32(255)
    with replacing(path) as temporary:
        np.save(temporary, stored)


def read(path, images, threat_model) -> np.ndarray:
    """Reads adversarial examples and checks them as the challenges do.

    Args:
        path: the .npy file.
        images: the clean images, float [n, height, width, channels] in [0, 1].
        threat_model: the ball that they have to lie in.

    Returns:
        float32 [n, height, width, channels] in [0, 1].

    Raises:
        InputError: no array file, another shape, NaN, outside the pixel range or the ball.
    """
    try:
        stored = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise InputError(f"no file {str(path)!r}") from None
    except (ValueError, EOFError, OSError):
        raise InputError(f"{str(path)!r} is no NumPy array file (.npy)") from None
    grey = images.shape[-1] == 1
    expected = (len(images), int(np.prod(images.shape[1:]))) if grey else images.shape
    if stored.shape != expected or stored.dtype.kind != "f":
        raise InputError(
            f"{str(path)!r}: expected floats of shape {expected}, got {stored.dtype} {stored.shape}"
        )
    highest = 1.0 if grey else 255.0
    if not np.isfinite(stored).all():
        raise InputError(f"{str(path)!r} holds NaN or infinite pixels")
    if stored.min() < -1e-6 or stored.max() > highest + 1e-4:
        raise InputError(
            f"{str(path)!r}: pixels must lie in [0, {highest:g}], got {stored.min():g} to "
            f"{stored.max():g}"
        )
    examples = (stored.astype(np.float32) / np.float32(highest)).reshape(images.shape)
    moved = (examples - images).reshape(len(images), -1)
    radius = (
        np.abs(moved).max(axis=1) if threat_model.norm == "linf" else np.linalg.norm(moved, axis=1)
    )
    if radius.max() > threat_model.eps + 1e-4:
        raise InputError(
            f"{str(path)!r}: example {int(radius.argmax())} is {radius.max():.5g} from its image "
            f"in {threat_model.norm}, "
            f"allowed is eps {threat_model.eps:.5g}"
        )
    return np.clip(examples, 0.0, 1.0)
