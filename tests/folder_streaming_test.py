"""Image folders that are streamed: what is in memory, in its order, and a resume to the bit."""

import itertools
import logging

import numpy as np
import pytest
import tensorflow as tf

from tf_robust_transfer import data
from tf_robust_transfer.command_line import parse
from tf_robust_transfer.config import TrainConfig
from tf_robust_transfer.data import training
from tf_robust_transfer.errors import InputError
from tf_robust_transfer.runs.images import load_train

SIZE = (8, 8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two classes of ten and seven noisy images, of two formats and many sizes, and other files."""
    root = tmp_path_factory.mktemp("images")
    draw = np.random.default_rng(0)
    for name, count in (("cat", 10), ("dog", 7)):
        (root / "train" / name).mkdir(parents=True)
        for i in range(count):
            pixels = draw.integers(0, 256, (*draw.integers(9, 30, 2), 3)).astype(np.uint8)
            encoded = tf.io.encode_jpeg(pixels) if i % 2 else tf.io.encode_png(pixels)
            path = root / "train" / name / f"{i}.{'JPG' if i % 2 else 'png'}"
            path.write_bytes(encoded.numpy())
    for name in ("a.webp", "b.webp", "notes.txt", "bare", ".hidden"):
        (root / "train" / "cat" / name).write_bytes(b"")
    return root


def batches(source, count, **options):
    found = data.train_batches(source, **{"batch_size": 5, "seed": 3} | options)
    return [[part.numpy() for part in batch] for batch in itertools.islice(found, count)]


def assert_equal(found, expected):
    assert len(found) == len(expected)
    for (images, labels), (other_images, other_labels) in zip(found, expected):
        np.testing.assert_array_equal(images, other_images)
        np.testing.assert_array_equal(labels, other_labels)


@pytest.mark.parametrize("fraction", [1.0, 0.7])
def test_streamed_it_gives_the_batches_of_memory(folder, fraction):
    arguments = {"image_size": SIZE, "train_fraction": fraction, "seed": 1}
    name = f"folder:{folder}"
    streamed = data.load_training_data(name, stream="on", **arguments)
    held = data.load_training_data(name, stream="off", **arguments)
    assert isinstance(streamed, data.StreamedFolder) and isinstance(held, data.ImageData)
    assert len(streamed) == len(held) == (17 if fraction == 1 else 12)
    assert (streamed.input_shape, streamed.class_names) == (held.input_shape, held.class_names)
    # Into the second epoch, with an augmentation that is drawn by the step.
    flips = {"augmentation": ("flip", "crop")}
    assert_equal(batches(streamed, 5, **flips), batches(held, 5, **flips))


def test_crops_differ_by_step_and_a_resume_goes_on_to_the_bit(folder):
    streamed = data.load_training_data(f"folder:{folder}", image_size=SIZE, stream="on")
    options = {"augmentation": ("resized_crop", "flip")}
    whole = batches(streamed, 6, **options)
    start = 4  # inside the second epoch, of three batches
    assert_equal(batches(streamed, 2, start_step=start, **options), whole[start:])
    assert not np.array_equal(np.sort(whole[0][0], None), np.sort(whole[3][0], None))
    plain = batches(streamed, 1)
    assert not np.array_equal(plain[0][0], whole[0][0])


def test_auto_streams_what_does_not_fit(folder, monkeypatch):
    arguments = [f"--dataset=folder:{folder}", "--image_size=8x8"]
    monkeypatch.setattr(training, "MEMORY_BUDGET", 17 * 8 * 8 * 3)
    assert isinstance(load_train(parse(TrainConfig, arguments)), data.ImageData)
    monkeypatch.setattr(training, "MEMORY_BUDGET", 17 * 8 * 8 * 3 - 1)
    assert isinstance(load_train(parse(TrainConfig, arguments)), data.StreamedFolder)
    held = load_train(parse(TrainConfig, [*arguments, "--stream=off"]))
    assert isinstance(held, data.ImageData)


def test_what_cannot_be_streamed_is_refused():
    with pytest.raises(InputError, match="'digits' is no TFDS set or folder"):
        data.load_training_data("digits", stream="on")
    with pytest.raises(InputError, match="unknown stream 'yes'"):
        data.load_training_data("digits", stream="yes")


def test_a_bad_image_met_in_the_middle_is_one_line(folder, tmp_path):
    """One of another size where none is given, and one that is damaged."""
    streamed = data.load_training_data(f"folder:{folder}", stream="on")
    with (
        pytest.raises(InputError, match="/.*' is of size .*, the first of .*; give image_size"),
        data.told_when_unreadable(streamed.name, streamed.first_bad),
    ):
        batches(streamed, 3)
    (tmp_path / "train" / "one").mkdir(parents=True)
    for i in range(4):
        path = tmp_path / "train" / "one" / f"{i}.png"
        path.write_bytes(tf.io.encode_png(np.full((4, 4, 3), i, np.uint8)).numpy())
    path.write_bytes(path.read_bytes()[:40])
    streamed = data.load_training_data(f"folder:{tmp_path}", image_size=(4, 4), stream="on")
    with (
        pytest.raises(InputError, match="cannot read the image '.*/one/3.png'.*mend it") as caught,
        data.told_when_unreadable(streamed.name, streamed.first_bad),
    ):
        batches(streamed, 1, batch_size=4)
    assert "\n" not in str(caught.value)


def test_files_that_are_left_out_are_counted_in_a_line(folder, caplog):
    training.datasets.folders._tell_left_out.cache_clear()
    with caplog.at_level(logging.WARNING, "tf_robust_transfer"):
        for stream in ("on", "off"):
            data.load_training_data(f"folder:{folder}", image_size=SIZE, stream=stream)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 1
    assert lines[0].startswith("4 files of ") and lines[0].endswith(
        "only .png, .jpg, .jpeg are read: 1 .txt, 2 .webp, 1 without an ending"
    )
