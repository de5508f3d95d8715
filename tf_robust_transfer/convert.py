"""Any model to a .keras file: python -m tf_robust_transfer.convert
--model=madry_mnist:models/secret --output=madry.keras
"""

import dataclasses
import os
import shlex
import sys

import keras
import numpy as np
import tensorflow as tf

import tf_robust_transfer
from tf_robust_transfer.attacks import ThreatModel
from tf_robust_transfer.checkpoints import list_teachers, load_model
from tf_robust_transfer.checkpoints.specs import check_sha256, file_sha256, source_files
from tf_robust_transfer.checkpoints.teachers import COLUMNS, find_teachers, table
from tf_robust_transfer.checkpoints.zoo import zoo_files
from tf_robust_transfer.command import run_command
from tf_robust_transfer.config import SPEC, SharedConfig, check_specs
from tf_robust_transfer.errors import InputError, of_flag
from tf_robust_transfer.evaluation import evaluate_robustness
from tf_robust_transfer.evaluation.model_card import card_path, read_card, write_card
from tf_robust_transfer.files import as_json, path_of, replacing
from tf_robust_transfer.flag_types import boolean
from tf_robust_transfer.models.bounds import check_unit_pixels, pixel_bounds
from tf_robust_transfer.options import at_least, option
from tf_robust_transfer.runs.images import load_split

# Of results.json, in the description beside the file.
_SHOWN = ("dataset", "split", "num_examples", "accuracy", "confidence_interval_95")


@dataclasses.dataclass(frozen=True)
class ConvertConfig(SharedConfig):
    """Flags of `convert`."""

    list: bool = option(
        "false",
        "print the published robust networks that robustbench: reads, of --dataset if it is given",
        boolean,
    )
    dataset: str = option(
        "", "data set on which the clean accuracy is measured, as in evaluate; empty: none"
    )
    model: str = option("", f"the model to convert: {SPEC}")
    output: str = option(
        "",
        "the .keras file to write, in place of an older one; FILE.keras.json tells where it came "
        "from",
    )
    sha256: str = option(
        "", "expected SHA-256 of the model's file (TF1: its .data file), checked before it is read"
    )
    split: str = option("test", "split of the data set")
    max_examples: int = option("0", "measure on so many first examples; 0: all", int, **at_least(0))

    def verify(self) -> None:
        super().verify()
        if self.list:
            return
        if self.sha256:
            with of_flag("sha256"):
                check_sha256(self.sha256)
        with of_flag("output"):
            _output(self.output)
        check_specs("model", self.model)
        self.check_split(self.split)


def run(config: ConvertConfig) -> None:
    config.verify()
    if config.list:
        sys.stdout.write(_listing(list_teachers(dataset=config.dataset or None)))
        for name, file in zoo_files().items():
            if config.dataset and config.dataset not in read_card(file)[0].get("datasets", ()):
                continue
            sys.stdout.write(f"zoo:{name} comes with the package; its card is {card_path(file)}\n")
        return
    output = _output(config.output)
    sources = source_files(config.model)
    model = load_model(config.model, sha256=config.sha256 or None)
    batch = _random_batch(model)
    logits = model(batch, training=False).numpy()
    if not np.isfinite(logits).all():
        raise InputError(
            f"{config.model!r} gives logits that are not finite: its weights are damaged"
        )
    results = _clean_accuracy(config, model)
    described = {
        "model": output.name,
        "sha256": None,
        "source": config.model,
        "source_sha256": {str(path): file_sha256(path) for path in sources},
        "input_shape": list(model.input_shape[1:]),
        "pixel_bounds": list(pixel_bounds(model)),
        "num_classes": model.output_shape[-1],
        "num_parameters": model.count_params(),
        **{name: results[name] for name in _SHOWN if results},
        "versions": {
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
            "tf_robust_transfer": tf_robust_transfer.__version__,
        },
    }
    # The old description goes before the new model comes, and the new description comes last:
    # wherever this is interrupted, a description that is there describes the model beside it.
    sidecar = output.with_name(f"{output.name}.json")
    output.parent.mkdir(parents=True, exist_ok=True)
    with replacing(sidecar) as sidecar_temporary, replacing(output) as temporary:
        model.save(temporary)
        _check_written(temporary, batch, logits)
        text = as_json(described | {"sha256": file_sha256(temporary)})
        sidecar_temporary.write_text(text)
        sidecar.unlink(missing_ok=True)
        card_path(output).unlink(missing_ok=True)
    write_card(
        output,
        model=model,
        source=f"{config.model}, read by tf_robust_transfer",
        license=_license(config.model),
        command="python -m tf_robust_transfer.convert "
        + shlex.join([f"--model={config.model}", f"--output={config.output}"]),
        results=results,
    )
    sys.stdout.write(
        f"{config.output}: {described['num_parameters']:,} parameters, images "
        f"{described['input_shape']}, {described['num_classes']} classes; described in "
        f"{sidecar.name}\n"
    )
    if "accuracy" in described:
        low, high = described["confidence_interval_95"]["clean"]
        sys.stdout.write(
            f"clean {100 * described['accuracy']['clean']:.2f}%  [{100 * low:.2f}, "
            f"{100 * high:.2f}] on {described['num_examples']} images of {config.dataset} "
            f"{config.split}\n"
        )


def _listing(teachers):
    """The teachers in columns."""
    lines = [COLUMNS, *table(teachers)]
    widths = [max(map(len, column)) for column in zip(*lines)]
    return "".join(
        "  ".join(word.ljust(width) for word, width in zip(line, widths)).rstrip() + "\n"
        for line in lines
    )


def _output(text):
    """The path to write, checked before any work is done."""
    if not text.endswith(".keras"):
        raise InputError(f"--output: expected a name that ends in .keras, got {text!r}")
    output = path_of(text).absolute()
    folder = next(parent for parent in output.parents if parent.exists())
    if output.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise InputError(
            f"cannot write {text!r}: {str(output if output.is_dir() else folder)!r} is "
            f"{'a folder' if output.is_dir() else 'no folder that can be written to'}"
        )
    return output


def _random_batch(model):
    """Two fixed random images of the model's shape; where a size is open, 32."""
    shape = [32 if size is None else size for size in model.input_shape[1:]]
    return np.random.default_rng(0).uniform(size=(2, *shape)).astype(np.float32)


def _check_written(path, batch, logits):
    """Raises a RuntimeError unless the file gives the logits of the model that was written."""
    again = load_model(str(path))(batch, training=False).numpy()
    difference = np.abs(again - logits).max()
    if not difference <= 1e-5 * np.abs(logits).max():
        raise RuntimeError(
            f"the file that was written gives other logits: they differ by {difference:.3g}"
        )


def _clean_accuracy(config, model):
    """What results.json would say of the clean accuracy; nothing where no data set is given."""
    if not config.dataset:
        return {}
    test = load_split(config, config.split)
    if model.output_shape[-1] != test.num_classes:
        raise InputError(
            f"the model has {model.output_shape[-1]} classes, {config.dataset} has "
            f"{test.num_classes}; give another --dataset, or none"
        )
    check_unit_pixels(model, "--model")
    images = test.images.astype(np.float32) / np.float32(255)
    result = evaluate_robustness(
        model,
        images,
        test.labels,
        threat_model=ThreatModel(),
        attacks=("clean",),
        batch_size=config.batch_size,
    )
    return result.to_json_dict(model=config.model, dataset=config.dataset, split=config.split)


def _license(spec):
    """Of RobustBench's weights what its LICENSE says."""
    scheme, _, location = spec.partition(":")
    if scheme != "robustbench":
        return ""
    licenses = {teacher.license for teacher in find_teachers(location.partition(":")[0])}
    return licenses.pop() if len(licenses) == 1 else ""


def main(argv=None) -> None:
    """argv: the arguments without the program's name; None: the command line's."""
    run_command(run, ConvertConfig, argv)


if __name__ == "__main__":
    main()
