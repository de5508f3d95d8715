"""The original order of data that TFDS's own builders prepared, and attack files in it.

Here the real builders prepare stand-in images in a temporary folder; original image i holds its own
number in its first two pixels. The oracle is that number."""

import dataclasses
import json
import struct
import unittest.mock

import numpy as np
import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.image_classification import mnist

import tf_robust_transfer as rt
from tf_robust_transfer.data import original_order
from tf_robust_transfer.evaluation import challenge_files

COUNT = {"train": 30, "test": 40}


def images_of(count, shape):
    images = np.zeros((count, *shape), np.uint8)
    images[:, 0, 0, 0], images[:, 0, 1, 0] = np.arange(count) // 256, np.arange(count) % 256
    return images


def numbers(images):
    return (256 * images[:, 0, 0, 0].astype(int) + images[:, 0, 1, 0]).tolist()


def write_mnist(folder, labels):
    paths = {}
    for split, count in COUNT.items():
        images = images_of(count, (28, 28, 1))
        for kind, head, array in (
            ("data", struct.pack(">iiii", 2051, count, 28, 28), images),
            ("labels", struct.pack(">ii", 2049, count), labels(count)),
        ):
            paths[f"{split}_{kind}"] = folder / f"{split}_{kind}"
            paths[f"{split}_{kind}"].write_bytes(head + array.astype(np.uint8).tobytes())
    return paths


def write_cifar(folder, labels):
    inside = folder / "cifar-10-batches-bin"
    inside.mkdir()
    names = "airplane automobile bird cat deer dog frog horse ship truck".split()
    (inside / "batches.meta.txt").write_text("\n".join(names))
    rows = {}
    for split, count in COUNT.items():
        images = images_of(count, (32, 32, 3)).transpose(0, 3, 1, 2).reshape(count, -1)
        rows[split] = np.concatenate([labels(count)[:, None].astype(np.uint8), images], axis=1)
    for number, part in enumerate(np.split(rows["train"], 5), 1):
        (inside / f"data_batch_{number}.bin").write_bytes(part.tobytes())
    (inside / "test_batch.bin").write_bytes(rows["test"].tobytes())
    return str(folder)


def prepared(name, folder, labels=lambda count: np.arange(count) % 10):
    """A data_dir with the set, by TFDS's own builder."""
    source = folder / "source"
    source.mkdir(parents=True)
    written = (write_cifar if name == "cifar10" else write_mnist)(source, labels)
    manager = "tensorflow_datasets.core.download.DownloadManager.download_and_extract"
    with (
        unittest.mock.patch(manager, return_value=written),
        unittest.mock.patch.object(mnist, "_TRAIN_EXAMPLES", COUNT["train"]),
        unittest.mock.patch.object(mnist, "_TEST_EXAMPLES", COUNT["test"]),
    ):
        config = tfds.download.DownloadConfig(try_download_gcs=False)
        builder = tfds.builder(name, data_dir=str(folder), try_gcs=False)
        builder.download_and_prepare(download_config=config)
    return str(folder)


@pytest.fixture(scope="module", params=["mnist", "fashion_mnist", "cifar10"])
def data(request, tmp_path_factory):
    return request.param, prepared(request.param, tmp_path_factory.mktemp(request.param))


def test_the_test_split_is_in_the_original_order(data):
    name, folder = data
    found = rt.data.load_data(name, "test", data_dir=folder)
    assert numbers(found.images) == list(range(40)) and found.order == "original"
    assert found.labels.tolist() == [i % 10 for i in range(40)]
    few = rt.data.load_data(name, "test", data_dir=folder, max_examples=7)
    assert numbers(few.images) == list(range(7))


def test_the_order_of_training_stays(data):
    name, folder = data
    stored = tfds.as_numpy(tfds.load(name, split="train", data_dir=folder, batch_size=-1))
    found = rt.data.load_data(name, "train", data_dir=folder)
    assert numbers(found.images) == numbers(stored["image"]) != list(range(30))
    assert found.order == "as stored"
    asked = rt.data.load_data(name, "train", data_dir=folder, original_order=True)
    assert numbers(asked.images) == list(range(30))


def test_a_slice_is_of_the_stored_order(data):
    name, folder = data
    stored = tfds.as_numpy(tfds.load(name, split="test", data_dir=folder, batch_size=-1))
    found = rt.data.load_data(name, "test[:10]", data_dir=folder)
    assert numbers(found.images) == numbers(stored["image"])[:10] and found.order == "as stored"


def test_data_of_another_builder_is_as_stored(data, tmp_path):
    """As a folder that somebody wrote with TFDS's tools under the same name."""
    name, folder = data
    copy = tmp_path / name
    import shutil

    shutil.copytree(f"{folder}/{name}", copy)
    (info,) = copy.glob("*/dataset_info.json")
    described = json.loads(info.read_text())
    assert described["moduleName"].startswith("tensorflow_datasets.")
    info.write_text(json.dumps(described | {"moduleName": "__main__"}))
    found = rt.data.load_data(name, "test", data_dir=str(tmp_path))
    assert found.order == "as stored" and numbers(found.images) != list(range(40))


def test_keys_of_another_order_show_in_the_labels(tmp_path, monkeypatch):
    """The counts of the real set, in another sequence: its keys are not the original places."""
    counts = np.bincount(np.arange(40) % 10).tolist()
    for first, order in (([0, 1, 2], "original"), ([7, 2, 1], "as stored")):
        monkeypatch.setitem(original_order._FIRST_LABELS, ("mnist", "test"), (counts, first))
        folder = tmp_path / order.replace(" ", "_")
        found = rt.data.load_data("mnist", "test", data_dir=prepared("mnist", folder))
        assert found.order == order
        assert (numbers(found.images) == list(range(40))) == (order == "original")


THREAT = rt.ThreatModel("linf", 0.1)
GREY = np.random.default_rng(0).integers(0, 256, (6, 28, 28, 1)).astype(np.uint8)
COLOUR = np.random.default_rng(1).integers(0, 256, (6, 32, 30, 3)).astype(np.uint8)
UNIT = (GREY / 255).astype(np.float32)


@pytest.mark.parametrize(
    "clean, stored",
    [
        (GREY, UNIT.reshape(6, -1)),
        (GREY, UNIT[..., 0].astype(np.float64)),
        (GREY, UNIT),
        (GREY, GREY.reshape(6, -1)),
        (COLOUR, COLOUR.astype(np.float32)),
        (COLOUR, COLOUR),
        (COLOUR, COLOUR.astype(np.float64).reshape(6, -1)),
        (COLOUR, COLOUR.transpose(0, 3, 1, 2).astype(np.float32)),
    ],
    ids=[
        "challenge",
        "without channels",
        "images",
        "grey levels",
        "colour",
        "uint8",
        "flat",
        "channels first",
    ],
)
@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_attack_files_are_read(clean, stored, suffix, tmp_path):
    path = tmp_path / f"attack.{suffix}"
    (np.save if suffix == "npy" else np.savez)(path, stored)
    images = (clean / 255).astype(np.float32)
    np.testing.assert_allclose(challenge_files.read(path, images, THREAT), images, atol=1e-6)


@pytest.mark.parametrize(
    "stored, words",
    [
        (UNIT[:4].reshape(4, -1), "expected 6 examples.*got 4.*--max_examples=4"),
        (np.repeat(UNIT, 2, axis=0).reshape(12, -1), "expected 6 examples.*got 12"),
        (UNIT[:, :27], r"expected examples \[6, 784\], got float32 \[6, 27, 28, 1\]"),
        (UNIT.reshape(-1), r"expected examples \[6, 784\]"),
        (255 * UNIT, r"looks like \[0, 255\]"),
        (UNIT.astype(np.complex64), "expected floats"),
        (UNIT.astype(str), "expected floats"),
        (np.full_like(UNIT, np.nan), "NaN"),
        (np.array([{"a": 1}] * 6), "no NumPy array file of numbers"),
        (UNIT[::-1], "6 rows are too far.*order is as stored"),
    ],
)
def test_attack_files_are_refused_in_words_that_fit(stored, words, tmp_path):
    np.save(tmp_path / "attack.npy", stored, allow_pickle=True)
    with pytest.raises(rt.InputError, match=words) as refused:
        challenge_files.read(tmp_path / "attack.npy", UNIT, THREAT)
    assert "\n" not in str(refused.value)


def test_colour_in_0_to_1_and_two_arrays(tmp_path):
    images = (COLOUR / 255).astype(np.float32)
    np.save(tmp_path / "attack.npy", images)
    with pytest.raises(rt.InputError, match=r"looks like \[0, 1\]"):
        challenge_files.read(tmp_path / "attack.npy", images, THREAT)
    np.savez(tmp_path / "two.npz", a=images, b=images)
    with pytest.raises(rt.InputError, match="holds 2 arrays"):
        challenge_files.read(tmp_path / "two.npz", images, THREAT)


def test_results_say_the_order():
    result = rt.evaluate_robustness(
        rt.build_model("small_cnn", (28, 28, 1), 10),
        UNIT,
        np.arange(6),
        threat_model=THREAT,
        attacks=(),
        check_model=False,
    )
    named = {"model": "m", "dataset": "d", "split": "test"}
    assert result.to_json_dict(**named, order="as stored")["order"] == "as stored"
    assert dataclasses.is_dataclass(result)
