"""Loops whose body is optimised like a graph without loops."""

import tensorflow as tf


def out_of_line(function):
    """The function, for the body of a tf.while_loop, as a graph of its own, which is called and
    never put in place.

    A loop's body that is put in place becomes part of a graph with a cycle. TensorFlow's rewriting
    for oneDNN visits its operations in an order that differs from process to process, and where it
    meets a MaxPoolGrad before its MaxPool it leaves it to the slow kernel: seen in TensorFlow 2.21,
    10 ms in place of 1.3.

    Args:
        function: nests of tensors -> nest of tensors; it may use other tensors of the graph around
            it.

    Returns:
        A tf.function of the same arguments.
    """
    return tf.function(function, autograph=False, experimental_attributes={"_noinline": True})
