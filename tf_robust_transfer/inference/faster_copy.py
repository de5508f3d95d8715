"""A copy of a model for attacking: the same function of the image, computed in less time.

What an attack finds is always judged by the model itself, in float32 (`search.Search`). So the
attack may look at a copy that rounds differently, and whose weights do not have to be trained."""

import os
from pathlib import Path

import tensorflow as tf

from tf_robust_transfer.errors import look_up
from tf_robust_transfer.inference.graph import InferenceGraph, functional_graph

# Linux's list of what the processor can do.
CPU_DESCRIPTION = Path("/proc/cpuinfo")
PRECISIONS = ("float32", "mixed", "bfloat16", "auto")


class FasterCopy:
    """images -> logits of a model at inference, for the inner loop of an attack.

    Batch norm is folded into the convolution or dense layer before it where nothing else reads that
    layer's output, and is one multiplication and one addition elsewhere. The other layers are the
    model's own.

    Precisions: "float32"; "mixed", whose logits are those of float32 and whose gradients pass the
    convolutions and dense layers in bfloat16; "bfloat16", which computes everything in it. In both
    the first of these layers, which reads the pixels, and the last, which gives the logits, stay
    float32, and so does every layer that is not known here (custom ones, means, softmax). Weights
    are cast once.

    A model that is not a functional or sequential one of a single input and of float32 layers is
    called as it is: `follows_model` is then True.

    The weights are copied when the copy is made; `refresh` copies them anew, with no new
    compilation of what calls the copy. There are gradients with respect to the images alone, and no
    second ones under "mixed".

    Args:
        model: keras.Model, images -> logits, or a dict of endpoints (`rt.endpoints`).
        precision: see above; or "auto": "mixed" where `computes_bfloat16` says so, else "float32".
        compile_with_xla: None: on a GPU, unless a layer says that it cannot. On a CPU oneDNN's
            kernels are about three times as fast as XLA's.

    Attributes:
        precision: "float32", "mixed" or "bfloat16", what was chosen.
        follows_model: whether the model itself is called.

    Raises:
        InputError: unknown precision.
    """

    def __init__(self, model, *, precision="float32", compile_with_xla=None):
        look_up("precision", precision, dict.fromkeys(PRECISIONS))
        self.model = model
        graph = functional_graph(model)
        self.follows_model = graph is None
        if precision == "auto":
            precision = "mixed" if computes_bfloat16() else "float32"
        self.precision = "float32" if self.follows_model else precision
        self._logits_of = lambda images: model(images, training=False)
        if not self.follows_model:
            with tf.init_scope():
                self._graph = InferenceGraph(graph, self.precision, padding_by_hand=not on_gpu())
            self._logits_of = self._graph
            if compile_with_xla is None:
                compile_with_xla = on_gpu() and all(layer.supports_jit for layer in graph.layers)
            if compile_with_xla:
                self._logits_of = tf.function(self._graph, autograph=False, jit_compile=True)

    def __call__(self, images):
        """images: float32 [batch, height, width, channels]. Returns float32 [batch, classes], of
        endpoints a dict.
        """
        return tf.nest.map_structure(lambda x: tf.cast(x, tf.float32), self._logits_of(images))

    def refresh(self):
        """Takes the model's present weights."""
        if not self.follows_model:
            self._graph.refresh()


def computes_bfloat16() -> bool:
    """Whether the device multiplies bfloat16 numbers faster than float32 ones.

    Told from the device and never timed, so that the same machine always gives the same results: a
    GPU of compute capability 8 or higher (Ampere); a CPU with AVX-512 BF16 or AMX under Linux,
    while oneDNN is not switched off."""
    gpus = tf.config.get_visible_devices("GPU")
    if gpus:
        details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
        return all(detail.get("compute_capability", (0, 0))[0] >= 8 for detail in details)
    if os.environ.get("TF_ENABLE_ONEDNN_OPTS", "1") == "0":
        return False
    words = CPU_DESCRIPTION.read_text().split() if CPU_DESCRIPTION.exists() else []
    return "avx512_bf16" in words or "amx_bf16" in words


def on_gpu() -> bool:
    """Whether TensorFlow may use a GPU."""
    return bool(tf.config.get_visible_devices("GPU"))
