"""The states of a run that a killed one goes on from."""

import logging
import pathlib
import re
import shutil

import tensorflow as tf

from tf_robust_transfer.errors import InputError
from tf_robust_transfer.files import at_point, sync_folder

_LOG = logging.getLogger("tf_robust_transfer")
# Beside TensorFlow's files: the time of training, and how many workers share streamed data.
SECONDS, WORKERS = "seconds.txt", "workers.txt"


def save(manager: tf.train.CheckpointManager, step: int) -> None:
    """Writes a checkpoint of this step and brings it to the disk.

    Raises:
        InputError: it cannot be written; the one before is kept.
    """
    folder = pathlib.Path(manager.directory)
    at_point("checkpoint begins", folder)
    try:
        prefix = pathlib.Path(manager.save(checkpoint_number=step))
        at_point("checkpoint written", folder)
        sync_folder(folder, *folder.glob(f"{prefix.name}.*"), folder / "checkpoint")
    except (tf.errors.OpError, OSError) as error:
        reason = getattr(error, "strerror", None) or _in_a_line(error)
        raise InputError(
            f"cannot write a checkpoint in {str(folder)!r}: {reason}; the last good checkpoint is "
            "kept: once it can be written, start the same command again to go on"
        ) from error
    at_point("checkpoint synced", folder)


def restore(
    checkpoint: tf.train.Checkpoint, manager: tf.train.CheckpointManager, *, clean: bool = True
) -> None:
    """Restores the newest checkpoint that can be read, if there is any.

    clean: remove what a killed process left half-written; of several workers the chief's part.

    Raises:
        InputError: there are checkpoints, and none can be read.
    """
    folder = pathlib.Path(manager.directory)
    # Not the manager's list, which is empty where the clock is behind that of the checkpoints.
    state = tf.train.get_checkpoint_state(folder)
    prefixes = list(state.all_model_checkpoint_paths) if state else []
    if clean and folder.is_dir():
        _remove_others(folder, prefixes)
    reasons = []
    for prefix in reversed(prefixes):
        try:
            checkpoint.restore(prefix).assert_consumed()
            return
        except Exception as error:  # TensorFlow's reader raises whatever it finds
            reasons.append(_in_a_line(error))
            _LOG.warning("the checkpoint %s cannot be read (%s)", prefix, reasons[-1])
    if reasons:
        raise InputError(
            f"no checkpoint in {str(folder)!r} can be read: {reasons[-1]}; remove that folder to "
            "train anew"
        )


def _remove_others(folder, prefixes):
    """Removes what is of none of these checkpoints: older ones, and what was left unfinished. Files
    of other names are the user's.
    """
    kept = {pathlib.Path(prefix).name for prefix in prefixes}
    for left in folder.iterdir():
        if left.name.partition(".")[0] in kept or left.name in ("checkpoint", SECONDS, WORKERS):
            continue
        if not left.name.startswith(("ckpt-", "checkpoint", f".{SECONDS}", f".{WORKERS}")):
            continue
        if left.is_dir():
            shutil.rmtree(left)
        else:
            left.unlink()


def _in_a_line(error):
    """TensorFlow's words, without the name of the operation."""
    return " ".join(re.sub(r"\{\{.*?\}\}", "", str(error)).split())[:300]
