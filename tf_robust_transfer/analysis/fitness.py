"""Whether a model will do as a teacher, on a few hundred images and before a student is trained."""

import dataclasses

import numpy as np

from tf_robust_transfer.analysis.alignment import gradient_alignment
from tf_robust_transfer.attacks.threat_model import ThreatModel
from tf_robust_transfer.checkpoints import as_model
from tf_robust_transfer.errors import InputError
from tf_robust_transfer.evaluation.examples import image_shape
from tf_robust_transfer.evaluation.result import RobustnessResult, clopper_pearson
from tf_robust_transfer.evaluation.robust_accuracy import evaluate_robustness
from tf_robust_transfer.models.bounds import pixel_bounds
from tf_robust_transfer.models.endpoints import endpoints

# What a network may have been trained on in place of [0, 1].
_STATISTICS = {
    "CIFAR's": ((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)),
    "ImageNet's": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
# Warnings of how the attack went, and of a gradient that is zero on some images: they say nothing
# against the teacher by themselves.
_NO_REASON = ("pgd20", "gradient is exactly zero")
_BACKWARD_PASSES = 5000  # of the alignment, which takes one for each class but one of each image


@dataclasses.dataclass(frozen=True)
class Fitness:
    """What `teacher_fitness` found.

    Attributes:
        robustness: clean and PGD-20 accuracy with their intervals.
        alpha: mean alignment of the input gradients, see `gradient_alignment`.
        zero_gradients: share of the images without an input gradient.
        endpoints: names of the network's endpoints.
        spread: how far the logits of single images lie from their mean over the images, against
            how far that mean is from equal logits.
        problems: what is wrong, a line each; empty where the teacher will do.
        notes: what is to be known of one that will do, a line each.
    """

    robustness: RobustnessResult
    alpha: float
    zero_gradients: float
    endpoints: tuple[str, ...]
    spread: float
    problems: tuple[str, ...]
    notes: tuple[str, ...] = ()


def teacher_fitness(
    model, images, labels, *, threat_model=None, seed: int = 0, batch_size: int = 128
) -> Fitness:
    """Tries a teacher: accuracy, PGD-20, input gradients, endpoints, normalisation.

    Args:
        model: keras.Model or what `as_model` makes one of, images in [0, 1], or in the bounds of
            `as_classifier` or of the threat model, -> logits.
        images: float32 [num_examples, height, width, channels] of these; a few hundred will do.
        labels: int [num_examples].
        threat_model: of PGD-20; by default linf, 8/255 of the range of pixels.
        seed: of the attack.
        batch_size: images that are worked on at once.

    Raises:
        InputError: images or labels that do not fit the model.
    """
    model = as_model(model, image_shape(images))
    classes = model.output_shape[-1]
    if threat_model is None:
        low, high = pixel_bounds(model)
        threat_model = ThreatModel(eps=(high - low) * ThreatModel().eps, bounds=(low, high))
    result = evaluate_robustness(
        model,
        images,
        labels,
        threat_model=threat_model,
        attacks=("clean", "pgd20"),
        seed=seed,
        batch_size=batch_size,
    )
    few = max(16, _BACKWARD_PASSES // classes)
    found = gradient_alignment(
        model, images[:few], labels[:few], batch_size=batch_size, bounds=threat_model.bounds
    )
    logits = _logits(model, images, batch_size)
    notes = [line for line in result.warnings if any(part in line for part in _NO_REASON)]
    problems = [line for line in result.warnings if line not in notes]
    chance = 1 / classes
    if result.confidence_interval_95["clean"][0] <= chance:
        problems.append(
            f"right on {_percent(result.accuracy['clean'])} of the clean images, no more than by "
            f"chance ({_percent(chance)})"
        )
    elif result.confidence_interval_95["pgd20"][1] <= chance:
        problems.append(
            f"not robust: PGD-20 leaves {_percent(result.accuracy['pgd20'])} of "
            f"{_percent(result.accuracy['clean'])}"
        )
    elif result.accuracy["pgd20"] < result.accuracy["clean"] / 3:
        # What was fine-tuned to another task may be so, and still have something to transfer.
        notes.append(
            f"hardly robust: PGD-20 leaves {_percent(result.accuracy['pgd20'])} of "
            f"{_percent(result.accuracy['clean'])}: was it trained for this radius?"
        )
    zero = float(np.mean(found.gradient_norm == 0))
    if zero > 0.1:
        problems.append(f"{_percent(zero)} of the images have no input gradient to transfer")
    names = _endpoints(model)
    if names == ("logits",):
        notes.append(
            "no endpoints but the logits, so that MixACM has no channels to match: name layers, "
            "rt.endpoints(model, {'block2': LAYER}); the other methods need none"
        )
    mean = logits.mean(axis=0)
    spread = float(np.std(logits - mean) / max(np.std(mean), 1e-12))
    if spread < 0.05:
        problems.append(
            "the logits are nearly the same for all images: does the network take another range "
            "than [0, 1]?"
        )
    better = _better_scaling(model, images, labels, batch_size)
    if better:
        problems.append(better)
    alpha = found.alpha[np.isfinite(found.alpha)]
    mean_alpha = float(alpha.mean()) if len(alpha) else 0.0
    return Fitness(result, mean_alpha, zero, names, spread, tuple(problems), tuple(notes))


def _logits(model, images, batch_size):
    batches = range(0, len(images), batch_size)
    return np.concatenate(
        [np.asarray(model(images[at : at + batch_size], training=False)) for at in batches]
    )


def _endpoints(model):
    try:
        return tuple(sorted(endpoints(model).output))
    except InputError:  # a subclassed model
        return ("logits",)


def _better_scaling(model, images, labels, batch_size):
    """A line if the model does far better on images of another range."""
    scalings = {"255 x": 255 * images, "2 x - 1": 2 * images - 1}
    if images.shape[-1] == 3:
        for whose, (mean, std) in _STATISTICS.items():
            scaled = (images - np.float32(mean)) / np.float32(std)
            scalings[f"(x - mean) / std with {whose} mean and std"] = scaled

    def interval(scaled):
        correct = _logits(model, scaled.astype(np.float32), batch_size).argmax(axis=-1) == labels
        return clopper_pearson(correct)

    found = {name: interval(scaled) for name, scaled in scalings.items()}
    name = max(found, key=lambda name: found[name][0])
    if found[name][0] <= interval(images)[1]:
        return ""
    return (
        f"right on at least {_percent(found[name][0])} of the images x as {name}: its "
        "normalisation is missing"
    )


def _percent(fraction):
    return f"{100 * fraction:.1f}%"
