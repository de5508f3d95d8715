"""MobileNetV2 for CIFAR against a network in plain PyTorch with the same weights."""

import re

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the other network is PyTorch's, the extra [torch]")
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from tests.torch_networks import assert_equal_logits, images_of, randomise  # noqa: E402
from tf_robust_transfer.models import build_model  # noqa: E402

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)


class Block(nn.Module):
    def __init__(self, inputs, outputs, expansion, stride):
        super().__init__()
        hidden = expansion * inputs
        self.stride, self.shortcut = stride, nn.Sequential()
        self.conv1, self.bn1 = nn.Conv2d(inputs, hidden, 1, bias=False), nn.BatchNorm2d(hidden)
        self.conv2 = nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False)
        self.bn2 = nn.BatchNorm2d(hidden)
        self.conv3, self.bn3 = nn.Conv2d(hidden, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        if stride == 1 and inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x):
        out = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        out = self.bn3(self.conv3(out))
        return out + self.shortcut(x) if self.stride == 1 else out


class MobileNetV2(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 32, 3, 1, 1, bias=False), nn.BatchNorm2d(32)
        blocks, inputs = [], 32
        for expansion, outputs, count, stride in (
            (1, 16, 1, 1),
            (6, 24, 2, 1),
            (6, 32, 3, 2),
            (6, 64, 4, 2),
            (6, 96, 3, 1),
            (6, 160, 3, 2),
            (6, 320, 1, 1),
        ):
            for index in range(count):
                blocks.append(Block(inputs, outputs, expansion, stride if index == 0 else 1))
                inputs = outputs
        self.layers = nn.Sequential(*blocks)
        self.conv2, self.bn2 = nn.Conv2d(320, 1280, 1, bias=False), nn.BatchNorm2d(1280)
        self.linear = nn.Linear(1280, 10)

    def forward(self, x):
        mean, std = (torch.tensor(values, dtype=x.dtype).view(-1, 1, 1) for values in (MEAN, STD))
        x = self.layers(F.relu(self.bn1(self.conv1((x - mean) / std))))
        return self.linear(F.relu(self.bn2(self.conv2(x))).mean((2, 3)))


def name_in_pytorch(layer):
    """Of "layers_3_conv2_batch_norm" "layers.3.bn2"."""
    name = re.sub(r"^layers_(\d+)_", r"layers.\1.", layer.replace("logits", "linear"))
    name = name.replace("shortcut_batch_norm", "shortcut.1")
    name = re.sub(r"shortcut$", "shortcut.0", name)
    return re.sub(r"conv(\d)_batch_norm", r"bn\1", name)


def test_the_logits_are_pytorchs():
    twin = randomise(MobileNetV2())
    model = build_model(
        "mobilenet_v2", (32, 32, 3), 10, preprocessing="standardized", mean=MEAN, std=STD
    )
    modules, used = dict(twin.named_modules()), set()
    for layer in model.layers:
        if not layer.weights or layer.name == "preprocessing":
            continue
        name = name_in_pytorch(layer.name)
        used.add(name)
        found = [value.detach().numpy() for value in modules[name].parameters()]
        found += [value.numpy() for key, value in modules[name].named_buffers() if "running" in key]
        if found[0].ndim == 4:
            axes = (2, 3, 0, 1) if modules[name].groups > 1 else (2, 3, 1, 0)
            found[0] = found[0].transpose(axes)
        elif found[0].ndim == 2:
            found[0] = found[0].T
        layer.set_weights(found)
    assert used == {name for name, module in modules.items() if [*module.parameters(False)]}
    assert_equal_logits(model, twin, images_of(32))


def test_images_of_odd_size():
    model = build_model("mobilenet_v2", (11, 9, 3), 10, width=0.25)
    assert model(np.zeros((1, 11, 9, 3), np.float32)).shape == (1, 10)
