"""The networks of RobustBench's checkpoints in plain PyTorch, written from the papers and the
checkpoints' key names.

Every network takes images [batch, 3, height, width] in [0, 1] and normalises them first, in float64
once `.double()`."""

import numpy as np
import tensorflow as tf
import torch
from torch import nn
from torch.nn import functional as F


class Normalised(nn.Module):
    """Keeps mean and std out of the state_dict, as most of the checkpoints do."""

    def __init__(self, mean, std):
        super().__init__()
        for name, values in (("input_mean", mean), ("input_std", std)):
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1), persistent=False)

    def forward(self, images):
        return self.logits_of((images - self.input_mean) / self.input_std)


def conv(inputs, outputs, kernel, stride=1, padding=None):
    return nn.Conv2d(
        inputs, outputs, kernel, stride, kernel // 2 if padding is None else padding, bias=False
    )


class GowalBlock(nn.Module):
    """The stride is on the first convolution, padded by hand: one pixel around, or at bottom and
    right for stride 2.
    """

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.stride = stride
        self.batchnorm_0 = nn.BatchNorm2d(inputs)
        self.conv_0 = conv(inputs, outputs, 3, stride, padding=0)
        self.batchnorm_1 = nn.BatchNorm2d(outputs)
        self.conv_1 = conv(outputs, outputs, 3)
        if inputs != outputs:
            self.shortcut = conv(inputs, outputs, 1, stride)

    def forward(self, x):
        activated = F.silu(self.batchnorm_0(x))
        around = (0, 1, 0, 1) if self.stride == 2 else (1, 1, 1, 1)
        out = F.silu(self.batchnorm_1(self.conv_0(F.pad(activated, around))))
        return self.conv_1(out) + (self.shortcut(activated) if hasattr(self, "shortcut") else x)


class Group(nn.Module):
    """A group of blocks under one name: "block" in Gowal's network, "layer" in Zagoruyko's."""

    def __init__(self, name, blocks):
        super().__init__()
        self.add_module(name, nn.Sequential(*blocks))

    def forward(self, x):
        for blocks in self.children():
            x = blocks(x)
        return x


class GowalWideResNet(Normalised):
    """Gowal et al. (2020): init_conv, layer.{0-2}.block.{i}, batchnorm, logits; Swish."""

    def __init__(self, depth, width, classes, mean, std):
        super().__init__(mean, std)
        sizes = [16, 16 * width, 32 * width, 64 * width]
        self.init_conv = conv(3, 16, 3)
        groups = []
        for group in range(3):
            first = GowalBlock(sizes[group], sizes[group + 1], 2 if group else 1)
            rest = [
                GowalBlock(sizes[group + 1], sizes[group + 1], 1)
                for _ in range((depth - 4) // 6 - 1)
            ]
            groups.append(Group("block", [first, *rest]))
        self.layer = nn.Sequential(*groups)
        self.batchnorm = nn.BatchNorm2d(sizes[3])
        self.logits = nn.Linear(sizes[3], classes)

    def logits_of(self, x):
        return self.logits(F.silu(self.batchnorm(self.layer(self.init_conv(x)))).mean((2, 3)))


class WideBlock(nn.Module):
    def __init__(self, inputs, outputs, stride, activation=F.relu, shortcut="convShortcut"):
        super().__init__()
        self.activation, self.short = activation, shortcut
        self.bn1, self.bn2 = nn.BatchNorm2d(inputs), nn.BatchNorm2d(outputs)
        self.conv1, self.conv2 = conv(inputs, outputs, 3, stride), conv(outputs, outputs, 3)
        if inputs != outputs:
            convolution = conv(inputs, outputs, 1, stride)
            self.add_module(
                shortcut, nn.Sequential(convolution) if shortcut == "shortcut" else convolution
            )

    def forward(self, x):
        activated = self.activation(self.bn1(x))
        out = self.conv2(self.activation(self.bn2(self.conv1(activated))))
        return out + (getattr(self, self.short)(activated) if hasattr(self, self.short) else x)


def wide_groups(sizes, counts, **options):
    for group, count in enumerate(counts):
        first = WideBlock(sizes[group], sizes[group + 1], 2 if group else 1, **options)
        rest = [
            WideBlock(sizes[group + 1], sizes[group + 1], 1, **options) for _ in range(count - 1)
        ]
        yield Group("layer", [first, *rest])


class WideResNet(Normalised):
    """Zagoruyko & Komodakis (2016) with the names of Hendrycks et al. (2019) and Rice et al.
    (2020); TRADES's has a second first group that nothing passes.
    """

    def __init__(self, depth, width, classes, mean, std, *, sub_block=False, bias=True):
        super().__init__(mean, std)
        sizes = [16, 16 * width, 32 * width, 64 * width]
        self.conv1 = conv(3, 16, 3)
        for group, blocks in enumerate(wide_groups(sizes, 3 * [(depth - 4) // 6]), start=1):
            self.add_module(f"block{group}", blocks)
        if sub_block:
            self.sub_block1 = next(wide_groups(sizes, 3 * [(depth - 4) // 6]))
        self.bn1 = nn.BatchNorm2d(sizes[3])
        self.fc = nn.Linear(sizes[3], classes, bias=bias)

    def features(self, x):
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        return F.relu(self.bn1(x)).mean((2, 3))

    def logits_of(self, x):
        return self.fc(self.features(x))


class HypersphereWideResNet(WideResNet):
    """Pang et al. (2020): the logits are cosines."""

    def __init__(self, *arguments):
        super().__init__(*arguments, sub_block=True, bias=False)

    def logits_of(self, x):
        return F.linear(F.normalize(self.features(x)), F.normalize(self.fc.weight))


class MMAWideResNet(WideResNet):
    """Ding et al. (2020): each image less its mean, over its standard deviation."""

    def forward(self, images):
        mean = images.mean((1, 2, 3), keepdim=True)
        std = images.std((1, 2, 3), keepdim=True).clamp(min=images[0].numel() ** -0.5)
        return self.logits_of((images - mean) / std)


class WideResNetByGroup(Normalised):
    """Huang et al. (2021, 2022): stem_conv, blocks.{0-2}.layer.{i}, fc."""

    def __init__(self, counts, widths, classes, mean, std, *, a4=False):
        super().__init__(mean, std)
        self.norm, self.activation = ("norm1", F.silu) if a4 else ("bn1", F.relu)
        sizes = [16, *(16 * width << group for group, width in enumerate(widths))]
        self.stem_conv = conv(3, 16, 3)
        options = {"activation": F.silu, "shortcut": "shortcut"} if a4 else {}
        self.blocks = nn.ModuleList(wide_groups(sizes, counts, **options))
        self.add_module(self.norm, nn.BatchNorm2d(sizes[3]))
        self.fc = nn.Linear(sizes[3], classes)

    def logits_of(self, x):
        x = self.stem_conv(x)
        for group in self.blocks:
            x = group(x)
        return self.fc(self.activation(getattr(self, self.norm)(x)).mean((2, 3)))


class DeepMindPreActBlock(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.around = (0, 1, 0, 1) if stride == 2 else (1, 1, 1, 1)
        self.batchnorm_0, self.batchnorm_1 = nn.BatchNorm2d(inputs), nn.BatchNorm2d(outputs)
        self.conv_2d_1 = conv(inputs, outputs, 3, stride, padding=0)
        self.conv_2d_2 = conv(outputs, outputs, 3)
        if stride != 1 or inputs != outputs:
            self.shortcut = conv(inputs, outputs, 3, stride, padding=0)

    def forward(self, x):
        out = self.conv_2d_1(F.pad(F.silu(self.batchnorm_0(x)), self.around))
        out = self.conv_2d_2(F.silu(self.batchnorm_1(out)))
        return out + (self.shortcut(F.pad(x, self.around)) if hasattr(self, "shortcut") else x)


class DeepMindPreActResNet18(Normalised):
    """Rebuffi et al. (2021): conv_2d, layer_{0-3}.{i}, batchnorm, logits; Swish."""

    def __init__(self, channels, classes, mean, std):
        super().__init__(mean, std)
        self.conv_2d = conv(3, channels, 3)
        inputs = channels
        for group in range(4):
            outputs = channels << group
            first = DeepMindPreActBlock(inputs, outputs, 2 if group else 1)
            self.add_module(
                f"layer_{group}", nn.Sequential(first, DeepMindPreActBlock(outputs, outputs, 1))
            )
            inputs = outputs
        self.batchnorm = nn.BatchNorm2d(inputs)
        self.logits = nn.Linear(inputs, classes)

    def logits_of(self, x):
        x = self.layer_3(self.layer_2(self.layer_1(self.layer_0(self.conv_2d(x)))))
        return self.logits(F.silu(self.batchnorm(x)).mean((2, 3)))


class PreActBlock(nn.Module):
    def __init__(self, inputs, outputs, stride, activated_shortcut):
        super().__init__()
        self.activated_shortcut = activated_shortcut
        self.bn1, self.bn2 = nn.BatchNorm2d(inputs), nn.BatchNorm2d(outputs)
        self.conv1, self.conv2 = conv(inputs, outputs, 3, stride), conv(outputs, outputs, 3)
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(conv(inputs, outputs, 1, stride))

    def forward(self, x):
        activated = F.relu(self.bn1(x))
        out = self.conv2(F.relu(self.bn2(self.conv1(activated))))
        if hasattr(self, "shortcut"):
            x = self.shortcut(activated if self.activated_shortcut else x)
        return out + x


class PreActResNet18(Normalised):
    """He et al. (2016b). Without the last batch norm and with raw shortcuts: Wong et al. (2020) in
    RobustBench.
    """

    def __init__(
        self, channels, classes, mean, std, *, final_batch_norm=True, activated_shortcut=True
    ):
        super().__init__(mean, std)
        self.conv1 = conv(3, channels, 3)
        inputs = channels
        for group in (1, 2, 3, 4):
            outputs = channels << (group - 1)
            first = PreActBlock(inputs, outputs, 1 if group == 1 else 2, activated_shortcut)
            self.add_module(
                f"layer{group}",
                nn.Sequential(first, PreActBlock(outputs, outputs, 1, activated_shortcut)),
            )
            inputs = outputs
        if final_batch_norm:
            self.bn = nn.BatchNorm2d(inputs)
        self.linear = nn.Linear(inputs, classes)

    def logits_of(self, x):
        x = self.layer4(self.layer3(self.layer2(self.layer1(self.conv1(x)))))
        return self.linear((F.relu(self.bn(x)) if hasattr(self, "bn") else x).mean((2, 3)))


class BasicBlock(nn.Module):
    expansion = 1

    def __init__(self, inputs, channels, stride, shortcut_name):
        super().__init__()
        self.conv1, self.bn1 = conv(inputs, channels, 3, stride), nn.BatchNorm2d(channels)
        self.conv2, self.bn2 = conv(channels, channels, 3), nn.BatchNorm2d(channels)
        add_shortcut(self, shortcut_name, inputs, channels, stride)

    def forward(self, x):
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(out + self.short(x))


class Bottleneck(nn.Module):
    """The stride is on the 3x3 convolution."""

    expansion = 4
    width = 1

    def __init__(self, inputs, channels, stride, shortcut_name):
        super().__init__()
        inner = self.width * channels
        self.conv1, self.bn1 = conv(inputs, inner, 1), nn.BatchNorm2d(inner)
        self.conv2, self.bn2 = conv(inner, inner, 3, stride), nn.BatchNorm2d(inner)
        self.conv3, self.bn3 = conv(inner, 4 * channels, 1), nn.BatchNorm2d(4 * channels)
        add_shortcut(self, shortcut_name, inputs, 4 * channels, stride)

    def forward(self, x):
        out = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        return F.relu(self.bn3(self.conv3(out)) + self.short(x))


class WideBottleneck(Bottleneck):
    width = 2


def add_shortcut(block, name, inputs, outputs, stride):
    if stride == 1 and inputs == outputs:
        block.short = lambda x: x
    else:
        block.add_module(
            name, nn.Sequential(conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))
        )
        block.short = lambda x: getattr(block, name)(x)


class ResNet(Normalised):
    """He et al. (2016a). The ImageNet form has torchvision's names, the CIFAR form those of the
    robustness library.
    """

    def __init__(self, block, counts, channels, classes, mean, std, *, imagenet):
        super().__init__(mean, std)
        self.imagenet = imagenet
        self.conv1 = conv(3, channels, 7, 2) if imagenet else conv(3, channels, 3)
        self.bn1 = nn.BatchNorm2d(channels)
        inputs = channels
        for group, count in enumerate(counts, start=1):
            blocks = []
            for index in range(count):
                stride = 2 if group > 1 and index == 0 else 1
                blocks.append(
                    block(
                        inputs,
                        channels << (group - 1),
                        stride,
                        "downsample" if imagenet else "shortcut",
                    )
                )
                inputs = (channels << (group - 1)) * block.expansion
            self.add_module(f"layer{group}", nn.Sequential(*blocks))
        self.add_module("fc" if imagenet else "linear", nn.Linear(inputs, classes))

    def logits_of(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        if self.imagenet:
            x = F.max_pool2d(x, 3, 2, 1)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x)))).mean((2, 3))
        return self.fc(x) if self.imagenet else self.linear(x)


def resnet_18(channels, classes, mean, std):
    return ResNet(BasicBlock, (2, 2, 2, 2), channels, classes, mean, std, imagenet=True)


def resnet_50(channels, classes, mean, std):
    return ResNet(Bottleneck, (3, 4, 6, 3), channels, classes, mean, std, imagenet=True)


def wide_resnet_50_2(channels, classes, mean, std):
    return ResNet(WideBottleneck, (3, 4, 6, 3), channels, classes, mean, std, imagenet=True)


def cifar_resnet_18(channels, classes, mean, std):
    return ResNet(BasicBlock, (2, 2, 2, 2), channels, classes, mean, std, imagenet=False)


def cifar_resnet_50(channels, classes, mean, std):
    return ResNet(Bottleneck, (3, 4, 6, 3), channels, classes, mean, std, imagenet=False)


def randomise(network, seed=0):
    """Random weights and running statistics, in eval mode, so that nothing is a one or a zero and
    logits stay moderate.
    """
    generator = torch.Generator().manual_seed(seed)

    def uniform(tensor, low, high):
        tensor.copy_(low + (high - low) * torch.rand(tensor.shape, generator=generator))

    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                uniform(module.weight, 0.5, 1.5)
                uniform(module.bias, -0.5, 0.5)
                uniform(module.running_mean, -0.5, 0.5)
                uniform(module.running_var, 0.5, 1.5)
                module.num_batches_tracked.fill_(7)
            elif isinstance(module, (nn.Conv2d, nn.Linear)):
                bound = (3 / module.weight[0].numel()) ** 0.5
                uniform(module.weight, -bound, bound)
                if module.bias is not None:
                    uniform(module.bias, -0.5, 0.5)
    return network.eval()


def saved(path, content, **options):
    torch.save(content, path, **options)
    return str(path)


def images_of(size, batch=3):
    """Of unlike brightness, so that the logits of different images differ by more than their
    rounding.
    """
    brightness = np.linspace(0.2, 1.0, batch)[:, None, None, None]
    return (brightness * np.random.default_rng(0).uniform(size=(batch, size, size, 3))).astype(
        np.float32
    )


def assert_equal_logits(model, twin, images):
    with torch.no_grad():
        expected = twin.double()(torch.from_numpy(images.transpose(0, 3, 1, 2)).double()).numpy()
    # Stricter than 1e-3 of the logits: of what distinguishes one image's logits from another's.
    difference = np.abs(expected - expected.mean(axis=0)).max()
    assert difference > 0.01
    np.testing.assert_allclose(
        model(images, training=False), expected, rtol=0, atol=1e-3 * difference
    )


def assert_equal_input_gradients(model, twin, images, labels):
    """Of the cross-entropy, which IGAM matches."""
    expected = torch.from_numpy(images.transpose(0, 3, 1, 2)).double().requires_grad_()
    F.cross_entropy(twin.double()(expected), torch.from_numpy(labels), reduction="sum").backward()
    expected = expected.grad.numpy().transpose(0, 2, 3, 1)
    with tf.GradientTape() as tape:
        tape.watch(images := tf.constant(images))
        loss = tf.nn.sparse_softmax_cross_entropy_with_logits(
            labels=labels, logits=model(images, training=False)
        )
    difference = tape.gradient(loss, images).numpy() - expected
    size = np.sqrt((expected**2).sum((1, 2, 3)))
    assert (size > 0).all()
    assert (np.sqrt((difference**2).sum((1, 2, 3))) < 1e-3 * size).all()
