"""The discriminator of IGAM: input gradient -> score of being the teacher's."""

import keras
from keras import layers

from tf_robust_transfer.errors import look_up
from tf_robust_transfer.models.settings import check_settings

# Appendix A of the IGAM paper, output channels of each layer. The paper's "5 CNN layers
# (16-32-64-128-256)" and "4 CNN layers (8-16-32-64)" agree with themselves. Its "5 CNN layers
# (8-16-32-64)" (CIFAR-10 from Tiny-ImageNet) lists four numbers for five layers. We take the list,
# "8-64": the reference code's configuration of that very row (IGAM-Upsize) has 4 layers from 8
# channels on. Who takes the count instead has "8-128", five layers by the reference code's rule
# that each has twice the channels of the one before.
DISCRIMINATOR_CHANNELS = {
    "16-256": (16, 32, 64, 128, 256),
    "8-64": (8, 16, 32, 64),
    "8-128": (8, 16, 32, 64, 128),
}

_scaling = keras.initializers.VarianceScaling
# Name: makes an initializer of a convolution and one of the dense layer. Keras's own, or those of
# the reference code: N(0, 2 / (16 out)), and uniform in +-sqrt(3 / in), which is TF1's
# uniform_unit_scaling_initializer.
INITIALIZERS = {
    "glorot_uniform": (keras.initializers.GlorotUniform, keras.initializers.GlorotUniform),
    "reference_code": (
        lambda: _scaling(2.0, "fan_out", "untruncated_normal"),
        lambda: _scaling(1.0, "fan_in", "uniform"),
    ),
}


def build_discriminator(
    input_shape,
    *,
    channels=(16, 32, 64, 128, 256),
    batch_norm=True,
    batch_norm_epsilon=1e-5,
    initializer="glorot_uniform",
) -> keras.Model:
    """4x4 convolutions with stride 2, batch norm (momentum 0.9), leaky ReLU 0.1, one score.

    The architecture is the reference code's, but for one logit instead of a two-way softmax, which
    is the same function with one redundant weight vector less. It is not the same step of SGD: the
    two weight vectors move oppositely, so that their difference moves twice as far as our one
    vector; the other layers' gradients are the same. Its batch norm has epsilon 1e-3, and its
    kernels start otherwise: give batch_norm_epsilon=1e-3 and initializer="reference_code".
    Parameters on 32x32x3 gradients: 699,825 with channels "16-256" of `DISCRIMINATOR_CHANNELS`,
    44,249 with "8-64", 175,833 with "8-128".

    Args:
        input_shape: (height, width, channels) of the input gradients.
        channels: output channels of each convolution, such as those of `DISCRIMINATOR_CHANNELS`
            (Appendix A; where its text says five layers and lists four channels, the list holds).
        batch_norm: off where a step must not depend on how the batch is split over devices.
        batch_norm_epsilon: added to the variance. It counts in the first layer: what comes in has
            unit norm, so that its entries are of about 0.02 at 32x32x3.
        initializer: of the kernels, a key of `INITIALIZERS`. (The difference of a two-way softmax's
            logits starts with twice the variance of our one logit.)

    Returns:
        keras.Model: float [batch, height, width, channels] -> float [batch], the logit of f_disc.
    """
    check_settings()
    of_convolution, of_dense = look_up("initializer", initializer, INITIALIZERS)
    gradients = keras.Input(input_shape, name="input_gradients")
    x = gradients
    for layer, filters in enumerate(channels, start=1):
        x = layers.Conv2D(
            filters,
            4,
            strides=2,
            padding="same",
            kernel_initializer=of_convolution(),
            name=f"conv{layer}",
        )(x)
        if batch_norm:
            x = layers.BatchNormalization(
                momentum=0.9, epsilon=batch_norm_epsilon, name=f"batch_norm{layer}"
            )(x)
        x = layers.LeakyReLU(negative_slope=0.1, name=f"activation{layer}")(x)
    x = layers.Flatten(name="flatten")(x)
    score = layers.Reshape((), name="score")(
        layers.Dense(1, kernel_initializer=of_dense(), name="dense")(x)
    )
    return keras.Model(gradients, score, name="discriminator")
