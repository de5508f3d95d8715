"""One training run, from flags to a run folder that holds everything about it."""

import contextlib
import logging

import keras
import tensorflow as tf

from tf_robust_transfer import data
from tf_robust_transfer.checkpoints import load_model, save_model
from tf_robust_transfer.command_line import tell_ignored, to_text
from tf_robust_transfer.config import TrainConfig
from tf_robust_transfer.errors import InputError
from tf_robust_transfer.evaluation import evaluate_robustness
from tf_robust_transfer.evaluation.model_card import write_card
from tf_robust_transfer.files import write_json
from tf_robust_transfer.methods import find_method
from tf_robust_transfer.ops import workers
from tf_robust_transfer.plots.input_gradients import CHANNELS, plot_input_gradients
from tf_robust_transfer.runs import callbacks, device, teachers, tensorboard
from tf_robust_transfer.runs.fitting import Run, fit
from tf_robust_transfer.runs.folder import RunFolder, held
from tf_robust_transfer.runs.images import load_split, load_train, pixels
from tf_robust_transfer.runs.method import compiled_method
from tf_robust_transfer.runs.strategy import distribution_strategy

_SMOKE_ATTACK = "fgsm"  # All others take minutes on the papers' networks.
_LOG = logging.getLogger("tf_robust_transfer")


def run_training(config: TrainConfig, *, wait: bool = False) -> RunFolder:
    """Trains a student, or goes on training it, and evaluates it.

    A finished run is left as it is. The run folder's files are those of `RunFolder`. Of several
    workers all train, and the chief alone writes and evaluates; the others return when it has.

    Args:
        config: the flags; run_dir is set.
        wait: whether a run folder that another process trains in is waited for.

    Raises:
        InputError: bad input (see the flags), of another worker too; a loss that is not finite; or
            a run folder that another process trains in.
        LostWorkerError: another worker is gone.
        SystemExit: after SIGTERM, with code 143; the step in work is done and saved.
    """
    # First of all: several processes have to be connected before TensorFlow does anything else.
    strategy = distribution_strategy(config.distribution_strategy)
    config = device.resolved(config)
    with workers.told_when_lost(strategy), contextlib.ExitStack() as stack:
        # The workers of one job are one owner.
        with workers.together(strategy):
            if workers.is_chief(strategy):
                stack.enter_context(held(config.run_dir, wait=wait))
        folder = _run(config, strategy)
        workers.exchange(strategy, "")  # the others wait for the chief's files
    return folder


def _run(config, strategy):
    chief = workers.is_chief(strategy)
    if not chief:
        _LOG.setLevel(logging.WARNING)
    with workers.together(strategy):
        folder = RunFolder(config, writes=chief)
    _check_same_command(config, strategy)
    if workers.chiefs(strategy, folder.finished):
        _LOG.info("%s is finished already", folder.path)
        if chief and folder.evaluation_state.exists():  # it was killed between its last two lines
            with contextlib.suppress(OSError):
                folder.evaluation_state.unlink()
        return folder
    with workers.together(strategy):
        config.verify()
        if chief:
            tell_ignored(config)
        untrained = teachers.is_untrained(config)
    if workers.chiefs(strategy, untrained):
        with workers.together(strategy):
            check_training(config)
    with workers.together(strategy):
        teacher = teachers.load(config, run_training)
        # After the teacher's training, which may have its own.
        device.set_determinism(config.deterministic == "on")
        network = config.initial_model or config.model
        if find_method(config.method).makes_its_student:
            network = config.teacher
        _LOG.info("training %s (%s, %s) in %s", network, config.method, config.dataset, folder.path)
        _LOG.info(device.line(_on(config)))
        train = load_train(config, workers.index(strategy))
        test = load_split(config, "test")
        _check_alike(config, train, test)
        validation = None
        if config.validation_fraction:
            train, validation = data.hold_out(train, config.validation_fraction, config.seed)
        batch_size = _batch_size(config, strategy.num_replicas_in_sync)
        steps_per_epoch = data.steps_per_epoch(train, batch_size)
    total_steps = config.train_steps or max(1, round(config.epochs * steps_per_epoch))
    if config.smoke:
        total_steps = 2
        test = data.synthetic_data(test.input_shape, test.num_classes, 2, config.seed)
    seen = f"{len(train)} of {train.input_shape} in {train.num_classes} classes"
    workers.check_same(strategy, "training images", {"images": seen, "steps": str(total_steps)})

    with strategy.scope():
        if teacher is not None and strategy.num_replicas_in_sync > 1:
            teacher = teachers.in_scope(teacher)
        keras.utils.set_random_seed(config.seed)
        method = compiled_method(
            config,
            images=train,
            teacher=teacher,
            steps_per_epoch=steps_per_epoch,
            total_steps=total_steps,
        )
    if _on(config)["jit"]:
        _LOG.info("XLA compiles the step first, on a GPU for minutes (--jit=off does without)")
    run = Run(
        config, strategy, folder, method, train, test, validation, batch_size, steps_per_epoch,
        total_steps,
    )  # fmt: skip
    with workers.alone(strategy):
        fit(run)
        if chief:
            # IGAM's own teacher has the adapter before it.
            _finish(run, getattr(method, "teacher", teacher))
    return folder


def _batch_size(config, replicas):
    """Images of a step, or an InputError where they cannot be shared out."""
    # Mixup mixes each image with the next one of its replica.
    pairs = replicas > 1 and getattr(config, "mixup_alpha", 0) > 0
    if config.smoke:
        return max(2, replicas * (1 + pairs))
    workers.check_divides(config.batch_size, replicas, pairs)
    return config.batch_size


def _check_alike(config, train, test):
    """Raises an InputError where test images are of another size or of other classes."""
    of_each = [(part.input_shape, part.num_classes) for part in (train, test)]
    if of_each[0] != of_each[1]:
        said = (f"{tuple(shape)} in {classes} classes" for shape, classes in of_each)
        raise InputError(
            "{}: training images are of {}, test images of {}; bring them to one size: "
            "--image_size=HEIGHTxWIDTH".format(config.dataset, *said)
        )


def _finish(run, teacher):
    """Saves the network, or networks, of --keep, and what they come to."""
    config, folder = run.config, run.folder
    cost = {
        "seconds": callbacks.training_seconds(folder.checkpoints),
        "steps": run.total_steps,
        "images": run.total_steps * run.batch_size,
    } | _on(config)
    best = load_model(str(folder.best)) if config.keep != "last" else None
    if config.keep == "both":
        state = folder.path / "evaluation_best.state.npz"
        found = _evaluation(config, best, run.test, state)
        write_json(folder.path / "results_best.json", _record(run, found, folder.best, cost))
        state.unlink(missing_ok=True)
    student = best if config.keep == "best" else run.measured.take()
    save_model(student, folder.model)
    _evaluate(run, student, teacher, cost)


def _check_same_command(config, strategy):
    """Other flags would draw other numbers, or apply the same gradients otherwise."""
    flags = {name: text for name, text in to_text(config).items() if name != "data_dir"}
    versions = {"tensorflow": tf.__version__, "keras": keras.__version__}
    workers.check_same(
        strategy, "flags or versions", {f"--{n}": flags[n] for n in flags} | versions
    )


def check_training(config: TrainConfig) -> None:
    """Builds all that a run trains, on networks that are not trained yet, and trains nothing.

    So what does not fit (shapes, classes, endpoints, a warm-up longer than the run) is told before
    a teacher is trained.

    Raises:
        InputError: as run_training.
    """
    config = device.resolved(config)
    train = load_train(config)
    _check_alike(config, train, load_split(config, "test"))
    if config.validation_fraction:
        train, _ = data.hold_out(train, config.validation_fraction, config.seed)
    strategy = distribution_strategy(config.distribution_strategy)
    batch_size = _batch_size(config, strategy.num_replicas_in_sync)
    steps_per_epoch = data.steps_per_epoch(train, batch_size)
    total_steps = config.train_steps or max(1, round(config.epochs * steps_per_epoch))
    teacher = teachers.load(config)
    # The variables of several workers are made together, and this each does for itself.
    several = workers.several(strategy)
    with contextlib.nullcontext() if several else strategy.scope():
        if teacher is not None and strategy.num_replicas_in_sync > 1 and not several:
            teacher = teachers.in_scope(teacher)
        compiled_method(
            config,
            images=train,
            teacher=teacher,
            steps_per_epoch=steps_per_epoch,
            total_steps=total_steps,
        )


def _on(config):
    """What the run works on and with; config: resolved."""
    return device.record(
        precision="float32" if config.mixed_precision == "none" else config.mixed_precision,
        jit=config.jit == "on",
    )


def _evaluate(run, student, teacher, cost):
    config, folder, test = run.config, run.folder, run.test
    result = _evaluation(config, student, test, folder.evaluation_state)
    models = {config.method: student}
    # Not one of another task, which finetune takes.
    if teacher is not None and (teacher.input_shape, teacher.output_shape) == (
        student.input_shape,
        student.output_shape,
    ):
        models["teacher"] = teacher
    if test.images.shape[-1] in CHANNELS:
        plot_input_gradients(models, pixels(test.images[:8]), test.labels[:8], folder.figure)
    results = _record(run, result, folder.model, cost)
    write_card_of_run(folder.model, student, config, results)
    tensorboard.end(folder.tensorboard, cost["steps"], result.accuracy)
    write_json(folder.results, results)
    folder.evaluation_state.unlink(missing_ok=True)


def write_card_of_run(path, model: keras.Model, config: TrainConfig, results: dict) -> None:
    """Writes the model card of a run's network. path: of the `.keras` file beside which it lies."""
    write_card(
        path,
        model=model,
        source="trained by tf_robust_transfer; its flags are in flags.txt"
        + (f"; teacher: {config.teacher}" if config.teacher else ""),
        trained_on=config.dataset,
        method=config.method,
        command="python -m tf_robust_transfer.train --flagfile=flags.txt --run_dir=NEW",
        results=results,
    )


def _evaluation(config, student, test, state):
    return evaluate_robustness(
        student,
        pixels(test.images),
        test.labels,
        threat_model=config.threat_model,
        attacks=(_SMOKE_ATTACK,) if config.smoke else config.attacks,
        seed=config.seed,
        step_size=config.attack_step_size or None,
        progress=True,
        state=state,
        # Of two steps of training the figures mean nothing, doubtful or not.
        check_model=not config.smoke,
    )


def _record(run, result, model, cost):
    """What stands in results.json."""
    config = run.config
    record = result.to_json_dict(
        model=str(model), dataset=config.dataset, split="test", order=run.test.order
    )
    record["training"] = cost
    if config.ignored:
        record["ignored_flags"] = [f"--{flag.name}={flag.text}" for flag in config.ignored]
    return record
