"""The folder of a run: what lies where, and whose it is."""

import json
import os
import pathlib

from tf_robust_transfer.command_line import to_text
from tf_robust_transfer.errors import InputError
from tf_robust_transfer.files import write_text

RESULTS = "results*.json"
# Flags that change where or how fast a run works, but not what comes out of it.
FREE_FLAGS = ("run_dir", "data_dir", "distribution_strategy", "checkpoint_minutes", "log_every")
# Nor do these of a run that is finished: a teacher that a GPU trained serves on a CPU.
_FREE_WHEN_FINISHED = ("jit", "deterministic")


class RunFolder:
    """flags.txt, model.keras, results.json, figures, tensorboard/ and checkpoints/ of one run.

    Args:
        config: the run's TrainConfig.
        writes: whether this process is the one that writes; the others look at nothing here.

    Raises:
        InputError: the folder cannot be written, or holds a run with other flags.
    """

    def __init__(self, config, writes=True):
        self.path = pathlib.Path(config.run_dir)
        self.flags = self.path / "flags.txt"
        self.model = self.path / "model.keras"
        self.results = self.path / "results.json"
        self.figure = self.path / "input_gradients.png"
        self.checkpoints = self.path / "checkpoints"
        self.evaluation_state = self.path / "evaluation.state.npz"
        self.tensorboard = self.path / "tensorboard"
        # How many workers share the files of streamed data.
        self.workers = self.checkpoints / "workers.txt"
        if not writes:
            return
        texts = to_text(config)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            # Flags alone are of a run that bad input ended before it began: the mended ones take
            # their place.
            if not self.flags.exists() or [*self.path.iterdir()] == [self.flags]:
                write_text(
                    self.flags, "".join(f"--{name}={text}\n" for name, text in texts.items())
                )
            elif not os.access(self.path, os.W_OK):
                raise PermissionError
        except OSError as error:
            reason = error.strerror or "it is not writable"
            raise InputError(
                f"cannot write the run folder {str(self.path)!r}: {reason}; give another --run_dir"
            ) from None
        self._check_flags(texts)

    def _check_flags(self, texts):
        stored = dict(
            line[2:].partition("=")[::2] for line in self.flags.read_text().splitlines() if line
        )
        free = FREE_FLAGS + (_FREE_WHEN_FINISHED if self.finished else ())
        for name, text in texts.items():
            if name not in free and stored.get(name, text) != text:
                raise InputError(
                    f"the run folder {str(self.path)!r} was made with --{name}={stored[name]}, not "
                    f"--{name}={text}; give "
                    "another --run_dir, or remove that folder to train anew"
                )

    @property
    def finished(self) -> bool:
        return self.model.exists() and self.results.exists()


def run_folders(root) -> list[pathlib.Path]:
    """The folders in root or below, root among them, that hold results*.json, sorted; none where
    root is no folder.
    """
    root = pathlib.Path(root)
    return sorted({path.parent for path in root.rglob(RESULTS)}) if root.is_dir() else []


def read_flags(folder) -> dict[str, str]:
    """Flag -> text of a run folder's flags.txt; empty where there is no such file."""
    path = pathlib.Path(folder) / "flags.txt"
    lines = path.read_text().splitlines() if path.exists() else []
    return dict(line[2:].partition("=")[::2] for line in lines if line.startswith("--"))


def read_results(path) -> dict:
    """A results*.json.

    Raises:
        InputError: a file of other content.
    """
    try:
        result = json.loads(pathlib.Path(path).read_text())
        if not {"dataset", "split", "num_examples", "threat_model", "accuracy"} <= set(result):
            raise ValueError
    except ValueError:
        raise InputError(f"{str(path)!r} is no results file; remove it or evaluate again") from None
    return result
