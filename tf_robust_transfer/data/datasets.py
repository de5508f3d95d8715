"""Data sets by name: scikit-learn's digits, image folders, Tiny-ImageNet, and any image
classification set of TFDS.

Everything is brought into memory as uint8 (`ImageData`): reading is then no part of a training
step, and a run can be resumed at any step without reading what lies before it. What is too large to
be trained on so, `streaming` reads."""

import dataclasses
import fnmatch
import numbers
import os
import pathlib

import numpy as np

from tf_robust_transfer.data import folders, tfds_sets
from tf_robust_transfer.data.images import ImageData, resize, stratified_indices
from tf_robust_transfer.errors import InputError
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

_DIGITS_TEST = 500


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
        data = _load_plugin(name, split, checked_dir(data_dir))
    elif name == "digits":
        data = _load_digits(split)
    elif kind == "folder":
        data = folders.load_folder(name, path, split, image_size, limit)
    else:
        if original_order is None:
            original_order = split != "train"
        directory = checked_dir(data_dir)
        data = tfds_sets.read(name, split, directory, image_size, limit, download, original_order)
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
    return tfds_sets.splits(name, data_dir, papers=SHAPES)


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
    if not isinstance(train_fraction, numbers.Real) or not 0.0 < train_fraction <= 1.0:
        raise InputError(f"train_fraction must be a number in (0, 1], got {train_fraction!r}")
    sides = image_size if isinstance(image_size, (tuple, list)) else ()
    whole = len(sides) == 2 and all(isinstance(side, numbers.Integral) for side in sides)
    if image_size is not None and not (whole and min(sides) >= 1):
        raise InputError(f"image_size must be (height, width), both at least 1, got {image_size!r}")
    check_seed(seed)


def check_seed(seed: int) -> None:
    """Raises InputError unless the seed is an int in [0, 2**31)."""
    if not isinstance(seed, (int, np.integer)) or not 0 <= seed < 2**31:
        raise InputError(f"seed must be an integer in [0, 2**31), got {seed!r}")


def is_tfds(name: str) -> bool:
    """Whether TFDS has the data set, if there is one of that name at all."""
    return name != "digits" and not name.startswith("folder:") and not is_plugin(name)


def checked_dir(data_dir: str | None) -> str | None:
    if data_dir is None:
        return None
    path = os.path.expanduser(data_dir)
    if not path.startswith("gs://") and not pathlib.Path(path).is_dir():
        raise InputError(
            f"data_dir {data_dir!r} is not a directory; expected a TFDS directory (one folder for "
            "each data set): make it, or correct --data_dir"
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
