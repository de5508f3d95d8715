"""Tiny-ImageNet's builder, on small archives of the published form: 2 classes, 3 training images
each, 2 test images.
"""

import functools
import http.server
import pathlib
import threading
import types
import zipfile

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from tests import fresh_process
from tf_robust_transfer import data
from tf_robust_transfer.data import tiny_imagenet
from tf_robust_transfer.errors import InputError
from tf_robust_transfer.runs.images import load_split

ROOT = "tiny-imagenet-200"
ANNOTATIONS = f"{ROOT}/val/val_annotations.txt"
IMAGE = f"{ROOT}/train/n02/images/n02_1.JPEG"


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(tiny_imagenet.TinyImagenet, "NUM_CLASSES", 2)
    monkeypatch.setattr(tiny_imagenet.TinyImagenet, "TRAIN_IMAGES_PER_CLASS", 3)
    monkeypatch.setattr(tiny_imagenet.TinyImagenet, "TEST_IMAGES", 2)


def jpeg(value: int, shape=(64, 64, 3)) -> bytes:
    return tf.io.encode_jpeg(np.full(shape, value, np.uint8), quality=100).numpy()


def published() -> dict[str, bytes]:
    """The archive's files. n01's pixels are 10.., n02's 20.., the first image of each is grey;
    test: 120 n02, 110 n01.
    """
    files = {
        f"{ROOT}/wnids.txt": b"n02\nn01\n",
        f"{ROOT}/words.txt": b"n01\tcat\n",
    }  # not in order, as published
    for wnid, value in (("n01", 10), ("n02", 20)):
        files[f"{ROOT}/train/{wnid}/{wnid}_boxes.txt"] = b""
        for i in range(3):
            files[f"{ROOT}/train/{wnid}/images/{wnid}_{i}.JPEG"] = jpeg(
                value + i, (64, 64, 3 if i else 1)
            )
    files[f"{ROOT}/val/images/val_0.JPEG"], files[f"{ROOT}/val/images/val_1.JPEG"] = (
        jpeg(120),
        jpeg(110, (64, 64, 1)),
    )
    files[ANNOTATIONS] = b"val_0.JPEG\tn02\t0\t0\t9\t9\nval_1.JPEG\tn01\t0\t0\t9\t9\n"
    files[f"{ROOT}/test/images/test_0.JPEG"] = b"not read"
    return files


def write_zip(folder: pathlib.Path, files: dict[str, bytes]) -> pathlib.Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{ROOT}.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def write_folder(folder: pathlib.Path, files: dict[str, bytes]) -> pathlib.Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder / ROOT


def pixels(split: data.ImageData) -> list[tuple[int, int]]:
    assert split.input_shape == (64, 64, 3)
    assert (split.images == split.images[:, :1, :1, :1]).all()  # three equal channels, grey or not
    return sorted(zip(split.images[:, 0, 0, 0].tolist(), split.labels.tolist()))


TRAIN = [(10, 0), (11, 0), (12, 0), (20, 1), (21, 1), (22, 1)]
TEST = [(110, 0), (120, 1)]


def refused(data_dir: pathlib.Path, message: str, **arguments) -> None:
    """load_data fails with one line, and leaves nothing that a later start could take for prepared
    data.
    """
    with pytest.raises(InputError, match=message) as caught:
        data.load_data("tiny_imagenet", "train", data_dir=str(data_dir), **arguments)
    assert "\n" not in str(caught.value)
    assert "download http://cs231n.stanford.edu/tiny-imagenet-200.zip into DIR" in str(caught.value)
    assert not list((data_dir / "tiny_imagenet").glob("*"))


@pytest.mark.parametrize("write", [write_zip, write_folder])
@pytest.mark.parametrize("place", [".", "downloads/manual"])
def test_prepared_once_from_a_local_archive(tmp_path, no_network, write, place):
    files = published()
    files |= {
        f"{ROOT}/train/n01/images/._n01_0.JPEG": b"",
        f"{ROOT}/train/n01/images/notes.txt": b"",
    }
    write(tmp_path / place, files)
    train = data.load_data("tiny_imagenet", "train", data_dir=str(tmp_path), download=False)
    assert (train.class_names, train.name, train.split) == (
        ("n01", "n02"),
        "tiny_imagenet",
        "train",
    )
    assert pixels(train) == TRAIN
    (tmp_path / place / ROOT).with_suffix(".zip" if write is write_zip else "").rename(
        tmp_path / "elsewhere"
    )
    again = data.load_data("tiny_imagenet", "train", data_dir=str(tmp_path), download=False)
    np.testing.assert_array_equal(train.images, again.images)
    assert again.class_names == ("n01", "n02")
    test = data.load_data("tiny_imagenet:1.0.0", "test[:2]", data_dir=str(tmp_path), download=False)
    assert pixels(test) == TEST
    few = data.load_data("tiny_imagenet", "train", data_dir=str(tmp_path), max_examples=4)
    np.testing.assert_array_equal(few.images, train.images[:4])
    with pytest.raises(
        InputError, match="unknown split 'dev' of 'tiny_imagenet'; valid names: test, train"
    ):
        data.load_data("tiny_imagenet", "dev", data_dir=str(tmp_path))


def test_jpeg_files_are_stored_as_they_come(tmp_path, no_network):
    files = published()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    files[IMAGE] = tf.io.encode_jpeg(noise, quality=60).numpy()
    write_zip(tmp_path, files)
    train = data.load_data("tiny_imagenet", "train", data_dir=str(tmp_path))
    expected = tf.io.decode_image(files[IMAGE], channels=3).numpy()
    assert sum(np.array_equal(image, expected) for image in train.images) == 1


def test_tfds_load_knows_the_name(tmp_path, no_network):
    write_zip(tmp_path, published())
    (train, test), info = tfds.load(
        "tiny_imagenet",
        split=["train", "test"],
        data_dir=str(tmp_path),
        with_info=True,
        as_supervised=True,
    )
    for split, expected in ((train, TRAIN), (test, TEST)):
        assert split.element_spec[0] == tf.TensorSpec((64, 64, 3), tf.uint8)
        assert sorted((int(image[0, 0, 0]), int(label)) for image, label in split) == expected
    assert info.features["label"].names == ["n01", "n02"]
    assert (info.splits["train"].num_examples, info.splits["test"].num_examples) == (6, 2)


def test_manual_dir_of_a_download_config(tmp_path, no_network):
    write_zip(tmp_path / "mine", published())
    builder = tfds.builder("tiny_imagenet", data_dir=str(tmp_path / "data"))
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(manual_dir=tmp_path / "mine")
    )
    assert builder.info.splits.total_num_examples == 8


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Serves the folder that it returns in place of Stanford's."""
    folder = tmp_path / "server"
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        log_message = lambda *_: None

    httpd = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Handler, directory=folder)
    )
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    monkeypatch.setattr(tiny_imagenet, "URL", f"http://127.0.0.1:{httpd.server_port}/{ROOT}.zip")
    yield folder
    httpd.shutdown()
    httpd.server_close()


def test_downloaded_where_it_is_not_there(tmp_path, server):
    write_zip(server, published())
    (tmp_path / "data").mkdir()
    refused(
        tmp_path / "data",
        "'tiny_imagenet' is not prepared in .* and the network was not tried",
        download=False,
    )
    train = data.load_data("tiny_imagenet", "train", data_dir=str(tmp_path / "data"))
    assert pixels(train) == TRAIN
    assert not (tmp_path / "data" / "downloads" / "extracted" / ROOT).exists()


def test_web_page_in_place_of_the_download(tmp_path, server):
    (server / f"{ROOT}.zip").write_text("<!DOCTYPE html><title>Moved</title>")
    (tmp_path / "data").mkdir()
    message = (
        r"archive '.*/data/downloads/tiny_imagenet/.*\.zip' is damaged.*: expected a zip "
        r"file, got 35 bytes that begin"
    )
    refused(tmp_path / "data", message)
    files = published()
    files[IMAGE] = b"no image"
    write_zip(server, files)  # the page is not kept: the next start downloads anew
    refused(tmp_path / "data", "cannot decode the image train/n02/images/n02_1.JPEG")
    write_zip(server, published())
    assert (
        pixels(data.load_data("tiny_imagenet", "train", data_dir=str(tmp_path / "data"))) == TRAIN
    )


def test_download_that_fails(tmp_path, server):
    (tmp_path / "data").mkdir()
    refused(
        tmp_path / "data", "'tiny_imagenet' is not prepared in .* could not be downloaded: .*404"
    )


def test_smoke_run_does_not_download(tmp_path, no_network):
    config = types.SimpleNamespace(
        dataset="tiny_imagenet", data_dir=str(tmp_path), image_size=None, seed=0, smoke=True
    )
    assert load_split(config, "train").name == "synthetic"


def without(name: str):
    return lambda files: files.pop(f"{ROOT}/{name}")


def put(name: str, content: bytes):
    return lambda files: files.update({f"{ROOT}/{name}": content})


@pytest.mark.parametrize(
    "change, message",
    [
        (without("wnids.txt"), "expected the file tiny-imagenet-200/wnids.txt, there is none"),
        (put("wnids.txt", b"n01\nn02\nn03\n"), "expected 2 classes in wnids.txt, got 3"),
        (put("wnids.txt", b"\xff\xfe\x00"), "expected 2 classes in wnids.txt, got 1"),
        (
            put("wnids.txt", b"n01\nn05\n"),
            r"the class 'n02' of train/n02/images/n02_0.JPEG is not in wnids.txt",
        ),
        (
            put("train/n03/images/n03_0.JPEG", jpeg(1)),
            "the class 'n03' of train/n03/.* is not in wnids.txt",
        ),
        (
            without("train/n02/images/n02_1.JPEG"),
            r"expected 3 images \(.JPEG\) in train/n02/images, got 2",
        ),
        (
            put("train/n02/images/n02_3.JPEG", jpeg(1)),
            r"expected 3 images \(.JPEG\) in train/n02/images, got 4",
        ),
        (
            without("val/val_annotations.txt"),
            "expected the file tiny-imagenet-200/val/val_annotations.txt, there is none",
        ),
        (
            put("val/val_annotations.txt", b"val_0.JPEG\tn02\n"),
            "expected 2 images in val/val_annotations.txt, got 1",
        ),
        (
            put("val/val_annotations.txt", b"val_0.JPEG\tn07\n"),
            "gives 'val_0.JPEG' the class 'n07', which is not in wnids",
        ),
        (
            put("val/val_annotations.txt", b"<html>\n"),
            "gives '<html>' the class '', which is not in wnids.txt",
        ),
        (
            put("val/val_annotations.txt", b"val_9.JPEG\tn02\n"),
            "names the image val/images/val_9.JPEG, there is none",
        ),
        (
            put("val/val_annotations.txt", b"val_0.JPEG\tn02\n" * 2),
            "names the image val/images/val_0.JPEG twice",
        ),
        (
            put("train/n02/images/n02_1.JPEG", jpeg(1, (64, 32, 3))),
            "expected images of 64x64, train/n02/.*1.JPEG is 64x32",
        ),
        (
            put("train/n02/images/n02_1.JPEG", jpeg(1)[:-300]),
            "cannot decode the image train/n02/images/n02_1.JPEG: ",
        ),
        (
            put("val/images/val_1.JPEG", b"no image"),
            "cannot decode the image val/images/val_1.JPEG: ",
        ),
        (put("val/images/val_1.JPEG", b""), "cannot decode the image val/images/val_1.JPEG: "),
    ],
)
def test_archive_that_is_not_complete(tmp_path, no_network, change, message):
    files = published()
    change(files)
    write_zip(tmp_path / "zip", files)
    write_folder(tmp_path / "folder", files)
    for kind, name in (("zip", rf"{ROOT}\.zip"), ("folder", ROOT)):
        refused(tmp_path / kind, rf"archive '.*/{name}' is damaged or not complete: .*{message}")


def test_zip_that_is_damaged(tmp_path, no_network):
    path = write_zip(tmp_path, published())
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    refused(
        tmp_path,
        r"expected a zip file, got [\d,]+ bytes that begin with b'PK.*File is not a zip file; "
        r"replace it",
    )
    path.write_bytes(b"")
    refused(tmp_path, "expected a zip file, got 0 bytes")
    at = (
        whole.index(published()[IMAGE]) + 300
    )  # inside the one image's own bytes: stored, not compressed
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    refused(tmp_path, "cannot read train/n02/images/n02_1.JPEG: Bad CRC-32")
    path.write_bytes(whole)
    assert pixels(data.load_data("tiny_imagenet", "train", data_dir=str(tmp_path))) == TRAIN


def test_zip_of_something_else(tmp_path, no_network):
    write_zip(tmp_path, {"cifar-10/data.bin": b"x"})
    refused(tmp_path, "expected the file tiny-imagenet-200/wnids.txt, there is none")


def test_numbers_of_the_published_archive(monkeypatch):
    monkeypatch.undo()
    builder = tiny_imagenet.TinyImagenet
    assert (builder.NUM_CLASSES, builder.TRAIN_IMAGES_PER_CLASS, builder.TEST_IMAGES) == (
        200,
        500,
        10_000,
    )
    assert data.SHAPES["tiny_imagenet"] == ((64, 64, 3), builder.NUM_CLASSES)


def test_package_does_not_import_tfds():
    code = "import sys, tf_robust_transfer.data; sys.exit('tensorflow_datasets' in sys.modules)"
    assert fresh_process.run(code).returncode == 0
