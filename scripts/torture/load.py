"""Many images, many attacks, many steps: what is taken does not grow."""

import functools
import json
import os
import pathlib
import time

import numpy as np

from scripts.torture import processes

IMAGES, ATTACKS, STEPS = 10_000, 50, 1_000_000
_LONGEST = 3000


def run(record, folder: pathlib.Path, seed: int, quick: bool) -> None:
    """quick: a tenth of the steps alone."""
    folder.mkdir(parents=True)
    parts = {
        f"memory after {ATTACKS} attacks, against that after 5": _attacked,
        f"an evaluation of {IMAGES} images": _evaluated,
        "logged steps": functools.partial(_logged, STEPS // 50 if quick else STEPS),
    }
    for what, function in parts.items():
        if quick and what != "logged steps":
            continue
        found = folder / "found.json"
        found.unlink(missing_ok=True)
        process = processes.start(
            functools.partial(_written, found, function, seed, folder), folder=folder / "log"
        )
        if process.wait(_LONGEST) != 0 or not found.exists():
            record.add(what, f"ended: {process.lines()[-3:]}")
            continue
        figures, problem = json.loads(found.read_text())
        record.add(what, problem)
        record.figures |= figures


def _written(path, function, *arguments):
    path.write_text(json.dumps(function(*arguments)))


def _resident():
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / 2**20


def _network():
    import keras

    from tf_robust_transfer import models

    keras.utils.set_random_seed(0)
    return models.build_model("small_cnn", (8, 8, 1), 10)


def _examples(count, seed):
    draw = np.random.default_rng(seed)
    return draw.random((count, 8, 8, 1), np.float32), draw.integers(0, 10, count)


def _attacked(seed, folder):
    """Attacks and evaluations again and again, each with objects of its own."""
    from tf_robust_transfer import attacks, evaluate_robustness

    network, threat = _network(), attacks.ThreatModel(eps=0.1)
    images, labels = _examples(500, seed)
    labels = np.asarray(network(images)).argmax(1)  # all of them are attacked
    after = {}
    for number in range(1, ATTACKS + 1):
        evaluate_robustness(
            network, images, labels, threat_model=threat, attacks=("pgd5",), seed=number,
            check_model=False,
        )  # fmt: skip
        attacks.PGD(steps=5)(network, images[:100], labels[:100], threat_model=threat, seed=number)
        after[number] = _resident()
    growth = after[ATTACKS] / after[5] - 1
    return (
        {
            "MiB after 5 attacks": round(after[5]),
            f"MiB after {ATTACKS} attacks": round(after[ATTACKS]),
        },
        "" if growth <= 0.05 else f"{after[5]:.0f} MiB after 5, {after[ATTACKS]:.0f} MiB later",
    )


def _evaluated(seed, folder):
    from tf_robust_transfer import attacks, evaluate_robustness

    network = _network()
    images, labels = _examples(IMAGES, seed)
    labels = np.asarray(network.predict(images, verbose=0)).argmax(1)
    start, before = time.monotonic(), _resident()
    result = evaluate_robustness(
        network, images, labels, threat_model=attacks.ThreatModel(eps=0.1),
        attacks=("fgsm", "pgd20"), state=folder / "state.npz",
    )  # fmt: skip
    seconds, more = time.monotonic() - start, _resident() - before
    right = result.num_examples == IMAGES and result.accuracy["clean"] == 1.0
    right &= result.accuracy["pgd20"] <= result.accuracy["fgsm"]
    return (
        {
            f"seconds for {IMAGES} images under FGSM and PGD-20": round(seconds),
            f"MiB more after {IMAGES} images": round(more),
        },
        "" if right else f"{result.accuracy}",
    )


def _logged(steps, seed, folder):
    """A training's callbacks without the training: as many steps, in epochs of 1000."""
    import keras

    from tf_robust_transfer.runs import callbacks

    class Stub:
        steps_done = 0
        optimizer = keras.optimizers.SGD(0.1)

    model = Stub()
    used = [
        callbacks.Progress(
            total_steps=steps, start_step=0, steps_per_epoch=1000, batch_size=128, name="load"
        )
    ]
    for callback in used:
        callback._model = model
    logs = {"loss": 1.0, "cross_entropy": 0.9, "accuracy": 0.5}
    first, start = None, time.monotonic()
    for step in range(steps):
        model.steps_done = step + 1
        for callback in used:
            callback.on_train_batch_end(step % 1000, logs)
        if step % 1000 == 999:
            for callback in used:
                callback.on_epoch_end(step // 1000, logs)
        if step == steps // 10:
            first = _resident()
    last = _resident()
    used[0].close()
    return (
        {
            f"microseconds of the callbacks in each of {steps} steps": round(
                1e6 * (time.monotonic() - start) / steps
            ),
            "MiB after a tenth of the steps": round(first),
            "MiB after all steps": round(last),
        },
        "" if last / first <= 1.05 else f"{first:.0f} MiB after a tenth, {last:.0f} MiB at the end",
    )
