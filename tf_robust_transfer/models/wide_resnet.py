"""Wide residual networks, Zagoruyko & Komodakis (2016), WRN-depth-width."""

import keras
from keras import layers

from tf_robust_transfer.errors import InputError
from tf_robust_transfer.models.residual import PADDINGS, batch_norm, convolution, normalised_input

ACTIVATIONS = ("relu", "leaky_relu", "swish")


def wide_resnet(
    input_shape,
    num_classes,
    *,
    depth=28,
    width=10,
    activation="relu",
    padding="symmetric",
    stem_stride=1,
    preprocessing="none",
    mean=None,
    std=None,
) -> keras.Model:
    """WRN-depth-width: a 3x3 convolution, three groups of (depth - 4) / 6 pre-activation blocks,
    global average pooling.

    Trainable parameters on 10 classes: 0.078 million as WRN-10-1, 36.5 million as WRN-28-10, 46.2
    million as WRN-34-10, 184.5 million as WRN-34-20.

    Args:
        depth: 6 n + 4.
        width: groups have 16, 32, 64 channels times width.
        activation: "relu"; "leaky_relu" with slope 0.1; "swish" (Gowal et al. 2020).
        padding: of the 3x3 convolutions with stride 2: "symmetric" by one pixel (PyTorch, Hendrycks
            et al. 2019) or TensorFlow's "same" (Gowal et al.; their PyTorch network pads even sizes
            alike, odd sizes not).
        stem_stride: stride of the first convolution; 1 in the papers, 2 makes the network four
            times cheaper.
        preprocessing, mean, std: see `preprocessing_layer`.

    Endpoints: block1 [batch, h, w, 16], the first convolution's output; block2, block3, block4, the
    groups' outputs [batch, h, w, 16 width], [batch, h/2, w/2, 32 width], [batch, h/4, w/4, 64
    width], before the next batch norm; logits. With stem_stride s, h and w are divided by s first.
    """
    if depth < 10 or (depth - 4) % 6:
        raise InputError(f"a WideResNet's depth is 6 n + 4 (10, 16, 22, 28, 34, ...), got {depth}")
    if width < 1:
        raise InputError(f"a WideResNet's width is at least 1, got {width}")
    if activation not in ACTIVATIONS:
        raise InputError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
    if padding not in PADDINGS:
        raise InputError(f"padding must be one of {', '.join(PADDINGS)}, got {padding!r}")

    def activate(x, name):
        x = batch_norm(x, f"{name}_batch_norm")
        if activation == "leaky_relu":
            return layers.LeakyReLU(negative_slope=0.1, name=f"{name}_activation")(x)
        return layers.Activation(activation, name=f"{name}_activation")(x)

    def convolve(x, filters, kernel, stride, name):
        return convolution(x, filters, kernel, stride, name, padding=padding)

    images, x = normalised_input(input_shape, preprocessing, mean, std)
    x = convolve(x, 16, 3, stem_stride, "conv1")
    x = layers.Identity(name="block1")(x)
    for group, channels in enumerate((16 * width, 32 * width, 64 * width), start=2):
        for block in range((depth - 4) // 6):
            name = f"group{group}_{block}"
            stride = 2 if block == 0 and group > 2 else 1
            activated = activate(x, f"{name}_1")
            changes = x.shape[-1] != channels or stride > 1
            shortcut = (
                convolve(activated, channels, 1, stride, f"{name}_shortcut") if changes else x
            )
            x = convolve(activated, channels, 3, stride, f"{name}_conv1")
            x = convolve(activate(x, f"{name}_2"), channels, 3, 1, f"{name}_conv2")
            x = layers.Add(name=f"{name}_add")([shortcut, x])
        x = layers.Identity(name=f"block{group}")(x)
    x = activate(x, "final")
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(
        images, layers.Dense(num_classes, name="logits")(x), name=f"wrn_{depth}_{width}"
    )
