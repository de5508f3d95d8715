"""adapters/: every adapter against its matrix, written down by hand, and its gradient against the
transpose; saving.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_robust_transfer.adapters import (
    ADAPTERS,
    Adapter,
    adapt,
    build_adapter,
    random_positions,
    seen_region,
)
from tf_robust_transfer.errors import InputError
from tf_robust_transfer.models import build_model, endpoints
from tf_robust_transfer.ops.gradients import input_gradient
from tf_robust_transfer.ops.random import fold_seed


# The oracle: each adapter's matrix, one output pixel after the other. A[output row, column,
# channel, input row, column, channel], float64.
def empty(shape, new_shape):
    return np.zeros((*new_shape, *shape))


def hat_matrix(shape, size, half_pixel_centers=True):
    """Bilinear: each pixel has a hat of width 2, read where the output pixel lies; beyond the last
    pixels they go on.
    """
    matrix = empty(shape, (*size, shape[2]))

    def hats(old, new, place):
        at = (place + 0.5) * old / new - 0.5 if half_pixel_centers else place * old / new
        return np.maximum(0, 1 - np.abs(np.arange(old) - min(max(at, 0), old - 1)))

    for row, column, channel in np.ndindex(*matrix.shape[:3]):
        weights = np.outer(hats(shape[0], size[0], row), hats(shape[1], size[1], column))
        matrix[row, column, channel, :, :, channel] = weights
    return matrix


def pool_matrix(shape, size):
    matrix = empty(shape, (*size, shape[2]))
    high, wide = shape[0] // size[0], shape[1] // size[1]
    for row, column, channel in np.ndindex(*matrix.shape[:3]):
        for i, j in np.ndindex(high, wide):
            matrix[row, column, channel, row * high + i, column * wide + j, channel] = 1 / (
                high * wide
            )
    return matrix


def crop_matrix(shape, size, first):
    matrix = empty(shape, (*size, shape[2]))
    for row, column, channel in np.ndindex(*matrix.shape[:3]):
        matrix[row, column, channel, first[0] + row, first[1] + column, channel] = 1
    return matrix


def pad_matrix(shape, size, first):
    matrix = empty(shape, (*size, shape[2]))
    for row, column, channel in np.ndindex(*shape):
        matrix[first[0] + row, first[1] + column, channel, row, column, channel] = 1
    return matrix


def mean_matrix(shape):
    matrix = empty(shape, (*shape[:2], 1))
    for row, column, channel in np.ndindex(*shape):
        matrix[row, column, 0, row, column, channel] = 1 / shape[2]
    return matrix


def transposed_matrix(shape, kernel):
    """Each input pixel adds its kernel with the upper left corner at twice its place. kernel: [3,
    3, channels out, in].
    """
    high, wide = shape[:2]
    matrix = np.zeros((2 * high + 1, 2 * wide + 1, kernel.shape[2], *shape))
    for row, column, channel in np.ndindex(*shape):
        matrix[2 * row : 2 * row + 3, 2 * column : 2 * column + 3, :, row, column, channel] += (
            kernel[..., channel]
        )
    return matrix[: 2 * high, : 2 * wide]


def product(second, first):
    return np.tensordot(second, first, axes=3)


COLOUR, GREY = (6, 5, 3), (6, 5, 1)
# adapter -> (shape of the images, the matrix)
MATRICES = {
    "average_pool:3x5": (COLOUR, pool_matrix(COLOUR, (3, 5))),
    "channel_mean": (COLOUR, mean_matrix(COLOUR)),
    "crop:3x4": (COLOUR, crop_matrix(COLOUR, (3, 4), (1, 0))),
    "crop:4x3": (GREY, crop_matrix(GREY, (4, 3), (1, 1))),
    "pad:9x6": (COLOUR, pad_matrix(COLOUR, (9, 6), (1, 0))),
    "random_pad:9x6": (COLOUR, pad_matrix(COLOUR, (9, 6), (1, 0))),
    "random_pad_per_example:8x7": (COLOUR, pad_matrix(COLOUR, (8, 7), (1, 1))),
    "resize:12x10": (COLOUR, hat_matrix(COLOUR, (12, 10))),
    "resize:3x7": (COLOUR, hat_matrix(COLOUR, (3, 7))),
    "resize_tf1:12x10": (COLOUR, hat_matrix(COLOUR, (12, 10), False)),
    "resize_tf1:4x7": (COLOUR, hat_matrix(COLOUR, (4, 7), False)),
    "channel_mean+crop:4x3": (
        COLOUR,
        product(crop_matrix(GREY, (4, 3), (1, 1)), mean_matrix(COLOUR)),
    ),
    "crop:4x3+channel_mean+resize:5x5+pad:6x6": (
        COLOUR,
        product(
            pad_matrix((5, 5, 1), (6, 6), (0, 0)),
            product(
                hat_matrix((4, 3, 1), (5, 5)),
                product(crop_matrix(GREY, (4, 3), (1, 1)), mean_matrix(COLOUR)),
            ),
        ),
    ),
}


def matrix_of(model):
    """(A, b) of an affine model, from what it makes of each basis image and of black."""
    shape = model.input_shape[1:]
    count = int(np.prod(shape))
    black = model(np.zeros((1, *shape), np.float32)).numpy()[0]
    basis = model(np.eye(count, dtype=np.float32).reshape(count, *shape)).numpy() - black
    return np.moveaxis(basis, 0, -1).reshape(*black.shape, *shape), black


def transpose_of(model, vectors):
    """The gradients of <vector, model(x)> at random images."""
    images = images_like(model.input_shape[1:], len(vectors), seed=5)
    inner = lambda x: (tf.reduce_sum(vectors * model(x), axis=(1, 2, 3)), None)  # noqa: E731
    return input_gradient(inner, tf.constant(images))[0].numpy()


def images_like(shape, batch=4, seed=0):
    return np.random.default_rng(seed).uniform(0, 1, (batch, *shape)).astype(np.float32)


def seed_of(number):
    return fold_seed(number, 0)


def check_affine(model, matrix, offset=0.0):
    found, black = matrix_of(model)
    assert found.shape == matrix.shape
    np.testing.assert_allclose(found, matrix, atol=1e-6)
    np.testing.assert_allclose(black, np.broadcast_to(offset, black.shape), atol=1e-6)
    images = images_like(model.input_shape[1:])
    expected = np.tensordot(images, matrix, axes=[[1, 2, 3], [3, 4, 5]]) + offset
    np.testing.assert_allclose(model(images), expected, atol=2e-6)
    vectors = np.random.default_rng(1).standard_normal((4, *matrix.shape[:3])).astype(np.float32)
    transposed = np.tensordot(vectors, matrix, axes=[[1, 2, 3], [0, 1, 2]])
    np.testing.assert_allclose(transpose_of(model, vectors), transposed, atol=3e-6)


def test_every_adapter_has_its_matrix_here():
    named = {part.partition(":")[0] for adapter in MATRICES for part in adapter.split("+")}
    assert named | {"transposed_conv", "bounded_transposed_conv"} == set(ADAPTERS)


@pytest.mark.parametrize("adapter", MATRICES)
def test_matrix_and_transpose(adapter):
    shape, matrix = MATRICES[adapter]
    check_affine(build_adapter(adapter, shape), matrix)


class TestResize:
    @pytest.mark.parametrize("size", [(64, 64), (16, 16), (33, 7)])
    def test_tensorflows_own(self, size):
        images = images_like((32, 32, 3))
        text = f"{size[0]}x{size[1]}"
        new = tf.image.resize(images, size, "bilinear", antialias=False)
        old = tf.compat.v1.image.resize_bilinear(images, size)
        np.testing.assert_allclose(
            build_adapter(f"resize:{text}", (32, 32, 3))(images), new, atol=1e-5
        )
        np.testing.assert_allclose(
            build_adapter(f"resize_tf1:{text}", (32, 32, 3))(images), old, atol=1e-5
        )
        assert np.abs(new - old).max() > 0.1

    def test_half_the_size_is_the_2x2_average_pool(self):
        images = images_like((8, 6, 3))
        pooled = build_adapter("average_pool:4x3", (8, 6, 3))(images)
        np.testing.assert_allclose(
            build_adapter("resize:4x3", (8, 6, 3))(images), pooled, atol=1e-6
        )
        np.testing.assert_allclose(
            pooled, images.reshape(4, 4, 2, 3, 2, 3).mean(axis=(2, 4)), atol=1e-6
        )


class TestTransposedConvolution:
    def test_matrix_and_transpose_with_any_weights(self):
        model = build_adapter("transposed_conv:8x6", (4, 3, 3))
        rng = np.random.default_rng(3)
        kernel, bias = rng.standard_normal((3, 3, 3, 3)), rng.standard_normal(3)
        model.set_weights([kernel, bias])
        check_affine(model, transposed_matrix((4, 3, 3), kernel), bias)
        assert [v.path for v in model.trainable_variables] == [
            "adapter1_transposed_conv/kernel", "adapter1_transposed_conv/bias"]  # fmt: skip

    def test_it_starts_as_interpolation_of_each_channel(self):
        images = images_like((5, 4, 2))
        wide = build_adapter("transposed_conv:10x8", (5, 4, 2))(images).numpy()
        np.testing.assert_allclose(wide[:, 1::2, 1::2], images, atol=1e-6)
        np.testing.assert_allclose(
            wide[:, 2::2, 1::2], (images[:, 1:] + images[:, :-1]) / 2, atol=1e-6
        )
        np.testing.assert_allclose(
            wide[:, 1::2, 2::2], (images[:, :, 1:] + images[:, :, :-1]) / 2, atol=1e-6
        )


def bounded_matrix(shape, kernel):
    """transposed_matrix with each row divided by the largest sum of absolute entries, if above 1,
    among the rows of pixels that lie alike: inside the image all such rows have the same
    entries."""
    matrix = transposed_matrix(shape, kernel)
    sums = np.abs(matrix).sum(axis=(3, 4, 5))
    for row, column in np.ndindex(2, 2):
        scale = np.maximum(1, sums[row::2, column::2].max(axis=(0, 1)))
        matrix[row::2, column::2] /= scale[:, None, None, None]
    return matrix


class TestBoundedTransposedConvolution:
    adapter, shape = "bounded_transposed_conv:8x6", (4, 3, 2)

    def model(self, seed, scale=1.0):
        model, rng = build_adapter(self.adapter, self.shape), np.random.default_rng(seed)
        model.set_weights([scale * rng.standard_normal((3, 3, 2, 2))])  # no bias: black stays black
        return model

    @pytest.mark.parametrize("scale", [0.02, 0.2, 1.0, 30.0])
    def test_matrix_and_transpose_with_any_weights(self, scale):
        """Some phases lie below the bound at 0.2, all at 0.02, none at 30."""
        model = self.model(3, scale)
        (kernel,) = model.get_weights()
        check_affine(model, bounded_matrix(self.shape, kernel.astype(np.float64)), np.zeros(2))

    def test_below_the_bound_it_is_the_free_form(self):
        model, free = self.model(3, 0.02), build_adapter("transposed_conv:8x6", self.shape)
        free.set_weights([*model.get_weights(), np.zeros(2)])
        np.testing.assert_array_equal(model(images_like(self.shape)), free(images_like(self.shape)))

    def test_it_starts_as_the_free_form_does(self):
        model, free = (
            build_adapter(self.adapter, self.shape),
            build_adapter("transposed_conv:8x6", self.shape),
        )
        np.testing.assert_array_equal(model.get_weights()[0], free.get_weights()[0])
        np.testing.assert_array_equal(model(images_like(self.shape)), free(images_like(self.shape)))
        # On the bound, with the free form's gradient: interpolation's entries are positive, those
        # of other channels 0.
        kernels = [m.trainable_variables[0] for m in (model, free)]
        gradients = []
        for adapter, kernel in zip((model, free), kernels, strict=True):
            with tf.GradientTape() as tape:
                value = tf.reduce_sum(adapter(images_like(self.shape)) ** 2)
            gradients.append(tape.gradient(value, kernel.value))
        np.testing.assert_allclose(*gradients, rtol=1e-6)

    @pytest.mark.parametrize("scale", [0.05, 0.2, 1.0, 100.0])
    def test_no_change_of_the_image_grows(self, scale):
        for seed in range(5):
            model, rng = self.model(seed, scale), np.random.default_rng(100 + seed)
            images = images_like(self.shape, 64, seed)
            changes = rng.uniform(-1, 1, images.shape)
            changes[::2] = np.sign(changes[::2])
            changes = (changes * rng.uniform(0.01, 0.3, (64, 1, 1, 1))).astype(np.float32)
            moved = np.abs(model(images + changes) - model(images)).max(axis=(1, 2, 3))
            assert (moved <= np.abs(changes).max(axis=(1, 2, 3)) * (1 + 1e-5) + 1e-6).all()

    def test_the_worst_change_passes_whole(self):
        """So that the bound is not met by damping: the signs of a row of A move that pixel by the
        whole eps.
        """
        model = self.model(3, 30.0)
        matrix = matrix_of(model)[0]
        for row, column in ((2, 2), (2, 3), (3, 2), (3, 3)):
            for channel in range(2):
                change = 0.1 * np.sign(matrix[row, column, channel])[None].astype(np.float32)
                images = images_like(self.shape, 1)
                moved = (model(images + change) - model(images)).numpy()[0, row, column, channel]
                np.testing.assert_allclose(moved, 0.1, rtol=1e-4)

    @pytest.mark.parametrize("scale", [0.2, 1.0])
    def test_gradients_of_the_weights_against_finite_differences(self, scale):
        model, images = self.model(4, scale), images_like(self.shape)
        vectors = np.random.default_rng(6).standard_normal((4, 8, 6, 2))
        with tf.GradientTape() as tape:
            value = tf.reduce_sum(vectors.astype(np.float32) * model(images))
        (gradient,) = tape.gradient(value, [v.value for v in model.trainable_variables])
        kernel = model.get_weights()[0].astype(np.float64)

        def inner(kernel):
            matrix = bounded_matrix(self.shape, kernel)
            return np.sum(vectors * np.tensordot(images, matrix, axes=[[1, 2, 3], [3, 4, 5]]))

        for index in np.ndindex(*kernel.shape):
            step = np.zeros_like(kernel)
            step[index] = 1e-6
            expected = (inner(kernel + step) - inner(kernel - step)) / 2e-6
            np.testing.assert_allclose(gradient[index], expected, rtol=1e-3, atol=1e-3)


def places(padded, shape):
    """(row, column) of the upper left corner of each image: the only pixels that are not black are
    its own.
    """
    found = []
    for image in np.asarray(padded):
        lit = image.any(axis=2)
        rows, columns = np.flatnonzero(lit.any(axis=1)), np.flatnonzero(lit.any(axis=0))
        assert (len(rows), len(columns)) == shape[:2] and lit.sum() == shape[0] * shape[1]
        found.append((rows[0], columns[0]))
    return found


class TestRandomPad:
    shape = (3, 4, 2)

    def padded(self, kind, seed, images):
        with random_positions(seed_of(seed), len(images)):
            return build_adapter(f"{kind}:7x6", self.shape)(images).numpy()

    @pytest.mark.parametrize("kind", ["random_pad", "random_pad_per_example"])
    def test_image_and_transpose_are_those_of_the_place(self, kind):
        images = images_like(self.shape) + 0.1
        padded = self.padded(kind, 5, images)
        vectors = np.random.default_rng(1).standard_normal((4, 7, 6, 2)).astype(np.float32)
        with random_positions(seed_of(5), 4):
            transposed = transpose_of(build_adapter(f"{kind}:7x6", self.shape), vectors)
        for i, (row, column) in enumerate(places(padded, self.shape)):
            matrix = pad_matrix(self.shape, (7, 6), (row, column))
            np.testing.assert_array_equal(
                padded[i], np.tensordot(matrix, images[i], axes=3).astype(np.float32)
            )
            expected = np.tensordot(vectors[i], matrix, axes=[[0, 1, 2], [0, 1, 2]])
            np.testing.assert_allclose(transposed[i], expected, rtol=1e-6)

    @pytest.mark.parametrize("kind", ["random_pad", "random_pad_per_example"])
    def test_a_place_is_a_function_of_the_seed(self, kind):
        images = images_like(self.shape, 16) + 0.1
        first, again, other = (self.padded(kind, seed, images) for seed in (1, 1, 2))
        np.testing.assert_array_equal(first, again)
        assert places(first, self.shape) != places(other, self.shape)
        assert (len(set(places(first, self.shape))) == 1) == (kind == "random_pad")

    def test_every_place_is_as_likely(self):
        """5 x 3 places, 1,500 images: each count has mean 100 and standard deviation 9.7."""
        images = np.ones((1500, *self.shape), np.float32)
        found = places(self.padded("random_pad_per_example", 3, images), self.shape)
        counts = np.zeros((5, 3))
        np.add.at(counts, tuple(np.transpose(found)), 1)
        assert np.abs(counts - 100).max() < 4.5 * 9.7
        model, batches = build_adapter("random_pad:7x6", self.shape), set()
        for seed in range(100):
            with random_positions(seed_of(seed), 1):
                batches.update(places(model(images[:1]), self.shape))
        assert batches == set(np.ndindex(5, 3))

    def test_the_centre_outside_and_after(self):
        model, images = build_adapter("random_pad:7x6", self.shape), images_like(self.shape) + 0.1
        centre = [(2, 1)] * 4
        assert places(model(images), self.shape) == centre
        with pytest.raises(KeyError), random_positions(seed_of(0), 4):
            raise KeyError
        assert places(model(images), self.shape) == centre

    def test_within_a_compiled_function_whose_seed_changes(self):
        model, images = (
            build_adapter("random_pad_per_example:7x6", self.shape),
            images_like(self.shape) + 0.1,
        )

        @tf.function
        def padded(seed):
            with random_positions(seed, tf.shape(images)[0]):
                return model(images)

        for seed in (1, 2):
            expected = self.padded("random_pad_per_example", seed, images)
            np.testing.assert_array_equal(padded(seed_of(seed)), expected)


class TestAdapt:
    def teacher(self, shape=(4, 3, 1)):
        keras.utils.set_random_seed(0)
        return build_model("small_cnn", shape, 5, batch_norm=True)

    def test_the_teacher_of_the_adapted_image(self):
        teacher, images = self.teacher(), images_like(COLOUR)
        before = teacher.get_config()
        adapted = adapt(teacher, "channel_mean+crop:4x3", COLOUR)
        np.testing.assert_array_equal(
            adapted(images), teacher(build_adapter("channel_mean+crop:4x3", COLOUR)(images))
        )
        assert adapted.input_shape == (None, *COLOUR) and adapted.name == "small_cnn"
        assert teacher.get_config() == before
        for old, new in zip(teacher.weights, adapted.weights, strict=True):
            assert old is not new

    def test_endpoints_and_frozen_layers_are_kept(self):
        teacher, images = self.teacher(), images_like(COLOUR)
        teacher.get_layer("conv1").trainable = False
        adapted = adapt(teacher, "channel_mean+crop:4x3", COLOUR)
        assert [v.path for v in adapted.trainable_variables] == [
            v.path for v in teacher.trainable_variables
        ]
        inside = endpoints(teacher)(build_adapter("channel_mean+crop:4x3", COLOUR)(images))
        for name, found in endpoints(adapted)(images).items():
            np.testing.assert_array_equal(found, inside[name])

    def test_a_sequential_teacher(self):
        teacher = keras.Sequential(
            [keras.Input((12, 10, 3)), keras.layers.Flatten(), keras.layers.Dense(2)]
        )
        images = images_like(COLOUR)
        expected = teacher(tf.image.resize(images, (12, 10)))
        np.testing.assert_allclose(
            adapt(teacher, "resize:12x10", COLOUR)(images), expected, atol=1e-5
        )

    def test_an_adapted_teacher_is_adapted_again(self):
        teacher, images = adapt(self.teacher(), "crop:4x3", GREY), images_like((8, 8, 3))
        again = adapt(teacher, "crop:6x5+channel_mean", (8, 8, 3))
        expected = self.teacher()(images[:, 2:6, 2:5].mean(axis=3, keepdims=True))
        np.testing.assert_allclose(again(images), expected, atol=1e-6)
        assert seen_region(again) == (slice(2, 6), slice(2, 5))

    @pytest.mark.parametrize(
        "adapter",
        [*MATRICES, "transposed_conv:12x10+channel_mean", "bounded_transposed_conv:12x10"],
    )
    def test_it_is_saved(self, adapter, tmp_path):
        chain, images = build_adapter(adapter, COLOUR), images_like(COLOUR)
        teacher = keras.Sequential([keras.Input(chain.output_shape[1:]), keras.layers.Flatten(),
                                    keras.layers.Dense(3, name="logits")])  # fmt: skip
        adapted = adapt(teacher, adapter, COLOUR, trainable=True)
        chain.set_weights(
            [np.random.default_rng(i).standard_normal(w.shape) for i, w in enumerate(chain.weights)]
        )
        adapted.set_weights(chain.get_weights() + teacher.get_weights())
        adapted.save(tmp_path / "model.keras")
        again = keras.saving.load_model(tmp_path / "model.keras")
        np.testing.assert_allclose(again(images), teacher(chain(images)), rtol=1e-5, atol=1e-6)
        with random_positions(seed_of(3), 4):
            np.testing.assert_allclose(again(images), teacher(chain(images)), rtol=1e-5, atol=1e-6)
        assert sum(isinstance(layer, Adapter) for layer in again.layers) == 1 + adapter.count("+")
        assert seen_region(again) == seen_region(adapted)


SEEN = {
    **{adapter: matrix for adapter, (shape, matrix) in MATRICES.items() if shape == COLOUR},
    # Bilinear interpolation of six rows to one reads the two in the middle.
    "resize:1x5": hat_matrix(COLOUR, (1, 5)),
    "resize:3x5+crop:1x3": product(
        crop_matrix((3, 5, 3), (1, 3), (1, 1)), hat_matrix(COLOUR, (3, 5))
    ),
}


@pytest.mark.parametrize("adapter", SEEN)
def test_the_seen_region_is_that_of_the_matrixs_columns(adapter):
    """The smallest rectangle of pixels at which some column of A is not zero."""
    flat = keras.Sequential([keras.Input(SEEN[adapter].shape[:3]), keras.layers.Flatten()])
    model = adapt(flat, adapter, COLOUR)
    read = (SEEN[adapter] != 0).any(axis=(0, 1, 2, 5))
    rows, columns = np.flatnonzero(read.any(axis=1)), np.flatnonzero(read.any(axis=0))
    assert seen_region(model) == (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))


def test_a_model_without_an_adapter_sees_everything():
    assert seen_region(build_model("small_cnn", (5, 4, 1), 3)) == (slice(0, 5), slice(0, 4))


class TestErrors:
    @pytest.mark.parametrize(
        ("adapter", "text"),
        [
            ("resise:4x4", "unknown adapter 'resise'; nearest valid names: resize"),
            (
                "",
                "unknown adapter ''; valid names: average_pool, bounded_transposed_conv, "
                "channel_mean, crop",
            ),
            ("channel_mean+", "unknown adapter ''"),
            ("resize", "the adapter resize needs a size, as in resize:64x64, got 'resize'"),
            ("pad:8", "the adapter pad needs a size, as in pad:64x64, got 'pad:8'"),
            ("pad:0x8", "needs a size"),
            ("pad:8x8x3", "needs a size"),
            ("channel_mean:4x4", "the adapter channel_mean takes no size, got 'channel_mean:4x4'"),
            (
                "crop:7x5",
                "crop takes images of at least the new size, got images of 6x5 and the size 7x5",
            ),
            (
                "pad:9x4",
                "pad takes images of at most the new size, got images of 6x5 and the size 9x4",
            ),
            ("random_pad:5x5", "pad takes images of at most the new size"),
            (
                "average_pool:4x5",
                "average_pool takes images whose size is a multiple of the new one",
            ),
            ("average_pool:12x10", "average_pool takes images whose size is a multiple"),
            (
                "transposed_conv:6x5",
                "transposed_conv doubles the size of the images, got images of 6x5 and the size "
                "6x5",
            ),
            (
                "bounded_transposed_conv:6x5",
                "bounded_transposed_conv doubles the size of the images, got images of 6x5",
            ),
            ("random_pad:9x9+crop:4x4", "crop before random_pad, not after it"),
        ],
    )
    def test_adapters_that_do_not_fit(self, adapter, text):
        with pytest.raises(
            InputError,
            match="^" + text.replace("+", r"\+") if not text.startswith("needs") else text,
        ):
            build_adapter(adapter, COLOUR)

    def test_a_teacher_of_another_shape(self):
        with pytest.raises(
            InputError, match="'crop:4x3' makes 4x3x3 of 6x5x3 images, but the teacher takes 4x3x1"
        ):
            adapt(build_model("small_cnn", (4, 3, 1), 3), "crop:4x3", COLOUR)

    def test_weights_that_nobody_has_trained(self):
        with pytest.raises(
            InputError,
            match="'transposed_conv:12x10' has weights to be trained: fine-tune the teacher",
        ):
            adapt(build_model("small_cnn", (12, 10, 3), 3), "transposed_conv:12x10", COLOUR)

    def test_a_subclassed_teacher(self):
        class Network(keras.Model):
            pass

        with pytest.raises(InputError, match="input shape of the Network .* is not known"):
            adapt(Network(), "crop:4x3", COLOUR)
