"""The functional graph of a model at inference, with batch norm folded and, if asked for, bfloat16
inside.

TensorFlow only: nothing here is part of a saved network.
"""

import collections
import inspect
import math

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from keras.src.models.functional import Functional

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


def functional_graph(model):
    """The functional graph of a keras.Model of one input and one output, computed in float32; None
    for other models.
    """
    # A sequential model keeps its graph there, once it is built.
    graph = getattr(model, "_functional", None) if isinstance(model, keras.Sequential) else model
    if not isinstance(graph, Functional) or type(graph).call is not Functional.call:
        return None
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        return None
    return (
        graph if all(layer.compute_dtype in ("float32", None) for layer in graph.layers) else None
    )


class InferenceGraph:
    """A functional graph with some of its nodes replaced.

    Args:
        graph: see functional_graph.
        precision: "float32", "mixed" or "bfloat16", see `faster_copy.FasterCopy`.
        padding_by_hand: give the convolution that reads the pixels its padding in numbers, for
            speed on a CPU.
        weighted_before, weighted_after: whether a convolution or dense layer comes before, or
            after, in a graph that this one is part of.
    """

    def __init__(
        self, graph, precision, *, padding_by_hand, weighted_before=False, weighted_after=False
    ):
        forward = "bfloat16" if precision == "bfloat16" else "float32"
        self.input, self.output = graph.inputs[0], graph.outputs[0]
        # Keras has no public way to walk a graph.
        by_depth = graph._nodes_by_depth
        self.nodes = [
            node
            for depth in sorted(by_depth, reverse=True)
            for node in by_depth[depth]
            if not node.is_input
        ]
        has_weights = [_is_linear(node) or _nested(node) is not None for node in self.nodes]
        self.after_weights = self._reached(has_weights, weighted_before)
        before_weights = self._reaching(has_weights, weighted_after)
        producers = {id(output): node for node in self.nodes for output in node.outputs}
        # How often each value is read, the graph's own output included.
        readers = collections.Counter(
            id(value) for node in self.nodes for value in node.input_tensors
        )
        readers[id(self.output)] += 1
        self.replacements = {}
        for node in self.nodes:
            first, last = id(node) not in self.after_weights, id(node) not in before_weights
            if _nested(node) is not None:
                self.replacements[id(node)] = InferenceGraph(
                    _nested(node), precision, padding_by_hand=padding_by_hand,
                    weighted_before=not first, weighted_after=not last,
                )  # fmt: skip
            elif _is_linear(node):
                outermost = first or last
                self.replacements[id(node)] = _Linear(
                    node,
                    "float32" if outermost else forward,
                    "float32" if last else forward,
                    low_gradient=precision == "mixed" and not outermost,
                    padding_by_hand=padding_by_hand and first,
                )
            elif _is_batch_norm(node):
                source = node.input_tensors[0]
                before = self.replacements.get(id(producers.get(id(source))))
                if (
                    isinstance(before, _Linear)
                    and readers[id(source)] == 1
                    and before.take(node.operation)
                ):
                    self.replacements[id(node)] = _Nothing()
                else:
                    self.replacements[id(node)] = _ScaleAndShift(
                        node.operation, "float32" if first else forward
                    )
            else:
                self.replacements[id(node)] = _Other(node.operation)
        self.refresh()

    def _reached(self, has_weights, from_the_start):
        """Ids of the nodes that a path leads to from a node with weights."""
        values, found = ({id(self.input)} if from_the_start else set()), set()
        for node, weighted in zip(self.nodes, has_weights, strict=True):
            reached = any(id(value) in values for value in node.input_tensors)
            if reached:
                found.add(id(node))
            if reached or weighted:
                values.update(map(id, node.outputs))
        return found

    def _reaching(self, has_weights, from_the_end):
        """Ids of the nodes from which a path leads to a node with weights."""
        values, found = ({id(self.output)} if from_the_end else set()), set()
        for node, weighted in reversed(list(zip(self.nodes, has_weights, strict=True))):
            reaching = any(id(value) in values for value in node.outputs)
            if reaching:
                found.add(id(node))
            if reaching or weighted:
                values.update(map(id, node.input_tensors))
        return found

    def __call__(self, images, **_):
        values = {id(self.input): images}
        for node in self.nodes:
            arguments, options = node.arguments.fill_in(values)
            results = self.replacements[id(node)](*arguments, **options)
            values.update(zip(map(id, node.outputs), keras.tree.flatten(results), strict=True))
        return values[id(self.output)]

    def refresh(self):
        for replacement in self.replacements.values():
            replacement.refresh()


def _nested(node):
    return functional_graph(node.operation) if isinstance(node.operation, keras.Model) else None


def _is_linear(node):
    """Whether a node is a convolution or dense layer that _Linear computes."""
    layer = node.operation
    # A subclass may do anything.
    if type(layer) is layers.Conv2D:
        # On a CPU TensorFlow has no gradient of groups or dilation; Keras makes up for it.
        plain = layer.groups == 1 and set(layer.dilation_rate) == {1}
        return plain and layer.data_format == "channels_last" and layer.quantization_mode is None
    return (
        type(layer) is layers.Dense
        and len(node.input_tensors[0].shape) == 2
        and layer.quantization_mode is None
    )


def _is_batch_norm(node):
    layer = node.operation
    rank = len(node.outputs[0].shape)
    return (
        type(layer) is layers.BatchNormalization and layer.axis in (-1, rank - 1) and rank in (2, 4)
    )


class _Linear:
    """A convolution or dense layer with its activation, and the batch norm after it if it takes
    that.

    Args:
        node: of the model's graph.
        compute, result: data types of the product and of what is handed on.
        low_gradient: multiply in bfloat16 on the way back.
        padding_by_hand: see InferenceGraph.
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


class _ScaleAndShift:
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


class _Nothing:
    """What is left of a batch norm that the layer before it has taken."""

    def refresh(self):
        pass

    def __call__(self, x, **_):
        return x


class _Other:
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
