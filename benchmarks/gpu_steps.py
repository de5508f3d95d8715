"""A row of the steps of benchmarks/gpu.py: imports, says so, waits, compiles, measures.

    python gpu_steps.py pgd7:bfloat16:xla=on:deterministic=off --batch_size=128 ...

gpu.py starts many at once; each is told in turn, by a line on its standard input, that the device
is its own: kernels that are tuned beside other processes are not the fastest. A row is
KIND:PRECISION:xla=on|off:deterministic=on|off; a kind that begins with `epoch_` is one epoch of
`fit`, data and loop included, of 50,000 images that are cropped and flipped."""

import argparse
import contextlib
import json
import os
import sys
import time

EPS = 8 / 255
EPOCH = 50_000  # images


def network(options, precision):
    import keras

    from tf_robust_transfer.models import build_model
    from tf_robust_transfer.models.precision import with_precision

    keras.utils.set_random_seed(0)
    shape = (options.image_size, options.image_size, 3)
    made = build_model("preact_resnet_18", shape, 10, base_channels=options.channels)
    return with_precision(made, precision) if precision != "float32" else made


def method(kind, precision, options):
    from tf_robust_transfer import methods
    from tf_robust_transfer.attacks import FGSM, PGD, ThreatModel
    from tf_robust_transfer.models import build_discriminator

    student, threat_model = network(options, precision), ThreatModel("linf", EPS)
    if kind == "natural":
        return methods.Natural(student=student)
    if kind == "trades":
        attack = PGD(10, 2 / 255, loss="kl")
        return methods.TRADES(student=student, threat_model=threat_model, attack=attack)
    if kind in ("fgsm", "pgd7"):
        attack = FGSM(1.25 * EPS, random_start=True) if kind == "fgsm" else PGD(7, 2 / 255)
        return methods.AdversarialTraining(
            student=student, threat_model=threat_model, attack=attack
        )
    if kind == "mixacm":
        return methods.MixACM(student=student, teacher=network(options, precision))
    given = {"teacher": network(options, "float32")}
    if kind == "igam":
        return methods.IGAM(student=student, lambda_adv=0.0, **given)
    shape = (options.image_size, options.image_size, 3)
    discriminator = build_discriminator(shape, channels=(8, 16, 32, 64))
    return methods.IGAM(
        student=student, lambda_adv=1.0, discriminator=discriminator, discriminator_every=5, **given
    )


def compiled(row, options):
    """(method, whether the row is an epoch)."""
    import keras

    from tf_robust_transfer.runs import device

    kind, precision, jit, deterministic = row.split(":")
    device.prepare()
    device.set_determinism(deterministic == "deterministic=on")
    made = method(kind.removeprefix("epoch_"), precision, options)
    optimizer = keras.optimizers.SGD(0.01, momentum=0.9, nesterov=True)
    made.compile(optimizer, jit_compile=jit == "xla=on")
    return made, kind.startswith("epoch_")


def steps(made, options):
    """A function that takes steps of one batch in the device's memory, compiled already."""
    import numpy as np
    import tensorflow as tf

    rng = np.random.default_rng(0)
    shape = (options.batch_size, options.image_size, options.image_size, 3)
    batch = (
        tf.constant(rng.random(shape), tf.float32),
        tf.constant(rng.integers(0, 10, options.batch_size), tf.int32),
    )
    iterator = iter(tf.data.Dataset.from_tensors(batch).repeat())
    made.make_train_function()

    def take(number):
        for _ in range(number):
            logs = made.train_function(iterator)
        float(logs["loss"])  # waits for the device

    take(6)  # IGAM's every kind of step
    return take


def epochs(made, options):
    """A function that trains for some epochs by `fit`, compiled already."""
    import numpy as np

    from tf_robust_transfer import data

    rng = np.random.default_rng(0)
    shape = (options.epoch_images, options.image_size, options.image_size, 3)
    images = data.ImageData(
        images=rng.integers(0, 256, shape, np.uint8),
        labels=rng.integers(0, 10, options.epoch_images).astype(np.int32),
        num_classes=10,
        class_names=tuple("0123456789"),
        name="made up",
        split="train",
    )

    def fit(steps, number=1):
        batches = data.train_batches(
            images, batch_size=options.batch_size, seed=0, augmentation=("crop", "flip")
        )
        made.fit(batches, steps_per_epoch=steps, epochs=number, shuffle=False, verbose=0)

    fit(6)
    return lambda number: fit(options.epoch_images // options.batch_size, number)


def measured(row, take, is_epoch, options):
    """The figures of a row, of steps that are taken for --seconds, or of one epoch."""
    if is_epoch:
        start = time.perf_counter()
        take(1)
        count = options.epoch_images // options.batch_size
    else:
        count, start = 0, time.perf_counter()
        while time.perf_counter() - start < options.seconds:
            take(5)
            count += 5
    seconds = (time.perf_counter() - start) / count
    return {"row": row, "ms": 1000 * seconds, "images_per_second": options.batch_size / seconds}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("row")
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--image_size", type=int, default=32)
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=1.5)
    parser.add_argument("--epoch_images", type=int, default=EPOCH)
    options = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    said = sys.stdout
    try:
        with contextlib.redirect_stdout(sys.stderr):
            import tensorflow as tf

            from tf_robust_transfer.runs import device

            print("ready", file=said, flush=True)
            sys.stdin.readline()
            begun = time.perf_counter()
            made, is_epoch = compiled(options.row, options)
            take = (epochs if is_epoch else steps)(made, options)
        first = time.perf_counter() - begun
        row = measured(options.row, take, is_epoch, options) | {
            "first_steps_s": first,
            "library": f"tensorflow {tf.__version__}",
            "device": device.record(precision="float32", jit=False)["device"],
        }
    except Exception as error:  # one that does not fit leaves the others
        row = {"row": options.row, "failed": f"{type(error).__name__}: {error}"[:300]}
    print(json.dumps(row), file=said, flush=True)


if __name__ == "__main__":
    main()
