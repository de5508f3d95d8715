"""Speed of FGSM and PGD-20: this package against cleverhans.tf2, on the same weights and images.

    python benchmarks/attacks.py [--networks=small_cnn,madry_mnist,wrn_10_4] [--batch_size=128] [--repeats=5]

Prints images per second: medians of runs that take turns, after one run each that compiles. Every attack starts at the
image and takes the same steps of the same size (linf, eps 8/255), and none stops early. CleverHans is run twice: as its
users call it, and wrapped in one `tf.function` as its authors do not.
"""

import argparse
import os
import statistics
import time

import keras
import numpy as np
import tensorflow as tf
from cleverhans.tf2.attacks.fast_gradient_method import fast_gradient_method
from cleverhans.tf2.attacks.projected_gradient_descent import projected_gradient_descent

from tf_robust_transfer.attacks import FGSM, PGD, ThreatModel
from tf_robust_transfer.models import build_model

SHAPES = {"small_cnn": (28, 28, 1), "madry_mnist": (28, 28, 1), "wrn_10_4": (32, 32, 3)}
STEPS, EPS = 20, 8 / 255
STEP_SIZE = 2.5 * EPS / STEPS


def contestants(model, images, labels):
    """attack name -> {"native": function, "cleverhans": function, "cleverhans+tf.function": function}."""
    threat_model = ThreatModel("linf", EPS)
    fgsm, pgd = FGSM(), PGD(STEPS, STEP_SIZE, random_start=False)

    def ch_fgsm(x, y):
        return fast_gradient_method(model, x, EPS, np.inf, clip_min=0.0, clip_max=1.0, y=y)

    def ch_pgd(x, y):
        return projected_gradient_descent(model, x, EPS, STEP_SIZE, STEPS, np.inf, clip_min=0.0, clip_max=1.0, y=y)

    def of(native, theirs):
        compiled = tf.function(theirs)
        return {
            "native": lambda: native(model, images, labels, threat_model=threat_model, seed=0),
            "cleverhans": lambda: theirs(images, labels),
            "cleverhans+tf.function": lambda: compiled(images, labels),
        }

    return {"FGSM": of(fgsm, ch_fgsm), f"PGD-{STEPS}": of(pgd, ch_pgd)}


def measure(functions, repeats):
    """Median seconds of each function. They take turns, so that another load on the machine meets all alike."""
    seconds = {name: [] for name in functions}
    for run in range(repeats + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            function().numpy()
            if run:  # the first compiles
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", default=",".join(SHAPES), help="comma-separated, of " + ", ".join(SHAPES))
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    networks = options.networks.split(",")
    if unknown := set(networks) - set(SHAPES):
        parser.error(f"unknown networks {', '.join(sorted(unknown))}; known are {', '.join(SHAPES)}")
    if options.batch_size < 1 or options.repeats < 1:
        parser.error("--batch_size and --repeats must be at least 1")

    print("images per second, and how many times as fast native is")
    print(f"{'network':<12} {'attack':<7} {'native':>9} {'cleverhans':>18} {'cleverhans+tf.function':>24}")
    for network in networks:
        keras.utils.set_random_seed(0)
        model = build_model(network, SHAPES[network], 10)
        images = tf.random.stateless_uniform((options.batch_size, *SHAPES[network]), (0, 0))
        labels = tf.random.stateless_uniform((options.batch_size,), (0, 1), 0, 10, tf.int32)
        for attack, functions in contestants(model, images, labels).items():
            speed = {name: options.batch_size / s for name, s in measure(functions, options.repeats).items()}
            native, eager, graph = speed.values()
            print(
                f"{network:<12} {attack:<7} {native:9.0f} {eager:9.0f} ({native / eager:5.2f}x)"
                f" {graph:15.0f} ({native / graph:5.2f}x)",
                flush=True,
            )
    devices = ", ".join(device.device_type for device in tf.config.list_logical_devices())
    print(
        f"TensorFlow {tf.__version__}, Keras {keras.__version__}, {os.cpu_count()} cores, {devices}, "
        f"batch {options.batch_size}, median of {options.repeats}"
    )


if __name__ == "__main__":
    main()
