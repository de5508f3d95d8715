"""Image classification sets of TFDS: found, prepared, read into memory."""

import contextlib
import logging
import pathlib
import re
import shutil
import types

import numpy as np
import tensorflow as tf

from tf_robust_transfer.data import original_order as order
from tf_robust_transfer.data.images import ImageData, centre_crop, resize_tensor
from tf_robust_transfer.errors import InputError, nearest
from tf_robust_transfer.files import locked

_LOG = logging.getLogger("tf_robust_transfer")
_IMAGENETS = ("imagenet2012", "imagenet_resized")  # whose test images are the validation split
_AT_ONCE = 2**30  # bytes of a split that are resized when all are read
_READ_BATCH = 512
# of a download: 3 seconds. TFDS's own 10, each wait twice the last, take 3.5 minutes offline.
_RETRIES = 4
# name/config:version; no namespaces ("huggingface:...")
_NAME = re.compile(r"\w+(/[\w.+-]+)?(:[0-9.*]+)?")


def base_name(name: str) -> str:
    """A TFDS name without config and version."""
    return re.split("[/:]", name)[0]


def fitting(name: str):
    """The function (image, size) -> image that brings the data set's images of different sizes to
    one.
    """
    cut = base_name(name).startswith("imagenet") and base_name(name) != "imagenet_resized"
    return centre_crop if cut else resize_tensor


def read(
    name: str,
    split: str,
    data_dir: str | None,
    image_size,
    limit: int | None,
    download: bool,
    original_order: bool,
) -> ImageData:
    """A split in memory; see `load_data`, whose arguments these are. limit: of images, at most."""
    import tensorflow_datasets as tfds

    builder = prepared_builder(tfds, name, data_dir, download)
    info = builder.info
    if base_name(name) in _IMAGENETS and split.split("[")[0] == "test":
        split = "validation" + split.removeprefix("test")
        _LOG.info("the test images of %s are its validation split", name)
    if split.split("[")[0] not in info.splits:
        raise InputError(
            f"unknown split {split!r} of {name!r}; valid names: {', '.join(sorted(info.splits))}"
        )
    image_key, label_key = feature_keys(tfds, name, info, image_size)
    shape, classes = info.features[image_key].shape, info.features[label_key]

    # One file after the other: the order is then the stored one, whatever TFDS's defaults for many
    # files become.
    read_config = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)
    try:
        count = info.splits[split].num_examples
        restore = original_order and order.may_be_restored(info, split)
        count = count if limit is None or restore else min(count, limit)
        dataset = builder.as_dataset(split=split, read_config=read_config).take(count)
        ids = None
        if restore and "id" in info.features:
            ids = [name.numpy() for name in dataset.map(lambda example: example["id"])]
        dataset = dataset.map(lambda example: (example[image_key], example[label_key]))
        size = shape
        # Many images that are to become smaller would not fit before they are.
        large = None not in shape and count * np.prod(shape) > _AT_ONCE
        shrinks = large and image_size is not None and tuple(image_size) != shape[:2]
        if None in shape or shrinks:
            size = (*image_size, shape[2])
            fit = resize_tensor if shrinks else fitting(name)
            dataset = dataset.map(
                lambda image, label: (fit(image, image_size), label), tf.data.AUTOTUNE
            )
        images, labels = np.empty((count, *size), np.uint8), np.empty([count], np.int32)
        read = 0
        for batch_images, batch_labels in dataset.batch(_READ_BATCH).prefetch(4):
            end = read + len(batch_labels)
            images[read:end], labels[read:end] = batch_images.numpy(), batch_labels.numpy()
            read = end
    # A NotImplementedError: of array_record, whose files TensorFlow does not read.
    except (
        tf.errors.OpError, OSError, ValueError, AssertionError, NotImplementedError
    ) as error:  # fmt: skip
        raise InputError(
            f"could not read split {split!r} of {name!r} in {builder.data_path}: "
            f"{_one_line(error)}; check the split, or prepare the data anew"
        ) from error
    places = order.original_order(info, split, labels, ids) if restore else None
    if places is not None:
        images, labels = images[places[:limit]], labels[places[:limit]]
    else:
        images, labels = images[:limit], labels[:limit]
    names = tuple(classes.names or map(str, range(classes.num_classes)))
    told = order.STORED if places is None else order.ORIGINAL
    return ImageData(images, labels, classes.num_classes, names, name, split, told)


def splits(name: str, data_dir: str | None, *, papers) -> tuple[str, ...] | None:
    """Those of a set that is prepared in data_dir; None where it is not, but could be.

    papers: names that are known without TFDS's list, which takes seconds. Raises InputError for a
    name that TFDS does not have."""
    import tensorflow_datasets as tfds

    if not _NAME.fullmatch(name):
        raise _unknown_name(tfds, name)
    kwargs = {} if data_dir is None else {"data_dir": data_dir}
    try:
        info = tfds.core.read_only_builder.builder_from_files(name, **kwargs).info
    except (tfds.core.registered.DatasetNotFoundError, OSError, ValueError):
        if base_name(name) not in {base_name(known) for known in papers}:
            if base_name(name) not in tfds.list_builders(with_community_datasets=False):
                raise _unknown_name(tfds, name) from None
        return None
    except Exception as error:  # a description that was cut off is protobuf's ParseError
        raise _damaged(name, data_dir, error) from error
    # On which the ImageNets are tested.
    return (*info.splits, *(["test"] if base_name(name) in _IMAGENETS else []))


def prepared_builder(tfds: types.ModuleType, name: str, data_dir: str | None, download: bool):
    """A TFDS builder whose data lies on the disk: found there (any version, no network), else
    downloaded.
    """
    if not _NAME.fullmatch(name):
        raise _unknown_name(tfds, name)
    not_found = tfds.core.registered.DatasetNotFoundError
    kwargs = {} if data_dir is None else {"data_dir": data_dir}
    try:
        return tfds.core.read_only_builder.builder_from_files(name, **kwargs)
    except not_found:
        pass
    except Exception as error:  # metadata that cannot be read: OSError, ParseError of protobuf, ...
        raise _damaged(name, data_dir, error) from error
    if name.partition(":")[0] == "tiny_imagenet":
        from tf_robust_transfer.data import tiny_imagenet  # noqa: F401  (registers the builder)
    try:
        builder = tfds.builder(name, try_gcs=False, **kwargs)
    except (not_found, ValueError, AssertionError) as error:  # unknown name, config or version
        raise _unknown_name(tfds, name, error) from error
    if builder.is_prepared():
        return builder
    local = (
        builder.local_archive() if hasattr(builder, "local_archive") else None
    )  # Tiny-ImageNet's: needs no network
    if not download and local is None:
        raise _not_prepared(name, data_dir, builder, "the network was not tried")
    from tensorflow_datasets.core.download import downloader

    retries, downloader.MAX_RETRIES = downloader.MAX_RETRIES, _RETRIES
    try:
        with _alone_in(pathlib.Path(builder.data_path).parent, name):
            # By another process that was waited for, it may be prepared.
            builder = tfds.builder(name, try_gcs=False, **kwargs)
            builder.download_and_prepare(
                download_config=tfds.download.DownloadConfig(try_download_gcs=False)
            )
    except InputError:  # of a damaged archive: it says all
        raise
    except (
        Exception
    ) as error:  # whatever stops a download: no network, no space, a licence to be accepted by hand
        failed = f"could not be prepared from {local}" if local else "could not be downloaded"
        raise _not_prepared(name, data_dir, builder, f"{failed}: {_one_line(error)}") from error
    finally:
        downloader.MAX_RETRIES = retries
    return builder


@contextlib.contextmanager
def _alone_in(folder: pathlib.Path, name: str):
    """Within it no other process prepares this data set, and what killed ones left is removed."""

    def taken():
        _LOG.info("waiting for %s, which another process is preparing in %s", name, folder)

    with contextlib.suppress(OSError):  # TFDS says why
        folder.mkdir(parents=True, exist_ok=True)
    with locked(folder, taken):
        for left in folder.glob("incomplete.*"):
            shutil.rmtree(left, ignore_errors=True)
        yield


def _not_prepared(name: str, data_dir: str | None, builder, reason: str) -> InputError:
    advice = (
        'on a machine with network, run python -c "import tensorflow_datasets as tfds; '
        f"tfds.load('{name}', "
        "data_dir='DIR')\", copy DIR here and give --data_dir=DIR"
    )
    if hasattr(builder, "local_archive"):
        advice = builder.MANUAL_DOWNLOAD_INSTRUCTIONS
    return InputError(
        f"{name!r} is not prepared in {data_dir or '~/tensorflow_datasets'} (looked for "
        f"{builder.data_path}) and {reason}; {advice}"
    )


def _damaged(name: str, data_dir: str | None, error: Exception) -> InputError:
    return InputError(
        f"could not read {name!r} in {data_dir or '~/tensorflow_datasets'}: {_one_line(error)}; "
        "prepare the data anew"
    )


def _unknown_name(tfds: types.ModuleType, name: str, error: Exception | None = None) -> InputError:
    builders = tfds.list_builders(with_community_datasets=False)
    base = name.split("/")[0].split(":")[0]
    if (
        base in builders and error is not None
    ):  # the data set is known, its config or version is not
        return InputError(f"unknown data set {name!r}: {_one_line(error)}")
    known = nearest(base, {*builders, "digits", "folder:PATH", "tiny_imagenet"})
    if known.startswith("valid names"):  # none is close: 450 names would help nobody
        known = (
            "expected digits, folder:PATH, tiny_imagenet or a TFDS name, such as mnist, "
            "fashion_mnist or cifar10"
        )
    return InputError(f"unknown data set {name!r}; {known}")


def feature_keys(
    tfds: types.ModuleType, name: str, info, image_size: tuple[int, int] | None
) -> tuple[str, str]:
    """The names of the image and of the label feature, of images that have one size or are to be
    given one.
    """
    keys = info.supervised_keys
    if keys is None or len(keys) != 2 or not all(isinstance(key, str) for key in keys):
        keys = ("image", "label")
    features = info.features if isinstance(info.features, tfds.features.FeaturesDict) else {}
    image, label = (features[key] if key in features else None for key in keys)
    is_image = isinstance(image, tfds.features.Image) and np.dtype(image.np_dtype) == np.uint8
    if not is_image or not isinstance(label, tfds.features.ClassLabel):
        raise InputError(
            f"{name!r} has the features {sorted(features)}; expected an 8-bit image and a class "
            "label: choose an image classification set"
        )
    if None in image.shape and image_size is None:
        raise InputError(
            f"the images of {name!r} differ in size: its features say {image.shape}; give "
            "image_size, the height and width to bring them to"
        )
    return keys


def _one_line(error: Exception, length: int = 300) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:length]}" + ("..." if len(text) > length else "")
