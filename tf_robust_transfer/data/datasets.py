"""Data sets by name: scikit-learn's digits, image folders, Tiny-ImageNet, and any image
classification set of TFDS.

Everything is brought into memory as uint8 (`ImageData`): reading is then no part of a training
step, and a run can be resumed at any step without reading what lies before it. What is too large to
be trained on so, `streaming` reads."""

import contextlib
import dataclasses
import fnmatch
import logging
import os
import pathlib
import re
import shutil
import types

import numpy as np
import tensorflow as tf

from tf_robust_transfer.data import folders
from tf_robust_transfer.data import original_order as order
from tf_robust_transfer.data.images import (
    ImageData,
    centre_crop,
    resize,
    resize_tensor,
    stratified_indices,
)
from tf_robust_transfer.errors import InputError, nearest
from tf_robust_transfer.files import locked
from tf_robust_transfer.plugins import is_plugin, load

# (input shape, number of classes) of the papers' data sets, for `synthetic_data` where the data
# itself is absent.
SHAPES = {
    "cifar10": ((32, 32, 3), 10),
    "cifar100": ((32, 32, 3), 100),
    "digits": ((8, 8, 1), 10),
    "fashion_mnist": ((28, 28, 1), 10),
    "imagenet2012": ((224, 224, 3), 1000),
    "imagenet_resized/32x32": ((32, 32, 3), 1000),
    "mnist": ((28, 28, 1), 10),
    "svhn_cropped": ((32, 32, 3), 10),
    "tiny_imagenet": ((64, 64, 3), 200),
}

_LOG = logging.getLogger("tf_robust_transfer")
_IMAGENETS = ("imagenet2012", "imagenet_resized")
_DIGITS_TEST = 500
_READ_BATCH = 512
# of a download: 3 seconds. TFDS's own 10, each wait twice the last, take 3.5 minutes offline.
_RETRIES = 4
_TFDS_NAME = re.compile(
    r"\w+(/[\w.+-]+)?(:[0-9.*]+)?"
)  # name/config:version; no namespaces ("huggingface:...")


def load_data(
    name: str,
    split: str,
    *,
    data_dir: str | None = None,
    image_size: tuple[int, int] | None = None,
    train_fraction: float = 1.0,
    max_examples: int | None = None,
    seed: int = 0,
    download: bool = True,
    original_order: bool | None = None,
) -> ImageData:
    """Loads one split of a data set into memory.

    Args:
        name: "digits": scikit-learn's 1,797 images of 8x8, inside the package; the split (1,297
                train, 500 test, stratified) is fixed. "folder:PATH": PNG and JPEG files in
                PATH/<split>/<class>/, or PATH/<class>/ (see `folders.load_folder`).
                "tiny_imagenet": a TFDS name too, of this package's own builder: prepared once from
                Stanford's tiny-imagenet-200.zip, or that zip unpacked, in `data_dir`, else
                downloaded (`tiny_imagenet.TinyImagenet`). "package.module:function": a data source
                from outside the package, a function (split, data_dir) -> `ImageData`. Any other
                name is TFDS's, with an
                optional config and version: "mnist", "imagenet_resized/32x32". Data that is
                prepared in `data_dir` is used without the network; else TFDS downloads and prepares
                it there.
        split: "train", "test", or what else the data set has; a TFDS name may be sliced
            ("train[:10%]"). The "test" of imagenet2012 and imagenet_resized is their validation
            split, on which all results are reported: the test split has no labels.
        data_dir: the TFDS directory; None is TFDS's own default (~/tensorflow_datasets).
        image_size: (height, width) to resize to, once, in memory (see `images.resize`); None keeps
            the stored size. imagenet2012's images are resized in proportion and cut
            (`images.centre_crop`): to 256, then 224.
        train_fraction: in (0, 1]: the stratified random part that is kept of the train split. Other
            splits stay whole, so that every fraction is tested on the same images. A smaller
            fraction is a subset of a larger one.
        max_examples: keep the first so many, in the order of the result; None is all.
        seed: int in [0, 2**31), of `train_fraction`'s choice alone.
        download: whether TFDS may use the network where the data is not prepared; False fails at
            once where it would be needed (Tiny-ImageNet's local archive needs none).
        original_order: of MNIST, Fashion-MNIST and CIFAR, where TFDS's own builder wrote them (a
            hash has shuffled them then): give them in the order of the original files, which the
            result's `order` then says. None: for every split but train, whose order is part of what
            a seed trains.

    Returns:
        The split, images uint8 [n, height, width, channels].

    Raises:
        InputError: unknown name or split, value out of range, data absent or unreadable.
    """
    if max_examples is not None and max_examples < 1:
        raise InputError(
            f"max_examples must be at least 1, or None for all of them, got {max_examples!r}"
        )
    check_arguments(image_size, train_fraction, seed)
    fraction = train_fraction if split.split("[")[0] == "train" else 1.0
    limit = (
        max_examples if fraction == 1.0 else None
    )  # where all are needed to choose from, cut afterwards
    kind, _, path = name.partition(":")
    if is_plugin(name):
        data = _load_plugin(name, split, data_dir)
    elif name == "digits":
        data = _load_digits(split)
    elif kind == "folder":
        data = folders.load_folder(name, path, split, image_size, limit)
    else:
        if original_order is None:
            original_order = split != "train"
        directory = checked_dir(data_dir)
        data = _load_tfds(name, split, directory, image_size, limit, download, original_order)
    images, labels = data.images, data.labels
    if fraction < 1.0:
        kept = stratified_indices(labels, fraction, seed)
        images, labels = images[kept], labels[kept]
    if max_examples is not None:
        images, labels = images[:max_examples], labels[:max_examples]
    if image_size is not None:
        images = resize(images, tuple(image_size))
    return dataclasses.replace(data, images=images, labels=labels, name=name)


def known_splits(name: str, data_dir: str | None = None) -> tuple[str, ...] | None:
    """The splits of a data set, without reading an image or using the network.

    name, data_dir: as of `load_data`. None: they cannot be told (a plug-in, or data that is yet to
    be downloaded). Raises an InputError for an unknown name or a folder that is not there.
    """
    if is_plugin(name):
        load("data source", name)
        return None
    if name == "digits":
        return ("test", "train")
    if name.startswith("folder:"):
        return folders.splits(name, name.partition(":")[2])
    import tensorflow_datasets as tfds

    if not _TFDS_NAME.fullmatch(name):
        raise _unknown_name(tfds, name)
    kwargs = {} if data_dir is None else {"data_dir": data_dir}
    try:
        info = tfds.core.read_only_builder.builder_from_files(name, **kwargs).info
    except (tfds.core.registered.DatasetNotFoundError, OSError, ValueError):
        if base_name(name) not in {base_name(known) for known in SHAPES}:
            if base_name(name) not in tfds.list_builders(with_community_datasets=False):
                raise _unknown_name(tfds, name) from None
        return None
    # On which the ImageNets are tested.
    return (*info.splits, *(["test"] if base_name(name) in _IMAGENETS else []))


def check_split(name: str, split: str, data_dir: str | None = None) -> None:
    """Raises an InputError where a data set is known not to have a split."""
    known = known_splits(name, data_dir)
    if known is not None and split.split("[")[0] not in known:
        raise InputError(f"unknown split {split!r} of {name!r}; valid names: {', '.join(known)}")


def synthetic_data(
    input_shape: tuple[int, int, int], num_classes: int, num_examples: int, seed: int
) -> ImageData:
    """Uniform random pixels, labels 0, 1, 2, ... in turn: something of a data set's shape where it
    is absent.

    Args:
        input_shape: (height, width, channels); `SHAPES` has those of the papers' data sets.
        num_classes: at least 1.
        num_examples: at least 1.
        seed: int in [0, 2**31).

    Returns:
        images uint8 [num_examples, *input_shape], labels int32; name "synthetic", split "train".
    """
    check_seed(seed)
    pixels = np.random.default_rng(seed).integers(0, 256, (num_examples, *input_shape), np.uint8)
    labels = np.arange(num_examples, dtype=np.int32) % num_classes
    return ImageData(
        pixels, labels, num_classes, tuple(map(str, range(num_classes))), "synthetic", "train"
    )


def check_arguments(image_size: tuple[int, int] | None, train_fraction: float, seed: int) -> None:
    """Raises InputError unless `load_data` can take these."""
    if not 0.0 < train_fraction <= 1.0:
        raise InputError(f"train_fraction must be in (0, 1], got {train_fraction!r}")
    if image_size is not None and (len(image_size) != 2 or min(image_size) < 1):
        raise InputError(f"image_size must be (height, width), both at least 1, got {image_size!r}")
    check_seed(seed)


def check_seed(seed: int) -> None:
    """Raises InputError unless the seed is an int in [0, 2**31)."""
    if not isinstance(seed, (int, np.integer)) or not 0 <= seed < 2**31:
        raise InputError(f"seed must be an integer in [0, 2**31), got {seed!r}")


def base_name(name: str) -> str:
    """A TFDS name without config and version."""
    return re.split("[/:]", name)[0]


def is_tfds(name: str) -> bool:
    """Whether TFDS has the data set, if there is one of that name at all."""
    return name != "digits" and not name.startswith("folder:") and not is_plugin(name)


def fitting(name: str):
    """The function (image, size) -> image that brings the data set's images of different sizes to
    one.
    """
    return centre_crop if base_name(name) == "imagenet2012" else resize_tensor


def checked_dir(data_dir: str | None) -> str | None:
    if data_dir is None:
        return None
    path = os.path.expanduser(data_dir)
    if not path.startswith("gs://") and not pathlib.Path(path).is_dir():
        raise InputError(
            f"data_dir {data_dir!r} is not a directory; expected a TFDS directory (one folder for "
            "each "
            "data set): make it, or correct --data_dir"
        )
    return path


def _load_plugin(name: str, split: str, data_dir: str | None) -> ImageData:
    data = load("data source", name)(split, data_dir)
    if not isinstance(data, ImageData):
        raise InputError(
            f"the data source {name!r}: expected a tf_robust_transfer.data.ImageData, got "
            f"{type(data).__name__}"
        )
    return data


def list_datasets(pattern: str = "*") -> list[str]:
    """The names of data sets that a pattern such as "cifar*" matches.

    Those of the papers, and "folder:PATH"; TFDS has more (`tensorflow_datasets.list_builders`).
    """
    return fnmatch.filter((*SHAPES, "folder:PATH"), pattern)


def _load_digits(split: str) -> ImageData:
    from sklearn import (
        datasets,
        model_selection,
    )  # imported here: a second that no other data set needs

    if split not in ("train", "test"):
        raise InputError(f"unknown split {split!r} of 'digits'; valid names: test, train")
    digits = datasets.load_digits()
    images = np.round(digits.images * (255.0 / 16.0)).astype(np.uint8)[..., np.newaxis]
    parts = model_selection.train_test_split(
        images,
        digits.target.astype(np.int32),
        test_size=_DIGITS_TEST,
        stratify=digits.target,
        random_state=0,
    )
    images, labels = (parts[0], parts[2]) if split == "train" else (parts[1], parts[3])
    return ImageData(images, labels, 10, tuple("0123456789"), "digits", split)


def _load_tfds(
    name: str,
    split: str,
    data_dir: str | None,
    image_size,
    limit: int | None,
    download: bool,
    original_order: bool,
) -> ImageData:
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
        if None in shape:
            size = (*image_size, shape[2])
            fit = fitting(name)
            dataset = dataset.map(
                lambda image, label: (fit(image, image_size), label), tf.data.AUTOTUNE
            )
        images, labels = np.empty((count, *size), np.uint8), np.empty([count], np.int32)
        read = 0
        for batch_images, batch_labels in dataset.batch(_READ_BATCH).prefetch(4):
            end = read + len(batch_labels)
            images[read:end], labels[read:end] = batch_images.numpy(), batch_labels.numpy()
            read = end
    except (tf.errors.OpError, OSError, ValueError, AssertionError) as error:
        raise InputError(
            f"could not read split {split!r} of {name!r} in {builder.data_path}: "
            f"{_one_line(error)}; "
            "check the split, or prepare the data anew"
        ) from error
    places = order.original_order(info, split, labels, ids) if restore else None
    if places is not None:
        images, labels = images[places[:limit]], labels[places[:limit]]
    else:
        images, labels = images[:limit], labels[:limit]
    names = tuple(classes.names or map(str, range(classes.num_classes)))
    told = order.STORED if places is None else order.ORIGINAL
    return ImageData(images, labels, classes.num_classes, names, name, split, told)


def prepared_builder(tfds: types.ModuleType, name: str, data_dir: str | None, download: bool):
    """A TFDS builder whose data lies on the disk: found there (any version, no network), else
    downloaded.
    """
    if not _TFDS_NAME.fullmatch(name):
        raise _unknown_name(tfds, name)
    not_found = tfds.core.registered.DatasetNotFoundError
    kwargs = {} if data_dir is None else {"data_dir": data_dir}
    try:
        return tfds.core.read_only_builder.builder_from_files(name, **kwargs)
    except not_found:
        pass
    except (OSError, ValueError) as error:  # metadata that cannot be read
        raise InputError(
            f"could not read {name!r} in {data_dir}: {_one_line(error)}; prepare the data anew"
        ) from error
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
            "label: "
            "choose an image classification set"
        )
    if None in image.shape and image_size is None:
        raise InputError(
            f"the images of {name!r} differ in size: its features say {image.shape}; give "
            "image_size, the "
            "height and width to bring them to"
        )
    return keys


def _one_line(error: Exception, length: int = 300) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:length]}" + ("..." if len(text) > length else "")
