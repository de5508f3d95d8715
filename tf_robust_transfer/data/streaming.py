"""Training images that do not fit into memory, read file by file from what TFDS prepared.

Order: an epoch permutes the files, takes them in groups of about half a gigabyte, and shuffles each
group whole. So two images of one file always come near each other: an approximate shuffle, which
stands on TFDS having shuffled all images when it wrote the files. It is a function of the seed and
the epoch alone.

Resumption: the lengths of the files are known, so that a run that goes on at step k reads one group
at most of what was used before, and decodes none of it.

Memory: three groups of encoded images (one in use, one ready, one being read), and decoded batches,
which tf.data keeps below half of the machine's memory. A group is at least a whole file; TFDS makes
these no larger than a gigabyte."""

import contextlib
import dataclasses
import re
import types
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tf_robust_transfer.data import datasets, tfds_sets
from tf_robust_transfer.data.decoding import decode
from tf_robust_transfer.errors import InputError
from tf_robust_transfer.ops import random

_GROUP_BYTES = 2**29
# In TensorFlow's words.
_OF_AN_IMAGE = re.compile("Invalid (JPEG|PNG|GIF|BMP)|Unknown image file format|Input is empty")
_OTHER_NUMBERS = "hold other numbers of images than its dataset_info.json says"
_ORDER, _CROP = 0, 2  # random streams of a seed; 1 is the pipeline's augmentation


@dataclasses.dataclass(frozen=True, eq=False)
class StreamedData:
    """The train split of a large TFDS set, or one worker's part of it: where its images lie, not
    the images.

    Attributes:
        files: the TFRecord files of this part.
        lengths: int64 [files], examples in each.
        input_shape: (height, width, channels) of the batches.
        num_classes: the number of classes.
        class_names: one name for each class.
        name: the data set's name, as `load_data` takes it.
        parse: function of a record, string [], that gives (encoded image string [], label int64
            []).
        fit: function of (image uint8 [height, width, channels], size) that brings a stored image to
            a size.
        num_shards: the number of workers among whom the files are divided.
        shard_index: this part, in [0, num_shards).
        usable: images that every part has: the smallest part's.
        group_files: how many files are shuffled together.
        split: "train".
    """

    files: tuple[str, ...]
    lengths: np.ndarray
    input_shape: tuple[int, int, int]
    num_classes: int
    class_names: tuple[str, ...]
    name: str
    parse: Callable
    fit: Callable
    num_shards: int
    shard_index: int
    usable: int
    group_files: int
    split: str = "train"

    def __len__(self) -> int:
        """Images of an epoch, over all workers: each takes as many as the smallest part holds."""
        return self.num_shards * self.usable


def stream_data(
    name: str,
    *,
    data_dir: str | None = None,
    image_size: tuple[int, int] | None = None,
    download: bool = True,
    num_shards: int = 1,
    shard_index: int = 0,
) -> StreamedData:
    """Opens the train split of a TFDS set for reading. No image is read yet.

    Args:
        name, data_dir, download: as of `load_data`.
        image_size: (height, width) of the batches; None: as stored.
        num_shards: the number of workers that share the files; of a `tf.distribute.InputContext`,
            its `num_input_pipelines`.
        shard_index: which of them this is, in [0, num_shards): the context's `input_pipeline_id`.
            It reads each num_shards-th file.

    Raises:
        InputError: unknown name, data absent or not as TFDS prepares it by default, or fewer files
            than workers.
    """
    datasets.check_arguments(image_size, 1.0, 0)
    tfds, builder = find_builder(name, data_dir, download)
    info = builder.info
    image_key, label_key = tfds_sets.feature_keys(tfds, name, info, image_size)
    shape, classes = info.features[image_key].shape, info.features[label_key]
    if "train" not in info.splits:
        raise InputError(
            f"{name!r} has no train split; its splits: {', '.join(sorted(info.splits))}"
        )
    train = info.splits["train"]
    files, lengths = (
        [str(path) for path in train.filepaths],
        np.array(train.shard_lengths, np.int64),
    )
    if info.file_format.value != "tfrecord":
        raise InputError(
            f"{name!r} is prepared as {info.file_format.value}; only tfrecord files can be "
            "streamed: prepare it with TFDS's default file format"
        )
    present = set(tf.io.gfile.listdir(builder.data_path))
    missing = [path for path in train.filenames if path not in present]
    if missing:
        raise InputError(
            f"{len(missing)} of the {len(files)} train files of {name!r} are missing in "
            f"{builder.data_path}, the first {missing[0]}; copy them, or prepare the data anew"
        )
    if not 0 <= shard_index < num_shards <= len(files):
        raise InputError(
            f"expected 0 <= shard_index < num_shards <= {len(files)}, the train files of {name!r}; "
            f"got shard_index={shard_index}, num_shards={num_shards}"
        )
    names = tuple(classes.names or map(str, range(classes.num_classes)))
    decoders = {image_key: tfds.decode.SkipDecoding()}

    def parse(record):
        example = info.features.deserialize_example(record, decoders=decoders)
        return example[image_key], example[label_key]

    return StreamedData(
        files=tuple(files[shard_index::num_shards]),
        lengths=lengths[shard_index::num_shards],
        input_shape=(*(image_size or shape[:2]), shape[2]),
        num_classes=classes.num_classes,
        class_names=names,
        name=name,
        parse=parse,
        fit=tfds_sets.fitting(name),
        num_shards=num_shards,
        shard_index=shard_index,
        usable=min(int(lengths[i::num_shards].sum()) for i in range(num_shards)),
        # A size of 0 is TFDS's for one that it does not know.
        group_files=max(1, _GROUP_BYTES * len(files) // train.num_bytes) if train.num_bytes else 1,
    )


def read_batches(
    data: StreamedData, *, batch_size: int, seed: int, start_step: int, crops: bool
) -> tf.data.Dataset:
    """Endless shuffled full batches of this worker, from `start_step` on, not yet augmented.

    Files are read, and images decoded, in parallel, and yet in one order.

    Args:
        data: the images.
        batch_size: of all workers together.
        seed: int in [0, 2**31).
        start_step: number of the first batch, from 0.
        crops: whether a random part of each image is taken (`augmentation.crop_boxes`), in place of
            the whole one brought to size. Of a JPEG only that part is decoded.

    Returns:
        Dataset of (stream int64 [], images uint8 [batch_size / num_shards, *input_shape], labels
        int32); the stream, a number for the random draws, is the step's where there is one worker,
        and differs among several.

    Raises:
        InputError: batch_size is not a multiple of the number of workers.
    """
    if batch_size % data.num_shards:
        raise InputError(
            f"batch_size {batch_size} is not a multiple of the {data.num_shards} workers that "
            "share it"
        )
    own_batch = batch_size // data.num_shards
    steps = data.usable // own_batch
    used = steps * own_batch  # of an epoch
    first_epoch, first_batch = divmod(start_step, steps)
    group = min(data.group_files, len(data.files))
    num_groups = -(-len(data.files) // group)
    most = int(np.sort(data.lengths)[-group:].sum())
    padded = np.append(data.lengths, np.int64(0))

    def records_of(epoch):  # -> dataset of (number int64 [], record string [])
        seed_of_order = random.fold_seed(tf.stack([np.int64(seed), epoch]), _ORDER)
        order = random.shuffle(tf.range(len(data.files)), seed_of_order)
        groups = tf.pad(
            order, [[0, num_groups * group - len(data.files)]], constant_values=len(data.files)
        )
        groups = tf.reshape(groups, [num_groups, group])
        counts = tf.reduce_sum(tf.gather(padded, groups), axis=1)
        ends = tf.cumsum(counts)
        start = tf.where(epoch == first_epoch, np.int64(first_batch * own_batch), np.int64(0))
        passed = tf.reduce_sum(
            tf.cast(ends <= start, tf.int64)
        )  # groups that lie wholly before the start
        read_from = tf.where(passed > 0, ends[tf.maximum(passed - 1, 0)], 0)

        def records_of_group(number):
            chosen = tf.boolean_mask(groups[number], groups[number] < len(data.files))
            paths = tf.data.Dataset.from_tensor_slices(tf.gather(tf.constant(data.files), chosen))
            records = paths.interleave(
                tf.data.TFRecordDataset,
                cycle_length=group,
                num_parallel_calls=group,
                deterministic=True,
            )
            records = records.batch(most + 1).get_single_element()
            # A file cut short between two records reads like a whole one, and would move all later
            # batches.
            tf.debugging.assert_equal(
                tf.size(records, tf.int64),
                counts[number],
                f"files of {data.name} {_OTHER_NUMBERS}; prepare it anew",
            )
            group_seed = random.fold_seed(seed_of_order, number)
            return random.shuffle(records, group_seed)

        records = tf.data.Dataset.range(passed, num_groups).map(records_of_group).prefetch(1)
        records = records.unbatch().skip(start - read_from).take(used - start)
        return tf.data.Dataset.zip(
            tf.data.Dataset.range(epoch * used + start, (epoch + 1) * used), records
        )

    def example_of(number, record):
        contents, label = data.parse(record)
        draw = number * data.num_shards + data.shard_index
        crop_seed = random.fold_seed(tf.stack([np.int64(seed), draw]), _CROP)
        return (
            number,
            decode(contents, data.input_shape, data.fit, crop_seed if crops else None),
            tf.cast(label, tf.int32),
        )

    epochs = tf.data.Dataset.range(first_epoch, np.iinfo(np.int64).max // len(data))
    dataset = epochs.flat_map(records_of).map(
        example_of, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
    )
    dataset = dataset.batch(own_batch, drop_remainder=True)
    return dataset.map(
        lambda numbers, images, labels: (
            numbers[0] // own_batch * data.num_shards + data.shard_index,
            images,
            labels,
        )
    )


@contextlib.contextmanager
def told_when_unreadable(name: str, first_bad: Callable[[], str] | None = None):
    """Within it a train file of the set `name` that is damaged or gone is an InputError, in place
    of TensorFlow's own.

    first_bad: what is wrong with which file, looked for where TensorFlow does not say; "" where
        nothing is found. None: not looked for.
    """
    try:
        yield
    except (
        tf.errors.DataLossError,
        tf.errors.NotFoundError,
        tf.errors.InvalidArgumentError,
    ) as error:
        # A training reads and writes other files too, such as its checkpoints.
        if "IteratorGetNext" not in error.message:
            raise
        message = re.sub(r"\{\{.*?\}\}", "", error.message)
        what = next((line.strip() for line in message.splitlines() if line.strip()), "")
        if isinstance(error, tf.errors.InvalidArgumentError):
            if _OTHER_NUMBERS in error.message:
                what = f"its files {_OTHER_NUMBERS}"
            elif not name.startswith("folder:") and not _OF_AN_IMAGE.search(error.message):
                raise
        found = first_bad() if first_bad else ""
        if found:
            raise InputError(
                f"{found}; mend it and start the same command again to go on"
            ) from error
        raise InputError(
            f"the train files of {name!r} cannot be read ({what}); copy them, or prepare the data "
            "anew, and start the same command again to go on"
        ) from error


def find_builder(name, data_dir, download) -> tuple[types.ModuleType, object]:
    import tensorflow_datasets as tfds

    return tfds, tfds_sets.prepared_builder(tfds, name, datasets.checked_dir(data_dir), download)
