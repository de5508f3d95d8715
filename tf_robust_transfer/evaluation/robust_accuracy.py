"""Accuracy under attacks.

An example is robust under an attack if no image that the attack visits, in any of its restarts, fools the model. A
clean image lies in its own ball, so that one which is misclassified already is never robust and need not be attacked;
and a restart need only attack what resisted the ones before.
"""

import dataclasses
import sys
import time

import keras
import numpy as np
import tensorflow as tf
from scipy import stats
from tqdm import tqdm

from tf_robust_transfer.attacks.base import ThreatModel, check_batch, fold_seed
from tf_robust_transfer.errors import InputError
from tf_robust_transfer.evaluation.attack_names import parse_attack
from tf_robust_transfer.losses import classification

# Rounding of float32 pixels may carry a result this far out of the ball or the bounds.
TOLERANCE = 1e-5


@dataclasses.dataclass(frozen=True)
class WorstCase:
    """Robustness against the best of several attacks, chosen for each example.

    Attributes:
        correct: bool [num_examples].
        accuracy: fraction in [0, 1].
        confidence_interval_95: (low, high), as in RobustnessResult.
    """

    correct: np.ndarray
    accuracy: float
    confidence_interval_95: tuple[float, float]


@dataclasses.dataclass(frozen=True)
class RobustnessResult:
    """What `evaluate_robustness` found. Every dict is keyed by the attacks' names.

    Attributes:
        threat_model: the ball and the bounds.
        num_examples: number of examples.
        seed: of the attacks.
        attacks: the names, "clean" first, in the order in which they ran.
        correct: bool [num_examples], whether the model is right on everything that the attack tried.
        accuracy: the fraction of those, in [0, 1].
        confidence_interval_95: (low, high) of the accuracy, Clopper & Pearson (1934).
        seconds: wall time of each attack, compilation included.
        worst_case: None unless there are at least two attacks besides "clean".
        adversarial: float32 [num_examples, height, width, channels] in the threat model's ball and bounds; the clean
            image where the model errs on it, else an image that fools the model, else the one that came closest to it.
            Empty unless asked for.
    """

    threat_model: ThreatModel
    num_examples: int
    seed: int
    attacks: tuple[str, ...]
    correct: dict[str, np.ndarray]
    accuracy: dict[str, float]
    confidence_interval_95: dict[str, tuple[float, float]]
    seconds: dict[str, float]
    worst_case: WorstCase | None = None
    adversarial: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def to_json_dict(self, *, model: str, dataset: str, split: str) -> dict:
        """What stands in results.json: plain strings, numbers, lists and dicts.

        model, dataset, split: where model and examples came from. Returns a dict that `json.dump` takes.
        """
        result = {
            "model": model,
            "dataset": dataset,
            "split": split,
            "num_examples": self.num_examples,
            "seed": self.seed,
            "threat_model": {"norm": self.threat_model.norm, "eps": float(self.threat_model.eps)},
            "accuracy": dict(self.accuracy),
            "confidence_interval_95": {name: list(pair) for name, pair in self.confidence_interval_95.items()},
            "seconds": dict(self.seconds),
            "versions": {
                "tensorflow": tf.__version__,
                "keras": keras.__version__,
                # Not imported, since the package's own __init__ imports this module.
                "tf_robust_transfer": sys.modules["tf_robust_transfer"].__version__,
            },
        }
        if self.worst_case is not None:
            result["worst_case"] = {
                "accuracy": self.worst_case.accuracy,
                "confidence_interval_95": list(self.worst_case.confidence_interval_95),
            }
        return result


def evaluate_robustness(
    model,
    images,
    labels=None,
    *,
    threat_model: ThreatModel,
    attacks=("clean", "fgsm", "pgd20"),
    seed: int = 0,
    batch_size: int = 256,
    step_size: float | None = None,
    progress: bool = False,
    keep_adversarial: bool = False,
) -> RobustnessResult:
    """Accuracy of a model, clean and under attacks.

    Args:
        model: keras.Model, images in [0, 1] -> logits; called with training=False.
        images: float [num_examples, height, width, channels] inside threat_model.bounds, or a finite
            `tf.data.Dataset` of batches (images, labels) in place of both. All of them are held in memory.
        labels: int [num_examples], the true classes; None with a dataset.
        threat_model: what the adversary may do.
        attacks: names, see `parse_attack`, or a dict of names and attacks of your own. "clean" is always computed,
            listed or not.
        seed: at least 0. Same seed and batch size, same adversarial examples.
        batch_size: examples that are attacked at once.
        step_size: of the iterative attacks, as a fraction of the pixel range; None: each attack's own rule.
        progress: show a progress bar for each attack on stderr.
        keep_adversarial: keep the adversarial examples in the result.

    Raises:
        InputError: unknown attack, no examples, or examples that do not fit the model or the bounds.
        RuntimeError: an attack left the ball or the bounds.
    """
    names = tuple(dict.fromkeys(["clean", *(attacks.split(",") if isinstance(attacks, str) else attacks)]))
    own = attacks if isinstance(attacks, dict) else {}
    parsed = {name: own.get(name) or parse_attack(name, step_size) for name in names[1:]}
    if batch_size < 1 or not 0 <= seed < 2**31:
        raise InputError(f"batch_size must be positive and seed in 0..2^31-1, got batch_size={batch_size}, seed={seed}")
    images, labels = _collect(model, images, labels, threat_model, batch_size)

    evaluation = _Evaluation(model, images, labels, threat_model, seed, min(batch_size, len(labels)), progress)
    correct, seconds, adversarial = {}, {}, {}
    for name in names:
        start = time.perf_counter()
        if name == "clean":
            correct[name] = evaluation.clean()
        else:
            kept = images.copy() if keep_adversarial else None
            correct[name] = evaluation.attack(name, parsed[name], correct["clean"], kept)
            if keep_adversarial:
                adversarial[name] = kept
        seconds[name] = time.perf_counter() - start

    worst_case = None
    if len(parsed) > 1:
        together = np.logical_and.reduce([correct[name] for name in names])
        worst_case = WorstCase(together, float(together.mean()), _clopper_pearson(together))
    return RobustnessResult(
        threat_model=threat_model,
        num_examples=len(labels),
        seed=int(seed),
        attacks=names,
        correct=correct,
        accuracy={name: float(right.mean()) for name, right in correct.items()},
        confidence_interval_95={name: _clopper_pearson(right) for name, right in correct.items()},
        seconds=seconds,
        worst_case=worst_case,
        adversarial=adversarial,
    )


class _Evaluation:
    """The examples with what judges and attacks them in batches of one size, so that nothing is compiled twice."""

    def __init__(self, model, images, labels, threat_model, seed, batch_size, progress):
        self.model, self.images, self.labels, self.threat_model = model, images, labels, threat_model
        self.seed, self.batch_size, self.progress = seed, batch_size, progress

        def judge(x, y):
            """(whether the model is right: bool [batch], how far from it: float [batch])."""
            # Mixed-precision models too are judged in float32, where logits tie less.
            logits = tf.cast(model(x, training=False), tf.float32)
            return classification.is_correct(logits, y), classification.margin(logits, y)

        # Concrete from the start: TensorFlow warns of functions that are made and traced again, as by each evaluation.
        self._judge = tf.function(judge).get_concrete_function(
            tf.TensorSpec((batch_size, *images.shape[1:]), tf.float32), tf.TensorSpec((batch_size,), tf.int32)
        )

    def _batches(self, indices):
        """Yields (indices of the batch's examples, images, labels); the last batch is filled up with its first row."""
        for start in range(0, len(indices), self.batch_size):
            chosen = indices[start : start + self.batch_size]
            rows = np.concatenate([chosen, np.repeat(chosen[:1], self.batch_size - len(chosen))])
            yield chosen, tf.constant(self.images[rows]), tf.constant(self.labels[rows])

    def clean(self):
        correct = np.zeros(len(self.labels), bool)
        for chosen, images, labels in self._batches(np.arange(len(self.labels))):
            correct[chosen] = self._judge(images, labels)[0].numpy()[: len(chosen)]
        return correct

    def attack(self, name, attack, clean, kept):
        """bool [num_examples]. kept: None, or the images, in which attacked ones are replaced by adversarial ones."""
        correct = clean.copy()
        margins = np.full(len(clean), -np.inf, np.float32)
        with tqdm(
            total=int(clean.sum()) * attack.restarts,
            desc=name,
            unit="example" if attack.restarts == 1 else "example-restart",
            disable=not self.progress,
            file=sys.stderr,
            mininterval=0.1 if sys.stderr.isatty() else 10.0,
        ) as bar:
            for restart in range(attack.restarts):
                for number, (chosen, images, labels) in enumerate(self._batches(np.flatnonzero(correct))):
                    found = attack.run_restart(
                        self.model,
                        images,
                        labels,
                        threat_model=self.threat_model,
                        seed=fold_seed(self.seed, number),
                        restart=restart,
                    )
                    judged = self._judge(found, labels)
                    resists, margin, found = (part.numpy()[: len(chosen)] for part in (*judged, found))
                    _check_inside(name, found, self.images[chosen], self.threat_model)
                    correct[chosen] = resists
                    if kept is not None:
                        better = ~resists | (margin > margins[chosen])
                        kept[chosen[better]] = found[better]
                        margins[chosen[better]] = margin[better]
                    # During the first restart, the part of the examples that it has come to.
                    seen = chosen[-1] + 1 if restart == 0 else len(correct)
                    bar.set_postfix_str(f"robust {correct[:seen].mean():.1%}", refresh=False)
                    # What fell is spared the other restarts.
                    bar.update(len(chosen) + int((~resists).sum()) * (attack.restarts - 1 - restart))
        return correct


def _collect(model, images, labels, threat_model, batch_size):
    """All examples as arrays: images float32, labels int32, checked batch by batch."""
    if isinstance(images, tf.data.Dataset):
        spec = images.element_spec
        if labels is not None or not isinstance(spec, tuple) or len(spec) != 2:
            raise InputError("a dataset holds batches (images, labels) and takes the place of images and labels both")
        if int(images.cardinality()) == tf.data.INFINITE_CARDINALITY:
            raise InputError("the dataset never ends; evaluate one without repeat(), or use take(n)")
        batches = images
    else:
        if labels is None:
            raise InputError("labels are missing; leave them out only where images is a dataset of (images, labels)")
        images, labels = np.asarray(images), np.asarray(labels)
        if images.ndim != 4 or labels.shape != images.shape[:1]:
            raise InputError(
                f"images must have shape [num_examples, height, width, channels] and labels [num_examples], "
                f"got {list(images.shape)} and {list(labels.shape)}"
            )
        starts = range(0, len(labels), batch_size)
        batches = ((images[i : i + batch_size], labels[i : i + batch_size]) for i in starts)
    checked = [check_batch(model, *batch, threat_model) for batch in batches]
    if not sum(len(labels) for _, labels in checked):
        raise InputError("there are no examples to evaluate")
    return tuple(np.concatenate([part.numpy() for part in parts]) for parts in zip(*checked, strict=True))


def _check_inside(name, adversarial, images, threat_model):
    """Raises a RuntimeError for images outside ball or bounds: a figure from such an attack would mean nothing."""
    flat = (adversarial.astype(np.float64) - images).reshape(len(images), -1)
    distance = np.max(np.abs(flat)) if threat_model.norm == "linf" else np.max(np.linalg.norm(flat, axis=1))
    low, high = threat_model.bounds
    # Written so that a NaN fails.
    if not (distance <= threat_model.eps + TOLERANCE):
        raise RuntimeError(f"attack {name!r} moved an image by {distance:.8g} in {threat_model.norm}, past its eps "
                           f"{threat_model.eps:.8g}")  # fmt: skip
    if not (adversarial.min() >= low - TOLERANCE and adversarial.max() <= high + TOLERANCE):
        raise RuntimeError(
            f"attack {name!r} left the bounds [{low:g}, {high:g}]: {adversarial.min():.8g} to {adversarial.max():.8g}"
        )


def _clopper_pearson(correct):
    interval = stats.binomtest(int(correct.sum()), correct.size).proportion_ci(0.95, method="exact")
    return float(interval.low), float(interval.high)
