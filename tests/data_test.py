"""Data against NumPy: loading, order and resumption of batches, augmentation, mixup, and what bad
input is told.
"""

import functools

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tests import fresh_process
from tf_robust_transfer import data
from tf_robust_transfer.data import augmentation, images, pipeline
from tf_robust_transfer.errors import InputError


def numbered(count, shape=(6, 5, 1), num_classes=3, split="train"):
    """Images whose first pixels hold the example's number, labels number % num_classes."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, *shape)).astype(np.uint8)
    pixels[:, 0, 0, 0], pixels[:, 0, 1, 0] = np.arange(count) // 256, np.arange(count) % 256
    labels = np.arange(count, dtype=np.int32) % num_classes
    return data.ImageData(
        pixels, labels, num_classes, tuple("abcdefghij"[:num_classes]), "numbered", split
    )


def numbers(batch):
    """The examples' numbers in a batch of `numbered` images."""
    pixels = np.round(batch[0].numpy() * 255).astype(int)
    return pixels[:, 0, 0, 0] * 256 + pixels[:, 0, 1, 0]


def take(dataset, count):
    return [tuple(x.numpy() for x in batch) for batch in dataset.take(count)]


# --- batches


@functools.cache
def uninterrupted(names):
    return take(data.train_batches(numbered(34), batch_size=8, seed=5, augmentation=names), 14)


@pytest.mark.parametrize("start", [0, 1, 3, 4, 5, 8, 10])  # 4 batches an epoch
@pytest.mark.parametrize("names", [(), ("crop", "flip")])
def test_started_later_is_bit_identical(start, names):
    resumed = take(
        data.train_batches(
            numbered(34), batch_size=8, seed=5, augmentation=names, start_step=start
        ),
        14 - start,
    )
    for expected, got in zip(uninterrupted(names)[start:], resumed, strict=True):
        np.testing.assert_array_equal(got[0], expected[0])
        np.testing.assert_array_equal(got[1], expected[1])


def test_two_passes_over_one_dataset_are_equal():
    dataset = data.train_batches(numbered(20), batch_size=5, seed=0, augmentation=("crop",))
    for first, second in zip(take(dataset, 6), take(dataset, 6), strict=True):
        np.testing.assert_array_equal(first[0], second[0])


def test_huge_start_step_needs_no_replay():
    images_, labels = next(
        iter(data.train_batches(numbered(20), batch_size=5, seed=0, start_step=10**12))
    )
    assert images_.shape == (5, 6, 5, 1) and labels.shape == (5,)


@pytest.mark.parametrize("count, batch_size", [(24, 6), (26, 6)])
def test_each_epoch_sees_each_example_once_in_a_new_order(count, batch_size):
    source = numbered(count)
    steps = data.steps_per_epoch(source, batch_size)
    assert steps == count // batch_size
    batches = list(data.train_batches(source, batch_size=batch_size, seed=1).take(3 * steps))
    epochs = [
        np.concatenate([numbers(b) for b in batches[i * steps : (i + 1) * steps]]) for i in range(3)
    ]
    for epoch in epochs:
        assert len(set(epoch)) == steps * batch_size
        if count % batch_size == 0:
            assert sorted(epoch) == list(range(count))
    assert not np.array_equal(epochs[0], epochs[1]) and not np.array_equal(epochs[1], epochs[2])
    for batch in batches:
        i = numbers(batch)
        np.testing.assert_array_equal(batch[1].numpy(), source.labels[i])
        np.testing.assert_array_equal(batch[0].numpy(), source.images[i].astype(np.float32) / 255)
        assert batch[0].dtype == tf.float32 and batch[1].dtype == tf.int32


def test_order_depends_on_the_seed():
    orders = [
        np.concatenate(
            [numbers(b) for b in data.train_batches(numbered(64), batch_size=8, seed=seed).take(8)]
        )
        for seed in (0, 0, 1)
    ]
    assert np.array_equal(orders[0], orders[1]) and not np.array_equal(orders[0], orders[2])


def test_orders_of_different_epochs_are_uncorrelated():
    """Place of an example in one epoch against its place in the next: rank correlation within 4
    deviations of 0.
    """
    count = 2000
    batches = data.train_batches(numbered(count, (2, 2, 1)), batch_size=count, seed=0).take(4)
    places = [np.argsort(numbers(batch)) for batch in batches]
    for i, first in enumerate(places):
        for second in [np.arange(count), *places[i + 1 :]]:
            assert abs(stats.spearmanr(first, second).statistic) < 4 / np.sqrt(count)


def test_augmentation_leaves_order_and_labels():
    source = numbered(32)
    plain = take(data.train_batches(source, batch_size=8, seed=2), 5)
    changed = take(
        data.train_batches(source, batch_size=8, seed=2, augmentation=("crop", "flip")), 5
    )
    for a, b in zip(plain, changed, strict=True):
        np.testing.assert_array_equal(a[1], b[1])
        assert not np.array_equal(a[0], b[0])
        assert b[0].min() >= 0 and b[0].max() <= 1


def test_same_images_are_augmented_anew_in_each_step():
    source = numbered(8, (8, 8, 3))
    first, second = (
        x[0]
        for x in take(data.train_batches(source, batch_size=8, seed=2, augmentation=("crop",)), 2)
    )
    matches = [(np.abs(second - image).reshape(8, -1).max(1) == 0).any() for image in first]
    assert not all(matches)


def test_train_batches_are_endless_and_of_static_shape():
    dataset = data.train_batches(numbered(20), batch_size=6, seed=0, augmentation=("crop", "flip"))
    assert dataset.cardinality().numpy() == tf.data.INFINITE_CARDINALITY
    assert dataset.element_spec[0].shape == (6, 6, 5, 1) and dataset.element_spec[1].shape == (6,)


@pytest.mark.parametrize("batch_size, sizes", [(4, [4, 4, 2]), (5, [5, 5]), (99, [10])])
def test_evaluation_keeps_order_and_the_last_partial_batch(batch_size, sizes):
    source = numbered(10, split="test")
    batches = list(data.eval_batches(source, batch_size=batch_size))
    assert [len(b[1]) for b in batches] == sizes
    np.testing.assert_array_equal(np.concatenate([numbers(b) for b in batches]), np.arange(10))
    np.testing.assert_array_equal(np.concatenate([b[1] for b in batches]), source.labels)
    np.testing.assert_array_equal(batches[0][0], source.images[: sizes[0]].astype(np.float32) / 255)


_TWO_DEVICES = """
import functools

import numpy as np
import tensorflow as tf
from tf_robust_transfer import data
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
source = data.synthetic_data((4, 4, 1), 10, 21, seed=0)
for dataset, sizes in (
    (
        data.train_batches(
            source, batch_size=6, seed=0, start_step=2, augmentation=("crop",)
        ).take(4),
        [[3, 3]] * 4,
    ),
    (data.eval_batches(source, batch_size=6), [[3, 3]] * 3 + [[2, 1]]),
):
    distributed = strategy.experimental_distribute_dataset(dataset)
    for parts, whole, expected in zip(distributed, dataset, sizes, strict=True):
        for part, x in zip(parts, whole, strict=True):
            part = strategy.experimental_local_results(part)
            assert [len(y) for y in part] == expected, [len(y) for y in part]
            np.testing.assert_array_equal(np.concatenate(part), x)
print("equal")
"""


def test_two_devices_share_each_batch_in_order():
    done = fresh_process.run(_TWO_DEVICES)
    assert done.stdout.endswith("equal\n"), done.stderr


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            {"batch_size": 21},
            "batch_size 21 is larger than split 'train' of 'numbered', which holds 20",
        ),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"start_step": -1}, "start_step must be at least 0, got -1"),
        ({"seed": -1}, r"seed must be an integer in \[0, 2\*\*31\), got -1"),
        ({"seed": 2**31}, "seed must be an integer"),
        ({"augmentation": ("flop",)}, "unknown augmentation 'flop'; nearest valid names: flip"),
        ({"augmentation": ("corp:2",)}, "unknown augmentation 'corp'; nearest valid names: crop"),
        (
            {"augmentation": ("flip:2",)},
            "expected augmentation 'flip' without a number, got 'flip:2'; only crop:PADDING has",
        ),
        *(
            (
                {"augmentation": (name,)},
                f"crop:PADDING with a whole number of at least 1, such as crop:2, got '{name}'",
            )
            for name in ("crop:", "crop:0", "crop:-1", "crop:2.5", "crop:two")
        ),
    ],
)
def test_train_batches_say_what_is_wrong(arguments, message):
    with pytest.raises(InputError, match=message):
        data.train_batches(numbered(20), **{"batch_size": 4, "seed": 0, **arguments})


def test_eval_batches_say_what_is_wrong():
    with pytest.raises(InputError, match="batch_size must be at least 1, got 0"):
        data.eval_batches(numbered(4), batch_size=0)


def test_images_are_no_part_of_the_graph():
    dataset = pipeline.train_batches(numbered(2000, (16, 16, 1)), batch_size=4, seed=0)
    # pylint: disable=protected-access
    graph = dataset.map(lambda x, y: x)._map_func.function.graph.as_graph_def()
    assert graph.ByteSize() < 10_000


# --- augmentation


@pytest.mark.parametrize("given, padding", [({}, 4), ({"padding": 2}, 2)])
@pytest.mark.parametrize("shape", [(9, 7, 6, 3), (9, 28, 28, 1)])
def test_crop_at_each_offset(shape, given, padding):
    count = 2 * padding + 1
    x = np.random.default_rng(0).random(shape).astype(np.float32)[:count]
    padded = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    for row in range(count):
        for_columns = np.stack([np.full(count, row), np.arange(count)]).astype(np.int32)
        got = augmentation.crop_at(tf.constant(x), for_columns, **given).numpy()
        for i in range(count):
            np.testing.assert_array_equal(got[i], padded[i, row : row + shape[1], i : i + shape[2]])


@pytest.mark.parametrize("given, padding", [({}, 4), ({"padding": 2}, 2)])
def test_random_crop_takes_every_place_for_each_example(given, padding):
    """Tells the offset from the result, by the place of one bright pixel; a chi-squared test that
    they are uniform.
    """
    count = 2 * padding + 1
    x = np.zeros((5000, count, count, 1), np.float32)
    x[:, padding, padding] = 1
    cropped = augmentation.random_crop(tf.constant(x), tf.constant([3, 4]), **given).numpy()
    places = np.argwhere(cropped[..., 0])
    np.testing.assert_array_equal(
        places[:, 0], np.arange(5000)
    )  # inside for every offset, in every example
    rows, columns = 2 * padding - places[:, 1], 2 * padding - places[:, 2]
    counts = np.histogram2d(rows, columns, bins=count, range=((0, count), (0, count)))[0]
    assert stats.chisquare(counts.ravel()).pvalue > 1e-4


def test_the_crops_padding_is_part_of_its_name():
    """crop is crop:4; crop:2 is `random_crop` with padding 2 on the same random stream."""
    x = tf.random.stateless_uniform([64, 8, 8, 3], [0, 0])
    seed = tf.constant([1, 2], tf.int32)
    default, two, four = (
        augmentation.augment(x, (name,), seed).numpy() for name in ("crop", "crop:2", "crop:4")
    )
    np.testing.assert_array_equal(default, four)
    stream = tf.random.experimental.stateless_fold_in(seed, 0, alg="philox")
    np.testing.assert_array_equal(two, augmentation.random_crop(x, stream, 2).numpy())
    assert not np.array_equal(two, four)
    ((batch, _),) = take(
        data.train_batches(numbered(20), batch_size=5, seed=0, augmentation=("crop:2", "flip")), 1
    )
    assert batch.shape == (5, 6, 5, 1)


def test_random_flip():
    x = np.random.default_rng(0).random((400, 3, 4, 2)).astype(np.float32)
    got = augmentation.random_flip(tf.constant(x), tf.constant([1, 2])).numpy()
    same = (got == x).all((1, 2, 3))
    mirrored = (got == x[:, :, ::-1]).all((1, 2, 3))
    assert (same ^ mirrored).all() and stats.binomtest(int(mirrored.sum()), 400).pvalue > 1e-4


# RandAugment takes a minute of compiling and has a file of its own beside.
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name == "randaugment" else [])
        for name in sorted(data.AUGMENTATIONS)
    ],
)
def test_augmentations_are_pure_functions_of_the_seed(name):
    x = tf.random.stateless_uniform([64, 8, 8, 3], [0, 0])
    a, b, c = (
        data.AUGMENTATIONS[name](x, tf.constant(seed, tf.int32)).numpy()
        for seed in ([1, 2], [1, 2], [1, 3])
    )
    assert np.array_equal(a, b) and not np.array_equal(a, c)
    traced = tf.function(data.AUGMENTATIONS[name])(x, tf.constant([1, 2])).numpy()
    # A graph may fuse a multiplication with an addition, which rounds once instead of twice.
    np.testing.assert_allclose(traced, a, atol=2e-6)


# --- mixup


@pytest.mark.parametrize("batch, partners", [(4, [1, 0, 3, 2]), (5, [1, 0, 3, 2, 4]), (1, [0])])
@pytest.mark.parametrize("per_example", [False, True])
def test_mixup_is_numpy_mixup(batch, partners, per_example):
    rng = np.random.default_rng(0)
    x = rng.random((batch, 3, 2, 1)).astype(np.float32)
    y = rng.dirichlet(np.ones(4), batch).astype(np.float32)
    lam = rng.random(batch).astype(np.float32) if per_example else np.float32(0.3)
    mixed_x, mixed_y = data.mixup(x, y, lam=lam)
    for i in range(batch):
        weight = lam[i] if per_example else lam
        np.testing.assert_allclose(
            mixed_x[i], weight * x[i] + (1 - weight) * x[partners[i]], rtol=1e-5, atol=1e-7
        )
        np.testing.assert_allclose(
            mixed_y[i], weight * y[i] + (1 - weight) * y[partners[i]], rtol=1e-5, atol=1e-7
        )


def test_mixup_of_half_batches_is_half_of_mixup():
    x, y = (
        tf.random.stateless_uniform([8, 4, 4, 1], [0, 0]),
        tf.one_hot([0, 1, 2, 0, 1, 2, 0, 1], 3),
    )
    lam = data.mixup_weights(8, alpha=1.0, per_example=True, seed=[0, 1])
    whole = data.mixup(x, y, lam=lam)
    halves = [data.mixup(x[part], y[part], lam=lam[part]) for part in (slice(0, 4), slice(4, 8))]
    for i in range(2):
        np.testing.assert_array_equal(tf.concat([half[i] for half in halves], 0), whole[i])


def test_mixup_traces_with_an_unknown_batch_size():
    function = tf.function(
        lambda x, y: data.mixup(
            x, y, lam=data.mixup_weights(tf.shape(x)[0], alpha=1.0, per_example=True, seed=[0, 1])
        ),
        input_signature=[tf.TensorSpec([None, 2, 2, 1]), tf.TensorSpec([None, 3])],
    )
    for batch in (3, 4):
        mixed = function(tf.ones([batch, 2, 2, 1]), tf.ones([batch, 3]))
        np.testing.assert_allclose(mixed[0], np.ones([batch, 2, 2, 1]), rtol=1e-6)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 3.0])
def test_mixup_weights_are_beta(alpha):
    weights = (
        data.mixup_weights(50_000, alpha=alpha, per_example=True, seed=[7, 8])
        .numpy()
        .astype(np.float64)
    )
    assert weights.shape == (50_000,) and weights.min() >= 0 and weights.max() <= 1
    # The lower half against the exact distribution: close to 1, float32 rounds to 1 where alpha is
    # small.
    grid = np.linspace(0.02, 0.98, 33)
    found = np.searchsorted(np.sort(weights), grid) / len(weights)
    np.testing.assert_allclose(
        found, stats.beta(alpha, alpha).cdf(grid), atol=0.011
    )  # 5 standard deviations
    np.testing.assert_allclose(weights.mean(), 0.5, atol=0.01)
    np.testing.assert_allclose(weights.var(), 1 / (4 * (2 * alpha + 1)), rtol=0.03)


def test_mixup_weights_stay_finite_where_gammas_underflow():
    weights = data.mixup_weights(20_000, alpha=0.01, per_example=True, seed=[7, 8]).numpy()
    assert np.isfinite(weights).all()
    np.testing.assert_allclose(weights.mean(), 0.5, atol=0.02)


def test_mixup_weights_are_stateless_and_one_a_batch_is_a_scalar():
    draw = lambda seed, per_example: data.mixup_weights(
        4, alpha=1.0, per_example=per_example, seed=seed
    ).numpy()
    assert draw([0, 1], False).shape == () and draw([0, 1], False) == draw([0, 1], False) != draw(
        [0, 2], False
    )
    np.testing.assert_array_equal(draw([0, 1], True), draw([0, 1], True))
    assert len(set(draw([0, 1], True))) == 4


def test_mixup_weights_compile_with_xla():
    draw = tf.function(
        lambda: data.mixup_weights(8, alpha=1.0, per_example=True, seed=[0, 1]), jit_compile=True
    )
    assert ((draw() > 0) & (draw() < 1)).numpy().all()


@pytest.mark.parametrize(
    "call, message",
    [
        (
            lambda: data.mixup(tf.ones([2, 1, 1, 1]), tf.constant([0, 1]), lam=0.5),
            "needs float labels, got int32; use",
        ),
        (
            lambda: data.mixup(tf.ones([2, 1, 1, 1], tf.uint8), tf.ones([2, 2]), lam=0.5),
            "needs float images, got uint8",
        ),
        (
            lambda: data.mixup(tf.ones([2, 1, 1, 1]), tf.ones([2, 2]), lam=tf.ones([2, 1])),
            r"lam must be a scalar or",
        ),
        (
            lambda: data.mixup_weights(2, alpha=0.0, per_example=True, seed=[0, 1]),
            "alpha must be positive, got 0.0",
        ),
        (
            lambda: data.mixup_weights(2, alpha=float("nan"), per_example=True, seed=[0, 1]),
            "must be positive, got nan",
        ),
    ],
)
def test_mixup_says_what_is_wrong(call, message):
    with pytest.raises(InputError, match=message):
        call()


# --- parts and sizes


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=6),
    st.floats(0.01, 1),
    st.floats(0.01, 1),
    st.integers(0, 99),
)
def test_stratified_parts_keep_shares_and_nest(counts, first, second, seed):
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    small, large = (images.stratified_indices(labels, f, seed) for f in sorted((first, second)))
    for kept, fraction in ((small, min(first, second)), (large, max(first, second))):
        got = np.bincount(labels[kept], minlength=len(counts))
        exact = fraction * np.array(counts)
        assert (np.abs(got - exact) <= np.maximum(0.5, 1 - exact) + 1e-9).all()
        assert got.min() >= 1 and (np.diff(kept) > 0).all()
    assert set(small) <= set(large)


def test_resize_enlarges_bilinearly():
    """Half-pixel centres: destination x lies at (x + 0.5) * source / destination - 0.5, held at the
    borders.
    """
    x = np.random.default_rng(0).integers(0, 256, (3, 4, 5, 2)).astype(np.uint8)
    got = images.resize(x, (8, 15))

    def along(values, size, axis):
        place = np.clip(
            (np.arange(size) + 0.5) * values.shape[axis] / size - 0.5, 0, values.shape[axis] - 1
        )
        low = np.floor(place).astype(int)
        high = np.minimum(low + 1, values.shape[axis] - 1)
        weight = (place - low).reshape([-1 if i == axis else 1 for i in range(4)])
        return values.take(low, axis) * (1 - weight) + values.take(high, axis) * weight

    expected = along(along(x.astype(float), 8, 1), 15, 2)
    assert got.dtype == np.uint8 and np.abs(got - expected).max() <= 0.5 + 1e-3


def test_resize_shrinks_with_antialiasing():
    stripes = np.zeros((1, 16, 16, 1), np.uint8)
    stripes[:, :, ::4] = 255  # without antialiasing, a factor of 4 would give all black
    inner = images.resize(stripes, (4, 4))[0, :, 1:-1]
    assert np.abs(inner.astype(int) - 255 / 4).max() < 16
    assert images.resize(stripes, (16, 16)) is stripes


# --- digits and synthetic images


def test_digits():
    from sklearn import datasets

    train, test = data.load_data("digits", "train"), data.load_data("digits", "test", seed=3)
    assert (len(train), len(test)) == (1297, 500) and train.input_shape == (8, 8, 1) == data.SHAPES[
        "digits"
    ][0]
    assert train.images.dtype == np.uint8 and train.labels.dtype == np.int32
    assert train.class_names == tuple("0123456789")
    original = datasets.load_digits()
    key = lambda pixels, labels: sorted(
        (bytes(p), int(y)) for p, y in zip(pixels.astype(np.uint8), labels)
    )
    whole = np.concatenate([train.images, test.images])[..., 0]
    assert key(np.round(whole / 255 * 16), np.r_[train.labels, test.labels]) == key(
        original.images, original.target
    )
    assert whole.max() == 255
    shares = np.bincount(test.labels) / np.bincount(original.target)
    assert np.abs(shares - 500 / 1797).max() < 0.01


def test_digits_with_fraction_size_and_limit():
    whole = data.load_data("digits", "train")
    part = data.load_data("digits", "train", train_fraction=0.3, seed=1)
    np.testing.assert_allclose(np.bincount(part.labels), 0.3 * np.bincount(whole.labels), atol=0.5)
    smaller = data.load_data("digits", "train", train_fraction=0.1, seed=1)
    assert {bytes(x) for x in smaller.images} <= {bytes(x) for x in part.images}
    other = data.load_data("digits", "train", train_fraction=0.3, seed=2)
    assert not np.array_equal(part.images, other.images)
    test = data.load_data("digits", "test", train_fraction=0.1, max_examples=7, image_size=(28, 14))
    assert test.input_shape == (28, 14, 1) and len(test) == 7
    np.testing.assert_array_equal(test.labels, data.load_data("digits", "test").labels[:7])


def test_synthetic_data():
    for shape, num_classes in data.SHAPES.values():
        made = data.synthetic_data(shape, num_classes, 4, seed=0)
        assert made.images.shape == (4, *shape) and made.num_classes == num_classes == len(
            made.class_names
        )
    a, b, c = (data.synthetic_data((4, 4, 3), 3, 9, seed).images for seed in (0, 0, 1))
    assert np.array_equal(a, b) and not np.array_equal(a, c)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"train_fraction": 0.0}, r"train_fraction must be a number in \(0, 1\], got 0.0"),
        ({"train_fraction": 1.5}, r"train_fraction must be a number in \(0, 1\], got 1.5"),
        ({"train_fraction": float("nan")}, "train_fraction must be a number in"),
        ({"train_fraction": "0.5"}, "train_fraction must be a number in"),
        ({"image_size": 28}, r"image_size must be \(height, width\), both at least 1, got 28"),
        ({"max_examples": 0}, "max_examples must be at least 1, or None for all of them, got 0"),
        (
            {"image_size": (0, 8)},
            r"image_size must be \(height, width\), both at least 1, got \(0, 8\)",
        ),
        ({"seed": -3}, "seed must be an integer"),
        (
            {"split": "validation"},
            "unknown split 'validation' of 'digits'; valid names: test, train",
        ),
        ({"name": "digit"}, "unknown data set 'digit'; nearest valid names: digits"),
        ({"name": "mnisst"}, "unknown data set 'mnisst'; nearest valid names: mnist"),
        ({"name": "huggingface:mnist"}, "unknown data set 'huggingface:mnist'"),
        ({"name": "../mnist"}, r"unknown data set '../mnist'; expected digits, folder:PATH"),
        (
            {"name": "mnist/no_such_config"},
            "unknown data set 'mnist/no_such_config': .*no_such_config not found",
        ),
        (
            {"name": "mnist", "data_dir": "/no/such/folder"},
            "data_dir '/no/such/folder' is not a directory",
        ),
        (
            {"name": "tiny_imagenet", "data_dir": "/no/such/folder"},
            "data_dir '/no/such/folder' is not a directory",
        ),
    ],
)
def test_load_data_says_what_is_wrong(arguments, message):
    with pytest.raises(InputError, match=message) as caught:
        data.load_data(**{"name": "digits", "split": "train", **arguments})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"images": np.zeros((2, 3, 3, 1), np.float32)},
            r"expected images uint8 .* got float32 \[2, 3, 3, 1\]",
        ),
        ({"labels": np.zeros(3, np.int32)}, r"expected labels int32 \[2\], got int32 \[3\]"),
        (
            {"labels": np.array([0, -1], np.int32)},
            r"expected labels in \[0, 2\), got -1..0; a split without labels",
        ),
        ({"class_names": ("a",)}, "expected 2 class names, got 1"),
        (
            {"images": np.zeros((0, 3, 3, 1), np.uint8), "labels": np.zeros(0, np.int32)},
            "holds no images",
        ),
    ],
)
def test_image_data_says_what_is_wrong(changes, message):
    arguments = {
        "images": np.zeros((2, 3, 3, 1), np.uint8),
        "labels": np.zeros(2, np.int32),
        "num_classes": 2,
        "class_names": ("a", "b"),
        "name": "x",
        "split": "test",
    }
    with pytest.raises(InputError, match=message):
        data.ImageData(**{**arguments, **changes})
