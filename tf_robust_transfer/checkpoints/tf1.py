"""Reading checkpoints that a TensorFlow 1 Saver wrote."""

import dataclasses
import glob
import pathlib
import re
from collections.abc import Callable, Mapping

import keras
import numpy as np
import tensorflow as tf

from tf_robust_transfer.errors import InputError
from tf_robust_transfer.files import path_of

# An optimizer's slot is named VARIABLE/NAME; a second optimizer of the same kind adds _1, as Adam's
# second slot does.
_SLOT = re.compile(r"(.+)/(?:Momentum|Adam|RMSProp|Adagrad|Adadelta|Ftrl)(?:_\d+)?")
_COUNTER = re.compile(r"(?:.+/)?(?:beta[12]_power(?:_\d+)?|global_step)")
_FILE = re.compile(r"(.+)\.(?:index|meta|data-\d{5}-of-\d{5})")
_STATE = re.compile(r'^model_checkpoint_path: "(.+)"', re.MULTILINE)
_SHOWN = 3  # names in a message, of each kind


@dataclasses.dataclass(frozen=True)
class Tf1Checkpoint:
    """An open checkpoint, without its optimizer's state.

    Left out are: VARIABLE/Momentum, VARIABLE/Adam, VARIABLE/Adam_1 and the slots of RMSProp,
    Adagrad, Adadelta and Ftrl, of any number, where VARIABLE is a variable of the checkpoint
    itself; and beta1_power, beta2_power (of any number) and global_step in any scope. Everything
    else is in `shapes`.

    Attributes:
        prefix: the path without .index, for messages.
        shapes: name -> shape.
        dtypes: name -> tf.DType.
        get_tensor: reads one variable; use `read`, whose errors people can read.
    """

    prefix: str
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, tf.DType]
    get_tensor: Callable[[str], np.ndarray]

    def read(self, name: str) -> np.ndarray:
        """One variable, or an InputError where the data file is damaged."""
        return _reading(self.prefix, lambda: self.get_tensor(name))


def find_prefix(path: str) -> str:
    """The prefix of the checkpoint that a path means: the path of its files without .index and
    .data-00000-of-00001.

    Args:
        path: a folder, a prefix such as models/secret/checkpoint-24900, or one of the prefix's
            files. Of a folder, the checkpoint that its state file (`checkpoint`) names, looked for
            beside the state file first, since archives bring absolute paths from the machine where
            they were made; without a state file, the checkpoint with the highest step in its name,
            the newest of those.

    Raises:
        InputError: no checkpoint there.
    """
    if not path:
        raise InputError(
            "no checkpoint given; give a folder or a prefix such as models/secret/checkpoint-24900"
        )
    place = path_of(path)
    of_prefix = _FILE.fullmatch(place.name)
    if of_prefix and place.is_file():
        place = place.with_name(of_prefix[1])
    elif place.name == "checkpoint" and place.is_file():
        place = place.parent
    if place.is_dir() and not _is_prefix(place):
        place = _in_folder(place)
    if not _is_prefix(place):
        raise InputError(
            f"no checkpoint at {str(place)!r}; give a folder with a `checkpoint` file or a prefix, "
            "the path without .index"
        )
    return str(place)


def files(path: str) -> list[pathlib.Path]:
    """The files of the checkpoint that a path means (see `find_prefix`): those with the weights
    first, then the index.
    """
    prefix = pathlib.Path(find_prefix(path))
    data = sorted(prefix.parent.glob(f"{glob.escape(prefix.name)}.data-*"))
    return [*data, _index(prefix)] if _index(prefix).is_file() else [prefix]


def open_checkpoint(path: str) -> Tf1Checkpoint:
    """Opens a checkpoint of tf.train.Saver, in format V2 (.index and .data-...) or V1 (one file).

    Args:
        path: see `find_prefix`.

    Raises:
        InputError: nothing there, or a file that is no checkpoint or is damaged.
    """
    prefix = find_prefix(path)

    def read_index():
        reader = tf.train.load_checkpoint(prefix)
        return reader, reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()

    reader, shapes, dtypes = _reading(prefix, read_index)
    kept = {
        name: tuple(shape)
        for name, shape in sorted(shapes.items())
        if not _is_optimizer_state(name, shapes)
    }
    return Tf1Checkpoint(prefix, kept, dtypes, reader.get_tensor)


def assign(checkpoint: Tf1Checkpoint, variables: Mapping[str, keras.Variable], what: str) -> None:
    """Reads a network's variables, all of them from all of the checkpoint.

    Args:
        checkpoint: an open checkpoint. What its caller does not want is taken out by `without`
            first.
        variables: name in the checkpoint -> variable of the network.
        what: the network's name, for messages.

    Raises:
        InputError: names that are missing, left over, or of another shape or type; a damaged data
            file.
    """
    shapes, dtypes = checkpoint.shapes, checkpoint.dtypes
    wrong = [
        f"{name} {shapes[name]} {dtypes[name].name} instead of {tuple(variable.shape)}"
        for name, variable in variables.items()
        if name in shapes
        and not (shapes[name] == tuple(variable.shape) and dtypes[name].is_floating)
    ]
    differences = {
        "missing": [name for name in variables if name not in shapes],
        "not expected": [name for name in shapes if name not in variables],
        "of another shape or type": wrong,
    }
    found = [
        f"{len(names)} {kind} ({_some(names)})" for kind, names in differences.items() if names
    ]
    if found:
        raise InputError(
            f"{checkpoint.prefix!r} is no checkpoint of {what}: of its variables are "
            f"{'; '.join(found)}"
        )
    for name, variable in variables.items():
        variable.assign(checkpoint.read(name))


def without(checkpoint: Tf1Checkpoint, unwanted: Callable[[str], bool]) -> Tf1Checkpoint:
    """The checkpoint without the variables whose names are `unwanted`."""
    shapes = {name: shape for name, shape in checkpoint.shapes.items() if not unwanted(name)}
    return dataclasses.replace(checkpoint, shapes=shapes)


def _is_optimizer_state(name, names):
    slot = _SLOT.fullmatch(name)
    return bool(slot and slot[1] in names) or bool(_COUNTER.fullmatch(name))


def _some(names):
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")


def _reading(prefix, read):
    """What `read` returns, or an InputError with one line."""
    try:
        return read()
    except (
        Exception
    ) as error:  # The reader maps a file's faults to OpError, IndexError, RuntimeError and others.
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"the checkpoint {prefix!r} cannot be read; a file of it is damaged or absent: {reason}"
        ) from error


def _in_folder(folder):
    state = folder / "checkpoint"
    named = (
        _STATE.search(state.read_text(encoding="utf-8", errors="replace"))
        if state.is_file()
        else None
    )
    if named:
        for prefix in (folder / re.split(r"[/\\]", named[1])[-1], folder / named[1]):
            if _is_prefix(prefix):
                return prefix
        raise InputError(
            f"{str(state)!r} names the checkpoint {named[1]!r}, which is not there; give the "
            "prefix of the one to read"
        )
    prefixes = [index.with_suffix("") for index in folder.glob("*.index")]
    if not prefixes:
        raise InputError(
            f"no checkpoint in the folder {str(folder)!r}: it holds neither a `checkpoint` file "
            "nor *.index"
        )
    return max(prefixes, key=lambda prefix: (_step(prefix), _index(prefix).stat().st_mtime))


def _is_prefix(path):
    """Whether a checkpoint of format V2 or V1 has this prefix."""
    # "." and "/" have no name, and are the prefix of none.
    return bool(path.name) and (_index(path).is_file() or path.is_file())


def _index(prefix):
    return prefix.with_name(f"{prefix.name}.index")


def _step(prefix):
    step = re.search(r"-(\d+)$", prefix.name)
    return int(step[1]) if step else -1
