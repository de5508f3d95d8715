"""The folder of a run: what lies where, and whose it is."""

import contextlib
import json
import logging
import os
import pathlib
from collections.abc import Iterator

from tf_robust_transfer.command_line import to_text
from tf_robust_transfer.errors import InputError
from tf_robust_transfer.evaluation.result import at_each_radius
from tf_robust_transfer.files import check_local, locked, path_of, write_text
from tf_robust_transfer.flag_files import from_line, to_line
from tf_robust_transfer.runs.checkpoints import WORKERS

RESULTS, BEST = "results*.json", "model_best.keras"
_LOG = logging.getLogger("tf_robust_transfer")
# Run folders that this process trains in: a teacher that names its student's folder is no other
# process.
_HELD: set[pathlib.Path] = set()
# Flags that change where or how fast a run works, but not what comes out of it.
FREE_FLAGS = ("run_dir", "data_dir", "distribution_strategy", "checkpoint_minutes", "log_every")
# Nor do these of a run that is finished: a teacher that a GPU trained serves on a CPU.
_FREE_WHEN_FINISHED = ("jit", "deterministic")


def _checked(text):
    """The path of a run folder, or an InputError for one that cannot be."""
    check_local(text, "--run_dir")
    if set("*?[]\\") & set(str(text)):
        raise InputError(
            f"--run_dir: TensorFlow takes a path with *, ?, [, ] or \\ for a pattern, got "
            f"{str(text)!r}; give one without"
        )
    return path_of(text)


@contextlib.contextmanager
def held(path, *, wait: bool) -> Iterator[None]:
    """Within it no other process trains in a run folder, which is made if it is not there.

    Args:
        path: the folder.
        wait: whether one that another process trains in is waited for.

    Raises:
        InputError: another process trains in it, and wait is false.
    """
    path = _checked(path)

    def taken():
        if not wait:
            raise InputError(
                f"another process is training in the run folder {str(path)!r}; wait until it has "
                "ended, or give another --run_dir"
            )
        _LOG.info("waiting for %s, which another process is training", path)

    with contextlib.suppress(OSError):  # RunFolder says why
        path.mkdir(parents=True, exist_ok=True)
    key = path.resolve()
    with contextlib.ExitStack() as stack:
        if key not in _HELD:
            stack.enter_context(locked(path, taken))
            _HELD.add(key)
            stack.callback(_HELD.discard, key)
        yield


class RunFolder:
    """flags.txt, model.keras, results.json, figures, tensorboard/ and checkpoints/ of one run.

    Args:
        config: the run's TrainConfig.
        writes: whether this process is the one that writes; the others look at nothing here.

    Raises:
        InputError: the folder cannot be written, or holds a run with other flags.
    """

    def __init__(self, config, writes=True):
        self.path = _checked(config.run_dir)
        self.flags = self.path / "flags.txt"
        self.model = self.path / "model.keras"
        # Of --keep=best and both; the note of its choice lies beside it, model_best.json.
        self.best = self.path / BEST
        self.results = self.path / "results.json"
        self.figure = self.path / "input_gradients.png"
        self.checkpoints = self.path / "checkpoints"
        self.evaluation_state = self.path / "evaluation.state.npz"
        self.tensorboard = self.path / "tensorboard"
        # How many workers share the files of streamed data.
        self.workers = self.checkpoints / WORKERS
        if not writes:
            return
        texts = to_text(config)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            # Flags alone are of a run that bad input ended before it began: the mended ones take
            # their place.
            names = {entry.name for entry in self.path.iterdir() if entry.name[0] != "."}
            if not self.flags.exists() and "model.keras" in names:
                raise InputError(
                    f"{str(self.path)!r} holds a model.keras and no flags of a run, and training "
                    "would overwrite it; give another --run_dir"
                )
            if not self.flags.exists() or names == {self.flags.name}:
                write_text(self.flags, "".join(f"{to_line(*flag)}\n" for flag in texts.items()))
            elif not self.finished and not os.access(self.path, os.W_OK):
                raise PermissionError
        except OSError as error:
            reason = error.strerror or "it is not writable"
            raise InputError(
                f"cannot write the run folder {str(self.path)!r}: {reason}; give another --run_dir"
            ) from None
        self._check_flags(texts)

    def _check_flags(self, texts):
        stored = read_flags(self.path)
        if "method" not in stored:
            raise InputError(
                f"{str(self.flags)!r} does not hold the flags of a run: it is damaged; give "
                "another --run_dir, or remove that folder to train anew"
            )
        free = FREE_FLAGS + (_FREE_WHEN_FINISHED if self.finished else ())
        for name, text in texts.items():
            if name not in free and stored.get(name, text) != text:
                of_one = name == "jit" and stored[name] == "on"
                raise InputError(
                    f"the run folder {str(self.path)!r} was made with --{name}={stored[name]}, not "
                    f"--{name}={text}; give that one to go on"
                    f"{' (several GPUs: --distribution_strategy=one_device too)' * of_one}, "
                    "another --run_dir, or remove that folder to train anew"
                )

    @property
    def finished(self) -> bool:
        return self.model.exists() and self.results.exists()


def run_folders(root) -> list[pathlib.Path]:
    """The folders in root or below, root among them, that hold results*.json, sorted; none where
    root is no folder.
    """
    root = path_of(root)
    root = root if root.name else root.absolute()  # "." has no name, which rows are told apart by
    return sorted({path.parent for path in root.rglob(RESULTS)}) if root.is_dir() else []


def read_flags(folder) -> dict[str, str]:
    """Flag -> text of a run folder's flags.txt; empty where there is no such file.

    Raises:
        InputError: a file that is no text.
    """
    path = path_of(folder) / "flags.txt"
    try:
        lines = path.read_text().splitlines() if path.exists() else []
    except (OSError, ValueError) as error:
        raise InputError(f"{str(path)!r} cannot be read: {error}") from error
    return dict(map(from_line, (line for line in lines if line.startswith("--"))))


def is_of_best(results: dict) -> bool:
    """Whether results are of the network that --keep=both keeps beside the last, not of the run's
    own.
    """
    return pathlib.PurePath(results.get("model", "")).name == BEST


def is_of_training(results: dict) -> bool:
    """Whether results are of training images, which say nothing of the test's."""
    return results["split"].partition("[")[0] == "train"


def results_of(folder) -> list[tuple[pathlib.Path, dict]]:
    """(file, its results) for each results*.json of a run folder, by name; of an evaluation at
    several radii one for each.

    Raises:
        InputError: a file of other content.
    """
    return [
        (path, at)
        for path in sorted(pathlib.Path(folder).glob(RESULTS))
        for at in at_each_radius(read_results(path))
    ]


def read_results(path) -> dict:
    """A results*.json.

    Raises:
        InputError: a file of other content.
    """
    try:
        result = json.loads(path_of(path).read_text())
        for at in at_each_radius(result):
            _check_results(at)
    # Damaged, nested deeply, or with something else where the figures should be.
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise InputError(f"{str(path)!r} is no results file; remove it or evaluate again") from None
    return result


def _check_results(result):
    """Raises a ValueError, TypeError, KeyError or AttributeError unless these are results."""
    texts = [result["dataset"], result["split"], result["threat_model"]["norm"]]
    if not all(text.isprintable() for text in texts) or not result["threat_model"]["eps"] >= 0:
        raise ValueError
    if not isinstance(result["num_examples"], int) or result["num_examples"] < 1:
        raise ValueError
    if not all(0 <= accuracy <= 1 for accuracy in result["accuracy"].values()):
        raise ValueError
    for low, high in result.get("confidence_interval_95", {}).values():
        if not 0 <= low <= high <= 1:
            raise ValueError
