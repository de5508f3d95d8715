"""Model cards: Markdown beside a model's file, with the metadata that model hubs read.

The metadata stand on top as YAML, a key a line, each value as JSON, which YAML contains. The
figures are in there (`model-index`), and the text's table of them is written from there."""

import json
import pathlib
import re

from tf_robust_transfer.errors import InputError
from tf_robust_transfer.evaluation.result import at_each_radius, warnings_of
from tf_robust_transfer.files import write_text
from tf_robust_transfer.models.bounds import pixel_bounds

_FIGURES = re.compile(r"(?<=\n## Figures\n\n).*?(?=\n## |\Z)", re.DOTALL)


def card_path(model_file) -> pathlib.Path:
    """Where the card of a model's file lies: FILE.keras.md beside FILE.keras."""
    return pathlib.Path(f"{model_file}.md")


def write_card(
    model_file,
    *,
    model,
    source: str,
    command: str,
    license: str = "",
    trained_on: str = "",
    method: str = "",
    results: dict | None = None,
    spec: str = "",
) -> None:
    """Writes the card of a model, in place of an older one.

    Args:
        model_file: the `.keras` file.
        model: the `keras.Model` in it.
        source: what it was made from, in a line.
        command: that made it.
        license: SPDX name, where it is known.
        trained_on: data set, where it is known.
        method: by which it was trained, where it is known.
        results: what stands in results.json, if it was evaluated.
        spec: what `load_model` takes; by default the file's name.
    """
    path = pathlib.Path(model_file)
    metadata = {
        "library_name": "keras",
        "pipeline_tag": "image-classification",
        "tags": ["adversarial-robustness", "tf_robust_transfer", *([method] if method else [])],
    }
    if license:
        metadata["license"] = license.lower()  # hubs name them so
    if trained_on:
        metadata["datasets"] = [trained_on]
    metadata["model-index"] = [{"name": path.stem, "results": []}]
    low, high = pixel_bounds(model)
    shape = " x ".join(str(size) for size in model.input_shape[1:])
    body = f"""
# {path.stem}

- network: {model.name}, {model.count_params():,} parameters
- input: images of {shape} in [{low:g}, {high:g}], normalised by the network itself
- output: logits of {model.output_shape[-1]} classes
- source: {source}
- licence: {license or "not known"}

```bash
{command}
```

```python
import tf_robust_transfer as rt

model = rt.load_model("{spec or path.name}")
```

## Figures

"""
    _write(card_path(path), metadata, body)
    if results:
        add_results(path, results, "results.json")


def add_results(model_file, results: dict, record: str) -> None:
    """Adds an evaluation's figures to a card; those of the same attacks, threat model, data and
    number of images are replaced.

    Args:
        model_file: the `.keras` file beside which the card lies.
        results: what stands in results.json.
        record: name of the file that holds them.

    Raises:
        InputError: no card there, or one that this package has not written.
    """
    metadata, body = read_card(model_file)
    entries = metadata["model-index"][0]["results"]
    dataset = {"name": results["dataset"], "type": results["dataset"], "split": results["split"]}
    entry = next((entry for entry in entries if entry["dataset"] == dataset), None)
    if entry is None:
        entry = {"task": {"type": "image-classification"}, "dataset": dataset, "metrics": []}
        entries.append(entry)
    metrics = {}
    for at in at_each_radius(results):
        threat = at["threat_model"]
        for attack, accuracy in at["accuracy"].items():
            interval = at["confidence_interval_95"][attack]
            ball = "" if attack == "clean" else f", {threat['norm']} {threat['eps']:.6g}"
            # Of another network, as it were: its figures do not replace the proper ones.
            batch = ", on batch statistics" if "batch_norm" in at else ""
            metrics[f"{attack}{ball}{batch}"] = {
                "type": "accuracy",
                "value": round(100 * accuracy, 4),
                "args": {
                    "examples": at["num_examples"],
                    "interval": [round(100 * end, 4) for end in interval],
                    "seed": at["seed"],
                    "record": record,
                    "doubtful": bool(warnings_of(attack, at)),
                },
            }
    found = [{"name": name, **metric} for name, metric in metrics.items()]
    same = {(metric["name"], metric["args"]["examples"]) for metric in found}
    entry["metrics"] = [
        metric
        for metric in entry["metrics"]
        if (metric["name"], metric["args"]["examples"]) not in same
    ] + found
    _write(card_path(model_file), metadata, body)


def read_card(model_file) -> tuple[dict, str]:
    """(metadata, text) of the card beside a model's file.

    Raises:
        InputError: no card there, or one that this package has not written.
    """
    path = card_path(model_file)
    try:
        _, head, body = path.read_text(encoding="utf-8").split("---\n", 2)
        lines = (line.partition(": ") for line in head.splitlines())
        metadata = {key: json.loads(value) for key, _, value in lines}
        metadata["model-index"][0]["results"]
    except FileNotFoundError:
        raise InputError(
            f"there is no model card {str(path)!r}; convert and train write one beside the file"
        ) from None
    except (OSError, ValueError, LookupError):
        raise InputError(f"{str(path)!r} is no model card that this package has written") from None
    return metadata, body


def _write(path, metadata, body):
    head = "".join(f"{key}: {json.dumps(value)}\n" for key, value in metadata.items())
    table = _table(metadata["model-index"][0]["results"])
    write_text(path, f"---\n{head}---\n{_FIGURES.sub(lambda _: table, body)}")


def _table(entries):
    if not entries:
        return "None measured yet: `evaluate --model_card` adds them.\n"
    lines = [
        ("data", "images", "attack", "accuracy in %", "95% interval", "seed", "record"),
        ("---",) * 7,
    ]
    for entry in entries:
        for metric in entry["metrics"]:
            args = metric["args"]
            low, high = args["interval"]
            lines.append(
                (
                    f"{entry['dataset']['name']} {entry['dataset']['split']}",
                    str(args["examples"]),
                    metric["name"] + (" (doubtful)" if args["doubtful"] else ""),
                    f"{metric['value']:.2f}",
                    f"{low:.2f} to {high:.2f}",
                    str(args["seed"]),
                    args["record"],
                )
            )
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)
