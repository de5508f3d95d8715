"""Batches of images, in an order that depends on the seed and the step alone.

Identity, of images in memory or streamed from a folder: batch number `k` is
`permutation(seed, k // s)[(k % s) * b:][:b]`, with b the batch size and s = n // b. Where TFDS's
files are streamed, `streaming` has the order. The augmentation is drawn from (seed, k) in either
case. So an interrupted run goes on at step k without replaying what came before."""

import numpy as np
import tensorflow as tf

from tf_robust_transfer.data.augmentation import augment, check_augmentations
from tf_robust_transfer.data.datasets import check_seed
from tf_robust_transfer.data.folder_streaming import StreamedFolder
from tf_robust_transfer.data.folder_streaming import read_batches as read_files
from tf_robust_transfer.data.images import ImageData
from tf_robust_transfer.data.streaming import StreamedData, read_batches
from tf_robust_transfer.errors import InputError
from tf_robust_transfer.ops import random

_ORDER, _AUGMENTATION = 0, 1  # the two random streams of a seed


def steps_per_epoch(data: ImageData | StreamedData | StreamedFolder, batch_size: int) -> int:
    """The number of full batches in the data: len(data) // batch_size.

    Raises:
        InputError: batch_size is below 1, or larger than the data.
    """
    if batch_size < 1:
        raise InputError(f"batch_size must be at least 1, got {batch_size}")
    if batch_size > len(data):
        raise InputError(
            f"batch_size {batch_size} is larger than split {data.split!r} of {data.name!r}, which "
            f"holds {len(data)} images; give a batch_size of at most {len(data)}"
        )
    return len(data) // batch_size


def train_batches(
    data: ImageData | StreamedData | StreamedFolder,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    augmentation: tuple[str, ...] = (),
) -> tf.data.Dataset:
    """Endless shuffled full batches, bit-identical from `start_step` on whether or not the earlier
    ones were taken.

    Every epoch of `steps_per_epoch` batches has its own order and leaves out the len(data) %
    batch_size examples at the order's end.

    Args:
        data: the training images, in memory or streamed.
        batch_size: global batch size, 1..len(data). Of streamed data in several parts, each part
            gives its share.
        seed: int in [0, 2**31).
        start_step: number of the first batch, from 0; any number costs the same.
        augmentation: names as `find_augmentation` takes them, in this order; of streamed images,
            resized_crop comes first.

    Returns:
        Infinite dataset of (images float32 [batch_size, height, width, channels] in [0, 1], labels
        int32 [batch_size]).

    Raises:
        InputError: batch_size, seed or start_step out of range, an augmentation that is unknown
            or not for these images.
    """
    steps = steps_per_epoch(data, batch_size)
    check_seed(seed)
    if start_step < 0:
        raise InputError(f"start_step must be at least 0, got {start_step}")
    check_augmentations(augmentation, data.input_shape[-1])
    if isinstance(data, ImageData):
        images, labels = _constants(data)
        dataset = _orders(len(data), steps, batch_size, seed, start_step).map(
            lambda step, indices: (step, tf.gather(images, indices), tf.gather(labels, indices)),
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )
    else:
        crops = "resized_crop" in augmentation  # done while decoding
        augmentation = tuple(name for name in augmentation if name != "resized_crop")
        options = {"batch_size": batch_size, "seed": seed, "crops": crops}
        if isinstance(data, StreamedFolder):
            orders = _orders(len(data), steps, batch_size, seed, start_step)
            dataset = read_files(data, orders, **options)
        else:
            dataset = read_batches(data, start_step=start_step, **options)

    def finished(stream, images, labels):
        images = _to_float(images)
        if augmentation:
            step_seed = random.fold_seed(tf.stack([np.int64(seed), stream]), _AUGMENTATION)
            images = augment(images, augmentation, step_seed)
        return images, labels

    dataset = dataset.map(finished, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY))
    return _sharded_by_data(dataset.prefetch(tf.data.AUTOTUNE))


def _orders(length, steps, batch_size, seed, start_step):
    """Dataset of (step int64 [], indices int32 [batch_size]) in [0, length)."""
    first_epoch, first_batch = divmod(start_step, steps)

    def batches_of(epoch):  # -> dataset of (step [], indices [batch_size])
        order_seed = random.fold_seed(tf.stack([np.int64(seed), epoch]), _ORDER)
        order = random.shuffle(tf.range(length), order_seed)
        order = tf.reshape(order[: steps * batch_size], [steps, batch_size])
        start = tf.where(epoch == first_epoch, np.int64(first_batch), np.int64(0))
        numbers = epoch * steps + tf.range(start, steps, dtype=tf.int64)
        return tf.data.Dataset.from_tensor_slices((numbers, order[start:]))

    epochs = tf.data.Dataset.range(first_epoch, np.iinfo(np.int64).max // steps)
    return epochs.flat_map(batches_of)


def eval_batches(data: ImageData, *, batch_size: int) -> tf.data.Dataset:
    """Every example once, in stored order; the last batch may be smaller.

    Args:
        data: the images.
        batch_size: at least 1.

    Returns:
        Dataset of (images float32 [<= batch_size, height, width, channels] in [0, 1], labels int32
        [<= batch_size]).

    Raises:
        InputError: batch_size is below 1.
    """
    if batch_size < 1:
        raise InputError(f"batch_size must be at least 1, got {batch_size}")
    dataset = tf.data.Dataset.from_tensor_slices(_constants(data)).batch(batch_size)
    dataset = dataset.map(lambda images, labels: (_to_float(images), labels))
    return _sharded_by_data(dataset.prefetch(tf.data.AUTOTUNE))


def _constants(data: ImageData) -> tuple[tf.Tensor, tf.Tensor]:
    """Eager tensors in host memory: functions capture them by reference, so that no graph holds (or
    limits) them.
    """
    with tf.device("CPU:0"):
        return tf.constant(data.images), tf.constant(data.labels)


def _to_float(images: tf.Tensor) -> tf.Tensor:
    return tf.cast(images, tf.float32) / 255.0


def _sharded_by_data(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Several workers share each batch; there are no files to divide among them."""
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return dataset.with_options(options)
