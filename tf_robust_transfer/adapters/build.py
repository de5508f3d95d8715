"""From the text of an adapter to its layers, and to one model of adapter and teacher."""

import functools
import re

import keras
import numpy as np
import tensorflow as tf

from tf_robust_transfer.adapters import layers
from tf_robust_transfer.checkpoints import as_model
from tf_robust_transfer.errors import InputError
from tf_robust_transfer.models.bounds import pixel_bounds
from tf_robust_transfer.models.copies import copy_of
from tf_robust_transfer.ops.gradients import input_gradient
from tf_robust_transfer.plugins import find, is_plugin

ADAPTERS = {
    "average_pool": layers.AveragePool,
    "bounded_transposed_conv": layers.BoundedTransposedConvolution,
    "channel_mean": layers.ChannelMean,
    "crop": layers.CentreCrop,
    "pad": layers.CentrePad,
    "random_pad": layers.RandomPad,
    "random_pad_per_example": functools.partial(layers.RandomPad, per_example=True),
    "resize": layers.Resize,
    "resize_tf1": functools.partial(layers.Resize, half_pixel_centers=False),
    "transposed_conv": layers.TransposedConvolution,
}
_FILL = ("pad:", "random_pad", "transposed_conv")  # around an image
_WITHOUT_SIZE = ("channel_mean",)


def check_adapter(adapter: str) -> str:
    """The text of an adapter, or an InputError where a name or a size in it cannot be read.

    Whether the sizes fit the images is told when it is built. "" is no adapter.
    """
    for part in adapter.split("+") if adapter else ():
        _part(part.strip())
    return adapter


def build_adapter(adapter: str, input_shape) -> keras.Model:
    """The map from images of the student's task to the teacher's input.

    Args:
        adapter: names of `ADAPTERS` with the size that comes out, joined by "+" in the order in
            which the image passes them: "resize:64x64", "channel_mean+crop:28x28". Or a plug-in,
            `package.module:Class` of a subclass of `Adapter`, with a size behind it or without.
        input_shape: (height, width, channels) of the images.

    Returns:
        keras.Model: float [batch, height, width, channels] -> the same of the last layer's size and
        channels.

    Raises:
        InputError: unknown name, missing or unreadable size, a size that does not fit the images,
            crop after random_pad.
    """
    images = keras.Input(tuple(input_shape), name="images")
    return keras.Model(images, _chain(adapter, images), name="adapter")


def adapt(
    teacher: keras.Model | str, adapter: str, input_shape, *, trainable: bool = False
) -> keras.Model:
    """The teacher behind an adapter, as one model of the student's images: f(x) = teacher(A x + b).

    It is a functional model of the adapter's layers and a copy of the teacher's (names, weights,
    what is frozen), so that it is saved, fine-tuned and read at its endpoints as any other. The
    given teacher stays as it was.

    Args:
        teacher: keras.Model, images in [0, 1] -> logits, or what `as_model` makes one of, such as
            a SPEC. It may have an adapter already.
        adapter: see `build_adapter`.
        input_shape: (height, width, channels) of the student's images.
        trainable: whether the adapter may have weights, which are new and have yet to be trained.

    Returns:
        keras.Model: images float32 [batch, *input_shape] in [0, 1] -> the teacher's logits.

    Raises:
        InputError: as `build_adapter`; what comes out is not of the teacher's shape; an adapter
            with weights where trainable is False; a model that `as_model` does not take.
    """
    teacher = as_model(teacher)
    darkest = pixel_bounds(teacher)[0]
    if darkest and any(name in adapter for name in _FILL):
        raise InputError(
            f"the adapter {adapter!r} fills with 0, and black is {darkest:g} for the teacher: put "
            "a Rescaling before it, so that it takes images in [0, 1]"
        )
    images = keras.Input(tuple(input_shape), name="images")
    adapted = _chain(
        adapter,
        images,
        first=1 + sum(isinstance(layer, layers.Adapter) for layer in teacher.layers),
    )
    if adapted.shape[1:] != teacher.input_shape[1:]:
        raise InputError(
            f"the adapter {adapter!r} makes {_shape(adapted.shape[1:])} of {_shape(input_shape)} "
            f"images, but the teacher takes {_shape(teacher.input_shape[1:])}"
        )
    if not trainable and keras.Model(images, adapted).weights:
        raise InputError(
            f"the adapter {adapter!r} has weights to be trained: fine-tune the teacher with it "
            "(method finetune) and give the result as the teacher, without an adapter"
        )
    # `call` puts the teacher's own layers behind the adapter, one by one, in a second graph of
    # theirs, which layer.output does not see. The copy's layers have that graph alone.
    shared = keras.Model(images, teacher.call(adapted), name=teacher.name)
    return copy_of(shared)


def seen_region(model: keras.Model) -> tuple[slice, slice]:
    """The part of its images that a model's adapter reads (section 4.3.2): (rows, columns), each a
    slice.

    Outside, the model's input gradient is zero whatever the image. For a model without an adapter,
    or with one that does not crop, that is the whole image."""
    height, width = model.input_shape[1:3]
    last = None
    for layer in model.layers[1:]:
        if not isinstance(layer, layers.Adapter):
            break
        last = layer
    if last is None:
        return slice(0, height), slice(0, width)
    adapter = keras.Model(model.inputs[0], last.output)
    # A^T times a vector in which nothing cancels is zero where A has a column of zeros.
    cotangent = tf.constant(
        np.random.default_rng(0).uniform(1, 2, (1, *last.output.shape[1:])), tf.float32
    )
    zeros = tf.zeros((1, *model.input_shape[1:]))
    gradient, _, _ = input_gradient(
        lambda x: (tf.reduce_sum(cotangent * adapter(x), axis=(1, 2, 3)), None), zeros
    )
    seen = (gradient.numpy() != 0).any(axis=(0, 3))
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def _chain(adapter, images, first=1):
    """The output of the adapter's layers on images; the first layer's name has the number first."""
    random = False
    for number, part in enumerate(adapter.split("+"), start=first):
        name, build, arguments = _part(part.strip())
        if random and name == "crop":
            raise InputError(
                f"crop before random_pad, not after it: {adapter!r} would see other pixels each "
                "time"
            )
        random = random or name.startswith("random_pad")
        title = re.sub(r"\W", "_", name)
        layer = build(*arguments, name=f"adapter{number}_{title}")
        if not isinstance(layer, layers.Adapter):
            raise InputError(
                f"the adapter {name!r}: expected a subclass of rt.adapters.Adapter, "
                f"got {type(layer).__name__}"
            )
        images = layer(images)
    return images


def _part(text):
    """(name, what builds the layer, its size or nothing) of "name:64x64"."""
    name, colon, size = _split(text)
    build = find("adapter", name, ADAPTERS)
    if not colon and is_plugin(name):
        return name, build, ()
    if name in _WITHOUT_SIZE:
        if colon:
            raise InputError(f"the adapter {name} takes no size, got {text!r}")
        return name, build, ()
    found = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", size)
    if not found:
        raise InputError(f"the adapter {name} needs a size, as in {name}:64x64, got {text!r}")
    return name, build, (int(found[1]), int(found[2]))


def _split(part):
    """("name", ":", "64x64") of "name:64x64"; a plug-in's name has a colon of its own."""
    if is_plugin(part):
        return part, "", ""
    name, colon, size = part.rpartition(":")
    return (name, colon, size) if colon and is_plugin(name) else part.partition(":")


def _shape(shape):
    return "x".join(map(str, shape))
