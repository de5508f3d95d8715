"""The discriminator of IGAM: input gradient -> score of being the teacher's."""

import keras
from keras import layers

# Appendix A of the IGAM paper, output channels of each layer. The paper's "5 CNN layers (16-32-64-128-256)" and "4 CNN
# layers (8-16-32-64)" agree with themselves. Its "5 CNN layers (8-16-32-64)" (CIFAR-10 from Tiny-ImageNet) lists four
# numbers for five layers. We take the list, "8-64": the reference code's configuration of that very row (IGAM-Upsize)
# has 4 layers from 8 channels on. Who takes the count instead has "8-128", five layers by the reference code's rule that
# each has twice the channels of the one before.
DISCRIMINATOR_CHANNELS = {"16-256": (16, 32, 64, 128, 256), "8-64": (8, 16, 32, 64), "8-128": (8, 16, 32, 64, 128)}


def build_discriminator(input_shape, *, channels=(16, 32, 64, 128, 256), batch_norm=True) -> keras.Model:
    """4x4 convolutions with stride 2, batch norm (momentum 0.9), leaky ReLU 0.1, one score.

    As in the reference code, but for one logit instead of a two-way softmax, which is the same function with one
    redundant weight vector less. Parameters on 32x32x3 gradients: 699,825 with channels "16-256" of
    `DISCRIMINATOR_CHANNELS`, 44,249 with "8-64", 175,833 with "8-128".

    Args:
        input_shape: (height, width, channels) of the input gradients.
        channels: output channels of each convolution, such as those of `DISCRIMINATOR_CHANNELS` (Appendix A; where its
            text says five layers and lists four channels, the list holds).
        batch_norm: off where a step must not depend on how the batch is split over devices.

    Returns:
        keras.Model: float [batch, height, width, channels] -> float [batch], the logit of f_disc.
    """
    gradients = keras.Input(input_shape, name="input_gradients")
    x = gradients
    for layer, filters in enumerate(channels, start=1):
        x = layers.Conv2D(filters, 4, strides=2, padding="same", name=f"conv{layer}")(x)
        if batch_norm:
            x = layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=f"batch_norm{layer}")(x)
        x = layers.LeakyReLU(negative_slope=0.1, name=f"activation{layer}")(x)
    x = layers.Flatten(name="flatten")(x)
    score = layers.Reshape((), name="score")(layers.Dense(1, name="dense")(x))
    return keras.Model(gradients, score, name="discriminator")
