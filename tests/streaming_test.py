"""Streamed training images, from small sets on the disk as TFDS prepares them: order, resumption,
decoding, refusals.

An image's label is its number, so that the batches tell which images they hold.
"""

import dataclasses
import io
import pathlib

import keras
import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from scipy import stats

from tests import fresh_process
from tests.data_files_test import prepare
from tf_robust_transfer import data, methods
from tf_robust_transfer.command_line import parse
from tf_robust_transfer.config import TrainConfig
from tf_robust_transfer.data import augmentation, decoding, images, streaming, tfds_sets, training
from tf_robust_transfer.errors import InputError
from tf_robust_transfer.runs import callbacks, run_training
from tf_robust_transfer.runs.images import load_train

LENGTHS = (5, 9, 7, 6, 8, 5, 7)  # 47 images in 7 files
SIZE = 8, 8
pytestmark = pytest.mark.usefixtures("no_network")


def encoded(pixels: np.ndarray, kind: str = "JPEG") -> bytes:
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(
        file, kind, **({"quality": 95, "subsampling": 0} if kind == "JPEG" else {})
    )
    return file.getvalue()


def number_image(number: int) -> np.ndarray:
    """Of a size of its own, in the one colour (5 * number, 255 - 5 * number, 100)."""
    pixels = np.empty((10 + number % 7, 12 + number % 5, 3), np.uint8)
    pixels[:] = 5 * number, 255 - 5 * number, 100
    return pixels


def write_set(root, name="imagenet2012", lengths=LENGTHS, num_classes=None) -> str:
    """A prepared set with splits train and validation. The label of the n-th image is n, modulo the
    classes if given.
    """
    numbers = iter(range(sum(lengths)))
    classes = num_classes or sum(lengths)
    example = lambda n: {"image": io.BytesIO(encoded(number_image(n % 50))), "label": n % classes}
    features = {"image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
                "label": tfds.features.ClassLabel(num_classes=classes)}  # fmt: skip
    train = [[example(next(numbers)) for _ in range(length)] for length in lengths]
    return prepare(
        root, name, features, {"train": train, "validation": [[example(n) for n in range(6)]]}
    )


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("tfds"))


def opened(data_dir, group_files=2, **arguments):
    source = data.stream_data("imagenet2012", data_dir=data_dir, image_size=SIZE, **arguments)
    return dataclasses.replace(source, group_files=group_files)


def take(source, count, **arguments):
    batches = data.train_batches(source, **{"batch_size": 6, "seed": 3, **arguments})
    return [tuple(x.numpy() for x in batch) for batch in batches.take(count)]


def labels(batches):
    return np.concatenate([batch[1] for batch in batches])


# --- order


def test_each_epoch_has_each_image_at_most_once_in_a_new_order(data_dir):
    source = opened(data_dir)
    assert len(source) == 47 and data.steps_per_epoch(source, 6) == 7
    batches = take(source, 21)
    epochs = [labels(batches[start : start + 7]) for start in (0, 7, 14)]
    for epoch in epochs:
        assert len(set(epoch)) == 42  # of 47: the last 5 make no whole batch
    assert not np.array_equal(epochs[0], epochs[1]) and not np.array_equal(epochs[1], epochs[2])
    assert {int(x) for x in np.concatenate(epochs)} == set(range(47))
    assert sorted(labels(take(source, 1, batch_size=47))) == list(
        range(47)
    )  # all, where the batches divide them
    assert (
        batches[0][0].shape == (6, *SIZE, 3)
        and batches[0][0].dtype == np.float32
        and batches[0][1].dtype == np.int32
    )
    for pixels, numbers in batches[:7]:  # each image under its own label
        expected = (
            np.stack([5.0 * numbers, 255.0 - 5.0 * numbers, np.full(6, 100.0)], axis=-1) / 255
        )
        np.testing.assert_allclose(
            pixels, np.broadcast_to(expected[:, None, None], pixels.shape), atol=3 / 255
        )


@pytest.mark.slow
def test_the_order_is_of_the_seed_alone(data_dir):
    source = opened(data_dir)
    tf.random.set_seed(1)
    first = take(source, 9, augmentation=("resized_crop", "flip"))
    tf.random.set_seed(2)  # a global seed has no part in it
    for one, other in zip(
        first, take(source, 9, augmentation=("resized_crop", "flip")), strict=True
    ):
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1], other[1])
    assert not np.array_equal(labels(first), labels(take(source, 9, seed=4)))


def test_a_group_of_files_is_shuffled_whole(data_dir):
    """The first epoch's images come by groups of two whole files, and mixed within a group."""
    order = labels(take(opened(data_dir), 1, batch_size=47))
    file_of = np.repeat(np.arange(7), LENGTHS)
    files, seen = file_of[order], 0
    while seen < 47:
        group = set(files[seen : seen + 5])  # no file is shorter
        end = seen + sum(LENGTHS[i] for i in group)
        assert set(files[seen:end]) == group and len(group) <= 2
        if len(group) == 2:
            assert (np.diff(files[seen:end]) != 0).sum() > 1 and (
                np.diff(order[seen:end]) < 0
            ).any()
        seen = end
    # One group of all files: place in the files against place in the epoch, within 4 deviations of
    # no correlation.
    places = labels(take(opened(data_dir, group_files=7), 1, batch_size=47))
    assert abs(stats.spearmanr(np.arange(47), places).statistic) < 4 / np.sqrt(47)


@pytest.mark.slow
@pytest.mark.parametrize("group_files", [1, 3])
def test_started_later_is_bit_identical(data_dir, group_files):
    source = opened(data_dir, group_files)
    names = ("resized_crop", "flip")
    whole = take(source, 16, augmentation=names)
    for start in (1, 6, 7, 12):  # 7 batches an epoch
        resumed = take(source, 16 - start, augmentation=names, start_step=start)
        for expected, got in zip(whole[start:], resumed, strict=True):
            np.testing.assert_array_equal(got[0], expected[0])
            np.testing.assert_array_equal(got[1], expected[1])


def test_a_resumed_run_reads_no_group_that_is_done(tmp_path):
    """The files of groups that are done are emptied on the disk."""
    source = opened(write_set(tmp_path), group_files=1)
    whole = take(source, 7)
    file_of = np.repeat(np.arange(7), LENGTHS)
    used = [file_of[batch[1]] for batch in whole]
    for file in set(np.concatenate(used[:4])) - set(np.concatenate(used[4:])):
        pathlib.Path(source.files[file]).write_bytes(b"")
    for expected, got in zip(whole[4:], take(source, 3, start_step=4), strict=True):
        np.testing.assert_array_equal(got[0], expected[0])
    with pytest.raises(tf.errors.OpError):
        take(source, 7)  # the whole epoch does read them, and says so


def test_a_file_that_is_cut_short_is_told(tmp_path):
    """By whole records, which TensorFlow reads without complaint."""
    source = opened(write_set(tmp_path))
    cut_between_records(source.files[3])
    with pytest.raises(
        tf.errors.InvalidArgumentError,
        match="files of imagenet2012 hold other numbers of images than",
    ):
        take(source, 7)


def test_opening_reads_no_image(tmp_path):
    data_dir = write_set(tmp_path)
    for file in (tmp_path / "imagenet2012" / "1.0.0").glob("*tfrecord*"):
        file.write_bytes(b"not records")
    source = data.load_training_data("imagenet2012", data_dir=data_dir, image_size=SIZE)
    assert (
        isinstance(source, data.StreamedData)
        and len(source) == 47
        and source.input_shape == (8, 8, 3)
    )


# --- workers and devices


def test_workers_read_files_of_their_own(data_dir):
    parts = [opened(data_dir, num_shards=2, shard_index=i) for i in range(2)]
    assert sorted([*parts[0].files, *parts[1].files]) == sorted(opened(data_dir).files)
    totals = [sum(LENGTHS[i::2]) for i in range(2)]
    assert [len(part) for part in parts] == [2 * min(totals)] * 2  # both take as many steps
    seen = []
    for part, total in zip(parts, totals):
        alone = dataclasses.replace(
            part, num_shards=1, shard_index=0, usable=total
        )  # all that it has
        seen.append(set(labels(take(alone, 1, batch_size=total))))
    assert not seen[0] & seen[1] and seen[0] | seen[1] == set(range(47))
    steps = data.steps_per_epoch(parts[0], 4)
    batches = [take(part, steps, batch_size=4, augmentation=("resized_crop",)) for part in parts]
    assert all(len(batch[1]) == 2 for of_one in batches for batch in of_one)
    for own, of_one in zip(seen, batches):
        assert set(labels(of_one)) <= own and len(set(labels(of_one))) == 2 * steps
    with pytest.raises(InputError, match="batch_size 5 is not a multiple of the 2 workers"):
        take(parts[0], 1, batch_size=5)


_TWO_DEVICES = """
import dataclasses, sys
import numpy as np
import tensorflow as tf
from tf_robust_transfer import data
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
source = data.stream_data("imagenet2012", data_dir=sys.argv[1], image_size=(8, 8))
batches = data.train_batches(
    source, batch_size=6, seed=0, start_step=5, augmentation=("resized_crop",)
).take(4)
for parts, whole in zip(strategy.experimental_distribute_dataset(batches), batches, strict=True):
    for part, x in zip(parts, whole, strict=True):
        part = strategy.experimental_local_results(part)
        assert [len(y) for y in part] == [3, 3]
        np.testing.assert_array_equal(np.concatenate(part), x)
print("equal")
"""


def test_two_devices_share_each_batch_in_order(data_dir):
    done = fresh_process.run(_TWO_DEVICES, data_dir)
    assert done.stdout.endswith("equal\n"), done.stderr


def test_decoding_holds_no_stateful_operation(data_dir):
    """Under enable_op_determinism, which every run sets, tf.data runs maps with such an operation
    one after the other.
    """
    batches = streaming.read_batches(
        opened(data_dir), batch_size=6, seed=0, start_step=0, crops=True
    )
    maps, rest = [], [batches]
    while rest:
        dataset = rest.pop()
        rest.extend(dataset._inputs())  # pylint: disable=protected-access
        if type(dataset).__name__ == "_ParallelMapDataset":
            maps.append(dataset._map_func.function)  # pylint: disable=protected-access
    assert len(maps) == 1
    definition = maps[0].graph.as_graph_def()
    nodes = [
        node.op
        for part in (definition.node, *(f.node_def for f in definition.library.function))
        for node in part
    ]
    assert "DecodeAndCropJpeg" in nodes and "StatelessIf" in nodes and "If" not in nodes
    assert not maps[0].function_def.signature.is_stateful


# --- decoding


def place_image(height, width):
    """Red is the row, green the column: a crop tells where it was cut."""
    rows, columns = np.indices((height, width))
    return np.stack([rows, columns, np.zeros_like(rows)], axis=-1).astype(np.uint8)


def seeds(count):
    return [tf.constant([9, i], tf.int64) for i in range(count)]


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_random_crop_is_the_drawn_part_resized(kind):
    contents = encoded(place_image(60, 90), kind)
    stored = tf.io.decode_image(contents, 3).numpy()  # a JPEG keeps colours about, not quite
    for seed in seeds(6):
        row, column, height, width = augmentation.crop_boxes([[60, 90]], seed).numpy()[0]
        expected = images.resize(
            stored[np.newaxis, row : row + height, column : column + width], (20, 16)
        )[0]
        got = decoding.decode(contents, (20, 16, 3), images.resize_tensor, seed).numpy()
        np.testing.assert_array_equal(got, expected)


def test_crop_boxes_lie_inside_and_are_spread_as_drawn():
    count = 4000
    sizes = np.random.default_rng(0).integers(1, 400, (count, 2)).astype(np.int32)
    boxes = augmentation.crop_boxes(sizes, [1, 2]).numpy()
    assert (
        (boxes[:, :2] >= 0).all()
        and (boxes[:, 2:] >= 1).all()
        and (boxes[:, :2] + boxes[:, 2:] <= sizes).all()
    )
    row, column, height, width = (
        augmentation.crop_boxes(np.full((count, 2), 1000, np.int32), [1, 2]).numpy().T
    )
    # The same draws in NumPy, one by one: reject what does not fit into the square.
    rng, oracle = np.random.default_rng(1), []
    while len(oracle) < count:
        area, aspect = 1e6 * rng.uniform(0.08, 1), np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
        if max(area * aspect, area / aspect) <= 1e6:
            oracle.append((np.sqrt(area * aspect), np.sqrt(area / aspect)))
    assert stats.ks_2samp(width, np.array(oracle)[:, 0]).pvalue > 1e-4
    assert stats.ks_2samp(height, np.array(oracle)[:, 1]).pvalue > 1e-4
    ratio = width / height
    assert ratio.min() > 0.74 and ratio.max() < 1.35 and (width * height).min() > 0.079e6
    for place, side in ((row, height), (column, width)):
        assert stats.kstest((place + 0.5) / (1001 - side), "uniform").pvalue > 1e-4


@pytest.mark.parametrize(
    "size, expected", [((10, 400), (0, 194, 10, 13)), ((400, 10), (194, 0, 13, 10))]
)
def test_where_no_draw_fits_the_crop_is_the_largest_in_the_middle(size, expected):
    """8% of 10x400 is 320 pixels; at the widest, 4/3, 15 of height."""
    row, column, height, width = expected
    got = augmentation.crop_boxes([size], [0, 0]).numpy()[0]
    assert (
        tuple(got[2:]) == (height, width) and abs(got[0] - row) <= 1 and abs(got[1] - column) <= 1
    )


def test_resized_crop_in_memory_is_bilinear_between_the_outermost_pixels():
    batch = np.random.default_rng(0).random((5, 9, 7, 2)).astype(np.float32)
    got = augmentation.resized_crop(tf.constant(batch), tf.constant([4, 5])).numpy()
    boxes = augmentation.crop_boxes([[9, 7]] * 5, [4, 5]).numpy()

    def along(values, size, axis):
        place = np.linspace(0, values.shape[axis] - 1, size)
        low = np.minimum(np.floor(place).astype(int), max(values.shape[axis] - 2, 0))
        high = np.minimum(low + 1, values.shape[axis] - 1)
        weight = (place - low).reshape([-1 if i == axis else 1 for i in range(3)])
        return values.take(low, axis) * (1 - weight) + values.take(high, axis) * weight

    for image, cropped, (row, column, height, width) in zip(batch, got, boxes):
        part = image[row : row + height, column : column + width]
        np.testing.assert_allclose(cropped, along(along(part, 9, 0), 7, 1), atol=1e-5)


@pytest.mark.parametrize(
    "size, resized",
    [
        ((300, 500), (256, 426)),
        ((333, 250), (340, 256)),
        ((256, 256), (256, 256)),
        ((100, 120), (256, 307)),
    ],
)
def test_centre_crop_is_that_of_pillow(size, resized):
    """Resize(256), CenterCrop(224) as torchvision does them with Pillow."""
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)
    whole = np.asarray(
        PIL.Image.fromarray(pixels).resize(resized[::-1], PIL.Image.Resampling.BILINEAR)
    )
    row, column = (round((side - 224) / 2) for side in resized)
    expected = whole[row : row + 224, column : column + 224].astype(int)
    got = images.centre_crop(pixels, (224, 224)).numpy()
    assert got.shape == (224, 224, 3) and np.abs(got.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("name", ["imagenet_resized/32x32", "imagenet_resized/64x64:0.1.0"])
def test_imagenet_resized_is_streamed_as_it_is_in_memory(name):
    """It was enlarged by 8/7 and cut, and its test images were not."""
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8)
    got = decoding.decode(encoded(pixels, "PNG"), (32, 32, 3), tfds_sets.fitting(name), None)
    np.testing.assert_array_equal(got, pixels)
    assert tfds_sets.fitting("imagenet2012") is images.centre_crop


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("seed", [None, (1, 2)])
def test_grey_images_get_three_channels(kind, seed):
    contents = encoded(np.full((30, 40), 77, np.uint8), kind)
    got = decoding.decode(contents, (8, 8, 3), images.centre_crop, seed).numpy()
    np.testing.assert_array_equal(got, np.full((8, 8, 3), 77))


# --- what is streamed, and what is refused


def test_large_sets_are_streamed_and_small_ones_held(data_dir, tmp_path, monkeypatch):
    write_set(tmp_path, "other")
    arguments = {"data_dir": str(tmp_path), "image_size": SIZE}
    assert isinstance(data.load_training_data("other", **arguments), data.ImageData)
    assert isinstance(data.load_training_data("digits"), data.ImageData)
    monkeypatch.setattr(training, "MEMORY_BUDGET", 47 * 8 * 8 * 3 - 1)
    assert isinstance(data.load_training_data("other", **arguments), data.StreamedData)
    assert isinstance(
        data.load_training_data("other", train_fraction=0.5, **arguments), data.ImageData
    )
    with pytest.raises(
        InputError,
        match="train_fraction=0.5 is chosen by the labels of all images, and 'imagenet2012' is",
    ):
        data.load_training_data(
            "imagenet2012", data_dir=data_dir, image_size=SIZE, train_fraction=0.5
        )


def test_imagenet_is_tested_on_its_validation_split(data_dir):
    test = data.load_data("imagenet2012", "test", data_dir=data_dir, image_size=SIZE)
    assert test.split == "validation" and test.labels.tolist() == list(range(6))
    for pixels, number in zip(test.images, range(6)):
        np.testing.assert_allclose(
            pixels[4, 4].astype(int), [5 * number, 255 - 5 * number, 100], atol=3
        )
    assert (
        len(data.load_data("imagenet2012", "test[:50%]", data_dir=data_dir, image_size=SIZE)) == 3
    )


def test_what_cannot_be_streamed(tmp_path, data_dir):
    with pytest.raises(
        InputError, match="the images of 'imagenet2012' differ in size: .* give image_size"
    ):
        data.load_training_data("imagenet2012", data_dir=data_dir)
    with pytest.raises(
        InputError,
        match="expected 0 <= shard_index < num_shards <= 7, the train files of 'imagenet2012'",
    ):
        opened(data_dir, num_shards=8)
    with pytest.raises(InputError, match="'imagenet2012' is not prepared in"):
        data.load_training_data(
            "imagenet2012", data_dir=str(tmp_path), image_size=SIZE, download=False
        )
    with pytest.raises(
        InputError,
        match="batch_size 48 is larger than split 'train' of 'imagenet2012', which holds 47",
    ):
        take(opened(data_dir), 1, batch_size=48)
    broken = write_set(tmp_path)
    (tmp_path / "imagenet2012" / "1.0.0" / "imagenet2012-train.tfrecord-00003-of-00007").unlink()
    with pytest.raises(
        InputError,
        match="1 of the 7 train files of 'imagenet2012' are missing in .*00003-of-00007; copy",
    ):
        opened(broken)


# --- a run


class Stop(Exception):
    pass


@pytest.mark.slow
def test_an_interrupted_run_on_streamed_images_ends_with_the_same_weights(tmp_path, monkeypatch):
    """Stopped inside the second epoch, at step 10, and gone on with; 7 batches an epoch."""
    arguments = [
        "--dataset=imagenet2012",
        f"--data_dir={write_set(tmp_path, num_classes=5)}",
        "--image_size=8x8",
        "--batch_size=6",
        "--train_steps=16",
        "--augmentation=resized_crop,flip",
        "--attacks=fgsm",
        "--watch_attack=fgsm",
        "--watch_examples=4",
        "--learning_rate=0.01",
        "--checkpoint_minutes=0.00001",
    ]
    assert isinstance(load_train(parse(TrainConfig, arguments)), data.StreamedData)
    alone = run_training(parse(TrainConfig, [*arguments, f"--run_dir={tmp_path}/alone"]))
    stopped = parse(TrainConfig, [*arguments, f"--run_dir={tmp_path}/stopped"])
    end_of_batch = callbacks.Checkpoint.on_train_batch_end

    def stop(self, batch, logs=None):
        end_of_batch(self, batch, logs)
        if self.model.steps_done == 10:
            raise Stop

    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(callbacks.Checkpoint, "on_train_batch_end", stop)
        run_training(stopped)
    resumed = run_training(stopped)
    for one, other in zip(saved(alone), saved(resumed), strict=True):
        np.testing.assert_array_equal(one, other)


def cut_between_records(path):
    records = list(tf.data.TFRecordDataset(path).as_numpy_iterator())
    with tf.io.TFRecordWriter(path) as writer:
        for record in records[1:]:
            writer.write(record)


@pytest.mark.parametrize("damage", [
    lambda path: pathlib.Path(path).write_bytes(pathlib.Path(path).read_bytes()[:-9]),
    lambda path: pathlib.Path(path).unlink(),
    cut_between_records,
])  # fmt: skip
def test_damage_met_in_the_middle_of_a_training_is_one_line(tmp_path, damage):
    source = opened(write_set(tmp_path, num_classes=5), group_files=1)
    damage(source.files[3])
    student = keras.Sequential(
        [keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(5)]
    )
    method = methods.Natural(student=student)
    method.compile(optimizer="sgd")
    batches = data.train_batches(source, batch_size=6, seed=0)
    line = (
        "^the train files of 'imagenet2012' cannot be read .*prepare the data anew, and start "
        "the same command.*$"
    )
    with pytest.raises(InputError, match=line) as caught, data.told_when_unreadable(source.name):
        method.fit(batches, steps_per_epoch=7, shuffle=False, verbose=0)
    assert "\n" not in str(caught.value)


def test_other_errors_of_tensorflow_are_left_alone(tmp_path):
    """Those of other operations, and of other files, such as a checkpoint's."""
    with pytest.raises(tf.errors.InvalidArgumentError), data.told_when_unreadable("imagenet2012"):
        tf.debugging.assert_equal(1, 2)
    with pytest.raises(tf.errors.NotFoundError), data.told_when_unreadable("imagenet2012"):
        tf.io.read_file(f"{tmp_path}/absent")


def saved(folder):
    from tf_robust_transfer.checkpoints import load_model

    return load_model(str(folder.path)).get_weights()
