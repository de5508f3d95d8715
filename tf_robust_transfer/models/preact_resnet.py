"""Pre-activation ResNet-18 for small images, He et al. (2016b)."""

import keras
from keras import layers

from tf_robust_transfer.errors import InputError
from tf_robust_transfer.models.residual import PADDINGS, batch_norm, convolution, normalised_input

ACTIVATIONS = ("relu", "swish")


def preact_resnet_18(
    input_shape,
    num_classes,
    *,
    base_channels=64,
    activation="relu",
    padding="symmetric",
    activated_shortcut=True,
    shortcut_kernel=1,
    final_batch_norm=True,
    preprocessing="none",
    mean=None,
    std=None,
) -> keras.Model:
    """PreAct-ResNet-18: a 3x3 convolution, four groups of two pre-activation blocks, global average
    pooling.

    11.2 million trainable parameters on 10 classes. Rice et al. (2020) use it as it is by default;
    the code of Wong et al. (2020) and of N-FGSM takes the 1x1 shortcut before the activation, and
    RobustBench's network of Wong et al. lacks the last batch norm as well; DeepMind's
    (Rebuffi et al. 2021) has Swish, padding "same" and 3x3 shortcuts before the activation.

    Args:
        base_channels: channels of the first convolution and the first group; each further group
            doubles them.
        activation: "relu" or "swish".
        padding: of the 3x3 convolutions with stride 2, see `wide_resnet`.
        activated_shortcut: the shortcut of a block whose size changes sees the block's
            normalised and activated input (He et al. 2016b), or its raw input.
        shortcut_kernel: size of the shortcut's convolution.
        final_batch_norm: batch norm and activation before the pooling.
        preprocessing, mean, std: see `preprocessing_layer`.

    Endpoints, with c = base_channels: block1 [batch, h, w, c], the first convolution's output; the
    groups' outputs, before the next batch norm: block2 [batch, h, w, c], block3 [batch, h/2, w/2, 2
    c], block4 [batch, h/4, w/4, 4 c], block5 [batch, h/8, w/8, 8 c] (sizes rounded up); logits."""

    if activation not in ACTIVATIONS:
        raise InputError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
    if padding not in PADDINGS:
        raise InputError(f"padding must be one of {', '.join(PADDINGS)}, got {padding!r}")

    def activate(x, name):
        x = batch_norm(x, f"{name}_batch_norm")
        if activation == "relu":
            return layers.ReLU(name=f"{name}_activation")(x)
        return layers.Activation(activation, name=f"{name}_activation")(x)

    def convolve(x, filters, kernel, stride, name):
        return convolution(x, filters, kernel, stride, name, padding=padding)

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
                shortcut = convolve(
                    activated if activated_shortcut else x,
                    channels,
                    shortcut_kernel,
                    stride,
                    f"{name}_shortcut",
                )
            x = convolve(activated, channels, 3, stride, f"{name}_conv1")
            x = convolve(activate(x, f"{name}_2"), channels, 3, 1, f"{name}_conv2")
            x = layers.Add(name=f"{name}_add")([shortcut, x])
        x = layers.Identity(name=f"block{group}")(x)
    if final_batch_norm:
        x = activate(x, "final")
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(images, layers.Dense(num_classes, name="logits")(x), name="preact_resnet_18")
