"""One training run, from flags to a run folder that holds everything about it."""

import logging

import keras
import tensorflow as tf

from tf_robust_transfer import data
from tf_robust_transfer.checkpoints import save_model
from tf_robust_transfer.command_line import tell_ignored
from tf_robust_transfer.config import TrainConfig
from tf_robust_transfer.evaluation import evaluate_robustness
from tf_robust_transfer.evaluation.model_card import write_card
from tf_robust_transfer.files import write_json
from tf_robust_transfer.models.precision import in_float32, take_weights
from tf_robust_transfer.plots.input_gradients import plot_input_gradients
from tf_robust_transfer.runs import callbacks, checkpoints, teachers
from tf_robust_transfer.runs.diagnostics import GradientDiagnostics
from tf_robust_transfer.runs.folder import RunFolder, held
from tf_robust_transfer.runs.images import load_split, load_train, pixels
from tf_robust_transfer.runs.method import compiled_method
from tf_robust_transfer.runs.strategy import distribution_strategy

_SMOKE_ATTACK = "fgsm"  # All others take minutes on the papers' networks.
_LOG = logging.getLogger("tf_robust_transfer")


def run_training(config: TrainConfig, *, wait: bool = False) -> RunFolder:
    """Trains a student, or goes on training it, and evaluates it.

    A finished run is left as it is. The run folder's files are those of `RunFolder`.

    Args:
        config: the flags; run_dir is set.
        wait: whether a run folder that another process trains in is waited for.

    Raises:
        InputError: bad input (see the flags), a loss that is not finite, or a run folder that
            another process trains in.
    """
    with held(config.run_dir, wait=wait):
        return _train(config)


def _train(config):
    folder = RunFolder(config)
    if folder.finished:
        _LOG.info("%s is finished already", folder.path)
        return folder
    config.verify()
    tell_ignored(config)
    # Resumed or not, the same seed has to give the same weights, bit for bit.
    tf.config.experimental.enable_op_determinism()
    if teachers.is_untrained(config):
        check_training(config)
    teacher = teachers.load(config, run_training)
    _LOG.info(
        "training %s (%s, %s) in %s", config.model, config.method, config.dataset, folder.path
    )
    train, test = load_train(config), load_split(config, "test")
    batch_size = 2 if config.smoke else config.batch_size
    steps_per_epoch = data.steps_per_epoch(train, batch_size)
    total_steps = config.train_steps or max(1, round(config.epochs * steps_per_epoch))
    if config.smoke:
        total_steps = 2
        test = data.synthetic_data(test.input_shape, test.num_classes, 2, config.seed)

    strategy = distribution_strategy(config.distribution_strategy)
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
    _fit(config, folder, method, student, train, test, batch_size, steps_per_epoch, total_steps)
    take_weights(student, method.student)
    save_model(student, folder.model)
    # IGAM's own teacher has the adapter before it.
    _evaluate(config, folder, student, getattr(method, "teacher", teacher), test)
    return folder


def check_training(config: TrainConfig) -> None:
    """Builds all that a run trains, on networks that are not trained yet, and trains nothing.

    So what does not fit (shapes, classes, endpoints, a warm-up longer than the run) is told before
    a teacher is trained.

    Raises:
        InputError: as run_training.
    """
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


def _fit(config, folder, method, student, train, test, batch_size, steps_per_epoch, total_steps):
    checkpoint = tf.train.Checkpoint(**method.state())
    manager = tf.train.CheckpointManager(checkpoint, str(folder.checkpoints), max_to_keep=2)
    checkpoints.restore(checkpoint, manager)
    step = method.steps_done
    if step:
        _LOG.info("going on at step %d of %d", step, total_steps)
    # A smoke run watches nothing: on a large network that takes longer than its two steps.
    watched = slice(0, 0 if config.smoke else config.watch_examples)
    images, labels = pixels(test.images[watched]), test.labels[watched]
    teacher = getattr(method, "teacher", None)
    progress = callbacks.Progress(
        total_steps=total_steps, start_step=step, batch_size=batch_size, name=folder.path.name
    )
    used = [
        callbacks.StopOnNonFinite(),
        callbacks.WatchFirstSteps(),
        callbacks.WatchAccuracy(
            images,
            labels,
            threat_model=config.threat_model,
            attack=config.watch_attack,
            batch_size=batch_size,
            seed=config.seed,
            student=student,
        ),
        progress,
        callbacks.InputGradientImages(
            folder.tensorboard / "input_gradients", images[:8], labels[:8], teacher
        ),
        GradientDiagnostics(
            folder.tensorboard / "diagnostics", images[:500], labels[:500], teacher
        ),
        keras.callbacks.TensorBoard(str(folder.tensorboard), write_graph=False),
        callbacks.Checkpoint(manager, config.checkpoint_minutes),
    ]
    try:
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
            with data.told_when_unreadable(config.dataset):
                method.fit(
                    batches,
                    initial_epoch=epoch,
                    epochs=epoch + max(1, whole),
                    steps_per_epoch=steps,
                    callbacks=used,
                    shuffle=False,
                    verbose=0,
                )
            step = method.steps_done
    finally:
        progress.close()


def _evaluate(config, folder, student, teacher, test):
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
    write_json(folder.results, results)
    folder.evaluation_state.unlink(missing_ok=True)
