"""One training run, from flags to a run folder that holds everything about it."""

import contextlib
import logging
import math

import keras
import tensorflow as tf

from tf_robust_transfer import data
from tf_robust_transfer.checkpoints import save_model
from tf_robust_transfer.command_line import tell_ignored, to_text
from tf_robust_transfer.config import TrainConfig
from tf_robust_transfer.errors import InputError
from tf_robust_transfer.evaluation import evaluate_robustness
from tf_robust_transfer.evaluation.model_card import write_card
from tf_robust_transfer.files import write_json, write_text
from tf_robust_transfer.models.precision import in_float32, take_weights
from tf_robust_transfer.ops import workers
from tf_robust_transfer.plots.input_gradients import plot_input_gradients
from tf_robust_transfer.runs import callbacks, checkpoints, device, teachers, tensorboard
from tf_robust_transfer.runs.diagnostics import GradientDiagnostics
from tf_robust_transfer.runs.events import Events
from tf_robust_transfer.runs.folder import RunFolder, held
from tf_robust_transfer.runs.host import Allowance, Callbacks
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
        _LOG.info(
            "training %s (%s, %s) in %s", config.model, config.method, config.dataset, folder.path
        )
        _LOG.info(device.line(_on(config)))
        train = load_train(config, workers.index(strategy))
        test = load_split(config, "test")
        batch_size = config.batch_size
        if config.smoke:
            batch_size = max(2, strategy.num_replicas_in_sync)
        workers.check_divides(batch_size, strategy.num_replicas_in_sync)
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
    # The student itself, or of one in mixed precision a copy.
    student = in_float32(method.student)
    _fit(
        config, strategy, folder, method, student, train, test, batch_size, steps_per_epoch,
        total_steps,
    )  # fmt: skip
    if chief:
        take_weights(student, method.student)
        save_model(student, folder.model)
        cost = {
            "seconds": callbacks.training_seconds(folder.checkpoints),
            "steps": total_steps,
            "images": total_steps * batch_size,
        }
        # IGAM's own teacher has the adapter before it.
        _evaluate(config, folder, student, getattr(method, "teacher", teacher), test, cost)
    return folder


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
    steps_per_epoch = data.steps_per_epoch(train, 2 if config.smoke else config.batch_size)
    total_steps = config.train_steps or max(1, round(config.epochs * steps_per_epoch))
    compiled_method(
        config,
        images=train,
        teacher=teachers.load(config),
        steps_per_epoch=steps_per_epoch,
        total_steps=total_steps,
    )


def _on(config):
    """What the run works on and with; config: resolved."""
    return device.record(
        precision="float32" if config.mixed_precision == "none" else config.mixed_precision,
        jit=config.jit == "on",
    )


def _fit(
    config, strategy, folder, method, student, train, test, batch_size, steps_per_epoch, total_steps
):
    chief = workers.is_chief(strategy)
    checkpoint = tf.train.Checkpoint(**method.state())
    manager = tf.train.CheckpointManager(checkpoint, str(folder.checkpoints), max_to_keep=2)
    checkpoints.restore(checkpoint, manager, clean=chief)
    step = method.steps_done
    workers.check_same(strategy, f"files in {folder.path}", {"step": str(step)})
    _check_workers(strategy, folder, train, step)
    if step:
        _LOG.info("going on at step %d of %d", step, total_steps)
    save = callbacks.Checkpoint(manager, config.checkpoint_minutes)
    allowance = Allowance()
    allowance.limit(save)
    stop = callbacks.StopWhenTerminated(strategy, save if chief else None)
    used = [callbacks.StopOnNonFinite()]
    progress = events = None
    if chief:
        events = Events(folder.tensorboard, step)
        if not step:
            tensorboard.begin(events, config, "/".join(folder.path.absolute().parts[-2:]))
        progress = callbacks.Progress(
            total_steps=total_steps,
            start_step=step,
            steps_per_epoch=steps_per_epoch,
            batch_size=batch_size,
            name=folder.path.name,
        )
        accuracy, *others = _watching(config, method, student, test, events)
        for callback in (accuracy, *others):
            allowance.limit(callback)
        used += [
            callbacks.WatchFirstSteps(),
            callbacks.Rates(batch_size),
            accuracy,
            progress,
            *others,
            _pictures(config, method, test, events, math.ceil(total_steps / steps_per_epoch)),
            save,
        ]
    used.append(stop)
    try:
        with stop:
            # The first and the last epoch may be cut: by a resumed run, by a number of steps.
            while step < total_steps:
                epoch, done = divmod(step, steps_per_epoch)
                whole = (total_steps - step) // steps_per_epoch if done == 0 else 0
                steps = min(steps_per_epoch - done, total_steps - step)
                batches = data.train_batches(
                    train,
                    batch_size=batch_size,
                    seed=config.seed,
                    start_step=step,
                    augmentation=config.augmentation,
                )
                if isinstance(train, data.StreamedData):
                    batches = workers.rows(strategy, batches, own=True)
                epochs = epoch + max(1, whole)
                with data.told_when_unreadable(config.dataset):
                    method.fit(
                        batches,
                        initial_epoch=epoch,
                        epochs=epochs,
                        steps_per_epoch=steps,
                        callbacks=Callbacks(used, method, epochs=epochs, steps=steps),
                        shuffle=False,
                        verbose=0,
                    )
                step = method.steps_done
    finally:
        if chief:
            progress.close()
            events.close()


def _check_workers(strategy, folder, train, step):
    """Each worker reads its own files of streamed data: of another number the order is another."""
    if not isinstance(train, data.StreamedData):
        return
    _, now = workers.index(strategy)
    before = int(folder.workers.read_text()) if step and folder.workers.exists() else 1
    if step and workers.chiefs(strategy, before) != now:
        raise InputError(
            f"{str(folder.path)!r} was begun by {before} workers, among whom the files of "
            f"{train.name!r} are shared out; go on with as many, not with {now}"
        )
    if workers.is_chief(strategy) and now > 1:
        folder.workers.parent.mkdir(parents=True, exist_ok=True)
        write_text(folder.workers, f"{now}\n")


def _watched(config, test):
    """The test examples that a run looks at. A smoke run looks at none: on a large network that
    takes longer than its two steps.
    """
    watched = slice(0, 0 if config.smoke else config.watch_examples)
    return pixels(test.images[watched]), test.labels[watched]


def _watching(config, method, student, test, events):
    """What measures at the end of an epoch, as far as there is time, in this order."""
    images, labels = _watched(config, test)
    accuracy = callbacks.WatchAccuracy(
        images,
        labels,
        threat_model=config.threat_model,
        attack=config.watch_attack,
        seed=config.seed,
        student=student,
    )
    teacher = getattr(method, "teacher", None)
    return accuracy, GradientDiagnostics(events, images[:500], labels[:500], teacher)


def _pictures(config, method, test, events, epochs):
    images, labels = _watched(config, test)
    return tensorboard.TensorBoard(
        events,
        every=config.log_every,
        epochs=epochs,
        images=images[:8],
        labels=labels[:8],
        teacher=getattr(method, "teacher", None),
    )


def _evaluate(config, folder, student, teacher, test, cost):
    images = pixels(test.images)
    result = evaluate_robustness(
        student,
        images,
        test.labels,
        threat_model=config.threat_model,
        attacks=(_SMOKE_ATTACK,) if config.smoke else config.attacks,
        seed=config.seed,
        step_size=config.attack_step_size or None,
        progress=True,
        state=folder.evaluation_state,
        # Of two steps of training the figures mean nothing, doubtful or not.
        check_model=not config.smoke,
    )
    models = {config.method: student}
    # Not one of another task, which finetune takes.
    if teacher is not None and (teacher.input_shape, teacher.output_shape) == (
        student.input_shape,
        student.output_shape,
    ):
        models["teacher"] = teacher
    plot_input_gradients(models, images[:8], test.labels[:8], folder.figure)
    results = result.to_json_dict(
        model=str(folder.model), dataset=config.dataset, split="test", order=test.order
    )
    results["training"] = cost | _on(config)
    if config.ignored:
        results["ignored_flags"] = [f"--{flag.name}={flag.text}" for flag in config.ignored]
    write_card(
        folder.model,
        model=student,
        source="trained by tf_robust_transfer; its flags are in flags.txt"
        + (f"; teacher: {config.teacher}" if config.teacher else ""),
        trained_on=config.dataset,
        method=config.method,
        command="python -m tf_robust_transfer.train --flagfile=flags.txt",
        results=results,
    )
    tensorboard.end(folder.tensorboard, cost["steps"], result.accuracy)
    write_json(folder.results, results)
    folder.evaluation_state.unlink(missing_ok=True)
