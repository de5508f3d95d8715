"""Pre-activation ResNet-18 for small images, He et al. (2016b)."""

import keras
from keras import layers

from tf_robust_transfer.models.residual import batch_norm, convolution, normalised_input


def preact_resnet_18(
    input_shape,
    num_classes,
    *,
    base_channels=64,
    activated_shortcut=True,
    final_batch_norm=True,
    preprocessing="none",
    mean=None,
    std=None,
) -> keras.Model:
    """PreAct-ResNet-18: a 3x3 convolution, four groups of two pre-activation blocks, global average
    pooling.

    11.2 million trainable parameters on 10 classes. Rice et al. (2020) use it as it is by default;
    the network of Wong et al. (2020) as RobustBench has it lacks the last batch norm and takes the
    1x1 shortcut before the activation.

    Args:
        base_channels: channels of the first convolution and the first group; each further group
            doubles them.
        activated_shortcut: the 1x1 shortcut of a block whose size changes sees the block's
            normalised and activated input (He et al. 2016b), or its raw input.
        final_batch_norm: batch norm and ReLU before the pooling.
        preprocessing, mean, std: see `preprocessing_layer`.

    Endpoints, with c = base_channels: block1 [batch, h, w, c], the first convolution's output; the
    groups' outputs, before the next batch norm: block2 [batch, h, w, c], block3 [batch, h/2, w/2, 2
    c], block4 [batch, h/4, w/4, 4 c], block5 [batch, h/8, w/8, 8 c] (sizes rounded up); logits."""

    def activate(x, name):
        return layers.ReLU(name=f"{name}_activation")(batch_norm(x, f"{name}_batch_norm"))

    images, x = normalised_input(input_shape, preprocessing, mean, std)
    x = convolution(x, base_channels, 3, 1, "conv1")
    x = layers.Identity(name="block1")(x)
    for group in (2, 3, 4, 5):
        channels = base_channels * 2 ** (group - 2)
        for block in (0, 1):
            name = f"group{group}_{block}"
            stride = 2 if block == 0 and group > 2 else 1
            activated, shortcut = activate(x, f"{name}_1"), x
            if stride > 1:
                shortcut = convolution(
                    activated if activated_shortcut else x, channels, 1, stride, f"{name}_shortcut"
                )
            x = convolution(activated, channels, 3, stride, f"{name}_conv1")
            x = convolution(activate(x, f"{name}_2"), channels, 3, 1, f"{name}_conv2")
            x = layers.Add(name=f"{name}_add")([shortcut, x])
        x = layers.Identity(name=f"block{group}")(x)
    if final_batch_norm:
        x = activate(x, "final")
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(images, layers.Dense(num_classes, name="logits")(x), name="preact_resnet_18")
