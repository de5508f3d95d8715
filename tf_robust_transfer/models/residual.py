"""What the residual networks share: their normalised input, convolutions, batch norm."""

import keras
from keras import layers

from tf_robust_transfer.errors import InputError
from tf_robust_transfer.models.preprocessing import preprocessing_layer

PADDINGS = ("symmetric", "same")


def normalised_input(input_shape, preprocessing, mean, std):
    """The input of a network and its normalised value, see `preprocessing_layer`.

    Raises:
        InputError: unknown preprocessing, or mean and std for another number of channels.
    """
    channels = input_shape[-1]
    # One number is that of every channel.
    mean, std = ([x] * channels if isinstance(x, (int, float)) else x for x in (mean, std))
    for statistic in (mean, std):
        if statistic is not None and len(statistic) != channels:
            raise InputError(
                f"mean and std have one number for each of {input_shape[-1]} channels, got {mean} "
                f"and {std}"
            )
    images = keras.Input(input_shape, name="images")
    return images, preprocessing_layer(preprocessing, mean, std)(images)


def convolution(x, filters, kernel, stride, name, *, padding="symmetric", use_bias=False):
    """A convolution that divides height and width by its stride, rounded up.

    Args:
        x: float [batch, height, width, channels].
        filters, kernel, stride: whole numbers; the kernel is odd and square.
        name: of the convolution; a padding layer is called `{name}_pad`.
        padding: where the stride is over 1: "symmetric" by (kernel - 1) / 2 pixels, as PyTorch
            networks have it, or TensorFlow's "same", which pads an even image one pixel less, at
            top and left. With stride 1 they agree.
        use_bias: before a batch norm it has no use; keras.applications has it all the same.
    """
    symmetric = padding == "symmetric" and stride > 1 and kernel > 1
    if symmetric:
        x = layers.ZeroPadding2D((kernel - 1) // 2, name=f"{name}_pad")(x)
    return layers.Conv2D(
        filters,
        kernel,
        strides=stride,
        padding="valid" if symmetric else "same",
        use_bias=use_bias,
        # He et al. (2015), over the outputs: Zagoruyko's WideResNet and torchvision's ResNet. Other
        # networks' codes leave PyTorch's default (docs/facts.md).
        kernel_initializer=keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal"),
        name=name,
    )(x)


def batch_norm(x, name, *, momentum=0.9, epsilon=1e-5):
    """Batch norm with PyTorch's constants: its momentum 0.1 is 0.9 in Keras."""
    return layers.BatchNormalization(momentum=momentum, epsilon=epsilon, name=name)(x)
