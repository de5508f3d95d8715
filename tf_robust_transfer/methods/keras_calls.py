"""Keras's `fit`, `evaluate` and `train_on_batch` of a method, on batches that are checked."""

import contextlib
import inspect
import math

import keras
import tensorflow as tf

from tf_robust_transfer.errors import InputError
from tf_robust_transfer.methods.batches import Batches, are_arrays, leaves_a_replica_out, refusal
from tf_robust_transfer.methods.networks import bounds_of, check_bounds, check_networks
from tf_robust_transfer.methods.watch import AtEpochsEnd
from tf_robust_transfer.ops import workers


class TakesCheckedBatches:
    """What a method is fitted and evaluated on, with Keras's own arguments, by name or place."""

    def fit(self, *args, **kwargs):
        """As keras.Model.fit, of images and labels that are checked as they come.

        Labels are integers [n] or [n, 1], or one-hot rows.

        Raises:
            InputError: images outside their bounds or not finite, labels that are no classes, a
                student or teacher of probabilities, before the first step; at the end of an epoch,
                a gradient or weight that is not finite."""
        given = _named(super().fit, args, kwargs)
        check_networks(self)
        check_bounds(self)
        checks = _checks_of(self)
        given["x"], given["y"] = checks.checked(given.get("x"), given.get("y"))
        _check_shares(self, given)
        validation = given.get("validation_data")
        if isinstance(validation, (tuple, list)) and len(validation) == 2:
            checks.checked(*validation)
        elif isinstance(validation, tf.data.Dataset):
            given["validation_data"] = checks.checked(validation, None)[0]
        if isinstance(given["x"], tf.data.Dataset):
            given.setdefault("shuffle", False)  # Keras's own, and its warning that it is void
        for name in ("x", "validation_data"):
            if given.get(name) is not None:
                given[name] = _shared_out(self, given[name])
        given["callbacks"] = _watched(self, given.get("callbacks"))
        with _told(checks):
            return super().fit(**given)

    def evaluate(self, *args, **kwargs):
        """As keras.Model.evaluate, of the student's clean accuracy and cross-entropy; images and
        labels are checked as by `fit`.
        """
        given = _named(super().evaluate, args, kwargs)
        if given.get("_use_cached_eval_dataset"):  # of `fit`, which has checked them
            return super().evaluate(**given)
        checks = _checks_of(self)
        given["x"], given["y"] = checks.checked(given.get("x"), given.get("y"))
        _check_shares(self, given)
        given["x"] = _shared_out(self, given["x"])
        with _told(checks):
            return super().evaluate(**given)

    def train_on_batch(self, *args, **kwargs):
        """As keras.Model.train_on_batch, checked as `fit`."""
        given = _named(super().train_on_batch, args, kwargs)
        check_networks(self)
        check_bounds(self)
        _checks_of(self).check(given["x"], given.get("y"))
        return super().train_on_batch(**given)


for _name in ("fit", "evaluate", "train_on_batch"):
    # For help() and editors.
    getattr(TakesCheckedBatches, _name).__signature__ = inspect.signature(
        getattr(keras.Model, _name)
    )


def _named(function, args, kwargs) -> dict:
    """The arguments of a call of Keras's, each by its name."""
    given = dict(inspect.signature(function).bind(*args, **kwargs).arguments)
    return given | given.pop("kwargs", {})


def _checks_of(method) -> Batches:
    if not method.compiled:
        raise InputError(f"compile the {type(method).__name__} first: compile(optimizer=...)")
    return Batches(
        bounds_of(method),
        method.student.output_shape[-1],
        method.steps_done,
        method.distribute_strategy.num_replicas_in_sync,
    )


def _shared_out(method, batches):
    """What several workers take: a dataset of which each replica gets its own rows."""
    strategy = method.distribute_strategy
    if isinstance(batches, tf.data.Dataset):
        return workers.rows(strategy, batches)
    if workers.several(strategy):
        workers.check_even(batches)
    return batches


def _check_shares(method, given):
    """Raises an InputError where a replica would have no image of the last batch of arrays, which
    TensorFlow ends by an error of its own.
    """
    x, y = given["x"], given["y"]
    batch_size = given.get("batch_size") or 32  # Keras's own
    counts = [(len(x) if are_arrays(x, y) else 0, batch_size)]
    held_size = given.get("validation_batch_size") or batch_size
    validation = given.get("validation_data")
    if isinstance(validation, (tuple, list)) and len(validation) == 2:
        counts.append((len(validation[0]) if are_arrays(*validation) else 0, held_size))
    elif given.get("validation_split"):
        trained = math.floor(counts[0][0] * (1.0 - given["validation_split"]))  # as Keras splits
        counts = [(trained, batch_size), (counts[0][0] - trained, held_size)]
    replicas = method.distribute_strategy.num_replicas_in_sync
    if replicas == 1:
        return
    for num_images, batch_size in counts:
        last = num_images % batch_size
        for count in {min(batch_size, num_images), last} - {0}:
            if leaves_a_replica_out(count, replicas):
                raise InputError(
                    f"the {'last of the ' * (count == last)}batches of {batch_size} has {count} of "
                    f"{num_images} images, which {replicas} replicas cannot share; "
                    + (f"leave it out (x[:{num_images - last}]), or " if count == last else "")
                    + "take another batch_size"
                )


def _watched(method, callbacks):
    """The callbacks of a `fit`, after the one that looks for what is not finite."""
    if isinstance(callbacks, keras.callbacks.CallbackList):
        watching = AtEpochsEnd()
        watching.set_model(method)
        callbacks.callbacks.insert(0, watching)
        return callbacks
    callbacks = callbacks if isinstance(callbacks, (list, tuple)) else [callbacks]
    return [AtEpochsEnd(), *(c for c in callbacks if c is not None)]


@contextlib.contextmanager
def _told(checks):
    """What a check inside TensorFlow's data pipeline refused, as the InputError that it meant."""
    try:
        yield
    except tf.errors.OpError as error:
        meant = checks.refused or refusal(error)
        if meant is None:
            raise
        raise meant from error
