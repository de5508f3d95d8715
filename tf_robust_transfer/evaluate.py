"""Attacks a model: python -m tf_robust_transfer.evaluate --model=runs/small/mnist_igam
--dataset=mnist --eps=0.1
"""

import pathlib
import sys

import numpy as np

from tf_robust_transfer.checkpoints import load_model
from tf_robust_transfer.checkpoints.native import native_file
from tf_robust_transfer.command import run_command
from tf_robust_transfer.config import EvaluateConfig
from tf_robust_transfer.errors import InputError
from tf_robust_transfer.evaluation import challenge_files, evaluate_robustness, gradient_alignment
from tf_robust_transfer.evaluation.attack_names import parse_attack
from tf_robust_transfer.evaluation.model_card import add_results, card_path
from tf_robust_transfer.files import write_json
from tf_robust_transfer.training import build


def main(config: EvaluateConfig) -> None:
    for attack in config.attacks:
        parse_attack(attack)
    for output in (config.output, config.save_adversarial):
        if output and not pathlib.Path(output).absolute().parent.is_dir():
            raise InputError(f"cannot write {output!r}: its folder does not exist")
    if config.save_adversarial and not config.save_adversarial.endswith(".npy"):
        raise InputError(
            "--save_adversarial: expected a name that ends in .npy, got "
            f"{config.save_adversarial!r}"
        )
    if config.save_adversarial and config.attacks[-1:] in ((), ("clean",)):
        raise InputError(
            "--save_adversarial saves the examples of the last attack: name one at the end of "
            "--attacks"
        )
    if config.model_card and not card_path(native_file(config.model)).exists():
        raise InputError(
            f"there is no model card {str(card_path(native_file(config.model)))!r}; convert and "
            "train write one beside the file"
        )
    if config.teacher and not config.diagnostics:
        raise InputError(
            "--teacher is the model that --diagnostics compares with: give both, or neither"
        )
    if config.diagnostics and config.adversarial_examples:
        raise InputError("--diagnostics are of clean images: leave out --adversarial_examples")
    model = load_model(config.model)
    teacher = load_model(config.teacher) if config.teacher else None
    test = build.load_split(config, config.split)
    images = test.images.astype(np.float32) / np.float32(255)
    if model.output_shape[-1] != test.num_classes:
        raise InputError(
            f"the model has {model.output_shape[-1]} classes, {config.dataset} has "
            f"{test.num_classes}; give another "
            "--dataset, or fine-tune the model on it (train --method=finetune)"
        )
    if config.adversarial_examples:
        examples = challenge_files.read(config.adversarial_examples, images, config.threat_model)
        # The examples are judged as they are: every one of them, right or wrong on its clean image.
        right = evaluate_robustness(
            model, examples, test.labels, threat_model=config.threat_model, attacks=()
        )
        sys.stdout.write(_line(config.adversarial_examples, right, "clean"))
        return
    # Before the attacks, which may take hours: a teacher that does not fit is to be told at once.
    diagnostics = (
        _diagnostics(model, teacher, images, test.labels, config.batch_size)
        if config.diagnostics
        else {}
    )
    state = config.state or (f"{config.output}.state.npz" if config.output else None)
    result = evaluate_robustness(
        model,
        images,
        test.labels,
        threat_model=config.threat_model,
        attacks=config.attacks,
        seed=config.seed,
        batch_size=config.batch_size,
        step_size=config.attack_step_size or None,
        progress=True,
        keep_adversarial=bool(config.save_adversarial),
        state=state,
        precision=config.precision,
        batch_norm=config.batch_norm,
    )
    for attack in result.accuracy:
        sys.stdout.write(_line(attack, result, attack))
        for component, accuracy in result.components.get(attack, {}).items():
            sys.stdout.write(f"  after {component:12s} {100 * accuracy:6.2f}%\n")
    if result.worst_case is not None:
        sys.stdout.write(
            _row(
                "worst case of these",
                result.worst_case.accuracy,
                result.worst_case.confidence_interval_95,
            )
        )
    for name, summary in diagnostics.items():
        sys.stdout.write(_diagnostics_text(name, summary))
    if config.save_adversarial:
        challenge_files.write(config.save_adversarial, result.adversarial[config.attacks[-1]])
    written = result.to_json_dict(model=config.model, dataset=config.dataset, split=config.split)
    if config.output:
        write_json(config.output, written | ({"diagnostics": diagnostics} if diagnostics else {}))
    if config.model_card:
        record = pathlib.Path(config.output).name or "not kept"
        add_results(native_file(config.model), written, record)
    if state:
        pathlib.Path(state).unlink(missing_ok=True)


def _line(title, result, attack):
    return _row(title, result.accuracy[attack], result.confidence_interval_95[attack])


def _row(title, accuracy, interval):
    return (
        f"{title:20s} {100 * accuracy:6.2f}%  [{100 * interval[0]:.2f}, {100 * interval[1]:.2f}]\n"
    )


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


def _diagnostics_text(name, summary):
    """A line for each mean, as those of the accuracies; those of Eq. 18 of the IGAM paper last."""
    lines = [
        f"input gradients of the {name}, {summary['num_examples']} images, l2 norm of [0, 1] pixels"
    ]
    for key, found in summary.items():
        if isinstance(found, dict):
            low, high = (_number(value) for value in found["confidence_interval_95"])
            undefined = f"  {found['undefined']} undefined" if found["undefined"] else ""
            lines.append(f"  {key:18s} {_number(found['mean']):>9s}  [{low}, {high}]{undefined}")
    share, constant = _number(summary["rho_at_most_alpha"]), _number(summary["smallest_constant"])
    lines.append(
        f"  rho <= alpha on a fraction of {share}; rho <= alpha + C / |g| on all with C {constant}"
    )
    return "\n".join(lines) + "\n"


def _number(value):
    return "-" if value is None else f"{value:.4g}"


if __name__ == "__main__":
    run_command(main, EvaluateConfig)
