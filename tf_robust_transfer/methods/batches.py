"""The batches of a method's `fit`, checked on their way into it."""

import inspect
import re

import keras
import numpy as np
import tensorflow as tf

from tf_robust_transfer.data.labels import NOT_ONE_HOT, class_labels, other_columns, out_of_range
from tf_robust_transfer.errors import InputError
from tf_robust_transfer.models.bounds import as_floats, divided_already

# Images that are this far outside their bounds are of another range: augmentation may overshoot.
TOLERANCE = 0.01
_ROWS = 4096
# Before a refusal that passes through TensorFlow's data pipeline.
_MARK = "refused batch: "


def unpack(data):
    """(images, class numbers [batch]) of a batch with labels as `fit` takes them, or an
    InputError.
    """
    images, labels, weights = keras.utils.unpack_x_y_sample_weight(data)
    if not tf.is_tensor(images) or weights is not None or not may_be_labels(labels):
        raise InputError(
            "a method is fitted on batches (images, integer labels of shape [batch] or [batch, 1], "
            "or one-hot rows), without weights"
        )
    # In half precision an attack's steps would be rounded away.
    return tf.cast(images, tf.float32), class_numbers(labels, tf.shape(images)[0])


def may_be_labels(labels) -> bool:
    """Whether a tensor's type and shape are those of labels: integers [batch] or [batch, 1], or
    rows of several columns.
    """
    if not tf.is_tensor(labels):
        return False
    rank = labels.shape.rank
    if rank == 2 and labels.shape[1] != 1:
        return labels.dtype.is_integer or labels.dtype.is_floating
    return rank in (None, 1, 2) and (labels.dtype.is_integer or rank is None)


def class_numbers(labels, batch):
    """Integers [batch] from labels of these shapes, inside a step. batch: number of images."""
    if labels.shape.rank == 1:
        small = labels.dtype not in (tf.int32, tf.int64)
        return tf.cast(labels, tf.int32) if small else labels
    rows = tf.reshape(labels, [batch, -1])
    columns = labels.shape[1] if labels.shape.rank == 2 else None
    if columns == 1:
        return tf.cast(rows[:, 0], tf.int32)
    numbers = tf.argmax(rows, axis=1, output_type=tf.int32)
    if columns is not None:
        return numbers
    # What was traced for both shapes, [batch] and [batch, 1] or one-hot, sees the shape here.
    return tf.where(tf.shape(rows)[1] > 1, numbers, tf.cast(rows[:, 0], tf.int32))


class Batches:
    """The batches of a `fit`, checked on their way into it.

    Arrays are looked through once, at the start. Of a tf.data.Dataset, generator or PyDataset every
    batch is looked at where it is read: that the images are finite, the first time also their
    range, and that the labels are classes of the model.

    Args:
        bounds: (lowest, highest) pixel value that the images have to lie in.
        num_classes: of the student.
        first_step: number of the step of the first batch, for the messages.
        replicas: among how many a batch is shared out.
    """

    def __init__(self, bounds, num_classes: int, first_step: int, replicas: int = 1):
        self.bounds, self.num_classes, self.first_step = bounds, num_classes, first_step
        self.replicas = replicas
        # What a generator raises comes out of TensorFlow as an error of its own.
        self.refused = None

    def checked(self, x, y):
        """(x, y) for Keras's `fit`. Raises an InputError for arrays that do not fit."""
        if isinstance(x, tf.data.Dataset):
            return self._dataset(x), y
        if isinstance(x, keras.utils.PyDataset):
            return _CheckedPyDataset(x, self), y
        if inspect.isgenerator(x):
            return self._generator(x), y
        if are_arrays(x, y):
            self.check(x, y)
            wrong = divided_already(self.bounds, float(np.max(x))) if len(x) else ""
            if wrong:
                raise InputError(wrong)
        return x, y

    def check(self, images, labels, step=None, in_range=True):
        """Raises an InputError unless a batch, or a whole data set, fits. step: of the batch."""
        where = "" if step is None else f" at step {step}"
        kind = np.dtype(getattr(images.dtype, "name", str(images.dtype)).split(".")[-1]).kind
        if kind in "biu":
            raise InputError(
                f"images must be float in {self.bounds}, got {images.dtype}; "
                + as_floats(self.bounds)
            )
        for start in range(0, len(images), _ROWS):
            part = np.asarray(images[start : start + _ROWS])
            finite = np.isfinite(part)
            if not finite.all():
                row = start + int(np.argmin(finite.reshape(len(part), -1).all(axis=1)))
                raise InputError(f"image {row}{where} holds NaN or infinite pixels")
            if in_range and len(part):
                self._check_range(float(part.min()), float(part.max()))
        class_labels(np.asarray(labels), self.num_classes)

    def _check_range(self, low, high):
        slack = TOLERANCE * (self.bounds[1] - self.bounds[0])
        if low < self.bounds[0] - slack or high > self.bounds[1] + slack:
            raise InputError(self._of_range(f"{low:g}", f"{high:g}"))

    def _of_range(self, low, high):
        return (
            f"images must lie in {self.bounds}, got values from {low} to {high}; "
            + ("divide by 255, or " if self.bounds == (0.0, 1.0) else "")
            + "put the normalisation into the network: rt.as_classifier(model, mean=, std=), or "
            "its bounds= where it takes others"
        )

    def _dataset(self, dataset):
        spec = dataset.element_spec
        if not isinstance(spec, tuple) or len(spec) != 2 or not _are_tensors(spec):
            return dataset
        if spec[0].dtype.is_integer:
            raise InputError(
                f"images must be float in {self.bounds}, got {spec[0].dtype.name}; "
                + as_floats(self.bounds)
            )
        columns = spec[1].shape[1] if spec[1].shape.rank == 2 else None
        if columns not in (None, 1, self.num_classes):
            raise InputError(other_columns(self.num_classes, columns))
        slack = TOLERANCE * (self.bounds[1] - self.bounds[0])

        def refuse(condition, template, *values):
            text = tf.strings.format(_MARK + template, values) if values else _MARK + template
            return tf.debugging.Assert(condition, [text], summarize=1)

        def first(images):
            low, high = tf.reduce_min(images), tf.reduce_max(images)
            fits = (low >= self.bounds[0] - slack) & (high <= self.bounds[1] + slack)
            with tf.control_dependencies([refuse(fits, self._of_range("{}", "{}"), low, high)]):
                return tf.constant(True)

        def check(number, batch):
            images, labels = batch
            # A sum is NaN or infinite where a pixel is.
            finite = tf.math.is_finite(tf.reduce_sum(tf.cast(images, tf.float32)))
            step = number + self.first_step + 1
            checks = [refuse(finite, "an image at step {} holds NaN or infinite pixels", step)]
            if self.replicas > 1:
                count = tf.shape(images)[0]
                shared = ~leaves_a_replica_out(count, self.replicas)
                checks.append(refuse(shared, self._of_shares("{}"), count))
            with tf.control_dependencies(checks):
                checks.append(tf.cond(number == 0, lambda: first(images), lambda: True))
            rank = labels.shape.rank
            if rank is None:
                labels = class_numbers(labels, tf.shape(images)[0])
            one_column = rank == 2 and labels.shape[1] == 1
            if rank is None or one_column or (rank < 2 and labels.dtype.is_integer):
                low, high = tf.reduce_min(labels), tf.reduce_max(labels)
                fits = (low >= 0) & (high < self.num_classes)
                checks.append(refuse(fits, out_of_range("{}", "{}", self.num_classes), low, high))
            elif rank == 2 and labels.shape[1] is not None:
                one = tf.cast(tf.equal(labels, tf.cast(1, labels.dtype)), tf.int32)
                known = tf.equal(tf.cast(one, labels.dtype), labels)  # nothing but 0 and 1
                fits = tf.reduce_all(known) & tf.reduce_all(tf.reduce_sum(one, axis=1) == 1)
                checks.append(refuse(fits, NOT_ONE_HOT))
            with tf.control_dependencies(checks):
                return tf.identity(images), tf.identity(batch[1])

        return dataset.enumerate().map(check)

    def _of_shares(self, count):
        return (
            f"a batch of {count} images leaves one of the {self.replicas} replicas without any; "
            "leave it out (drop_remainder=True), or take another batch size"
        )

    def _generator(self, batches):
        for number, batch in enumerate(batches):
            self.check_batch(number, batch)
            yield batch

    def check_batch(self, number, batch):
        if isinstance(batch, (tuple, list)) and len(batch) == 2 and hasattr(batch[0], "dtype"):
            try:
                if leaves_a_replica_out(len(batch[0]), self.replicas):
                    raise InputError(self._of_shares(len(batch[0])))
                self.check(*batch, step=self.first_step + number + 1, in_range=number == 0)
            except InputError as error:
                self.refused = error
                raise


class _CheckedPyDataset(keras.utils.PyDataset):
    def __init__(self, dataset, batches):
        super().__init__(
            workers=dataset.workers,
            use_multiprocessing=dataset.use_multiprocessing,
            max_queue_size=dataset.max_queue_size,
        )
        self.dataset, self.batches = dataset, batches

    @property
    def num_batches(self):
        return self.dataset.num_batches

    def __getitem__(self, index):
        batch = self.dataset[index]
        self.batches.check_batch(index, batch)
        return batch

    def on_epoch_begin(self):
        self.dataset.on_epoch_begin()

    def on_epoch_end(self):
        self.dataset.on_epoch_end()


def leaves_a_replica_out(count, replicas: int):
    """Whether TensorFlow, which deals a batch out in shares of count / replicas, rounded up, has
    none left for the last replica. count: an int, or a tensor int [].
    """
    share = -(-count // replicas)
    return (replicas - 1) * share >= count


def _are_tensors(spec):
    return all(isinstance(part, tf.TensorSpec) for part in spec)


def refusal(error: tf.errors.OpError) -> InputError | None:
    """The InputError that a check inside a dataset meant, or None."""
    found = re.search(_MARK + r"([^\]\n]*)", error.message)
    return InputError(found[1].rstrip("'\" ")) if found else None


def are_arrays(x, y):
    return hasattr(x, "shape") and hasattr(x, "__getitem__") and hasattr(y, "shape")
