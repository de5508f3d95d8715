"""Wide residual networks, Zagoruyko & Komodakis (2016), WRN-depth-width."""

import keras
from keras import layers, ops

from tf_robust_transfer.errors import InputError
from tf_robust_transfer.models.residual import PADDINGS, batch_norm, convolution, normalised_input

ACTIVATIONS = ("relu", "leaky_relu", "swish")


@keras.saving.register_keras_serializable(package="tf_robust_transfer")
class CosineLogits(layers.Layer):
    """The cosines between an example's features and one direction for each class, Pang et al.
    (2020), "Boosting Adversarial Training with Hypersphere Embedding".

    features: float [batch, channels] -> float [batch, classes] in [-1, 1]. Both lengths are at
    least 1e-12, as in PyTorch's `normalize`.

    Args:
        classes: number of logits.
    """

    def __init__(self, classes, **kwargs):
        super().__init__(**kwargs)
        self.classes = classes

    def build(self, input_shape):
        self.kernel = self.add_weight(name="kernel", shape=(input_shape[-1], self.classes))

    def call(self, features):
        return ops.matmul(_of_length_1(features, axis=1), _of_length_1(self.kernel, axis=0))

    def get_config(self):
        return {**super().get_config(), "classes": self.classes}


def _of_length_1(x, axis):
    squares = ops.sum(ops.square(x), axis=axis, keepdims=True)
    return x * ops.rsqrt(ops.maximum(squares, 1e-24))


def wide_resnet(
    input_shape,
    num_classes,
    *,
    depth=28,
    width=10,
    activation="relu",
    padding="symmetric",
    stem_stride=1,
    cosine_logits=False,
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
        cosine_logits: the logits are `CosineLogits`, in place of a linear layer's.
        preprocessing, mean, std: see `preprocessing_layer`.

    Endpoints: block1 [batch, h, w, 16], the first convolution's output; block2, block3, block4, the
    groups' outputs [batch, h, w, 16 width], [batch, h/2, w/2, 32 width], [batch, h/4, w/4, 64
    width], before the next batch norm; logits. With stem_stride s, h and w are divided by s first.
    """
    if depth < 10 or (depth - 4) % 6:
        raise InputError(f"a WideResNet's depth is 6 n + 4 (10, 16, 22, 28, 34, ...), got {depth}")
    if width < 1:
        raise InputError(f"a WideResNet's width is at least 1, got {width}")
    return _build(
        input_shape,
        num_classes,
        blocks=3 * ((depth - 4) // 6,),
        widths=3 * (width,),
        activation=activation,
        padding=padding,
        stem_stride=stem_stride,
        cosine_logits=cosine_logits,
        preprocessing=(preprocessing, mean, std),
        name=f"wrn_{depth}_{width}",
    )


def wide_resnet_by_group(
    input_shape,
    num_classes,
    *,
    blocks=(5, 5, 5),
    widths=(20, 20, 8),
    activation="relu",
    padding="symmetric",
    preprocessing="none",
    mean=None,
    std=None,
) -> keras.Model:
    """A Wide-ResNet whose groups differ in depth and width, Huang et al. (2021, 2022).

    The defaults are WRN-34-R; WRN-A4 has blocks (27, 28, 13), widths (10, 14, 6) and Swish.

    Args:
        blocks: of the three groups, two 3x3 convolutions each.
        widths: the groups have 16, 32, 64 channels times these.
        activation, padding, preprocessing, mean, std: see `wide_resnet`.

    Endpoints: those of `wide_resnet`."""
    for what, values in (("blocks", blocks), ("widths", widths)):
        if len(values) != 3 or min(values) < 1:
            raise InputError(f"{what} are three whole numbers of at least 1, got {values}")
    return _build(
        input_shape,
        num_classes,
        blocks=blocks,
        widths=widths,
        activation=activation,
        padding=padding,
        stem_stride=1,
        cosine_logits=False,
        preprocessing=(preprocessing, mean, std),
        name="wrn_by_group",
    )


def _build(
    input_shape,
    num_classes,
    *,
    blocks,
    widths,
    activation,
    padding,
    stem_stride,
    cosine_logits,
    preprocessing,
    name,
):
    if activation not in ACTIVATIONS:
        raise InputError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
    if padding not in PADDINGS:
        raise InputError(f"padding must be one of {', '.join(PADDINGS)}, got {padding!r}")

    def activate(x, layer):
        x = batch_norm(x, f"{layer}_batch_norm")
        if activation == "leaky_relu":
            return layers.LeakyReLU(negative_slope=0.1, name=f"{layer}_activation")(x)
        return layers.Activation(activation, name=f"{layer}_activation")(x)

    def convolve(x, filters, kernel, stride, layer):
        return convolution(x, filters, kernel, stride, layer, padding=padding)

    images, x = normalised_input(input_shape, *preprocessing)
    x = convolve(x, 16, 3, stem_stride, "conv1")
    x = layers.Identity(name="block1")(x)
    for group, (count, width) in enumerate(zip(blocks, widths, strict=True), start=2):
        channels = 2 ** (group + 2) * width
        for block in range(count):
            layer = f"group{group}_{block}"
            stride = 2 if block == 0 and group > 2 else 1
            activated = activate(x, f"{layer}_1")
            changes = x.shape[-1] != channels or stride > 1
            shortcut = (
                convolve(activated, channels, 1, stride, f"{layer}_shortcut") if changes else x
            )
            x = convolve(activated, channels, 3, stride, f"{layer}_conv1")
            x = convolve(activate(x, f"{layer}_2"), channels, 3, 1, f"{layer}_conv2")
            x = layers.Add(name=f"{layer}_add")([shortcut, x])
        x = layers.Identity(name=f"block{group}")(x)
    x = activate(x, "final")
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    head = CosineLogits if cosine_logits else layers.Dense
    return keras.Model(images, head(num_classes, name="logits")(x), name=name)
