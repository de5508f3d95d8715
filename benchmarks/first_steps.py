"""What the first steps of MixACM do to a network: how much its first kernel grows, with and without
what holds it.

    python benchmarks/first_steps.py
    --teacher=../shared/teachers/cifar10_preact_resnet_18_pgd3.keras \
        --data_dir=../shared/tfds --networks=wrn_16_4 --batch_size=128
        --output=docs/results/first_steps/wrn_16_4.json

Each variant trains the same fresh network for 50 steps on the same batches (CIFAR-10, crop and
flip, the settings of flags/mixacm: SGD 0.1, Nesterov 0.9, L2 5e-4 on all parameters, alpha_acm
5000, alpha_kld 0.95, gamma 10, mixup), and prints the l2 norm of its first kernel over that at the
start, and the loss terms. A row is written as it comes. """

import argparse
import json
import pathlib
import time

import keras
import numpy as np

import tf_robust_transfer as rt
from tf_robust_transfer.files import write_json
from tf_robust_transfer.runs.watching import first_kernel

STEPS, SHOWN = 50, (1, 10, 50)
PEAK, EPOCH = 0.1, 390  # learning rate; steps of an epoch of CIFAR-10 at batch 128
# A warm-up of E epochs from 0, as `train` makes it; 50 steps end within it.
VARIANTS = {
    "as in the paper": {},
    "warm-up of 2 epochs": {"warm_up": 2},
    "warm-up of 5 epochs": {"warm_up": 5},
    "clipped to norm 1": {"gradient_clip_norm": 1.0},
    "clipped to norm 5": {"gradient_clip_norm": 5.0},
    # Each channel of each block counts as one of block 4 of a WRN-16-10 does under the mean.
    "sum over channels, 5000 / 640": {"acm_reduction": "sum", "acm_weight": 5000 / 640},
    "alpha_acm 500": {"acm_weight": 500.0},
}


def run(network, variant, options, batches):
    """The row of one variant."""
    keras.utils.set_random_seed(options.seed)
    student = rt.build_model(network, (32, 32, 3), 10, activation="swish", padding="same")
    settings = {
        "acm_weight": 5000.0,
        "weight_decay": 5e-4,
        "weight_decay_of": "all",
        "seed": options.seed,
    } | variant
    warm_up = settings.pop("warm_up", 0)
    method = rt.MixACM(student=student, teacher=rt.load_model(options.teacher), **settings)
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, 10**9, warmup_target=PEAK, warmup_steps=warm_up * EPOCH
    )
    method.compile(keras.optimizers.SGD(rate if warm_up else PEAK, momentum=0.9, nesterov=True))
    start, growth, logs, seconds = first_kernel(student), {}, {}, time.monotonic()
    for step, (images, labels) in enumerate(batches, start=1):
        method.reset_metrics()
        logs = method.train_on_batch(images, labels, return_dict=True)
        if step in SHOWN:
            growth[step] = float(np.linalg.norm(first_kernel(student)) / np.linalg.norm(start))
    finite = {name: float(value) if np.isfinite(value) else None for name, value in logs.items()}
    return {
        "growth": growth,
        "logs of the last step": finite,
        "seconds": time.monotonic() - seconds,
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", default="wrn_16_4")
    parser.add_argument(
        "--teacher", required=True, help="a robust CIFAR-10 network, as rt.load_model takes it"
    )
    parser.add_argument("--data_dir", default=None)
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--output", required=True, help="JSON; what stands there already is not measured again"
    )
    options = parser.parse_args()
    train = rt.data.load_data(
        "cifar10", "train", data_dir=options.data_dir, train_fraction=0.2, seed=options.seed
    )
    batches = rt.data.train_batches(
        train, batch_size=options.batch_size, seed=options.seed, augmentation=("crop", "flip")
    )
    batches = list(batches.take(STEPS).as_numpy_iterator())
    path = pathlib.Path(options.output)
    path.parent.mkdir(parents=True, exist_ok=True)
    found = json.loads(path.read_text()) if path.exists() else {}
    settings = {
        "teacher": pathlib.Path(options.teacher).name,
        "batch_size": options.batch_size,
        "seed": options.seed,
    }
    if found and any(found.get(name) != value for name, value in settings.items()):
        raise SystemExit(f"error: {path} holds rows of other settings; give another --output")
    found |= settings
    for network in options.networks.split(","):
        rows = found.setdefault(network, {})
        for name, variant in VARIANTS.items():
            if name not in rows:
                rows[name] = run(network, variant, options, batches)
                write_json(path, found)
            growth = ", ".join(
                f"step {step} {value:.2f}" for step, value in rows[name]["growth"].items()
            )
            print(f"{network:10s} {name:32s} first kernel over its start: {growth}", flush=True)


if __name__ == "__main__":
    main()
