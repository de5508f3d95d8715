"""Data in files: image folders, and TFDS data prepared without a network. Tiny-ImageNet:
tiny_imagenet_test.py.
"""

import json
import pathlib
import sys
import types

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from tf_robust_transfer import data
from tf_robust_transfer.command_line import parse
from tf_robust_transfer.config import TrainConfig
from tf_robust_transfer.data import tfds_sets
from tf_robust_transfer.errors import InputError
from tf_robust_transfer.runs import trainer

SHARED = pathlib.Path(__file__).resolve().parents[2] / "shared" / "tfds"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="no prepared data in ../shared/tfds")


def png(path: pathlib.Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tf.io.encode_png(pixels).numpy())


def jpeg(path: pathlib.Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tf.io.encode_jpeg(pixels, quality=100).numpy())


def constant(value: int, shape=(4, 6, 3)) -> np.ndarray:
    return np.full(shape, value, np.uint8)


# --- folders


@pytest.fixture
def folder(tmp_path):
    """Classes cat and dog; train: 3 and 2 images, test: 1 each. A cat's pixels are 10.., a dog's
    20..; test 100 on.
    """
    for i in range(3):
        png(tmp_path / "train" / "cat" / f"{i}.png", constant(10 + i))
    for i in range(2):
        png(tmp_path / "train" / "dog" / f"{i}.PNG", constant(20 + i))
    png(tmp_path / "test" / "cat" / "a.png", constant(110))
    png(tmp_path / "test" / "dog" / "a.png", constant(120))
    (tmp_path / "train" / "cat" / "notes.txt").write_text("ignored")
    (tmp_path / "train" / "cat" / ".hidden.png").write_text("ignored")
    (tmp_path / "train" / ".cache").mkdir()
    return tmp_path


def test_folder_with_splits(folder):
    train, test = (data.load_data(f"folder:{folder}", split) for split in ("train", "test"))
    assert (
        train.class_names == ("cat", "dog")
        and train.input_shape == (4, 6, 3)
        and train.num_classes == 2
    )
    assert sorted(zip(train.images[:, 0, 0, 0], train.labels)) == [
        (10, 0),
        (11, 0),
        (12, 0),
        (20, 1),
        (21, 1),
    ]
    assert sorted(zip(test.images[:, 0, 0, 0], test.labels)) == [(110, 0), (120, 1)]
    again = data.load_data(f"folder:{folder}", "train")
    np.testing.assert_array_equal(train.images, again.images)


def test_folder_is_cut_in_two_where_it_has_no_splits(tmp_path):
    for c, count in (("a", 10), ("b", 5), ("c", 2)):
        for i in range(count):
            png(tmp_path / c / f"{i:02}.png", constant(50 * "abc".index(c) + i))
    train, test = (data.load_data(f"folder:{tmp_path}", split) for split in ("train", "test"))
    assert np.bincount(test.labels).tolist() == [2, 1, 1] and np.bincount(
        train.labels
    ).tolist() == [8, 4, 1]
    assert len({bytes(x) for x in np.concatenate([train.images, test.images])}) == 17


def test_first_examples_of_a_folder_are_of_many_classes(tmp_path):
    for c in "abcd":
        for i in range(20):
            png(tmp_path / "test" / c / f"{i:02}.png", constant(i))
    whole = data.load_data(f"folder:{tmp_path}", "test")
    few = data.load_data(f"folder:{tmp_path}", "test", max_examples=12)
    np.testing.assert_array_equal(few.labels, whole.labels[:12])
    np.testing.assert_array_equal(few.images, whole.images[:12])
    assert len(set(few.labels)) == 4


def test_folder_colours(tmp_path, folder):
    def load(name, split="test"):
        return data.load_data(f"folder:{tmp_path / name}", split)

    for split in ("train", "test"):
        png(tmp_path / "grey" / split / "a" / "0.png", constant(7, (4, 4, 1)))
        jpeg(tmp_path / "grey" / split / "b" / "0.jpg", constant(9, (4, 4, 1)))
        png(tmp_path / "mixed" / split / "a" / "0.png", constant(7, (4, 4, 1)))
    jpeg(tmp_path / "mixed" / "train" / "a" / "1.JPEG", constant(9, (4, 4, 3)))
    transparent = np.concatenate([constant(8, (4, 4, 3)), constant(0, (4, 4, 1))], 2)
    png(tmp_path / "mixed" / "train" / "a" / "2.png", transparent)
    assert load("grey").input_shape == (4, 4, 1) and sorted(load("grey").images[:, 0, 0, 0]) == [
        7,
        9,
    ]
    test, train = load("mixed"), load("mixed", "train")
    assert (
        test.input_shape == train.input_shape == (4, 4, 3)
    )  # grey test images too, since a training image has colour
    assert (test.images == 7).all() and sorted(train.images[:, 0, 0, 1]) == [7, 8, 9]


def test_folder_sizes(folder):
    png(folder / "train" / "dog" / "other.png", constant(22, (8, 8, 3)))
    with pytest.raises(InputError, match=r"images differ in size: .*; give image_size"):
        data.load_data(f"folder:{folder}", "train")
    resized = data.load_data(f"folder:{folder}", "train", image_size=(5, 5))
    assert resized.images.shape == (6, 5, 5, 3) and sorted(resized.images[:, 2, 2, 0]) == [
        10,
        11,
        12,
        20,
        21,
        22,
    ]


def test_folder_errors(tmp_path, folder):
    def fails(message, path=folder, split="train"):
        with pytest.raises(InputError, match=message) as caught:
            data.load_data(f"folder:{path}", split)
        assert "\n" not in str(caught.value)

    fails("'' is not a folder; expected folder:PATH", path="")
    fails("is not a folder; expected folder:PATH with PATH/train/<class>", path=folder / "nowhere")
    fails("unknown split 'valid' of 'folder:.*'; valid names: test, train", split="valid")
    (tmp_path / "empty").mkdir()
    fails("empty' has no class folders", path=tmp_path / "empty")
    png(tmp_path / "single" / "a" / "0.png", constant(0))
    fails("class 'a' has 1 image, too few for a train and a test part", path=tmp_path / "single")
    (folder / "test" / "bird").mkdir()
    fails(r"no images \(.png, .jpg, .jpeg\) for the class 'bird'", split="test")
    png(folder / "test" / "bird" / "0.png", constant(0))
    fails("the classes of 'test' and 'train' differ: bird", split="test")
    (folder / "test" / "bird" / "0.png").unlink()
    (folder / "test" / "bird").rmdir()


@pytest.mark.parametrize("content", [b"", b"no image", "cut png", "cut jpeg"])
def test_unreadable_image_is_named(folder, content):
    for kind, write in (("png", png), ("jpeg", jpeg)):
        if content == f"cut {kind}":
            path = folder / "train" / "dog" / f"bad.{kind}"
            write(path, np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8))
            path.write_bytes(path.read_bytes()[: 300 if kind == "png" else 900])
    if isinstance(content, bytes):
        (folder / "train" / "dog" / "bad.png").write_bytes(content)
    with pytest.raises(InputError, match=r"cannot read the image '.*/train/dog/bad\.(png|jpeg)'"):
        data.load_data(f"folder:{folder}", "train")


# --- TFDS


def prepare(root: pathlib.Path, name: str, features: dict, splits: dict) -> str:
    """Writes examples as TFDS would have prepared them."""
    features = tfds.features.FeaturesDict(features)
    folder = root / name / "1.0.0"
    folder.mkdir(parents=True)
    infos = []
    template = tfds.core.ShardedFileTemplate(
        data_dir=folder,
        dataset_name=name,
        filetype_suffix="tfrecord",
        template="{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
    )
    for split, shards in splits.items():
        for i, shard in enumerate(shards):
            path = folder / f"{name}-{split}.tfrecord-{i:05}-of-{len(shards):05}"
            with tf.io.TFRecordWriter(str(path)) as writer:
                for example in shard:
                    writer.write(features.serialize_example(features.encode_example(example)))
        infos.append(
            tfds.core.SplitInfo(
                name=split,
                shard_lengths=[len(shard) for shard in shards],
                num_bytes=1,
                filename_template=template.replace(split=split),
            )
        )
    tfds.folder_dataset.write_metadata(
        data_dir=folder,
        features=features,
        split_infos=infos,
        check_data=False,
        supervised_keys=None,
    )
    return str(root)


IMAGE, LABEL = tfds.features.Image(shape=(4, 4, 1)), tfds.features.ClassLabel(names=["no", "yes"])


def test_tfds_prepared_data_in_stored_order(tmp_path, no_network):
    example = lambda i: {"image": constant(i, (4, 4, 1)), "label": i % 2}
    shards = [[example(i) for i in range(40)], [example(i) for i in range(40, 70)]]
    data_dir = prepare(
        tmp_path,
        "made_here",
        {"image": IMAGE, "label": LABEL},
        {"train": shards, "test": shards[:1]},
    )
    train = data.load_data("made_here", "train", data_dir=data_dir)
    np.testing.assert_array_equal(
        train.images[:, 0, 0, 0], np.arange(70)
    )  # one file after the other
    np.testing.assert_array_equal(train.labels, np.arange(70) % 2)
    assert train.class_names == ("no", "yes") and (train.name, train.split) == (
        "made_here",
        "train",
    )
    few = data.load_data(
        "made_here:1.0.0", "test", data_dir=data_dir, max_examples=3, image_size=(8, 8)
    )
    assert few.images.shape == (3, 8, 8, 1) and few.images[:, 0, 0, 0].tolist() == [0, 1, 2]
    assert len(data.load_data("made_here", "train[:10%]", data_dir=data_dir)) == 7
    part = data.load_data("made_here", "train", data_dir=data_dir, train_fraction=0.2)
    assert np.bincount(part.labels).tolist() == [7, 7]
    with pytest.raises(
        InputError, match="unknown split 'tests' of 'made_here'; valid names: test, train"
    ):
        data.load_data("made_here", "tests", data_dir=data_dir)
    with pytest.raises(
        InputError, match=r"could not read split 'train\[:' of 'made_here' in .*; check the split"
    ):
        data.load_data("made_here", "train[:", data_dir=data_dir)


def test_tfds_images_of_different_sizes(tmp_path, no_network):
    features = {"image": tfds.features.Image(shape=(None, None, 3)), "label": LABEL}
    examples = [{"image": constant(9 + i, (4 + i, 6, 3)), "label": 1} for i in range(3)]
    data_dir = prepare(tmp_path, "made_here", features, {"train": [examples]})
    with pytest.raises(
        InputError, match="the images of 'made_here' differ in size: .* give image_size"
    ):
        data.load_data("made_here", "train", data_dir=data_dir)
    train = data.load_data("made_here", "train", data_dir=data_dir, image_size=(5, 5))
    assert train.images.shape == (3, 5, 5, 3) and train.images[:, 2, 2, 2].tolist() == [9, 10, 11]


def test_tfds_data_that_cannot_be_used(tmp_path, no_network):
    example = {"image": constant(1, (4, 4, 1)), "label": 1}
    splits = {"train": [[example] * 3], "test": [[{**example, "label": -1}]]}
    data_dir = prepare(tmp_path, "made_here", {"image": IMAGE, "label": LABEL}, splits)
    with pytest.raises(InputError, match="split 'test' of 'made_here'.* a split without labels"):
        data.load_data("made_here", "test", data_dir=data_dir)
    file = tmp_path / "made_here" / "1.0.0" / "made_here-train.tfrecord-00000-of-00001"
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(
        InputError, match="could not read split 'train' of 'made_here' in .*; check the split, or"
    ):
        data.load_data("made_here", "train", data_dir=data_dir)
    prepare(
        tmp_path,
        "texts",
        {"text": tfds.features.Text(), "label": LABEL},
        {"train": [[{"text": "a", "label": 1}]]},
    )
    with pytest.raises(
        InputError, match=r"'texts' has the features \['label', 'text'\]; expected an 8-bit image"
    ):
        data.load_data("texts", "train", data_dir=data_dir)


@pytest.mark.parametrize("content", ["", '{"name": "made_he'])
def test_tfds_data_whose_description_is_cut_off(content, tmp_path, no_network):
    example = {"image": constant(1, (4, 4, 1)), "label": 1}
    features = {"image": IMAGE, "label": LABEL}
    data_dir = prepare(tmp_path, "made_here", features, {"train": [[example]]})
    (tmp_path / "made_here" / "1.0.0" / "dataset_info.json").write_text(content)
    for call in (data.load_data, data.check_split):
        with pytest.raises(InputError, match="could not read 'made_here' in .*: ParseError"):
            call("made_here", "train", data_dir=data_dir)


def test_tfds_data_of_array_record(tmp_path, no_network):
    example = {"image": constant(1, (4, 4, 1)), "label": 1}
    features = {"image": IMAGE, "label": LABEL}
    data_dir = prepare(tmp_path, "made_here", features, {"train": [[example]]})
    description = tmp_path / "made_here" / "1.0.0" / "dataset_info.json"
    described = json.loads(description.read_text()) | {"fileFormat": "array_record"}
    description.write_text(json.dumps(described))
    with pytest.raises(InputError, match="could not read split 'train' of 'made_here'"):
        data.load_data("made_here", "train", data_dir=data_dir)


def test_tfds_data_that_is_not_prepared(tmp_path, monkeypatch, no_network):
    message = (
        r"'cifar100' is not prepared in {} \(looked for .*cifar100/[0-9.]+\) and {}; on a "
        r"machine with network"
    )
    with pytest.raises(InputError, match=message.format(tmp_path, "the network was not tried")):
        data.load_data("cifar100", "train", data_dir=str(tmp_path), download=False)

    def fail(*_, **__):
        raise OSError("Name or service\nnot known")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", fail)
    failed = "could not be downloaded: OSError: Name or service not known"
    with pytest.raises(InputError, match=message.format(tmp_path, failed)):
        data.load_data("cifar100", "train", data_dir=str(tmp_path))


@needs_shared
@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10"])
def test_real_prepared_data(name, no_network):
    test = data.load_data(name, "test", data_dir=str(SHARED), max_examples=500)
    shape, num_classes = data.SHAPES[name]
    assert test.input_shape == shape and test.num_classes == num_classes and len(test) == 500
    assert (
        np.bincount(test.labels).min() > 25
    )  # stored in random order: each class is among the first ones
    oracle = tfds.load(name, split="test[:50]", data_dir=str(SHARED), download=False)
    for i, example in enumerate(oracle):
        np.testing.assert_array_equal(test.images[i], example["image"])
        assert test.labels[i] == example["label"].numpy()


def test_tfds_images_that_shrink_are_resized_as_they_are_read(tmp_path, no_network, monkeypatch):
    """As when all are read, without the memory for all."""
    pixels = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 1), np.uint8)
    examples = [{"image": image, "label": 1} for image in pixels]
    features = {"image": IMAGE, "label": LABEL}
    data_dir = prepare(tmp_path, "made_here", features, {"train": [examples]})
    found = []
    for at_once in (2**30, 0):
        monkeypatch.setattr(tfds_sets, "_AT_ONCE", at_once)
        found.append(data.load_data("made_here", "train", data_dir=data_dir, image_size=(3, 2)))
    np.testing.assert_array_equal(found[0].images, found[1].images)
    assert found[0].images.shape == (5, 3, 2, 1)


def test_images_in_splits_without_classes(tmp_path):
    for split in ("train", "test"):
        png(tmp_path / split / "0.png", constant(1))
        png(tmp_path / split / "1.png", constant(1))
    with pytest.raises(InputError, match="lie in test and train without folders of their classes"):
        data.load_data(f"folder:{tmp_path}", "train")


def test_what_is_held_out_is_not_what_a_fraction_keeps():
    """A run that starts from a network of a part of the images chose its epoch on that part."""
    digits = data.load_data("digits", "train")
    part = data.load_data("digits", "train", train_fraction=0.1, seed=3)
    _, held = data.hold_out(digits, 0.1, 3)
    seen = {image.tobytes() for image in part.images}
    both = sum(image.tobytes() in seen for image in held.images)
    assert len(held) == len(part) and both < 30  # 13 by chance


def test_test_images_are_looked_at_before_a_teacher_is_trained(folder):
    """And by --check, which said that all was well."""
    (folder / "test" / "dog").rename(folder / "dog")
    for split in ("train", "test"):
        png(folder / split / "cat" / "b.png", constant(5))
    (folder / "teacher.flags").write_text("--method=natural\n")
    flags = ["--method=rkd", f"--teacher=flagfile:{folder}/teacher.flags", "--batch_size=2"]
    config = parse(TrainConfig, [*flags, f"--dataset=folder:{folder}", f"--run_dir={folder}/run"])
    with pytest.raises(InputError, match="the classes of .* differ"):
        trainer.check_training(config)


@pytest.mark.parametrize("kind", ["size", "split"])
def test_a_runs_test_images_are_looked_at_before_it_trains(kind, folder, monkeypatch):
    for split in ("train", "test"):
        png(folder / split / "cat" / "b.png", constant(5))
    if kind == "size":
        for of_class in ("cat", "dog"):
            for file in (folder / "test" / of_class).iterdir():
                png(file, constant(1, (5, 5, 3)))
    else:
        (folder / "test").rename(folder / "val")
    monkeypatch.setattr(trainer, "fit", None)
    monkeypatch.setattr(trainer.device, "set_determinism", lambda on: None)  # of other tests
    flags = [f"--dataset=folder:{folder}", f"--run_dir={folder}/run", "--batch_size=2"]
    says = "test images of \\(5, 5, 3\\)" if kind == "size" else "unknown split 'test' of 'folder:"
    with pytest.raises(InputError, match=says):
        trainer.run_training(parse(TrainConfig, flags))


def test_a_plug_ins_data_dir_is_a_path(tmp_path, monkeypatch):
    given = []
    module = types.ModuleType("my.data")
    module.mine = lambda split, data_dir: given.append(data_dir) or data.load_data("digits", split)
    monkeypatch.setitem(sys.modules, "my.data", module)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "photos").mkdir()
    data.load_data("my.data:mine", "test", data_dir="~/photos")
    assert given == [f"{tmp_path}/photos"]
