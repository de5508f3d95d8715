"""RandAugment from a seed: what a resumed run sees, each image by itself, and the range."""

import numpy as np
import pytest
import tensorflow as tf

from tf_robust_transfer import data
from tf_robust_transfer.data.rand_augment import _layer, rand_augment
from tf_robust_transfer.errors import InputError


@pytest.fixture(scope="module")
def augmented():
    compiled = tf.function(rand_augment)

    def function(images, seed):
        return compiled(tf.constant(images), tf.constant(seed)).numpy()

    image = np.random.default_rng(0).uniform(size=(1, 8, 8, 3)).astype(np.float32)
    images = np.repeat(image, 24, axis=0)
    return images, function, function(images, [1, 2])


def test_it_is_a_function_of_the_seed_and_each_image_is_changed_by_itself(augmented):
    images, function, first = augmented
    np.testing.assert_array_equal(first, function(images, [1, 2]))
    assert (first != function(images, [1, 3])).any(axis=(1, 2, 3)).mean() > 0.9
    assert len(np.unique(first.reshape(24, -1), axis=0)) > 20  # of one and the same image
    np.testing.assert_array_equal(
        function(images[:5], [1, 2]), first[:5]
    )  # whatever else is in the batch
    assert first.shape == images.shape and first.dtype == np.float32
    assert first.min() >= 0 and first.max() <= 1 and 0.01 < np.abs(first - images).mean() < 0.5


def test_the_layers_own_generators_are_never_asked(augmented):
    images, function, _ = augmented
    layer = _layer()
    parts = [getattr(layer, name) for name in layer._AUGMENT_LAYERS]
    before = [part.generator.state.numpy().copy() for part in parts if hasattr(part, "generator")]
    function(images, [5, 6])
    for state, part in zip(before, (part for part in parts if hasattr(part, "generator"))):
        np.testing.assert_array_equal(state, part.generator.state.numpy())


@pytest.mark.parametrize("channels", [2, 4])
def test_images_that_the_layer_does_not_take_are_refused(channels):
    images, labels = np.zeros((4, 8, 8, channels), np.uint8), np.zeros(4, np.int32)
    source = data.ImageData(images, labels, 2, ("a", "b"), "made up", "train")
    says = f"'randaugment' takes images of 1 or 3 channels, got {channels}"
    with pytest.raises(InputError, match=says):
        data.train_batches(source, batch_size=2, seed=0, augmentation=("flip", "randaugment"))
    with pytest.raises(InputError, match=says):
        data.augment(tf.constant(images, tf.float32), ("randaugment",), tf.constant([1, 2]))


def test_a_resumed_run_sees_the_same_images():
    source = data.load_data("digits", "train")
    batches = data.train_batches(source, batch_size=4, seed=5, augmentation=("randaugment",))
    whole = [x.numpy() for x, _ in batches.take(3)]
    resumed = data.train_batches(
        source, batch_size=4, seed=5, start_step=2, augmentation=("randaugment",)
    )
    np.testing.assert_array_equal(next(iter(resumed))[0], whole[2])
    plain = next(iter(data.train_batches(source, batch_size=4, seed=5)))[0]
    assert (plain.numpy() != whole[0]).any()
