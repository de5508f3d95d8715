"""Puts a network into the package's zoo: kernels as float16, and its model card.

    python scripts/add_to_zoo.py NAME SPEC --results=docs/results/records/zoo/.../results.json \\
      --method=adversarial_training --source="..." --command="..." --data_dir=DIR

Says how far its logits are from the network's own, and on how many test images PGD-20 comes to
another end: both go into the card."""

import argparse
import io
import json
import os
import zipfile
from pathlib import Path

import h5py
import numpy as np

import tf_robust_transfer as rt
from tf_robust_transfer.checkpoints.native import native_file
from tf_robust_transfer.checkpoints.zoo import FOLDER
from tf_robust_transfer.data import load_data
from tf_robust_transfer.evaluation.model_card import add_results, write_card
from tf_robust_transfer.files import replacing

ROOT = Path(__file__).resolve().parent.parent
LICENCE = "Apache-2.0"  # this repository's
_WEIGHTS = "model.weights.h5"


def half_precision(source: Path, target: Path) -> None:
    """Copies a `.keras` file. Kernels become float16; what has one dimension, the biases and batch
    norm's statistics, stays: it is small, and its range is wide.
    """
    with zipfile.ZipFile(source) as old, replacing(target) as part:
        with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as new:
            for member in old.namelist():
                content = old.read(member)
                new.writestr(member, _halved(content) if member == _WEIGHTS else content)


def _halved(content):
    buffer = io.BytesIO(content)
    with h5py.File(buffer, "r") as old, h5py.File(out := io.BytesIO(), "w") as new:

        def copy(name, item):
            if isinstance(item, h5py.Group):
                found = new.require_group(name)
            else:
                values = item[()]
                half = values.dtype == np.float32 and values.ndim > 1
                found = new.create_dataset(name, data=values.astype(np.float16) if half else values)
            found.attrs.update(item.attrs)

        new.attrs.update(old.attrs)
        old.visititems(copy)
    return out.getvalue()


def compared(one, other, data, threat_model) -> str:
    """A line: how far the logits of two networks are apart, how often PGD-20 ends the same."""
    images = data.images.astype(np.float32) / 255
    logits = [model.predict(images, verbose=0) for model in (one, other)]
    found = [
        rt.evaluate_robustness(
            model, images, data.labels, threat_model=threat_model, attacks=("pgd20",), progress=True
        ).correct["pgd20"]
        for model in (one, other)
    ]
    apart = np.abs(logits[0] - logits[1]).max()
    same = (found[0] == found[1]).mean()
    return (
        f"kernels stored as float16; beside the float32 network, on the first {len(images)} test "
        f"images: logits at most {apart:.1g} apart, PGD-20 ends the same on {100 * same:.1f}%"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("spec")
    parser.add_argument("--results", type=Path, required=True, help="results.json of the network")
    parser.add_argument("--method", required=True)
    parser.add_argument("--source", required=True, help="what it was made from, in a line")
    parser.add_argument("--command", required=True, help="that made it")
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--compare", type=int, default=200, help="on how many images")
    options = parser.parse_args()
    results = json.loads(options.results.read_text())
    threat = rt.ThreatModel(**results["threat_model"])
    data = load_data(
        results["dataset"], "test", data_dir=options.data_dir, max_examples=options.compare
    )
    path = FOLDER / f"{options.name}.keras"
    half_precision(native_file(options.spec), path)
    model = rt.load_model(str(path))
    print(line := compared(rt.load_model(options.spec), model, data, threat))
    write_card(
        path,
        model=model,
        source=f"{options.source}; {line}",
        command=options.command,
        license=LICENCE,
        trained_on=results["dataset"],
        method=options.method,
        spec=f"zoo:{options.name}",
    )
    add_results(path, results, os.path.relpath(options.results, ROOT))


if __name__ == "__main__":
    main()
