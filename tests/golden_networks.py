"""The golden networks: small trained networks with what the official AutoAttack finds on them.

tests/golden/README.md says what is in the files; benchmarks/train_golden_networks.py and
make_autoattack_golden.py wrote them. Names are `<network>_<norm>`, such as "digits_robust_linf";
`NAMES` lists them."""

import json
import pathlib

import keras
import numpy as np
from keras import layers

from tf_robust_transfer.attacks import ThreatModel
from tf_robust_transfer.models import build_model

FOLDER = pathlib.Path(__file__).resolve().parent / "golden"


def colour_network(input_shape, num_classes) -> keras.Model:
    """Three 4x4 convolutions with stride 2 and batch norm (16, 32, 32 channels), dense 100. 77,974
    weights.
    """
    images = x = keras.Input(input_shape)
    for filters in (16, 32, 32):
        x = layers.Conv2D(filters, 4, strides=2, padding="same", use_bias=False)(x)
        x = layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(x)
        x = layers.ReLU()(x)
    x = layers.Dense(100, activation="relu")(layers.Flatten()(x))
    return keras.Model(images, layers.Dense(num_classes)(x))


def small_cnn(input_shape, num_classes) -> keras.Model:
    return build_model("small_cnn", input_shape, num_classes)


# Network: (its builder, input shape, number of classes).
NETWORKS = {
    "digits_robust": (small_cnn, (8, 8, 1), 10),
    "digits_natural": (small_cnn, (8, 8, 1), 10),
    "digits_3_classes": (small_cnn, (8, 8, 1), 3),
    "digits_2_classes": (small_cnn, (8, 8, 1), 2),
    "cifar10_robust": (colour_network, (32, 32, 3), 10),
}

# Name: (network, norm, eps). Each eps leaves a good part of the examples robust and a good part
# not.
THREATS = {
    "digits_robust_linf": ("digits_robust", "linf", 0.15),
    "digits_robust_l2": ("digits_robust", "l2", 0.6),
    "digits_natural_linf": ("digits_natural", "linf", 0.1),
    "digits_3_classes_linf": ("digits_3_classes", "linf", 0.25),
    "digits_2_classes_linf": ("digits_2_classes", "linf", 0.25),
    "cifar10_robust_linf": ("cifar10_robust", "linf", 8 / 255),
    "cifar10_robust_l2": ("cifar10_robust", "l2", 0.75),
}
NAMES = tuple(THREATS)


def load_network(network: str):
    """A trained network with its test examples.

    Args:
        network: a name in NETWORKS.

    Returns:
        (functional keras.Model, images float32 [batch, height, width, channels] in [0, 1] -> logits
        [batch, classes]; images float32 [n, height, width, channels] in [0, 1]; labels int32 [n]).
    """
    build, input_shape, num_classes = NETWORKS[network]
    model = build(input_shape, num_classes)
    with np.load(FOLDER / f"{network}.npz") as stored:
        model.set_weights(
            [stored[f"weight{i}"].astype(np.float32) for i in range(len(model.weights))]
        )
        return (
            model,
            stored["images"].astype(np.float32) / np.float32(255),
            stored["labels"].astype(np.int32),
        )


def load(name: str):
    """A golden network with what the official AutoAttack found.

    Args:
        name: one of NAMES.

    Returns:
        (model, images, labels: as from load_network; ThreatModel; golden: dict of the arrays that
        tests/golden/README.md describes, and "about", the dict that says how they were made).
    """
    network, norm, eps = THREATS[name]
    model, images, labels = load_network(network)
    with np.load(FOLDER / f"{name}.npz") as stored:
        golden = {key: stored[key] for key in stored.files}
    golden["about"] = json.loads(str(golden["about"]))
    assert golden["about"]["eps"] == eps and len(golden["clean"]) == len(labels), (
        f"{name}: files of two makes"
    )
    return model, images, labels, ThreatModel(norm, eps), golden


def load_projections() -> dict:
    """FAB's golden projections onto a hyperplane inside the box: see tests/golden/README.md."""
    with np.load(FOLDER / "fab_projections.npz") as stored:
        return {key: stored[key] for key in stored.files}
