"""The adapters as Keras layers, so that a teacher is saved together with what stands before it.

Each is affine in the image, x' = A x + b (Eq. 15 of the IGAM paper), so that the gradient that
comes back through it is A^T times the teacher's own. b is zero in all but the transposed
convolutions, which alone have weights. Images are float [batch, height, width, channels] in [0, 1].
"""

import contextvars

import keras
import numpy as np
from keras import ops

from tf_robust_transfer.errors import InputError

# Uniform numbers in [0, 1) that place the images of RandomPad, (of the batch: [1, 2], of each
# example: [batch, 2]), or None: in the centre. Set by `positions.random_positions`.
RANDOM_POSITIONS = contextvars.ContextVar("RANDOM_POSITIONS", default=None)


class Adapter(keras.layers.Layer):
    """A layer before a teacher: the type by which `adapters` finds them in a model."""


class SizedAdapter(Adapter):
    """An adapter to a given size.

    Args:
        height, width: of what comes out.
    """

    def __init__(self, height, width, **kwargs):
        super().__init__(**kwargs)
        self.height, self.width = height, width

    def get_config(self):
        return {**super().get_config(), "height": self.height, "width": self.width}

    def _refuse(self, input_shape, what):
        raise InputError(
            f"{what}, got images of {input_shape[1]}x{input_shape[2]} and the size "
            f"{self.height}x{self.width}"
        )


@keras.saving.register_keras_serializable(package="tf_robust_transfer")
class Resize(SizedAdapter):
    """Bilinear interpolation to height x width, without antialiasing (section 4.3.1).

    A has at most four entries in a row, which sum to 1. Half the size is the 2x2 average pool.

    Args:
        half_pixel_centers: where an output pixel lies in the input. True: its centre in the image
            stays where it was (TensorFlow 2, PyTorch). False: its upper left corner does, which is
            what TensorFlow 1's tf.image.resize_images does, and so the reference code in its row
            IGAM-Upsize; doubling the size, it shifts the image by a quarter of a pixel and doubles
            the last row and column.
    """

    def __init__(self, height, width, half_pixel_centers=True, **kwargs):
        super().__init__(height, width, **kwargs)
        self.half_pixel_centers = half_pixel_centers

    def call(self, images):
        rows = ops.convert_to_tensor(
            self._interpolation(images.shape[1], self.height), images.dtype
        )
        columns = ops.convert_to_tensor(
            self._interpolation(images.shape[2], self.width), images.dtype
        )
        images = ops.einsum("ij,bjkc->bikc", rows, images)
        return ops.einsum("ij,bkjc->bkic", columns, images)

    def _interpolation(self, size, new_size):
        """float32 [new_size, size]: the weights of one axis."""
        shift = 0.5 if self.half_pixel_centers else 0.0
        source = np.clip((np.arange(new_size) + shift) * size / new_size - shift, 0, size - 1)
        lower = np.floor(source).astype(int)
        upper = np.minimum(lower + 1, size - 1)
        weights = np.zeros((new_size, size))
        weights[np.arange(new_size), lower] += 1 - (source - lower)
        weights[np.arange(new_size), upper] += source - lower
        return weights.astype(np.float32)

    def get_config(self):
        return {**super().get_config(), "half_pixel_centers": self.half_pixel_centers}


@keras.saving.register_keras_serializable(package="tf_robust_transfer")
class AveragePool(SizedAdapter):
    """The mean of each block of pixels, of which height x width fill the image (section 4.3.1).

    A row of A has 1 / (pixels of a block) at each of them.
    """

    def build(self, input_shape):
        if input_shape[1] % self.height or input_shape[2] % self.width:
            self._refuse(
                input_shape,
                "average_pool takes images whose size is a multiple of the new one (else use "
                "resize)",
            )

    def call(self, images):
        window = images.shape[1] // self.height, images.shape[2] // self.width
        return ops.average_pool(images, window, window, data_format="channels_last")


@keras.saving.register_keras_serializable(package="tf_robust_transfer")
class CentreCrop(SizedAdapter):
    """The height x width pixels in the middle (section 4.3.2): A is an identity without the rows of
    all others.

    Of an odd number of rows or columns too many, the larger part goes at the bottom or right (the
    reference code too)."""

    def build(self, input_shape):
        if self.height > input_shape[1] or self.width > input_shape[2]:
            self._refuse(input_shape, "crop takes images of at least the new size")

    def call(self, images):
        top, left = (images.shape[1] - self.height) // 2, (images.shape[2] - self.width) // 2
        return images[:, top : top + self.height, left : left + self.width, :]


@keras.saving.register_keras_serializable(package="tf_robust_transfer")
class CentrePad(SizedAdapter):
    """The image in the middle of height x width black pixels (section 4.3.3): A is an identity with
    rows of zeros.

    Of an odd number of rows or columns to add, the larger part goes to the bottom or right.
    """

    def build(self, input_shape):
        if self.height < input_shape[1] or self.width < input_shape[2]:
            self._refuse(input_shape, "pad takes images of at most the new size")

    def call(self, images):
        top, left = (self.height - images.shape[1]) // 2, (self.width - images.shape[2]) // 2
        bottom, right = self.height - images.shape[1] - top, self.width - images.shape[2] - left
        return ops.pad(images, ((0, 0), (top, bottom), (left, right), (0, 0)))


@keras.saving.register_keras_serializable(package="tf_robust_transfer")
class RandomPad(CentrePad):
    """As `CentrePad`, but inside `positions.random_positions` the image lies anywhere, every place
    as likely.

    Fine-tuning and IGAM's steps draw such places; whoever calls the saved teacher otherwise gets
    the centre. So what is attacked and shown of a fine-tuned teacher is one fixed function:
    accuracy under random places would look better for being random.

    Args:
        per_example: a place for each image, not one for the batch. The paper does not say; the
            reference code has one scalar for the batch in what is left there of random places.
    """

    def __init__(self, height, width, per_example=False, **kwargs):
        super().__init__(height, width, **kwargs)
        self.per_example = per_example

    def call(self, images):
        drawn = RANDOM_POSITIONS.get()
        if drawn is None:
            return super().call(images)
        uniform = drawn[1] if self.per_example else drawn[0]
        rows = self._placement(uniform[:, 0], images.shape[1], self.height, images.dtype)
        columns = self._placement(uniform[:, 1], images.shape[2], self.width, images.dtype)
        if not self.per_example:
            images = ops.einsum("ij,bjkc->bikc", rows[0], images)
            return ops.einsum("ij,bkjc->bkic", columns[0], images)
        images = ops.einsum("bij,bjkc->bikc", rows, images)
        return ops.einsum("bij,bkjc->bkic", columns, images)

    def _placement(self, uniform, size, new_size, dtype):
        """0 and 1 [places, new_size, size]: an identity, moved down to each place."""
        spare = new_size - size
        # u (spare + 1) may be rounded up to spare + 1.
        first = ops.minimum(ops.cast(ops.floor(uniform * (spare + 1)), "int32"), spare)
        moved = ops.arange(size) + first[:, None]
        return ops.cast(ops.equal(ops.arange(new_size)[:, None], moved[:, None, :]), dtype)

    def get_config(self):
        return {**super().get_config(), "per_example": self.per_example}


@keras.saving.register_keras_serializable(package="tf_robust_transfer")
class TransposedConvolution(SizedAdapter):
    """A 3x3 transposed convolution with stride 2, to twice the size (section 5.1.2), with the
    channels that it gets.

    A is the kernel's, b the bias. The paper trains it while the teacher's logits are fine-tuned and
    does not say how it starts: here as interpolation of each channel alone, x'[2i + 1] = x[i] and
    x'[2i] = (x[i] + x[i - 1]) / 2 (black outside), so that the frozen features see the images from
    the first step on. What comes out is not clipped to [0, 1]."""

    text = "transposed_conv"
    has_bias = True

    def build(self, input_shape):
        if (self.height, self.width) != (2 * input_shape[1], 2 * input_shape[2]):
            self._refuse(input_shape, f"{self.text} doubles the size of the images")
        channels = input_shape[3]

        def interpolation(shape, dtype):
            start = np.zeros(shape)
            weights = np.outer([0.5, 1.0, 0.5], [0.5, 1.0, 0.5])
            start[:, :, range(channels), range(channels)] = weights[:, :, None]
            return ops.convert_to_tensor(start, dtype)

        # [3, 3, channels out, channels in]
        self.kernel = self.add_weight(
            shape=(3, 3, channels, channels), initializer=interpolation, name="kernel"
        )
        if self.has_bias:
            self.bias = self.add_weight(shape=(channels,), initializer="zeros", name="bias")

    def call(self, images):
        kernel = self._used_kernel()
        wide = ops.conv_transpose(
            images, kernel, strides=2, padding="same", data_format="channels_last"
        )
        return wide + self.bias if self.has_bias else wide

    def _used_kernel(self):
        return ops.convert_to_tensor(self.kernel)


@keras.saving.register_keras_serializable(package="tf_robust_transfer")
class BoundedTransposedConvolution(TransposedConvolution):
    """As `TransposedConvolution`, but without bias, and a change of the image by eps (linf) changes
    what comes out by at most eps.

    The free form, once trained, may raise the contrast, and then its teacher meets more than the
    eps of the image. Its bias makes a black background grey, which the teacher never saw: a bias of
    0.05 left a Fashion-MNIST teacher at eps 0.1 nothing (docs/results/across_tasks.md).

    Here the absolute weights in each row of A sum to at most 1, to rounding: the kernel is divided
    by max(1, its sum) for each channel that comes out and each phase. A phase is the entries that
    meet in one pixel: the pixels of even rows and even columns read four of them, those of odd rows
    and columns the middle one, the others two. Only rows at the border have less.

    It is a parametrisation, not a Keras constraint on the weight: so it holds for all weights,
    whoever sets them, and in the midst of a step on several devices; the gradient is that of what
    is computed. A phase whose weights have come to sum to more than 1 is used with a sum of 1 from
    there on, unless weight decay brings it back. The start, interpolation, has a sum of 1 in each
    phase."""

    text = "bounded_transposed_conv"
    has_bias = False

    def _used_kernel(self):
        kernel = ops.convert_to_tensor(self.kernel)
        size = ops.sum(ops.abs(kernel), axis=3, keepdims=True)
        # Rows 0 and 2 meet, row 1 is alone; columns alike. Adding and halving is exact where a
        # matrix product need not be.
        for axis in (0, 1):
            alone = np.array([1.0, 0.5, 1.0]).reshape([3 if a == axis else 1 for a in range(4)])
            size = (size + ops.flip(size, axis)) * ops.cast(alone, kernel.dtype)
        # In this order a tie, as at the start, has the gradient of the free kernel.
        return kernel / ops.maximum(ops.ones_like(size), size)


@keras.saving.register_keras_serializable(package="tf_robust_transfer")
class ChannelMean(Adapter):
    """The mean over the channels, of which one is left (section 4.3.1, CIFAR images for an MNIST
    teacher).
    """

    def call(self, images):
        return ops.mean(images, axis=3, keepdims=True)
