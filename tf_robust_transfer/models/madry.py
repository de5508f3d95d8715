"""Networks of the MadryLab challenges."""

import keras
from keras import layers, ops

from tf_robust_transfer.errors import InputError
from tf_robust_transfer.models.preprocessing import preprocessing_layer


def madry_mnist(input_shape, num_classes) -> keras.Model:
    """The network of MadryLab's mnist_challenge: two 5x5 convolutions (32, 64) with 2x2 max
    pooling, dense 1024.

    3,274,634 parameters on 28x28x1 images and 10 classes. First weights as there: kernels from a
    normal distribution of deviation 0.1 cut at two deviations, biases of 0.1.

    Endpoints: block1 [batch, h/2, w/2, 32] and block2 [batch, h/4, w/4, 64] after pooling (sizes
    rounded up), logits."""
    images = keras.Input(input_shape, name="images")
    x = images
    for block, filters in enumerate((32, 64), start=1):
        x = layers.Conv2D(
            filters, 5, padding="same", activation="relu", name=f"conv{block}", **_first_weights()
        )(x)
        x = layers.MaxPooling2D(2, padding="same", name=f"block{block}")(x)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(1024, activation="relu", name="dense", **_first_weights())(x)
    logits = layers.Dense(num_classes, name="logits", **_first_weights())(x)
    return keras.Model(images, logits, name="madry_mnist")


def _first_weights():
    return {
        "kernel_initializer": keras.initializers.TruncatedNormal(stddev=0.1),
        "bias_initializer": keras.initializers.Constant(0.1),
    }


@keras.saving.register_keras_serializable(package="tf_robust_transfer")
class ChannelPadding(keras.layers.Layer):
    """Zeros before and after the channels: [batch, height, width, c] -> [batch, height, width,
    before + c + after].

    Args:
        before, after: numbers of channels of zeros.
    """

    def __init__(self, before, after, **kwargs):
        super().__init__(**kwargs)
        self.before, self.after = before, after

    def call(self, maps):
        return ops.pad(maps, ((0, 0), (0, 0), (0, 0), (self.before, self.after)))

    def get_config(self):
        return {**super().get_config(), "before": self.before, "after": self.after}


def madry_wide_resnet(
    input_shape, num_classes, *, depth=32, width=10, preprocessing="per_image_standardization"
) -> keras.Model:
    """The network of MadryLab's cifar10_challenge, w32-10 as madry_wrn_32_10: model.py of that
    repository.

    It is not the WideResNet of Zagoruyko & Komodakis of depth 28 with as many blocks: a block that
    changes size takes its shortcut by average pooling and channels of zeros, without weights, and
    from before the activation (from after it in the first block alone); activations are leaky ReLU
    with slope 0.1; batch norm's epsilon is 1e-3. 45,924,346 parameters (45,901,914 without the
    moving statistics) as w32-10 on 10 classes.

    Args:
        depth: 6 n + 2, for n blocks a group.
        width: groups have 16, 32, 64 channels times width; 10 in the challenge ("for a non-wide
            version", 1).
        preprocessing: see `preprocessing_layer`; "per_image_standardization" in the challenge,
            "zero_mean_l2" in the code of IGAM. A kind that needs mean and std is not offered.

    Endpoints: block1 [batch, h, w, 16], the first convolution's output; block2, block3, block4, the
    groups' outputs [batch, h, w, 16 width], [batch, h/2, w/2, 32 width], [batch, h/4, w/4, 64
    width], before the next batch norm; logits. Sizes are rounded up; the original takes sizes that
    4 divides, and on those this is it."""
    if depth < 8 or (depth - 2) % 6:
        raise InputError(
            f"the depth of MadryLab's wide ResNet is 6 n + 2 (8, 14, 20, 26, 32, ...), got {depth}"
        )
    if width < 1:
        raise InputError(f"the width of MadryLab's wide ResNet is at least 1, got {width}")

    def activate(x, name):
        # 1e-3 is the default of tf.contrib.layers.batch_norm; the decay of 0.9 is given in
        # model.py.
        x = layers.BatchNormalization(momentum=0.9, epsilon=1e-3, name=f"{name}_batch_norm")(x)
        return layers.LeakyReLU(negative_slope=0.1, name=f"{name}_activation")(x)

    def convolve(x, filters, stride, name):
        initializer = keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal")
        return layers.Conv2D(
            filters,
            3,
            strides=stride,
            padding="same",
            use_bias=False,
            kernel_initializer=initializer,
            name=name,
        )(x)

    images = keras.Input(input_shape, name="images")
    x = preprocessing_layer(preprocessing)(images)
    x = convolve(x, 16, 1, "conv1")
    x = layers.Identity(name="block1")(x)
    for group, channels in enumerate((16 * width, 32 * width, 64 * width), start=2):
        for block in range((depth - 2) // 6):
            name = f"group{group}_{block}"
            stride = 2 if block == 0 and group > 2 else 1
            activated = activate(x, f"{name}_1")
            # activate_before_residual: the first block's shortcut sees the activated input, every
            # other the raw one.
            shortcut = activated if (group, block) == (2, 0) else x
            x = convolve(activated, channels, stride, f"{name}_conv1")
            x = convolve(activate(x, f"{name}_2"), channels, 1, f"{name}_conv2")
            if stride > 1:
                # "valid" in the original, which is the same where the size is even.
                shortcut = layers.AveragePooling2D(
                    stride, padding="same", name=f"{name}_shortcut_pool"
                )(shortcut)
            if shortcut.shape[-1] != channels:
                zeros = (channels - shortcut.shape[-1]) // 2
                shortcut = ChannelPadding(zeros, zeros, name=f"{name}_shortcut_zeros")(shortcut)
            x = layers.Add(name=f"{name}_add")([shortcut, x])
        x = layers.Identity(name=f"block{group}")(x)
    x = activate(x, "final")
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    # tf.uniform_unit_scaling_initializer
    initializer = keras.initializers.VarianceScaling(1.0, "fan_in", "uniform")
    logits = layers.Dense(num_classes, kernel_initializer=initializer, name="logits")(x)
    return keras.Model(images, logits, name=f"madry_wrn_{depth}_{width}")
