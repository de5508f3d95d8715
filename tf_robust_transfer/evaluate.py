"""Attacks a model: python -m tf_robust_transfer.evaluate --model=runs/small/mnist_igam
--dataset=mnist --eps=0.1
"""

import dataclasses
import logging
import pathlib
import sys

from tf_robust_transfer.analysis.alignment import gradient_alignment
from tf_robust_transfer.attacks.threat_model import ThreatModel
from tf_robust_transfer.checkpoints import load_model
from tf_robust_transfer.checkpoints.native import native_file
from tf_robust_transfer.checkpoints.specs import is_native
from tf_robust_transfer.command import run_command
from tf_robust_transfer.command_line import to_text
from tf_robust_transfer.config import (
    SPEC,
    AttackConfig,
    SharedConfig,
    check_inputs,
    check_outputs,
    check_specs,
)
from tf_robust_transfer.errors import InputError, of_flag
from tf_robust_transfer.evaluation import challenge_files, evaluate_robustness
from tf_robust_transfer.evaluation.model_card import add_results, read_card
from tf_robust_transfer.evaluation.parts import part_of, part_path, paths_beside
from tf_robust_transfer.files import path_of, write_json
from tf_robust_transfer.flag_types import boolean, fractions
from tf_robust_transfer.inference.faster_copy import PRECISIONS, on_gpu
from tf_robust_transfer.models.batch_statistics import BATCH_NORMS
from tf_robust_transfer.models.bounds import check_unit_pixels
from tf_robust_transfer.options import one_of, option
from tf_robust_transfer.reports.lines import accuracy_line, accuracy_lines, diagnostics_text
from tf_robust_transfer.runs import device, local_parts
from tf_robust_transfer.runs.images import load_split, pixels

_LOG = logging.getLogger("tf_robust_transfer")


def part_text(text) -> str:
    """ "I/N" as it is written, or ""."""
    part_of(text)
    return text


@dataclasses.dataclass(frozen=True)
class EvaluateConfig(AttackConfig, SharedConfig):
    """Flags of `evaluate`."""

    strategies = ("auto", "one_device", "mirrored")

    eps: tuple = option(
        "8/255",
        "radius of the threat model, a fraction of the pixel range; several of them, "
        "comma-separated, are evaluated as one",
        fractions,
    )
    model: str = option("", f"the model to attack: {SPEC}")
    split: str = option("test", "split of the data set")
    output: str = option("", "results as JSON; empty: only printed")
    model_card: bool = option(
        "false", "add the figures to the card FILE.keras.md beside the model", boolean
    )
    precision: str = option(
        "float32",
        "of what attacks see: float32, mixed (bfloat16 gradients), bfloat16 or auto",
        choices=PRECISIONS,
    )
    batch_norm: str = option(
        "moving",
        "moving averages, or batch: the statistics of each --batch_size images, as IGAM's "
        "reference code attacks",
        **one_of(*BATCH_NORMS),
    )
    state: str = option(
        "",
        "file that an interrupted evaluation goes on from; by default the output's name and "
        ".state.npz",
    )
    save_adversarial: str = option("", "adversarial examples of the last attack, .npy")
    adversarial_examples: str = option(
        "", "measure accuracy on these examples, .npy, instead of attacking"
    )
    part: str = option(
        "",
        "I/N, I from 0 to N-1: attack every N-th example alone, into a file beside --output; "
        "--merge makes one of all parts",
        part_text,
    )
    merge: bool = option(
        "false", "make --output of the parts that lie beside it, with the parts' flags", boolean
    )
    diagnostics: bool = option(
        "false", "measure alignment and linearised robustness too (IGAM, section 6)", boolean
    )
    teacher: str = option(
        "", "with --diagnostics: compare input gradients with this model's; a SPEC as --model's"
    )

    @property
    def threat_model(self):
        """That of the largest radius."""
        return ThreatModel(norm=self.norm, eps=max(self.eps))

    def verify(self) -> None:
        super().verify()
        if self.save_adversarial and not self.save_adversarial.endswith(".npy"):
            raise InputError(
                "--save_adversarial: expected a name that ends in .npy, got "
                f"{self.save_adversarial!r}"
            )
        if self.save_adversarial and self.attacks[-1:] in ((), ("clean",)):
            raise InputError(
                "--save_adversarial saves the examples of the last attack: name one at the end of "
                "--attacks"
            )
        if self.teacher and not self.diagnostics:
            raise InputError(
                f"--teacher={self.teacher} is the model that --diagnostics compares with: give "
                "both, or neither"
            )
        if self.diagnostics and self.adversarial_examples:
            raise InputError("--diagnostics are of clean images: leave out --adversarial_examples")
        if self.adversarial_examples and (self.output or self.model_card):
            raise InputError(
                "--adversarial_examples prints one line, the accuracy on examples that this "
                "command did not make: leave out --output and --model_card"
            )
        in_parts = self.part or self.merge or self.distribution_strategy == "mirrored"
        if in_parts and (not self.output or self.state or self.adversarial_examples):
            raise InputError(
                "an evaluation in parts (--part, --merge, --distribution_strategy=mirrored) has an "
                "--output, beside which the parts lie, no --state and no --adversarial_examples"
            )
        if self.part and self.merge:
            raise InputError("--part makes a part, --merge one of all of them: give one of the two")
        check_outputs(self, "output", "save_adversarial", "state")
        check_inputs(self, "adversarial_examples")
        check_specs("model", self.model)
        if self.model_card:
            if not is_native(self.model):
                raise InputError(
                    "--model_card is for a .keras file or a run folder, got "
                    f"{self.model!r}; convert it first"
                )
            with of_flag("model_card"):
                read_card(native_file(self.model))
        check_specs("teacher", *filter(None, [self.teacher]))
        self.check_split(self.split)


def run(config: EvaluateConfig) -> None:
    config.verify()
    if config.distribution_strategy == "mirrored" and not (config.part or config.merge):
        devices = local_parts.num_devices()
        # No part without an example, as far as the flags tell.
        local_parts.run(to_text(config), min(devices, config.max_examples or devices))
        config = dataclasses.replace(config, merge=True)
    _LOG.info(device.line(device.record(precision=config.precision, jit=on_gpu())))
    model = load_model(config.model)
    check_unit_pixels(model, "--model")
    teacher = load_model(config.teacher) if config.teacher else None
    test = load_split(config, config.split)
    images = pixels(test.images)
    if model.output_shape[-1] != test.num_classes:
        raise InputError(
            f"the model has {model.output_shape[-1]} classes, {config.dataset} has "
            f"{test.num_classes}; give another --dataset, or fine-tune the model on it (train "
            "--method=finetune)"
        )
    if config.adversarial_examples:
        examples = challenge_files.read(
            config.adversarial_examples, images, config.threat_model, order=test.order
        )
        # The examples are judged as they are: every one of them, right or wrong on its clean image.
        right = evaluate_robustness(
            model, examples, test.labels, threat_model=config.threat_model, attacks=()
        )
        sys.stdout.write(accuracy_line(config.adversarial_examples, right, "clean"))
        return
    # Before the attacks, which may take hours: a teacher that does not fit is to be told at once.
    diagnostics = (
        _diagnostics(model, teacher, images, test.labels, config.batch_size)
        if config.diagnostics and not config.part
        else {}
    )
    part, parts = part_of(config.part), paths_beside(config.output) if config.merge else ()
    kept = bool(config.output) and config.batch_norm == "moving"
    state = config.state or (f"{config.output}.state.npz" if kept else None)
    if part or parts:
        state = part_path(config.output, part) if part else None
    result = evaluate_robustness(
        model,
        images,
        test.labels,
        threat_model=config.threat_model,
        attacks=config.attacks,
        eps=config.eps,
        seed=config.seed,
        batch_size=config.batch_size,
        step_size=config.attack_step_size or None,
        progress=True,
        keep_adversarial=bool(config.save_adversarial),
        state=state,
        precision=config.precision,
        batch_norm=config.batch_norm,
        part=part,
        parts=parts,
    )
    sys.stdout.write(accuracy_lines(result))
    if part:
        return
    for name, summary in diagnostics.items():
        sys.stdout.write(diagnostics_text(name, summary))
    if config.save_adversarial:
        challenge_files.write(config.save_adversarial, result.adversarial[config.attacks[-1]])
    written = result.to_json_dict(
        model=config.model, dataset=config.dataset, split=config.split, order=test.order
    )
    if config.output:
        write_json(config.output, written | ({"diagnostics": diagnostics} if diagnostics else {}))
    if config.model_card:
        record = pathlib.Path(config.output).name or "not kept"
        add_results(native_file(config.model), written, record)
    for path in (*([state] if state else []), *parts):
        path_of(path).unlink(missing_ok=True)


def _diagnostics(model, teacher, images, labels, batch_size):
    """What stands in results.json: the model's summary, with the teacher's own beside it where
    there is one.
    """
    alignment = gradient_alignment(model, images, labels, teacher=teacher, batch_size=batch_size)
    result = {"model": alignment.summary()}
    if teacher is not None:
        result["teacher"] = gradient_alignment(
            teacher, images, labels, batch_size=batch_size
        ).summary()
    return result


def main(argv=None) -> None:
    """argv: the arguments without the program's name; None: the command line's."""
    run_command(run, EvaluateConfig, argv)


if __name__ == "__main__":
    main()
