"""Reads the tensors of a PyTorch checkpoint without running anything that the file holds."""

import re
import warnings

import numpy as np

from tf_robust_transfer.errors import InputError

# Under which of a checkpoint's entries the state_dict lies, beside the optimizer's state and
# figures.
_STATE_DICTS = ("state_dict", "model_state_dict", "model")


def read_state_dict(path: str) -> dict[str, np.ndarray]:
    """The weights of a .pt file. PyTorch is needed to read it, for tensors and plain containers
    only (`weights_only`).

    Args:
        path: a file that holds a state_dict, alone or under "state_dict", "model_state_dict" or
            "model".

    Returns:
        name -> float32 array. The prefixes "module." and "model." are taken off, the batch counters
        (num_batches_tracked) left out, and the copy "attacker.model." that MadryLab's robustness
        library saves beside the network is checked against it and left out.

    Raises:
        InputError: PyTorch not installed, no such file, a web page, a damaged file, other Python
            objects than tensors, no state_dict, or numbers that are not finite.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(512).lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    except OSError as error:
        raise InputError(f"{str(path)!r} cannot be read: {error.strerror}") from None
    if start.startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
        raise InputError(
            f"{str(path)!r} is a web page (HTML), no PyTorch file; download it again in a browser"
        )
    try:
        import torch
    except ImportError:
        raise InputError(
            "PyTorch reads .pt files and is not installed: pip install 'tf_robust_transfer[torch]'"
        ) from None
    try:
        with warnings.catch_warnings(action="ignore"):
            content = torch.load(path, map_location="cpu", weights_only=True)
    # PyTorch lets through whatever pickle, its own reader or a tensor's constructor raised.
    except Exception as error:
        unknown = re.search(r"GLOBAL (\S+)", str(error))
        if unknown:
            raise InputError(
                f"{str(path)!r} holds the Python object {unknown[1]}; only tensors are read, since "
                "other objects could "
                "run code: save its state_dict alone"
            ) from error
        raise InputError(
            f"{str(path)!r} is no PyTorch file or a damaged one (cut off?); download it again"
        ) from error
    if isinstance(content, dict):
        content = next(
            (content[key] for key in _STATE_DICTS if isinstance(content.get(key), dict)), content
        )
    if not isinstance(content, dict) or not content:
        raise InputError(
            f"{str(path)!r} holds no state_dict (names with tensors): got {type(content).__name__}"
        )

    tensors = {}
    for key, value in content.items():
        name = re.sub(r"^((module|model)\.)+", "", str(key))
        if name.endswith("num_batches_tracked"):
            continue
        dense = (
            isinstance(value, torch.Tensor) and value.layout == torch.strided and not value.is_meta
        )
        if not dense or not value.is_floating_point():
            raise InputError(
                f"{str(path)!r}: {key!r} in its state_dict is no dense tensor of floats"
            )
        if name in tensors:
            raise InputError(f"{str(path)!r} holds {name!r} twice, under different prefixes")
        tensors[name] = value.detach().to(torch.float32).numpy()
        if not np.isfinite(tensors[name]).all():
            raise InputError(f"{str(path)!r}: {key!r} holds NaN or infinite numbers")

    copy = "attacker.model."
    for name in [name for name in tensors if name.startswith(copy)]:
        if not np.array_equal(tensors.pop(name), tensors.get(name.removeprefix(copy))):
            raise InputError(
                f"{str(path)!r}: {name!r} differs from the network's own "
                f"{name.removeprefix(copy)!r}"
            )
    return tensors
