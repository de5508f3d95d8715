"""The training of a run: its callbacks, its checkpoints, its epochs."""

import contextlib
import dataclasses
import functools
import logging
import math

import keras
import tensorflow as tf

from tf_robust_transfer import data
from tf_robust_transfer.config import TrainConfig
from tf_robust_transfer.errors import InputError
from tf_robust_transfer.files import write_text
from tf_robust_transfer.methods import Method
from tf_robust_transfer.ops import workers
from tf_robust_transfer.runs import callbacks, checkpoints, tensorboard, watching
from tf_robust_transfer.runs.diagnostics import GradientDiagnostics
from tf_robust_transfer.runs.events import Events
from tf_robust_transfer.runs.folder import RunFolder
from tf_robust_transfer.runs.host import Allowance, Callbacks
from tf_robust_transfer.runs.images import pixels
from tf_robust_transfer.runs.measured import KeepBest, Measured

_LOG = logging.getLogger("tf_robust_transfer")


@dataclasses.dataclass(frozen=True)
class Run:
    """What a training is of.

    Attributes:
        config: its flags, resolved.
        strategy: tf.distribute.Strategy.
        folder: where it is kept.
        method: compiled.
        train, test: the images.
        validation: training images that are held out to choose an epoch; None without --keep.
        batch_size: of all replicas together.
        steps_per_epoch, total_steps: of batches: of optimizer steps and those that float16 skips.
    """

    config: TrainConfig
    strategy: tf.distribute.Strategy
    folder: RunFolder
    method: Method
    train: data.ImageData | data.StreamedData | data.StreamedFolder
    test: data.ImageData
    validation: data.ImageData | None
    batch_size: int
    steps_per_epoch: int
    total_steps: int

    @property
    def chief(self) -> bool:
        """Whether this process is the one that writes."""
        return workers.is_chief(self.strategy)

    @functools.cached_property
    def measured(self) -> Measured:
        """The network that is watched, saved and attacked."""
        return Measured(self.method, self.batches)

    def batches(self, start_step: int = 0) -> tf.data.Dataset:
        """Endless batches of the training from a step on, of all replicas together."""
        return data.train_batches(
            self.train,
            batch_size=self.batch_size,
            seed=self.config.seed,
            start_step=start_step,
            augmentation=self.config.augmentation,
        )


def fit(run: Run) -> None:
    """Trains a run's method from its newest checkpoint to its end.

    Raises:
        InputError: a loss that is not finite, a checkpoint that cannot be read or written, other
            workers than those that began.
        SystemExit: after SIGTERM, with code 143; the step in work is done and saved.
    """
    config, method, strategy = run.config, run.method, run.strategy
    scaled = isinstance(method.optimizer, keras.optimizers.LossScaleOptimizer)
    kept = tf.Variable(0, dtype=tf.int64, trainable=False) if scaled else None
    state = method.state() | ({} if kept is None else {"batches": kept})
    checkpoint = tf.train.Checkpoint(**state)
    manager = tf.train.CheckpointManager(checkpoint, str(run.folder.checkpoints), max_to_keep=2)
    checkpoints.restore(checkpoint, manager, clean=run.chief)
    count = callbacks.BatchCount(method, kept)
    step = count.done
    workers.check_same(strategy, f"files in {run.folder.path}", {"step": str(step)})
    _check_workers(strategy, run.folder, run.train, step)
    if step:
        _LOG.info("going on at step %d of %d", step, run.total_steps)
    save = callbacks.Checkpoint(manager, config.checkpoint_minutes, count)
    stop = callbacks.StopWhenTerminated(strategy, count, save if run.chief else None)
    used = [count, watching.StopOnNonFinite()]
    with contextlib.ExitStack() as stack:
        if run.chief:
            events = stack.enter_context(Events(run.folder.tensorboard, step))
            if not step:
                tensorboard.begin(events, config, "/".join(run.folder.path.absolute().parts[-2:]))
            progress = callbacks.Progress(
                total_steps=run.total_steps,
                start_step=step,
                steps_per_epoch=run.steps_per_epoch,
                batch_size=run.batch_size,
                name=run.folder.path.name,
            )
            stack.callback(progress.close)
            used += [*_watching(run, events, progress, save, count), save]
        used.append(stop)
        with stop:
            # The first and the last epoch may be cut: by a resumed run, by a number of steps.
            while step < run.total_steps:
                steps_before = method.steps_done
                epoch, done = divmod(step, run.steps_per_epoch)
                whole = (run.total_steps - step) // run.steps_per_epoch if done == 0 else 0
                steps = min(run.steps_per_epoch - done, run.total_steps - step)
                batches = run.batches(step)
                if isinstance(run.train, data.StreamedData):
                    batches = workers.rows(strategy, batches, own=True)
                epochs = epoch + max(1, whole)
                first_bad = getattr(run.train, "first_bad", None)
                with data.told_when_unreadable(config.dataset, first_bad):
                    method.fit(
                        batches,
                        initial_epoch=epoch,
                        epochs=epochs,
                        steps_per_epoch=steps,
                        callbacks=Callbacks(used, method, epochs=epochs, steps=steps),
                        shuffle=False,
                        verbose=0,
                    )
                # Less than an epoch may be a batch that is skipped.
                if method.steps_done == steps_before and steps == run.steps_per_epoch:
                    raise InputError(
                        f"no step of epoch {epoch + 1} had a gradient that is finite in float16: "
                        "--mixed_precision=bfloat16, or a smaller learning rate"
                    )
                step = count.done


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


def _watching(run, events, progress, save, count):
    """What looks at the training, in its order: what adds to the logs before what reads them."""
    config, test, teacher = run.config, run.test, getattr(run.method, "teacher", None)
    # A smoke run watches nothing: on a large network that takes longer than its two steps.
    watched = slice(0, 0 if config.smoke else config.watch_examples)
    images, labels = pixels(test.images[watched]), test.labels[watched]
    attacked = {
        "threat_model": config.threat_model,
        "attack": config.watch_attack,
        "seed": config.seed,
    }
    accuracy = watching.WatchAccuracy(images, labels, measured=run.measured, **attacked)
    diagnostics = GradientDiagnostics(
        events, run.measured, images[:500], labels[:500], count, teacher
    )
    allowance = Allowance()
    for callback in (save, accuracy, diagnostics):
        allowance.limit(callback)
    # The choice of an epoch is not left out where time is short.
    best = []
    if run.validation is not None:
        held = pixels(run.validation.images), run.validation.labels
        best = [KeepBest(run.measured, *held, path=run.folder.best, **attacked)]
    pictures = tensorboard.TensorBoard(
        events,
        run.measured,
        count=count,
        every=config.log_every,
        epochs=math.ceil(run.total_steps / run.steps_per_epoch),
        images=images[:8],
        labels=labels[:8],
        teacher=teacher,
    )
    return [
        watching.WatchFirstSteps(),
        watching.Rates(run.batch_size),
        accuracy,
        *best,
        progress,
        diagnostics,
        pictures,
    ]
