"""MobileNetV2 for small images, Sandler et al. (2018)."""

import keras
from keras import layers

from tf_robust_transfer.models.residual import batch_norm, convolution, normalised_input

# (factor of the expansion, channels, blocks, stride of the first) of each stage.
_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
# The last stage of each image size, and its endpoint.
_ENDPOINTS = {1: "block2", 2: "block3", 4: "block4", 6: "block5"}


def mobilenet_v2(
    input_shape, num_classes, *, width=1.0, preprocessing="none", mean=None, std=None
) -> keras.Model:
    """MobileNetV2 in the form for CIFAR, the smaller student of ARD, RSLAD and IGDM: stride 1 in
    the first convolution and the second stage, ReLU, and a 1x1 shortcut with batch norm where a
    block of stride 1 changes its channels.

    2.30 million trainable parameters on 10 classes.

    Args:
        width: factor of all channels.
        preprocessing, mean, std: see `preprocessing_layer`.

    Endpoints, with width 1: block1 [batch, h, w, 32], the first convolution after batch norm and
    ReLU; the outputs of the last stage of each size: block2 [batch, h, w, 24], block3 [batch, h/2,
    w/2, 32], block4 [batch, h/4, w/4, 96], block5 [batch, h/8, w/8, 320] (sizes rounded up);
    logits."""

    def scaled(channels):
        return max(1, round(width * channels))

    def normalised(x, filters, kernel, stride, name):
        return batch_norm(convolution(x, filters, kernel, stride, name), f"{name}_batch_norm")

    images, x = normalised_input(input_shape, preprocessing, mean, std)
    x = layers.ReLU(name="block1")(normalised(x, scaled(32), 3, 1, "conv1"))
    number = 0
    for stage, (expansion, channels, blocks, first_stride) in enumerate(_STAGES):
        for block in range(blocks):
            name, stride = f"layers_{number}", first_stride if block == 0 else 1
            number += 1
            inputs, hidden = x, expansion * x.shape[-1]
            x = normalised(x, hidden, 1, 1, f"{name}_conv1")
            x = layers.ReLU(name=f"{name}_activation1")(x)
            x = _depthwise(x, stride, f"{name}_conv2")
            x = layers.ReLU(name=f"{name}_activation2")(batch_norm(x, f"{name}_conv2_batch_norm"))
            x = normalised(x, scaled(channels), 1, 1, f"{name}_conv3")
            if stride == 1:
                if inputs.shape[-1] != scaled(channels):
                    inputs = normalised(inputs, scaled(channels), 1, 1, f"{name}_shortcut")
                x = layers.Add(name=f"{name}_add")([x, inputs])
        if stage in _ENDPOINTS:
            x = layers.Identity(name=_ENDPOINTS[stage])(x)
    x = layers.ReLU(name="final_activation")(normalised(x, scaled(1280), 1, 1, "conv2"))
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(images, layers.Dense(num_classes, name="logits")(x), name="mobilenet_v2")


def _depthwise(x, stride, name):
    """A 3x3 convolution of each channel alone, padded by one pixel as PyTorch does."""
    if stride > 1:
        x = layers.ZeroPadding2D(1, name=f"{name}_pad")(x)
    return layers.DepthwiseConv2D(
        3,
        strides=stride,
        padding="valid" if stride > 1 else "same",
        use_bias=False,
        depthwise_initializer=keras.initializers.HeNormal(),
        name=name,
    )(x)
