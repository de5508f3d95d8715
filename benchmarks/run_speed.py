"""The speed of whole trainings, from their TensorBoard logs, as a record of docs/performance.md.

    python benchmarks/run_speed.py RUN_FOLDER ... --output=docs/results/speed/NAME.json
        [--machine="NVIDIA H200, 16 cores" --date=2026-11-27 --commit=0159c20]

A row for each run folder: the first epoch, which compiles, and the others; their images a second do
not count what is measured between epochs. --machine, --date, --commit: of the run, where it was not
trained here and now."""

import argparse
import json
import pathlib

import speed
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def row(folder):
    logs = EventAccumulator(str(folder / "tensorboard"), size_guidance={"tensors": 0}).Reload()
    epochs = [
        (event.step, float(tf.make_ndarray(event.tensor_proto)))
        for event in logs.Tensors("epochs/images_per_second")
    ]
    lines = (folder / "flags.txt").read_text().splitlines()
    flags = dict(line[2:].split("=", 1) for line in lines if line.startswith("--"))
    (steps, first), *rates = epochs
    return {
        "run": folder.name,
        "method": flags["method"],
        "network": flags["model"],
        "batch size": int(flags["batch_size"]),
        "epochs": f"{len(epochs)} of {float(flags['epochs']):g}",
        "first epoch, s": steps * int(flags["batch_size"]) / first,
        "images/s of the others, least": round(min(rate for _, rate in rates)),
        "median": round(sorted(rate for _, rate in rates)[len(rates) // 2]),
        "most": round(max(rate for _, rate in rates)),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=pathlib.Path)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    for name in ("machine", "date", "commit"):
        parser.add_argument(f"--{name}")
    options = parser.parse_args()
    speed.write(options.output, [row(folder) for folder in options.folders])
    given = {name: vars(options)[name] for name in ("machine", "date", "commit")}
    if any(given.values()):
        found = json.loads(options.output.read_text())
        found |= {name: text for name, text in given.items() if text} | {"load": None}
        options.output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
