"""A Keras network as a PyTorch module with the same weights, for benchmarks against PyTorch's
libraries.
"""

import keras
import numpy as np
import torch
from keras import layers

_ACTIVATIONS = {"linear": torch.nn.Identity, "relu": torch.nn.ReLU, "silu": torch.nn.SiLU}


class TorchTwin(torch.nn.Module):
    """images [batch, channels, height, width] -> logits, as the Keras model gives them to 1e-4 of
    the largest.

    Args:
        model: a functional keras.Model of the layers of this package's networks.
        images: float32 [batch, height, width, channels], on which the two are compared.

    Raises:
        ValueError: a layer that is not known here, or other logits.
    """

    def __init__(self, model, images):
        super().__init__()
        self.parts, self.steps = torch.nn.ModuleList(), []
        by_depth = model._nodes_by_depth
        for node in (
            node
            for depth in sorted(by_depth, reverse=True)
            for node in by_depth[depth]
            if not node.is_input
        ):
            inputs = [id(tensor) for tensor in node.input_tensors]
            self.parts.append(_module(node.operation, node.input_tensors[0].shape[1:]))
            self.steps.append((inputs, id(node.outputs[0])))
        self.first, self.last = id(model.inputs[0]), id(model.outputs[0])
        # As users of these libraries leave it: in evaluation mode, the weights open to gradients.
        self.eval()
        with torch.no_grad():
            found = self(torch.tensor(images.transpose(0, 3, 1, 2))).numpy()
        expected = model(images, training=False).numpy()
        if np.abs(found - expected).max() > 1e-4 * np.abs(expected).max():
            raise ValueError(f"the PyTorch twin of {model.name} gives other logits")

    def forward(self, images):
        values = {self.first: images}
        for part, (inputs, output) in zip(self.parts, self.steps, strict=True):
            values[output] = part(*(values[key] for key in inputs))
        return values[self.last]


class _Add(torch.nn.Module):
    def forward(self, first, second):
        return first + second


class _Flatten(torch.nn.Module):
    """In the order height, width, channels, as the weights of the next layer have it."""

    def forward(self, maps):
        return maps.permute(0, 2, 3, 1).flatten(1)


class _Mean(torch.nn.Module):
    def forward(self, maps):
        return maps.mean((2, 3))


def _padding(size, kernel, stride):
    """padding="same" along one axis: (before, after)."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def _padded(layer, shape, kernel, make, value):
    """make(padding) of a convolution or pooling, behind a padding of its own where that is not
    symmetric.
    """
    if layer.padding == "valid":
        return make(0)
    (top, bottom), (left, right) = map(_padding, shape[:2], kernel, layer.strides)
    if (top, left) == (bottom, right):
        return make((top, left))
    return torch.nn.Sequential(torch.nn.ConstantPad2d((left, right, top, bottom), value), make(0))


def _module(layer, shape):
    """The module of one layer. shape: (height, width, channels) or (features,) of its input."""
    kind = type(layer)
    weights = {
        variable.name: torch.tensor(keras.ops.convert_to_numpy(variable))
        for variable in layer.weights
    }
    if kind is layers.Conv2D:
        bias = layer.use_bias
        sizes = shape[-1], layer.filters, layer.kernel_size, layer.strides
        weights["kernel"] = weights["kernel"].permute(3, 2, 0, 1)
        convolution = _padded(
            layer,
            shape,
            layer.kernel_size,
            lambda p: torch.nn.Conv2d(*sizes, padding=p, bias=bias),
            0.0,
        )
        own = convolution[-1] if isinstance(convolution, torch.nn.Sequential) else convolution
        own.load_state_dict(
            {"weight": weights["kernel"]} | ({"bias": weights["bias"]} if bias else {})
        )
        return torch.nn.Sequential(convolution, _ACTIVATIONS[layer.activation.__name__]())
    if kind is layers.Dense:
        dense = torch.nn.Linear(*weights["kernel"].shape)
        dense.load_state_dict({"weight": weights["kernel"].T, "bias": weights["bias"]})
        return torch.nn.Sequential(dense, _ACTIVATIONS[layer.activation.__name__]())
    if kind is layers.BatchNormalization:
        norm = torch.nn.BatchNorm2d(shape[-1], layer.epsilon)
        names = {
            "gamma": "weight",
            "beta": "bias",
            "moving_mean": "running_mean",
            "moving_variance": "running_var",
        }
        norm.load_state_dict(
            {names[name]: weight for name, weight in weights.items()}, strict=False
        )
        return norm
    if kind is layers.MaxPooling2D:
        size = layer.pool_size
        return _padded(
            layer, shape, size, lambda p: torch.nn.MaxPool2d(size, layer.strides, p), -torch.inf
        )
    if kind is layers.ZeroPadding2D:
        (top, bottom), (left, right) = layer.padding
        return torch.nn.ZeroPad2d((left, right, top, bottom))
    if kind is layers.LeakyReLU:
        return torch.nn.LeakyReLU(float(layer.negative_slope))
    if kind is layers.Activation and layer.activation.__name__ in _ACTIVATIONS:
        return _ACTIVATIONS[layer.activation.__name__]()
    simple = {
        layers.Add: _Add,
        layers.Flatten: _Flatten,
        layers.GlobalAveragePooling2D: _Mean,
        layers.Identity: torch.nn.Identity,
        layers.ReLU: torch.nn.ReLU,
    }
    if kind not in simple:
        raise ValueError(f"no PyTorch twin of the layer {layer.name!r} ({kind.__name__})")
    return simple[kind]()
