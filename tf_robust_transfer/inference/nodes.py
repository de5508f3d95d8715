"""What stands for a node of a model's graph at inference: a convolution with the batch norm after
it, a batch norm by itself, any other layer.
"""

import inspect
import math

import keras
import numpy as np
import tensorflow as tf
from keras import layers

# Layers without weights that cost as much as they read and write: they follow their inputs into
# bfloat16.
_FOLLOWERS = (
    layers.Activation,
    layers.Add,
    layers.AveragePooling2D,
    layers.Concatenate,
    layers.Flatten,
    layers.Identity,
    layers.LeakyReLU,
    layers.MaxPooling2D,
    layers.ReLU,
    layers.ZeroPadding2D,
)
# Up to this many channels TensorFlow's own kernel for the gradient of a convolution's input beats
# oneDNN's.
_FEW_CHANNELS = 4
_COMMON_ACTIVATIONS = ("elu", "gelu", "leaky_relu", "linear", "relu", "relu6", "silu", "tanh")


class Linear:
    """A convolution or dense layer with its activation, and the batch norm after it if it takes
    that.

    Args:
        node: of the model's graph.
        compute, result: data types of the product and of what is handed on.
        low_gradient: multiply in bfloat16 on the way back.
        padding_by_hand: see `graph.InferenceGraph`.
    """

    def __init__(self, node, compute, result, *, low_gradient, padding_by_hand):
        layer = node.operation
        self.layer, self.batch_norm = layer, None
        self.compute, self.result = compute, result
        self.kernel = tf.Variable(tf.zeros(layer.kernel.shape, compute), trainable=False)
        self.bias = tf.Variable(tf.zeros(layer.kernel.shape[-1], compute), trainable=False)
        self.has_bias = layer.use_bias
        self.low_kernel = (
            tf.Variable(tf.zeros(layer.kernel.shape, "bfloat16"), trainable=False)
            if low_gradient
            else None
        )
        if isinstance(layer, layers.Conv2D):
            self.padding = layer.padding.upper()
            size = node.input_tensors[0].shape[1:3]
            if padding_by_hand and layer.kernel.shape[-2] <= _FEW_CHANNELS and None not in size:
                # Convolutions with explicit padding go to TensorFlow's own kernels, the others to
                # oneDNN's.
                along = map(self._padding, size, layer.kernel_size, layer.strides)
                self.padding = [[0, 0], *along, [0, 0]]

    def _padding(self, size, kernel, stride):
        """The layer's padding along one axis: [before, after]."""
        if self.layer.padding == "valid":
            return [0, 0]
        total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
        return [total // 2, total - total // 2]

    def take(self, batch_norm):
        """Takes the batch norm that alone reads this layer. Returns whether it could."""
        if self.batch_norm is not None or self.layer.activation is not keras.activations.linear:
            return False
        self.batch_norm, self.has_bias = batch_norm, True
        return True

    def refresh(self):
        kernel = keras.ops.convert_to_numpy(self.layer.kernel)
        bias = keras.ops.convert_to_numpy(self.layer.bias) if self.layer.use_bias else 0.0
        if self.batch_norm is not None:
            scale, shift = _scale_and_shift(self.batch_norm)
            kernel, bias = kernel * scale, bias * scale + shift
        self.kernel.assign(tf.cast(kernel, self.compute))
        if self.low_kernel is not None:
            self.low_kernel.assign(tf.cast(kernel, tf.bfloat16))
        self.bias.assign(tf.cast(tf.broadcast_to(bias, self.bias.shape), self.compute))

    def __call__(self, x, **_):
        product = (
            self._product
            if self.low_kernel is None
            else tf.custom_gradient(self._product_and_gradient)
        )
        x = product(tf.cast(x, self.compute))
        if not _is_common(self.layer.activation):
            x = tf.cast(x, tf.float32)
        return tf.cast(self.layer.activation(x), self.result)

    def _product(self, x):
        if isinstance(self.layer, layers.Conv2D):
            x = tf.nn.conv2d(x, self.kernel, self.layer.strides, self.padding)
        else:
            x = tf.matmul(x, self.kernel)
        # Unlike a sum, this is fused with the convolution.
        return tf.nn.bias_add(x, self.bias) if self.has_bias else x

    def _product_and_gradient(self, x):
        def gradient(upstream):
            upstream = tf.cast(upstream, tf.bfloat16)
            if isinstance(self.layer, layers.Conv2D):
                along = tf.nn.conv2d_transpose(
                    upstream, self.low_kernel, tf.shape(x), self.layer.strides, self.padding
                )
            else:
                along = tf.matmul(upstream, self.low_kernel, transpose_b=True)
            return tf.cast(along, tf.float32)

        return self._product(x), gradient


class ScaleAndShift:
    """A batch norm by itself."""

    def __init__(self, layer, compute):
        self.layer, self.compute = layer, compute
        shape = layer.moving_mean.shape
        self.scale = tf.Variable(tf.zeros(shape, compute), trainable=False)
        self.shift = tf.Variable(tf.zeros(shape, compute), trainable=False)

    def refresh(self):
        scale, shift = _scale_and_shift(self.layer)
        self.scale.assign(tf.cast(scale, self.compute))
        self.shift.assign(tf.cast(shift, self.compute))

    def __call__(self, x, **_):
        return tf.nn.bias_add(tf.cast(x, self.compute) * self.scale, self.shift)


class Nothing:
    """What is left of a batch norm that the layer before it has taken."""

    def refresh(self):
        pass

    def __call__(self, x, **_):
        return x


class Other:
    """Any other layer or operation: the model's own object; in bfloat16, of those that may, a twin
    of it.
    """

    def __init__(self, operation):
        self.operation = operation
        self.options = {}
        if (
            isinstance(operation, layers.Layer)
            and "training" in inspect.signature(operation.call).parameters
        ):
            self.options["training"] = False
        self.twin = None
        common = type(operation) is not layers.Activation or _is_common(operation.activation)
        if type(operation) in _FOLLOWERS and common:
            self.twin = type(operation).from_config({**operation.get_config(), "dtype": "bfloat16"})

    def refresh(self):
        pass  # its weights are the model's

    def __call__(self, *arguments, **options):
        def low(value):
            return tf.is_tensor(value) and value.dtype == tf.bfloat16

        if self.twin is not None and any(map(low, keras.tree.flatten(arguments))):
            return self.twin(*arguments)
        up = keras.tree.map_structure(
            lambda v: tf.cast(v, tf.float32) if low(v) else v, (arguments, options)
        )
        return self.operation(*up[0], **{**up[1], **self.options})


def _is_common(activation):
    """Whether an activation function is one of Keras's that are safe in bfloat16."""
    return any(activation is getattr(keras.activations, name) for name in _COMMON_ACTIVATIONS)


def _scale_and_shift(layer):
    """Inference batch norm as x * scale + shift, float32 [channels] each."""
    mean, variance = (
        keras.ops.convert_to_numpy(v) for v in (layer.moving_mean, layer.moving_variance)
    )
    scale = 1.0 / np.sqrt(variance + layer.epsilon)
    if layer.scale:
        scale = scale * keras.ops.convert_to_numpy(layer.gamma)
    shift = -mean * scale
    if layer.center:
        shift = shift + keras.ops.convert_to_numpy(layer.beta)
    return scale.astype(np.float32), shift.astype(np.float32)
