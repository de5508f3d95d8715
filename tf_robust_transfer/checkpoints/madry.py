"""MadryLab's challenge networks from their TensorFlow 1 checkpoints."""

import re

import keras

from tf_robust_transfer.checkpoints import tf1
from tf_robust_transfer.models import build_model

_BATCH_NORM = ("gamma", "beta", "moving_mean", "moving_variance")


def load_madry_mnist(path: str) -> keras.Model:
    """Loads a network of github.com/MadryLab/mnist_challenge.

    Args:
        path: a folder or prefix, see `tf1.find_prefix`. The optimizer's state is not read.

    Returns:
        keras.Model: images float32 [batch, 28, 28, 1] in [0, 1] -> logits float32 [batch, 10].

    Raises:
        InputError: no checkpoint, or one whose variables are not this network's.
    """
    checkpoint = tf1.open_checkpoint(path)
    model = build_model("madry_mnist", (28, 28, 1), 10)
    # The network's variables have no names of their own there: TensorFlow numbers them as they are
    # made, which is the order of the weights here.
    variables = {
        f"Variable_{i}" if i else "Variable": variable for i, variable in enumerate(model.weights)
    }
    tf1.assign(checkpoint, variables, "MadryLab's MNIST network")
    return model


def load_madry_cifar10(path: str) -> keras.Model:
    """Loads a network of github.com/MadryLab/cifar10_challenge: w32-10, or another depth, width or
    number of classes.

    Args:
        path: a folder or prefix, see `tf1.find_prefix`. The optimizer's state is not read.

    Returns:
        keras.Model: images float32 [batch, 32, 32, 3] in [0, 1] -> logits float32 [batch, classes].
        It standardises each image itself.

    Raises:
        InputError: no checkpoint, or one whose variables are not this network's.
    """
    checkpoint = tf1.open_checkpoint(path)
    depth, width = depth_and_width(checkpoint)
    model = build_model(f"madry_wrn_{depth}_{width}", (32, 32, 3), classes(checkpoint, "logit"))
    tf1.assign(checkpoint, wide_resnet_variables(model), f"MadryLab's w{depth}-{width}")
    return model


def depth_and_width(checkpoint: tf1.Tf1Checkpoint, scope: str = "") -> tuple[int, int]:
    """The network's size by the names and shapes of its variables; 32 and 10 where they do not say
    it.
    """
    blocks = [re.match(rf"{scope}unit_[123]_(\d+)/", name) for name in checkpoint.shapes]
    depth = 6 * max((int(block[1]) + 1 for block in blocks if block), default=5) + 2
    channels = checkpoint.shapes.get(f"{scope}unit_last/BatchNorm/gamma", (640,))
    return depth, max(channels[0] // 64, 1) if len(channels) == 1 else 10


def classes(checkpoint: tf1.Tf1Checkpoint, logits: str) -> int:
    """The number of classes by the biases of a logit layer; 10 where they do not say it."""
    shape = checkpoint.shapes.get(f"{logits}/biases", (10,))
    return shape[0] if len(shape) == 1 and shape[0] > 1 else 10


def wide_resnet_variables(
    model: keras.Model, scope: str = "", logits: str = "logit"
) -> dict[str, keras.Variable]:
    """The weights of a `madry_wide_resnet` by the names that model.py of cifar10_challenge gives
    them.

    Args:
        model: the network.
        scope: what the names begin with, such as "classifier/".
        logits: the variable scope of the logit layer.

    Returns:
        name -> variable, for every weight of the model.
    """

    def batch_norm(name, layer):
        return {
            f"{name}/BatchNorm/{key}": getattr(model.get_layer(layer), key) for key in _BATCH_NORM
        }

    named = {"input/init_conv/DW": model.get_layer("conv1").kernel}
    for layer in model.layers:
        found = re.fullmatch(r"group([234])_(\d+)_add", layer.name)
        if not found:
            continue
        block, unit = f"group{found[1]}_{found[2]}", f"unit_{int(found[1]) - 1}_{found[2]}"
        activation = "shared_activation" if unit == "unit_1_0" else "residual_only_activation"
        named |= batch_norm(f"{unit}/{activation}", f"{block}_1_batch_norm")
        named[f"{unit}/sub1/conv1/DW"] = model.get_layer(f"{block}_conv1").kernel
        named |= batch_norm(f"{unit}/sub2", f"{block}_2_batch_norm")
        named[f"{unit}/sub2/conv2/DW"] = model.get_layer(f"{block}_conv2").kernel
    named |= batch_norm("unit_last", "final_batch_norm")
    named[f"{logits}/DW"] = model.get_layer("logits").kernel
    named[f"{logits}/biases"] = model.get_layer("logits").bias
    return {scope + name: variable for name, variable in named.items()}
