"""Residual networks, He et al. (2016a): ResNet-18, ResNet-50 and Wide-ResNet-50-2 as torchvision
has them, ResNet-50 as keras.applications has it, and the first two for CIFAR.
"""

import functools

import keras
from keras import layers

from tf_robust_transfer.models.residual import batch_norm, convolution, normalised_input


def resnet_18(
    input_shape, num_classes, *, base_channels=64, preprocessing="none", mean=None, std=None
) -> keras.Model:
    """torchvision's ResNet-18: a 7x7 convolution with stride 2, 3x3 max pooling, four groups of two
    basic blocks.

    11.7 million trainable parameters on 1,000 classes. Every convolution with a stride, and the max
    pooling, pads symmetrically.

    Args:
        base_channels: channels of the first convolution and of the 3x3 convolutions of the first
            group; each further group doubles them.
        preprocessing, mean, std: see `preprocessing_layer`; ImageNet teachers have "standardized"
            with mean (0.485, 0.456, 0.406) and std (0.229, 0.224, 0.225).

    Endpoints, with c = base_channels: block1 [batch, h/2, w/2, c], the first convolution after
    batch norm and ReLU; the groups' outputs after their last ReLU: block2 [batch, h/4, w/4, c],
    block3 [batch, h/8, w/8, 2 c], block4 [batch, h/16, w/16, 4 c], block5 [batch, h/32, w/32, 8 c]
    (sizes rounded up); logits."""
    images, x = normalised_input(input_shape, preprocessing, mean, std)
    logits = _groups(_imagenet_stem(x, base_channels), (2, 2, 2, 2), base_channels, 1, num_classes)
    return keras.Model(images, logits, name="resnet_18")


def resnet_50(
    input_shape, num_classes, *, base_channels=64, preprocessing="none", mean=None, std=None
) -> keras.Model:
    """torchvision's ResNet-50: as `resnet_18`, with 3, 4, 6, 3 bottleneck blocks.

    25.6 million trainable parameters on 1,000 classes. A block's stride is on its 3x3 convolution
    ("v1.5"): keras.applications has another, `resnet_50_keras`.

    Args:
        base_channels, preprocessing, mean, std: see `resnet_18`; a group's outputs have four times
            its 3x3 channels.

    Endpoints, with c = base_channels: block1 [batch, h/2, w/2, c], the first convolution after
    batch norm and ReLU; the groups' outputs after their last ReLU: block2 [batch, h/4, w/4, 4 c],
    block3 [batch, h/8, w/8, 8 c], block4 [batch, h/16, w/16, 16 c], block5 [batch, h/32, w/32, 32
    c] (sizes rounded up); logits."""
    images, x = normalised_input(input_shape, preprocessing, mean, std)
    logits = _groups(_imagenet_stem(x, base_channels), (3, 4, 6, 3), base_channels, 4, num_classes)
    return keras.Model(images, logits, name="resnet_50")


def resnet_50_keras(
    input_shape, num_classes, *, base_channels=64, preprocessing="none", mean=None, std=None
) -> keras.Model:
    """keras.applications' ResNet-50: `resnet_50` with a block's stride on its first 1x1 convolution
    ("v1"), as in the paper.

    Its convolutions have biases, its batch norms eps 1.001e-5 and momentum 0.99. 25.6 million
    trainable parameters on 1,000 classes, drawn as those of `resnet_50`.

    Args:
        base_channels, preprocessing, mean, std: see `resnet_50`. The weights of keras.applications
            take blue first: with the first kernel turned round (`kernel[:, :, ::-1]`) they
            take images in [0, 1] by "standardized" with mean (123.68, 116.779, 103.939) / 255 and
            std 1 / 255.

    Endpoints: those of `resnet_50`."""
    images, x = normalised_input(input_shape, preprocessing, mean, std)
    stem = _imagenet_stem(x, base_channels, _OF_KERAS)
    logits = _groups(stem, (3, 4, 6, 3), base_channels, 4, num_classes, parts=_OF_KERAS)
    return keras.Model(images, logits, name="resnet_50_keras")


def wide_resnet_50_2(
    input_shape, num_classes, *, base_channels=64, preprocessing="none", mean=None, std=None
) -> keras.Model:
    """torchvision's Wide-ResNet-50-2: `resnet_50` with twice the channels inside each bottleneck.

    68.9 million trainable parameters on 1,000 classes.

    Args:
        base_channels, preprocessing, mean, std: see `resnet_50`.

    Endpoints, with c = base_channels: block1 [batch, h/2, w/2, c], the first convolution after
    batch norm and ReLU; the groups' outputs after their last ReLU: block2 [batch, h/4, w/4, 4 c],
    block3 [batch, h/8, w/8, 8 c], block4 [batch, h/16, w/16, 16 c], block5 [batch, h/32, w/32, 32
    c] (sizes rounded up); logits."""
    images, x = normalised_input(input_shape, preprocessing, mean, std)
    stem = _imagenet_stem(x, base_channels)
    logits = _groups(stem, (3, 4, 6, 3), base_channels, 4, num_classes, width=2)
    return keras.Model(images, logits, name="wide_resnet_50_2")


def cifar_resnet_18(
    input_shape, num_classes, *, base_channels=64, preprocessing="none", mean=None, std=None
) -> keras.Model:
    """ResNet-18 for small images: `resnet_18` with a 3x3 first convolution of stride 1 and no max
    pooling.

    The student of ARD, RSLAD and IGDM, and the network of Sehwag et al. (2021). 11.2 million
    trainable parameters on 10 classes.

    Args:
        base_channels, preprocessing, mean, std: see `resnet_18`.

    Endpoints, with c = base_channels: block1 [batch, h, w, c], the first convolution after batch
    norm and ReLU; the groups' outputs after their last ReLU: block2 [batch, h, w, c], block3
    [batch, h/2, w/2, 2 c], block4 [batch, h/4, w/4, 4 c], block5 [batch, h/8, w/8, 8 c] (sizes
    rounded up); logits."""
    images, x = normalised_input(input_shape, preprocessing, mean, std)
    logits = _groups(_cifar_stem(x, base_channels), (2, 2, 2, 2), base_channels, 1, num_classes)
    return keras.Model(images, logits, name="cifar_resnet_18")


def cifar_resnet_50(
    input_shape, num_classes, *, base_channels=64, preprocessing="none", mean=None, std=None
) -> keras.Model:
    """ResNet-50 for small images: `resnet_50` with a 3x3 first convolution of stride 1 and no max
    pooling.

    The form of MadryLab's robustness library (Engstrom et al. 2019). 23.5 million trainable
    parameters on 10 classes.

    Args:
        base_channels, preprocessing, mean, std: see `resnet_50`.

    Endpoints, with c = base_channels: block1 [batch, h, w, c], the first convolution after batch
    norm and ReLU; the groups' outputs after their last ReLU: block2 [batch, h, w, 4 c], block3
    [batch, h/2, w/2, 8 c], block4 [batch, h/4, w/4, 16 c], block5 [batch, h/8, w/8, 32 c] (sizes
    rounded up); logits."""
    images, x = normalised_input(input_shape, preprocessing, mean, std)
    logits = _groups(_cifar_stem(x, base_channels), (3, 4, 6, 3), base_channels, 4, num_classes)
    return keras.Model(images, logits, name="cifar_resnet_50")


def _cifar_stem(x, channels):
    return layers.ReLU(name="block1")(
        batch_norm(convolution(x, channels, 3, 1, "conv1"), "conv1_batch_norm")
    )


# (convolution, batch norm, which of a bottleneck's convolutions has the stride)
_OF_PYTORCH = convolution, batch_norm, 2
_OF_KERAS = (
    functools.partial(convolution, use_bias=True),
    functools.partial(batch_norm, momentum=0.99, epsilon=1.001e-5),
    1,
)


def _imagenet_stem(x, channels, parts=_OF_PYTORCH):
    convolve, normalise, _ = parts
    x = layers.ReLU(name="block1")(
        normalise(convolve(x, channels, 7, 2, "conv1"), "conv1_batch_norm")
    )
    # PyTorch pads with minus infinity. After a ReLU, zeros give the same maxima.
    return layers.MaxPooling2D(3, strides=2, name="max_pool")(
        layers.ZeroPadding2D(1, name="max_pool_pad")(x)
    )


def _groups(x, blocks, base_channels, expansion, num_classes, width=1, parts=_OF_PYTORCH):
    """Four groups of basic (expansion 1) or bottleneck (expansion 4) blocks, global average
    pooling, the logit layer. width: factor of the channels inside a bottleneck.
    """
    convolve, normalise, strided = parts
    for group, count in enumerate(blocks, start=2):
        channels = base_channels * 2 ** (group - 2)
        for block in range(count):
            name = f"group{group}_{block}"
            stride = 2 if block == 0 and group > 2 else 1
            # (channels, kernel, stride) of the block's convolutions.
            basic = (channels, 3, stride), (channels, 3, 1)
            inner = width * channels
            bottleneck = (
                (inner, 1, stride if strided == 1 else 1),
                (inner, 3, stride if strided == 2 else 1),
                (expansion * channels, 1, 1),
            )
            convolutions = basic if expansion == 1 else bottleneck
            shortcut = x
            if stride > 1 or x.shape[-1] != expansion * channels:
                shortcut = convolve(x, expansion * channels, 1, stride, f"{name}_shortcut")
                shortcut = normalise(shortcut, f"{name}_shortcut_batch_norm")
            for number, (filters, kernel, step) in enumerate(convolutions, start=1):
                x = convolve(x, filters, kernel, step, f"{name}_conv{number}")
                x = normalise(x, f"{name}_conv{number}_batch_norm")
                if number < len(convolutions):
                    x = layers.ReLU(name=f"{name}_activation{number}")(x)
            x = layers.Add(name=f"{name}_add")([shortcut, x])
            x = layers.ReLU(name=f"block{group}" if block == count - 1 else f"{name}_activation")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return layers.Dense(num_classes, name="logits")(x)
