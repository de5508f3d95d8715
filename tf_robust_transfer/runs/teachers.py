"""The teacher of a run: loaded, or trained by its own flag file."""

import pathlib
from collections.abc import Callable, Sequence

from tf_robust_transfer.checkpoints import load_model
from tf_robust_transfer.checkpoints.robustbench import build_robustbench
from tf_robust_transfer.command_line import parse
from tf_robust_transfer.config import TrainConfig
from tf_robust_transfer.errors import InputError
from tf_robust_transfer.files import path_of
from tf_robust_transfer.flag_files import find
from tf_robust_transfer.methods import find_method
from tf_robust_transfer.models.copies import copy_of
from tf_robust_transfer.runs.images import load_train
from tf_robust_transfer.runs.method import student_network
from tf_robust_transfer.runs.strategy import SEVERAL_WORKERS


def is_untrained(config) -> bool:
    """Whether the run has to train its teacher first."""
    kind, _, path = config.teacher.partition(":")
    if config.smoke or kind != "flagfile" or not find_method(config.method).takes_teacher:
        return False
    folder = path_of(teacher_flags(config, path).run_dir)
    return not ((folder / "model.keras").exists() and (folder / "results.json").exists())


def load(config, train: Callable | None = None):
    """The teacher of a run, or None where its method takes none.

    Args:
        config: the run's TrainConfig.
        train: trains what a flag file names, `run_training`; without it, and in a smoke run, such
            a teacher is a network that is not trained.

    Raises:
        InputError: no --teacher, or one that cannot be read or trained.
    """
    if not find_method(config.method).takes_teacher:
        return None
    if not config.teacher:
        raise InputError(
            f"method {config.method} needs --teacher: a saved model, a run folder or flagfile:PATH"
        )
    kind, _, path = config.teacher.partition(":")
    if config.smoke and kind == "robustbench" and not path_of(path.partition(":")[2]).exists():
        images = load_train(config)
        return build_robustbench(path.partition(":")[0], images.input_shape, images.num_classes)
    if kind != "flagfile":
        return load_model(config.teacher)
    teacher_config = teacher_flags(config, path)
    if config.smoke or train is None:
        images = load_train(teacher_config)
        return student_network(teacher_config, images, load(teacher_config, train))
    return load_model(str(train(teacher_config, wait=True).path))


def teacher_flags(config, path: str, students: Sequence[pathlib.Path] = ()) -> TrainConfig:
    """The flags of a teacher that --teacher=flagfile:PATH names.

    It inherits seed, data directory, strategy, jit and determinism unless its flag file sets them,
    and its run folder stands beside the student's, named as its flag file.

    Args:
        config: the student's flags.
        path: of the teacher's flag file.
        students: the flag files whose teacher, or teacher's teacher, this one is.

    Raises:
        InputError: a file that cannot be read, or one that is its own teacher.
    """
    file = find(path).resolve()
    if file in students:
        raise InputError(
            f"--teacher=flagfile:{path}: this flag file is the teacher of itself; give a --teacher "
            "that ends in a model or in a method without a teacher"
        )
    beside = path_of(config.run_dir).parent / pathlib.Path(path).stem
    inherited = {
        "seed": config.seed,
        "data_dir": config.data_dir,
        "smoke": str(config.smoke).lower(),
        "distribution_strategy": config.distribution_strategy,
        "jit": config.jit,
        "deterministic": config.deterministic,
        "run_dir": beside,
    }
    arguments = [f"--{name}={value}" for name, value in inherited.items()]
    arguments.append(f"--flagfile={path}")
    if config.distribution_strategy == SEVERAL_WORKERS:  # they train the teacher together too
        arguments.append(f"--distribution_strategy={SEVERAL_WORKERS}")
    teacher = parse(TrainConfig, arguments)
    kind, _, above = teacher.teacher.partition(":")
    if kind == "flagfile" and find_method(teacher.method).takes_teacher:
        teacher_flags(teacher, above, (*students, file))
    return teacher


def in_scope(model):
    """The same model with variables of the current strategy's scope: mirrored ones, where it
    mirrors.
    """
    return copy_of(model)
