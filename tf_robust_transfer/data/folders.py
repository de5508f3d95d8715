"""Image files in folders: one folder for each class."""

import collections
import concurrent.futures
import dataclasses
import functools
import logging
import os
import pathlib

import numpy as np
import tensorflow as tf

from tf_robust_transfer.data.images import ImageData, resize_tensor
from tf_robust_transfer.errors import InputError
from tf_robust_transfer.files import path_of

_LOG = logging.getLogger("tf_robust_transfer")
_SPLITS = {"train", "test", "val", "valid", "validation"}
_SUFFIXES = (".png", ".jpg", ".jpeg")
_PNG_GREY = (0, 4)  # colour types of the PNG header: grey, grey with alpha
# of the fixed order that the files are taken in: sorted, the first n would all be of one class
_ORDER_SEED = 0


@dataclasses.dataclass(frozen=True)
class FoundImages:
    """The image files of a split.

    Attributes:
        files: in a fixed random order.
        labels: int32 [files].
        classes: the names of the classes.
        channels: 1 where the images of all splits are grey, else 3.
    """

    files: list[pathlib.Path]
    labels: np.ndarray
    classes: tuple[str, ...]
    channels: int


def load_folder(
    name: str, path: str, split: str, image_size: tuple[int, int] | None, limit: int | None = None
) -> ImageData:
    """Loads PNG and JPEG files from PATH/<split>/<class>/, or from PATH/<class>/.

    Without folders PATH/train or PATH/test, a fixed 20% of each class (rounded, at least one image)
    is the split "test" and the rest "train". The classes are the folders in alphabetic order. All
    images are grey (one channel) if those of every split are, else colour (three); transparency is
    dropped. Hidden files are ignored; other files are left out and counted in a line.

    Args:
        name: the data set's name, for messages.
        path: the folder.
        split: a folder of PATH, or "train" or "test" where they are not folders.
        image_size: (height, width) to bring each image to; None: all have one size already.
        limit: read only the first so many of a fixed random order; None is all.

    Returns:
        The split, images uint8 [n, height, width, 1 or 3], in that fixed order.

    Raises:
        InputError: no such folder, split or class; a class without images; an unreadable file;
            sizes that differ.
    """
    found = find_images(name, path, split, limit)
    images = _read(found.files, found.channels, image_size)
    return ImageData(images, found.labels, len(found.classes), found.classes, name, split)


def find_images(name: str, path: str, split: str, limit: int | None = None) -> FoundImages:
    """The files that `load_folder` reads, none of which is read but for headers. Raises as it."""
    present, root = splits(name, path), path_of(path)
    in_splits = _in_splits(root)
    if split not in present:
        raise InputError(f"unknown split {split!r} of {name!r}; valid names: {', '.join(present)}")
    chosen = _class_folders(root / split if in_splits else root)
    if not in_splits and set(chosen) <= _SPLITS:
        raise InputError(
            f"{name!r}: the images lie in {' and '.join(chosen)} without folders of their classes; "
            "expected PATH/train/<class>/*.png and PATH/test/<class>/*.png"
        )
    classes = sorted(_class_folders(root / "train") if in_splits and "train" in present else chosen)
    if sorted(chosen) != classes:
        odd = sorted(set(chosen) ^ set(classes))
        raise InputError(
            f"{name!r}: the classes of {split!r} and 'train' differ: {', '.join(odd)} are in one "
            "of them"
        )
    files, labels = [], []
    for label, class_name in enumerate(classes):
        members = chosen[class_name]
        if not in_splits:
            members = _part(members, class_name, split, name)
        files += members
        labels += [label] * len(members)
    files, labels = _in_fixed_order(files, labels, limit)
    classes_of_splits = [
        c for s in (_folders_in(root) if in_splits else [root]) for c in _folders_in(s)
    ]
    # Ends at the first colour image; all of a grey data set's headers are read, so that its splits
    # agree.
    grey = all(_is_grey(file) for folder in classes_of_splits for file in _images_in(folder))
    _tell_left_out(root / split if in_splits else root)
    return FoundImages(files, labels, tuple(classes), 1 if grey else 3)


@functools.cache  # a run reads a folder for its train and for its test images
def _tell_left_out(folder: pathlib.Path) -> None:
    """Counts in a line the files beside the images that are none, as far as we read."""
    others = collections.Counter(
        file.suffix.lower() or "without an ending"
        for of_class in _folders_in(folder)
        for file in of_class.iterdir()
        if not file.name.startswith(".") and file.suffix.lower() not in _SUFFIXES
    )
    if others:
        _LOG.warning(
            "%d files of %s are left out, since only %s are read: %s",
            others.total(),
            folder,
            ", ".join(_SUFFIXES),
            ", ".join(f"{others[suffix]} {suffix}" for suffix in sorted(others)[:5]),
        )


def splits(name: str, path: str) -> tuple[str, ...]:
    """The names of the splits of a folder of images. Raises as `load_folder`."""
    root = path_of(path)
    if not path or not root.is_dir():
        raise InputError(
            f"{name!r}: {path!r} is not a folder; expected folder:PATH with "
            "PATH/train/<class>/*.png and PATH/test/<class>/*.png, or PATH/<class>/*.png (or .jpg)"
        )
    return tuple(s.name for s in _folders_in(root)) if _in_splits(root) else ("test", "train")


def _in_splits(root):
    return any((root / s).is_dir() and not _images_in(root / s) for s in ("train", "test"))


def _folders_in(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(f for f in folder.iterdir() if f.is_dir() and not f.name.startswith("."))


def _images_in(folder: pathlib.Path) -> list[pathlib.Path]:
    if not folder.is_dir():
        raise InputError(f"expected a folder of images, got {str(folder)!r}")
    return sorted(
        f for f in folder.iterdir() if f.suffix.lower() in _SUFFIXES and not f.name.startswith(".")
    )


def _class_folders(folder: pathlib.Path) -> dict[str, list[pathlib.Path]]:
    """Class name to its image files."""
    classes = {f.name: _images_in(f) for f in _folders_in(folder)}
    if not classes:
        raise InputError(
            f"{str(folder)!r} has no class folders; expected one folder of images for each class "
            "in it"
        )
    empty = [class_name for class_name, files in classes.items() if not files]
    if empty:
        raise InputError(
            f"no images ({', '.join(_SUFFIXES)}) for the class {empty[0]!r} in "
            f"{str(folder / empty[0])!r}; add some or remove the folder"
        )
    return classes


def _part(files: list[pathlib.Path], class_name: str, split: str, name: str) -> list[pathlib.Path]:
    """The fixed 80% or 20% of one class."""
    if len(files) < 2:
        raise InputError(
            f"{name!r}: the class {class_name!r} has 1 image, too few for a train and a test part; "
            "add images, or make folders train and test"
        )
    order = np.random.default_rng(_ORDER_SEED).permutation(len(files))
    tested = set(order[: max(1, round(0.2 * len(files)))].tolist())
    return [file for i, file in enumerate(files) if (i in tested) == (split == "test")]


def _in_fixed_order(files: list, labels: list, limit: int | None) -> tuple[list, np.ndarray]:
    order = np.random.default_rng(_ORDER_SEED).permutation(len(files))[:limit]
    return [files[i] for i in order], np.asarray(labels, np.int32)[order]


def _is_grey(file: pathlib.Path) -> bool:
    """Whether a PNG or JPEG file has no colour, from its header."""
    try:
        with open(file, "rb") as stream:
            head = stream.read(26)
            if head[:8] == b"\x89PNG\r\n\x1a\n" and len(head) == 26:
                return head[25] in _PNG_GREY
            if head[:2] == b"\xff\xd8":
                return int(tf.io.extract_jpeg_shape(head + stream.read())[2]) == 1
    except (tf.errors.OpError, OSError) as error:
        raise _unreadable(file, error) from error
    raise _unreadable(file, "no PNG or JPEG header")


def _unreadable(file: pathlib.Path, reason) -> InputError:
    return InputError(
        f"cannot read the image {str(file)!r}: {' '.join(str(reason).split())[:200]}; replace or "
        "remove the file"
    )


def read_image(file: pathlib.Path, channels: int) -> tf.Tensor:
    """One image, uint8 [height, width, channels]. Raises an InputError where it is damaged."""
    try:
        return tf.io.decode_image(file.read_bytes(), channels=channels, expand_animations=False)
    except (tf.errors.OpError, OSError) as error:
        raise _unreadable(file, error) from error


def _read(
    files: list[pathlib.Path], channels: int, image_size: tuple[int, int] | None
) -> np.ndarray:
    """uint8 [n, height, width, channels]; decoding runs outside Python's lock, so threads are
    enough.
    """

    def read(file):
        image = read_image(file, channels)
        return (image if image_size is None else resize_tensor(image, image_size)).numpy()

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        results = pool.map(read, files)
        first = next(results)
        images = np.empty((len(files), *first.shape), np.uint8)
        images[0] = first
        for i, image in enumerate(results, start=1):
            if image.shape != first.shape:
                pool.shutdown(cancel_futures=True)
                raise InputError(
                    f"images differ in size: {str(files[0])!r} is "
                    f"{first.shape[0]}x{first.shape[1]}, {str(files[i])!r} is "
                    f"{image.shape[0]}x{image.shape[1]}; give image_size, the height and width to "
                    "bring them to"
                )
            images[i] = image
    return images
