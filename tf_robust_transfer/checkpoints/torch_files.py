"""Reads the tensors of a PyTorch checkpoint without running anything that the file holds."""

import re
import warnings

import numpy as np

from tf_robust_transfer.errors import InputError

# Under which of a checkpoint's entries the state_dict lies, beside the optimizer's state and
# figures. "best" is not among them: RobustBench takes the "last" of Andriushchenko et al. (2020).
_STATE_DICTS = (
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "network",
    "ema",
    "ema_state_dict",
    "model_ema",
    "state_dict_ema",
    "last",
)
# Modules that some files hold a second time, under another name: MadryLab's robustness library, the
# code of Andriushchenko et al. (2020). (prefix of the copy, prefix of the original)
_COPIES = (
    ("attacker.model.", ""),
    ("model_preact_hl1.1.", "conv1."),
    ("model_preact_hl1.2.", "layer1.0.bn1."),
)
# Of nn.DataParallel, of a wrapper around the network, of torch.compile.
_PREFIXES = re.compile(r"^((module|model|_orig_mod)\.)+")


def read_state_dict(path: str) -> dict[str, np.ndarray]:
    """The weights of a PyTorch file. PyTorch is needed to read it, for tensors and plain containers
    only (`weights_only`).

    Args:
        path: a .safetensors file, or one of torch.save that holds a state_dict, alone or under
            "state_dict", "model_state_dict", "model", "net", "ema" and the like.

    Returns:
        name -> float32 array. The prefixes "module.", "model." and "_orig_mod." are taken off, and
        those of nn.Sequential(normaliser, network), "0." and "1."; batch counters
        (num_batches_tracked) are left out, and second copies of a module, which have to be equal.

    Raises:
        InputError: PyTorch or safetensors not installed, no such file, a web page, a damaged file,
            other Python objects than tensors, no state_dict or several, or numbers that are not
            finite.
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
    content = _safetensors(path) if str(path).endswith(".safetensors") else _torch_file(path)
    return _without_copies(path, _named_arrays(path, content))


def _torch_file(path):
    """The state_dict in a file of torch.save."""
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
                "other objects could run code: save its state_dict alone"
            ) from error
        raise InputError(
            f"{str(path)!r} is no PyTorch file or a damaged one (cut off?); download it again"
        ) from error
    if isinstance(content, dict):
        # An empty one is that of what was switched off, such as an average of the weights.
        found = [key for key in _STATE_DICTS if isinstance(content.get(key), dict) and content[key]]
        if len(found) > 1:
            raise InputError(
                f"{str(path)!r} holds {len(found)} state_dicts ({', '.join(found)}); save the one "
                "that is meant alone"
            )
        content = content[found[0]] if found else content
    if not isinstance(content, dict) or not content:
        raise InputError(
            f"{str(path)!r} holds no state_dict (names with tensors): got {type(content).__name__}"
        )
    return content


def _safetensors(path):
    """The tensors of a .safetensors file."""
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError:
        raise InputError(
            ".safetensors files need PyTorch and safetensors: pip install "
            "'tf_robust_transfer[torch]'"
        ) from None
    try:
        return load_file(path)
    except (SafetensorError, ValueError) as error:
        raise InputError(
            f"{str(path)!r} is no .safetensors file or a damaged one (cut off?); download it again"
        ) from error


def _named_arrays(path, content):
    """name -> float32 array, without prefixes and batch counters."""
    import torch

    tensors = {}
    for name, (key, value) in _bare_names(content):
        if name.endswith("num_batches_tracked"):
            continue
        dense = (
            isinstance(value, torch.Tensor) and value.layout == torch.strided and not value.is_meta
        )
        if not dense or not value.is_floating_point():
            raise InputError(
                f"{str(path)!r}: {key!r} in its state_dict is no dense tensor of floats"
            )
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise InputError(
                f"{str(path)!r}: {key!r} has {value.numel()} numbers, of which not all are stored"
            )
        if name in tensors:
            raise InputError(f"{str(path)!r} holds {name!r} twice, under different prefixes")
        tensors[name] = value.detach().to(torch.float32).numpy()
        if not np.isfinite(tensors[name]).all():
            raise InputError(f"{str(path)!r}: {key!r} holds NaN or infinite numbers")
    return tensors


def _bare_names(content):
    """(name without prefixes, item) of a state_dict, without the counter of
    torch.optim.swa_utils.AveragedModel.
    """
    content = {key: value for key, value in content.items() if key != "n_averaged"}
    names = [_PREFIXES.sub("", str(key)) for key in content]
    if all(re.match(r"0\.\w+$|1\.", name) for name in names):  # nn.Sequential(normaliser, network)
        names = [_PREFIXES.sub("", name[2:]) for name in names]
    return zip(names, content.items())


def _without_copies(path, tensors):
    for copy, original in _COPIES:
        for name in [name for name in tensors if name.startswith(copy)]:
            own = original + name.removeprefix(copy)
            if not np.array_equal(tensors.pop(name), tensors.get(own)):
                raise InputError(f"{str(path)!r}: {name!r} differs from the network's own {own!r}")
    return tensors
