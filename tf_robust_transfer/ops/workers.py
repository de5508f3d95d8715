"""Several processes, on one machine or many, that train one model under
`tf.distribute.MultiWorkerMirroredStrategy`.

All run the same command, compute every step and hold the same weights. The chief, worker 0, alone
writes and evaluates. What a process finds out alone, such as whether a file is there, must not
decide whether it takes part in a collective operation: the others would wait for it. So they tell
each other (`exchange`) before they go on.
"""

import contextlib

import numpy as np
import tensorflow as tf

from tf_robust_transfer.errors import InputError, LostWorkerError

_LONGEST = 8000  # bytes of a text


class ToldError(InputError):
    """Bad input of one of several workers, of which nobody waits to hear."""


def several(strategy) -> bool:
    """Whether other processes take part."""
    return _num_workers(strategy) > 1


def _num_workers(strategy):
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return 1
    cluster = strategy.cluster_resolver.cluster_spec()
    return sum(cluster.num_tasks(job) for job in cluster.jobs if job in ("chief", "worker"))


def index(strategy) -> tuple[int, int]:
    """(number of this worker, number of workers); the chief is 0."""
    if not several(strategy):
        return 0, 1
    resolver = strategy.cluster_resolver
    chief = "chief" in resolver.cluster_spec().jobs and resolver.task_type != "chief"
    return resolver.task_id + chief, _num_workers(strategy)


def is_chief(strategy) -> bool:
    """Whether this process writes."""
    return index(strategy)[0] == 0


def exchange(strategy, text: str) -> list[str]:
    """The text of each worker, in their order. All have to call it: it waits for all of them."""
    own, count = index(strategy)
    if count == 1:
        return [text]
    written = np.frombuffer(text.encode()[:_LONGEST], np.uint8)
    rows = np.zeros((count, _LONGEST), np.int32)
    rows[own, : len(written)] = written

    @tf.function
    def total():
        def each():
            # One device of each worker has the text.
            first = _context().replica_id_in_sync_group % local == 0
            return _context().all_reduce(
                tf.distribute.ReduceOp.SUM, tf.where(first, rows, tf.zeros_like(rows))
            )

        local = strategy.num_replicas_in_sync // count
        return strategy.experimental_local_results(strategy.run(each))[0]

    found = total().numpy().astype(np.uint8)
    return [bytes(row).rstrip(b"\0").decode(errors="replace") for row in found]


def _context():
    return tf.distribute.get_replica_context()


def chiefs(strategy, number: int) -> int:
    """The chief's number; all have to call it."""
    return int(exchange(strategy, str(int(number)))[0])


def check_same(strategy, what: str, own: dict[str, str]) -> None:
    """Raises an InputError on all workers where one has another value than the chief.

    own: {name: value} of this worker; what: they are, in words."""
    first, *others = (
        dict(line.partition("=")[::2] for line in text.splitlines())
        for text in exchange(strategy, "\n".join(f"{name}={own[name]}" for name in sorted(own)))
    )
    for number, other in enumerate(others, start=1):
        for name in sorted(first | other):
            if first.get(name) != other.get(name):
                raise ToldError(
                    f"worker {number} has other {what} than the chief: {name}={other.get(name)}, "
                    f"not {first.get(name)}; start the same command on all of them"
                )


@contextlib.contextmanager
def together(strategy):
    """An InputError of one worker within it is raised on all at its end.

    Within it are no collective operations but those of `exchange`."""
    failed = None
    try:
        yield
    except ToldError:
        raise
    except InputError as error:
        if not several(strategy):
            raise
        failed = error
    texts = exchange(strategy, str(failed or ""))
    if failed:
        raise ToldError(str(failed)) from failed
    for number, text in enumerate(texts):
        if text:
            raise ToldError(f"worker {number}: {text}")


@contextlib.contextmanager
def alone(strategy):
    """An InputError of one of several workers within it ends this process: the others are in a
    step, and learn of it when this one is gone. It may lie within `together`.
    """
    try:
        yield
    except ToldError:
        raise
    except InputError as error:
        if not several(strategy):
            raise
        raise ToldError(str(error)) from error


@contextlib.contextmanager
def told_when_lost(strategy):
    """Within it, what TensorFlow raises where another worker is gone is a LostWorkerError."""
    try:
        yield
    except (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError,
            tf.errors.InternalError, tf.errors.DeadlineExceededError) as error:  # fmt: skip
        if not several(strategy):
            raise
        first = next((line for line in error.message.splitlines() if line.strip()), "")
        raise LostWorkerError(
            f"another worker is gone, what it wrote says why ({first[:200]}); start the same "
            "command on all of them again to go on"
        ) from error


def rows(strategy, batches: tf.data.Dataset, *, own: bool = False):
    """A dataset of batches as Keras's `fit` takes it: each replica gets its own rows of each batch,
    in the order of the replicas' numbers, so that what is drawn for a row (`replicas.own_rows`)
    stays that row's.

    TensorFlow deals the rows out in another order where a worker has several devices.

    Args:
        batches: of the whole batch, the same on every worker, or with `own` of this worker's rows.

    Raises:
        InputError: batches that are not all of one size, or of one that does not divide.
    """
    if not several(strategy):
        return batches
    size = tf.nest.flatten(batches.element_spec)[0].shape[0]
    devices = strategy.num_replicas_in_sync // (_num_workers(strategy) if own else 1)
    if size is None:
        raise InputError(
            "several workers take batches of one size: give the dataset drop_remainder=True"
        )
    check_divides(size, devices)

    def of_worker(context):
        mine = batches
        if not own:
            count = size // context.num_input_pipelines
            first = context.input_pipeline_id * count
            mine = batches.map(
                lambda *parts: tf.nest.map_structure(lambda p: p[first : first + count], parts)
            )
        if devices > (1 if own else context.num_input_pipelines):
            mine = mine.rebatch(size // devices, drop_remainder=True)
        return mine.prefetch(tf.data.AUTOTUNE)

    return strategy.distribute_datasets_from_function(of_worker)


def check_even(batches) -> None:
    """Raises an InputError unless these are batches that are distributed already, each replica's
    share of one size: means over all replicas count on it (`replicas.global_mean`).
    """
    if not isinstance(batches, tf.distribute.DistributedDataset):
        raise InputError(
            "several workers take a tf.data.Dataset, of batches of one size that are the same on "
            f"all of them, got {type(batches).__name__}"
        )
    specs = tf.nest.flatten(batches.element_spec, expand_composites=True)
    if any(spec.shape[0] is None for spec in specs):
        raise InputError(
            "several workers take batches of one size: give the dataset drop_remainder=True"
        )


def check_divides(batch_size: int, devices: int, pairs: bool = False) -> None:
    """Raises an InputError where a batch (with `pairs`, its half) cannot be shared out evenly."""
    unit, paired = devices * (1 + pairs), " in pairs, for mixup," if pairs else ""
    if batch_size % unit:
        raise InputError(
            f"a batch of {batch_size} cannot be shared out evenly{paired} "
            f"among {devices} devices; give a batch size that is a multiple of {unit}"
        )
