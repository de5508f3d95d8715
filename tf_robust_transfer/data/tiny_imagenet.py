"""Tiny-ImageNet as a TFDS builder, prepared from the archive that Stanford publishes.

`data.load_data("tiny_imagenet", ...)` uses it; so does `tfds.load("tiny_imagenet", data_dir=...)`
once this module is imported, which registers the builder. The package itself does not import this
module: TFDS is then loaded only where it is needed.

The archive (tiny-imagenet-200.zip, one folder tiny-imagenet-200 in it) has

    wnids.txt                          the 200 classes, one WordNet id a line
    train/<wnid>/images/*.JPEG         500 images of each class val/images/*.JPEG
    10,000 images val/val_annotations.txt            for each of them a line: file, wnid and four
    numbers of a box, tabs between test/images/*.JPEG                 10,000 images without public
    labels: not used

Stanford publishes no checksum, and we have none that we could vouch for; so none is registered, and
TFDS's `force_checksums_validation=True` refuses to download it. In its place everything that is
read is checked: the files that must be there, their number, the CRC-32 that a zip holds for each,
and each image's size, by decoding it."""

import contextlib
import zipfile
import zlib

import tensorflow as tf
import tensorflow_datasets as tfds
from tensorflow_datasets.core.download.resource import get_info_path

from tf_robust_transfer.errors import InputError

URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"

_NAME = "tiny-imagenet-200"
_SIDE = 64
_WNIDS = "wnids.txt"
_ANNOTATIONS = "val/val_annotations.txt"
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    OSError,
    NotImplementedError,
    RuntimeError,
)  # of reading a zip


class TinyImagenet(tfds.core.GeneratorBasedBuilder):
    """Tiny-ImageNet: 200 classes of ImageNet at 64x64 (CS231n, Stanford; cs231n.stanford.edu).

    Splits: "train" (100,000 images, 500 of each class) and "test" (the 10,000 validation images:
    the labels of the archive's own test images are not public), each stored in a fixed random
    order.

    Features: image uint8 [64, 64, 3] in 0..255, the JPEG files as they come, grey ones decoded to
    three equal channels; label in [0, 200): the place of the WordNet id among the 200 in alphabetic
    order, which is not that of wnids.txt.

    The archive is the first of these that is there: DATA_DIR/tiny-imagenet-200.zip, the folder
    DATA_DIR/tiny-imagenet-200 (the zip, unpacked), either of them in TFDS's manual folder
    (DATA_DIR/downloads/manual), and else what TFDS downloads. A zip is read as it is, never
    unpacked to 120,000 files.

    Raises:
        InputError: on preparing, where the archive is damaged or not complete. TFDS then leaves no
            prepared data.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "The archive as published."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        f"download {URL} into DIR as it is, and give --data_dir=DIR (load_data: data_dir=DIR)"
    )

    # What a complete archive holds.
    NUM_CLASSES = 200
    TRAIN_IMAGES_PER_CLASS = 500
    TEST_IMAGES = 10_000

    def local_archive(self, manual_dir: tfds.core.Path | None = None) -> tfds.core.Path | None:
        """The zip or the folder that would be prepared without a network; None where there is
        neither.

        Args:
            manual_dir: TFDS's manual folder; None is its default place in the data directory.
        """
        root = self.data_dir_root.expanduser()
        for folder in (root, manual_dir or root / "downloads" / "manual"):
            if (folder / f"{_NAME}.zip").is_file():
                return folder / f"{_NAME}.zip"
            if (folder / _NAME).is_dir():
                return folder / _NAME
        return None

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="200 classes of ImageNet at 64x64; the test split is the published "
            "validation images.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(_SIDE, _SIDE, 3), encoding_format="jpeg"),
                    "label": tfds.features.ClassLabel(
                        num_classes=self.NUM_CLASSES
                    ),  # its names come from the archive
                }
            ),
            supervised_keys=("image", "label"),
            homepage="http://cs231n.stanford.edu/",
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager):
        try:
            manual_dir = dl_manager.manual_dir
        except AssertionError:  # TFDS's way to say that there is none
            manual_dir = None
        path = self.local_archive(manual_dir)
        downloaded = path is None
        if downloaded:
            path = tfds.core.Path(dl_manager.download(URL))
        with _open(path, downloaded) as archive:
            classes = _classes(archive, self.NUM_CLASSES)
            train = _train_files(archive, classes, self.TRAIN_IMAGES_PER_CLASS)
            test = _test_files(archive, classes, self.TEST_IMAGES)
        self.info.features["label"].names = classes
        splits = {"train": train, "test": test}
        return {
            split: self._generate_examples(path, downloaded, files)
            for split, files in splits.items()
        }

    def _generate_examples(self, path: tfds.core.Path, downloaded: bool, files: dict[str, int]):
        with _open(path, downloaded) as archive:
            for file, label in files.items():
                content = archive.read(file)
                _check_image(archive, file, content)
                yield file, {"image": content, "label": label}


class _Zip:
    """The files of the zip, named from its folder tiny-imagenet-200 on."""

    def __init__(self, path: tfds.core.Path, opened: contextlib.ExitStack):
        self.path = path
        try:
            self._zip = opened.enter_context(zipfile.ZipFile(opened.enter_context(path.open("rb"))))
        except _DAMAGE as error:
            raise _damaged(
                self, f"expected a zip file, got {_first_bytes(path)}: {error}"
            ) from error
        prefix = f"{_NAME}/"
        self.files = {
            name[len(prefix) :] for name in self._zip.namelist() if name.startswith(prefix)
        }

    def read(self, file: str) -> bytes:
        try:
            return self._zip.read(f"{_NAME}/{file}")  # checks the CRC-32
        except _DAMAGE as error:
            raise _damaged(self, f"cannot read {file}: {error}") from error


class _Folder:
    """The files of the zip, unpacked."""

    def __init__(self, path: tfds.core.Path):
        self.path = path
        patterns = (_WNIDS, "train/*/images/*", _ANNOTATIONS, "val/images/*")
        self.files = {
            file.relative_to(path).as_posix() for pattern in patterns for file in path.glob(pattern)
        }

    def read(self, file: str) -> bytes:
        try:
            return (self.path / file).read_bytes()
        except OSError as error:
            raise _damaged(self, f"cannot read {file}: {error}") from error


@contextlib.contextmanager
def _open(path: tfds.core.Path, downloaded: bool):
    """Yields the archive. What turns out damaged in TFDS's cache of downloads is removed, for the
    next start to fetch.
    """
    try:
        with contextlib.ExitStack() as opened:
            yield _Folder(path) if path.is_dir() else _Zip(path, opened)
    except InputError:
        if downloaded:
            path.unlink(missing_ok=True)
            get_info_path(path).unlink(
                missing_ok=True
            )  # with it left, TFDS would refuse any other file in its place
        raise


def _damaged(archive: _Zip | _Folder, problem: str) -> InputError:
    problem = " ".join(problem.split())  # what a library says may have several lines
    return InputError(
        f"the Tiny-ImageNet archive {str(archive.path)!r} is damaged or not complete: {problem}; "
        f"replace it: {TinyImagenet.MANUAL_DOWNLOAD_INSTRUCTIONS}"
    )


def _first_bytes(path: tfds.core.Path) -> str:
    try:
        with path.open("rb") as stream:
            return f"{path.stat().length:,} bytes that begin with {stream.read(16)!r}"
    except OSError:
        return "none that can be read"


def _lines(archive: _Zip | _Folder, file: str) -> list[str]:
    """The lines of a text file that are not empty."""
    if file not in archive.files:
        raise _damaged(archive, f"expected the file {_NAME}/{file}, there is none")
    text = archive.read(file).decode(
        "utf-8", errors="replace"
    )  # what is no text becomes a name that nothing has
    return [line.strip() for line in text.splitlines() if line.strip()]


def _classes(archive: _Zip | _Folder, count: int) -> list[str]:
    """The WordNet ids in alphabetic order."""
    classes = sorted(set(_lines(archive, _WNIDS)))
    if len(classes) != count:
        raise _damaged(archive, f"expected {count} classes in {_WNIDS}, got {len(classes)}")
    return classes


def _train_files(archive: _Zip | _Folder, classes: list[str], count: int) -> dict[str, int]:
    """File to label."""
    members = {class_name: [] for class_name in classes}
    for file in sorted(archive.files):
        parts = file.split("/")
        if len(parts) == 4 and (parts[0], parts[2]) == ("train", "images") and _is_image(parts[3]):
            if parts[1] not in members:
                raise _damaged(archive, f"the class {parts[1]!r} of {file} is not in {_WNIDS}")
            members[parts[1]].append(file)
    for class_name, files in members.items():
        if len(files) != count:
            raise _damaged(
                archive,
                f"expected {count} images (.JPEG) in train/{class_name}/images, got {len(files)}",
            )
    return {file: label for label, class_name in enumerate(classes) for file in members[class_name]}


def _test_files(archive: _Zip | _Folder, classes: list[str], count: int) -> dict[str, int]:
    """File to label."""
    labels = {class_name: label for label, class_name in enumerate(classes)}
    files = {}
    for line in _lines(archive, _ANNOTATIONS):
        name, class_name = (*line.split("\t"), "")[:2]
        if class_name not in labels:
            raise _damaged(
                archive,
                f"{_ANNOTATIONS} gives {name[:80]!r} the class {class_name[:80]!r}, which is not "
                f"in {_WNIDS}",
            )
        file = f"val/images/{name}"
        if file not in archive.files:
            raise _damaged(archive, f"{_ANNOTATIONS} names the image {file}, there is none")
        if file in files:
            raise _damaged(archive, f"{_ANNOTATIONS} names the image {file} twice")
        files[file] = labels[class_name]
    if len(files) != count:
        raise _damaged(archive, f"expected {count} images in {_ANNOTATIONS}, got {len(files)}")
    return files


def _is_image(name: str) -> bool:
    return name.lower().endswith(".jpeg") and not name.startswith(
        "."
    )  # "._x.JPEG": what a Mac adds


def _check_image(archive: _Zip | _Folder, file: str, content: bytes) -> None:
    try:
        shape = tuple(tf.io.decode_image(content, channels=3).shape)  # as TFDS will decode it
    except tf.errors.OpError as error:
        raise _damaged(archive, f"cannot decode the image {file}: {error.message[:200]}") from error
    if shape != (_SIDE, _SIDE, 3):
        raise _damaged(
            archive,
            f"expected images of {_SIDE}x{_SIDE}, {file} is {'x'.join(map(str, shape[:-1]))}",
        )
