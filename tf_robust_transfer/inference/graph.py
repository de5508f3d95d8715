"""The functional graph of a model at inference, with batch norm folded and, if asked for, bfloat16
inside.

TensorFlow only: nothing here is part of a saved network.
"""

import collections

import keras
from keras import layers

from tf_robust_transfer.inference.nodes import Linear, Nothing, Other, ScaleAndShift
from tf_robust_transfer.models.graphs import graph_of


def functional_graph(model):
    """The functional graph of a keras.Model of one input, computed in float32; None for other
    models.
    """
    graph = graph_of(model)
    if graph is None or len(graph.inputs) != 1:
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
        self.input, self.outputs = graph.inputs[0], graph.outputs
        self.structure = graph.output  # of the outputs: a tensor, or a dict of endpoints
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
        # How often each value is read, as an output of the graph too.
        readers = collections.Counter(
            id(value) for node in self.nodes for value in node.input_tensors
        )
        readers.update(id(output) for output in self.outputs)
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
                self.replacements[id(node)] = Linear(
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
                    isinstance(before, Linear)
                    and readers[id(source)] == 1
                    and before.take(node.operation)
                ):
                    self.replacements[id(node)] = Nothing()
                else:
                    self.replacements[id(node)] = ScaleAndShift(
                        node.operation, "float32" if first else forward
                    )
            else:
                self.replacements[id(node)] = Other(node.operation)
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
        values, found = (set(map(id, self.outputs)) if from_the_end else set()), set()
        for node, weighted in reversed(list(zip(self.nodes, has_weights, strict=True))):
            reaching = any(id(value) in values for value in node.outputs)
            if reaching:
                found.add(id(node))
            if reaching or weighted:
                values.update(map(id, node.input_tensors))
        return found

    def __call__(self, images, **_):
        (images,) = keras.tree.flatten(images)  # a nested model may take a list or a dict of them
        values = {id(self.input): images}
        for node in self.nodes:
            arguments, options = node.arguments.fill_in(values)
            results = self.replacements[id(node)](*arguments, **options)
            values.update(zip(map(id, node.outputs), keras.tree.flatten(results), strict=True))
        outputs = [values[id(output)] for output in self.outputs]
        return keras.tree.pack_sequence_as(self.structure, outputs)

    def refresh(self):
        for replacement in self.replacements.values():
            replacement.refresh()


def _nested(node):
    return functional_graph(node.operation) if isinstance(node.operation, keras.Model) else None


def _is_linear(node):
    """Whether a node is a convolution or dense layer that Linear computes."""
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
