"""Training images in folders that do not fit into memory: the files are read as they are needed.

Order: that of the same images in memory, to the bit (`pipeline`), since each file can be reached by
itself. So a run that goes on at step k reads nothing of what came before."""

import concurrent.futures
import dataclasses
import os
import pathlib

import numpy as np
import tensorflow as tf

from tf_robust_transfer.data import folders
from tf_robust_transfer.data.decoding import decode
from tf_robust_transfer.data.images import resize_tensor, stratified_indices
from tf_robust_transfer.errors import InputError
from tf_robust_transfer.ops import random

_CROP = 2  # random stream of a seed, as in `streaming`
_OTHER_SIZE = "an image is of another size than the first; give image_size"


@dataclasses.dataclass(frozen=True, eq=False)
class StreamedFolder:
    """The train split of a folder of images: where they lie, not the images.

    Attributes:
        files: the image files, in the order of `folders.load_folder`.
        labels: int32 [files].
        input_shape: (height, width, channels) of the batches.
        one_size: whether all images have to have that size; else they are brought to it.
        num_classes: the number of classes.
        class_names: one name for each class.
        name: the data set's name, "folder:PATH".
        split: "train".
    """

    files: tuple[str, ...]
    labels: np.ndarray
    input_shape: tuple[int, int, int]
    one_size: bool
    num_classes: int
    class_names: tuple[str, ...]
    name: str
    split: str = "train"

    def __len__(self) -> int:
        return len(self.files)

    def first_bad(self) -> str:
        """What is wrong with the first file that cannot be a training image; "" where all can."""

        def wrong(file):
            try:
                shape = folders.read_image(pathlib.Path(file), self.input_shape[2]).shape
            except InputError as error:
                return str(error)
            if self.one_size and tuple(shape) != self.input_shape:
                height, width = self.input_shape[:2]
                return (
                    f"{file!r} is of size {shape[0]}x{shape[1]}, the first of {height}x{width}; "
                    "give image_size"
                )
            return ""

        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            return next(filter(None, pool.map(wrong, self.files)), "")


def stream_folder(
    name: str,
    *,
    image_size: tuple[int, int] | None = None,
    train_fraction: float = 1.0,
    seed: int = 0,
) -> StreamedFolder:
    """Opens the train split of a folder of images. Only the first image is read, and headers.

    Args:
        name, image_size, train_fraction, seed: as of `load_data`.

    Raises:
        InputError: as `folders.load_folder`, but for images that cannot be read or differ in size:
            these are found when their batch comes.
    """
    found = folders.find_images(name, name.partition(":")[2], "train")
    files, labels = found.files, found.labels
    if train_fraction < 1.0:
        kept = stratified_indices(labels, train_fraction, seed)
        files, labels = [files[i] for i in kept], labels[kept]
    size = image_size or folders.read_image(files[0], found.channels).shape[:2]
    return StreamedFolder(
        files=tuple(map(str, files)),
        labels=labels,
        input_shape=(*map(int, size), found.channels),
        one_size=image_size is None,
        num_classes=len(found.classes),
        class_names=found.classes,
        name=name,
    )


def read_batches(
    data: StreamedFolder, orders: tf.data.Dataset, *, batch_size: int, seed: int, crops: bool
) -> tf.data.Dataset:
    """Reads and decodes the images of each batch, in parallel, and yet in one order.

    Args:
        data: the images.
        orders: of (step int64 [], indices int32 [batch_size]).
        batch_size: of these.
        seed: int in [0, 2**31).
        crops: whether a random part of each image is taken, as in `streaming.read_batches`.

    Returns:
        Dataset of (step int64 [], images uint8 [batch_size, *input_shape], labels int32).
    """
    with tf.device("CPU:0"):
        files, labels = tf.constant(data.files), tf.constant(data.labels)

    def one_by_one(step, indices):
        numbers = step * batch_size + tf.range(batch_size, dtype=tf.int64)
        return tf.data.Dataset.from_tensor_slices((numbers, indices))

    def whole(image, size):
        if not data.one_size:
            return resize_tensor(image, size)
        same = tf.debugging.assert_equal(tf.shape(image)[:2], size, _OTHER_SIZE)
        with tf.control_dependencies([same]):  # before its shape is found to be wrong
            return tf.identity(image)

    def example_of(number, index):
        crop_seed = random.fold_seed(tf.stack([np.int64(seed), number]), _CROP)
        contents = tf.io.read_file(files[index])
        image = decode(contents, data.input_shape, whole, crop_seed if crops else None)
        return number, image, labels[index]

    dataset = orders.flat_map(one_by_one).map(
        example_of, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
    )
    dataset = dataset.batch(batch_size, drop_remainder=True)
    return dataset.map(lambda numbers, images, labels: (numbers[0] // batch_size, images, labels))
