"""Trains the golden networks of the attacks' tests: small, and robust on some examples but not on
others.

    python benchmarks/train_golden_networks.py [--networks=digits_robust] [--data_dir=TFDS]

Writes weights and test examples to tests/golden, which benchmarks/make_autoattack_golden.py must
then attack anew. Takes one to two minutes, most of them for CIFAR-10, which lies prepared in the
TFDS directory."""

import argparse
import dataclasses
import pathlib
import sys

import keras
import numpy as np

import tf_robust_transfer as rt
from tf_robust_transfer.files import replacing

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tests"))
import golden_networks  # noqa: E402

# Network: (Adam's epochs, batch size, eps of PGD-3 training or 0, its warm-up steps).
TRAINING = {
    "digits_robust": (30, 64, 0.2, 200),
    "digits_natural": (10, 64, 0.0, 0),
    "digits_3_classes": (10, 64, 0.1, 0),
    "digits_2_classes": (10, 64, 0.1, 0),
    "cifar10_robust": (3, 128, 6 / 255, 300),
}


def images_of(network, split, data_dir):
    if network.startswith("cifar10"):
        return rt.data.load_data("cifar10", split, data_dir=data_dir)
    data = rt.data.load_data("digits", split)
    classes = golden_networks.NETWORKS[network][2]
    kept = data.labels < classes
    return dataclasses.replace(
        data,
        images=data.images[kept],
        labels=data.labels[kept],
        num_classes=classes,
        class_names=data.class_names[:classes],
    )


def test_examples(model, data, count):
    """The first `count` images (fewer if there are not so many), of which at most one in ten is
    misclassified.
    """
    correct = model.predict(data.images / np.float32(255), verbose=0).argmax(1) == data.labels
    wrong = np.flatnonzero(~correct)[: count // 10]
    chosen = np.sort(np.concatenate([wrong, np.flatnonzero(correct)[: count - len(wrong)]]))
    return data.images[chosen], data.labels[chosen]


def train(network, data_dir):
    """Trains a network, rounds its weights to float16 and writes it with its test examples."""
    build, input_shape, classes = golden_networks.NETWORKS[network]
    epochs, batch_size, eps, warm_up_steps = TRAINING[network]
    data = images_of(network, "train", data_dir)
    steps = len(data) // batch_size
    keras.utils.set_random_seed(0)
    model = build(input_shape, classes)
    if eps:
        method = rt.AdversarialTraining(
            student=model,
            threat_model=rt.ThreatModel("linf", eps),
            attack=rt.attacks.PGD(steps=3),
            warm_up_steps=warm_up_steps,
        )
    else:
        method = rt.Natural(student=model)
    method.compile(
        optimizer=keras.optimizers.Adam(
            keras.optimizers.schedules.CosineDecay(2e-3, epochs * steps)
        )
    )
    batches = rt.data.train_batches(data, batch_size=batch_size, seed=0)
    method.fit(batches, steps_per_epoch=steps, epochs=epochs, verbose=2)
    weights = [weight.astype(np.float16) for weight in model.get_weights()]
    model.set_weights([weight.astype(np.float32) for weight in weights])
    count = 100 if network.startswith("cifar10") else 200
    images, labels = test_examples(model, images_of(network, "test", data_dir), count)
    arrays = {f"weight{i}": weight for i, weight in enumerate(weights)}
    with replacing(golden_networks.FOLDER / f"{network}.npz") as temporary:
        np.savez_compressed(temporary, **arrays, images=images, labels=labels.astype(np.uint8))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--networks", default=",".join(TRAINING), help="comma-separated, of " + ", ".join(TRAINING)
    )
    parser.add_argument("--data_dir", help="TFDS directory with CIFAR-10")
    options = parser.parse_args()
    networks = options.networks.split(",")
    if unknown := set(networks) - set(TRAINING):
        parser.error(
            f"unknown networks {', '.join(sorted(unknown))}; known are {', '.join(TRAINING)}"
        )
    for network in networks:
        train(network, options.data_dir)


if __name__ == "__main__":
    main()
