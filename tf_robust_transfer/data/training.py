"""Which training images are held in memory, and which are streamed."""

import numpy as np

from tf_robust_transfer.data import datasets, tfds_sets
from tf_robust_transfer.data.folder_streaming import StreamedFolder, stream_folder
from tf_robust_transfer.data.images import ImageData
from tf_robust_transfer.data.streaming import StreamedData, find_builder, stream_data
from tf_robust_transfer.errors import InputError, look_up

STREAM = ("auto", "on", "off")
# Bytes of decoded training images: Tiny-ImageNet has 1.1, ImageNet at 32x32 3.7 * 2**30.
MEMORY_BUDGET = 3 * 2**30
_ALWAYS = ("imagenet2012",)


def load_training_data(
    name: str,
    *,
    data_dir: str | None = None,
    image_size: tuple[int, int] | None = None,
    train_fraction: float = 1.0,
    seed: int = 0,
    download: bool = True,
    stream: str = "auto",
    worker: tuple[int, int] = (0, 1),
) -> ImageData | StreamedData | StreamedFolder:
    """The train split for `train_batches`: streamed where it is large, in memory otherwise.

    Streamed are imagenet2012, and every TFDS set or folder of which all images, decoded and of
    `image_size`, have more than `MEMORY_BUDGET` bytes. A `train_fraction` of a TFDS set below 1 is
    chosen by the labels of all images, for which they are brought into memory.

    Args:
        stream: "auto", as above; "on" or "off" for all, with this decided.
        worker: (shard_index, num_shards) of `stream_data`; a folder, and images in memory, are
            whole on each.
        The others: as of `load_data`.

    Raises:
        InputError: as `load_data`; a part of a streamed TFDS set; a set of another kind, streamed.
    """
    datasets.check_arguments(image_size, train_fraction, seed)
    look_up("stream", stream, dict.fromkeys(STREAM))
    arguments = {"data_dir": data_dir, "image_size": image_size, "download": download}
    part = {"train_fraction": train_fraction, "seed": seed}
    if name.startswith("folder:"):
        found = None if stream == "off" else stream_folder(name, image_size=image_size, **part)
        if found and (stream == "on" or _bytes(found) > MEMORY_BUDGET):
            return found
    elif datasets.is_tfds(name):
        always = stream == "on" or (stream == "auto" and tfds_sets.base_name(name) in _ALWAYS)
        if always and train_fraction < 1.0:
            raise InputError(
                f"train_fraction={train_fraction} is chosen by the labels of all images, and "
                f"{name!r} is streamed, not held in memory; give train_fraction=1"
            )
        if always or (stream == "auto" and train_fraction == 1.0 and _is_large(name, **arguments)):
            return stream_data(name, shard_index=worker[0], num_shards=worker[1], **arguments)
    elif stream == "on":
        raise InputError(f"{name!r} is no TFDS set or folder and cannot be streamed; stream=auto")
    return datasets.load_data(name, "train", **part, **arguments)


def _bytes(data: StreamedFolder) -> int:
    return len(data) * int(np.prod(data.input_shape))


def _is_large(name, data_dir, image_size, download) -> bool:
    tfds, builder = find_builder(name, data_dir, download)
    info = builder.info
    image_key, _ = tfds_sets.feature_keys(tfds, name, info, image_size)
    shape = info.features[image_key].shape
    count = info.splits["train"].num_examples if "train" in info.splits else 0
    return count * int(np.prod([*(image_size or shape[:2]), shape[2]])) > MEMORY_BUDGET
