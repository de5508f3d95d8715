"""Accuracy of a network whose batch norm runs on the statistics of each batch: how IGAM's reference
code attacks.

Such a figure belongs to no fixed network: an example's logits depend on the other examples of its
batch, which are attacked along with it. It is here to reproduce published figures that were
measured so, and is marked wherever it goes."""

import copy
import time
import warnings

import numpy as np
import tensorflow as tf

from tf_robust_transfer.attacks.names import full_name
from tf_robust_transfer.attacks.pgd import PGD
from tf_robust_transfer.errors import InputError
from tf_robust_transfer.evaluation.result import (
    RobustnessResult,
    RobustnessWarning,
    WorstCase,
    clopper_pearson,
)
from tf_robust_transfer.inference.kept import compiled, kept
from tf_robust_transfer.losses import classification
from tf_robust_transfer.models.batch_statistics import with_batch_statistics
from tf_robust_transfer.models.copies import give_weights
from tf_robust_transfer.ops.precision import full_float32


def check_attacks(attacks: dict) -> None:
    """Raises an InputError unless all are of PGD's kind: others look at single examples."""
    for name, attack in attacks.items():
        if not isinstance(attack, PGD):
            raise InputError(
                f"batch_norm batch is for fgsm, bim, mim and pgd, got {name!r}; use moving "
                "averages with it"
            )


def evaluate(
    model, images, labels, *, threat_model, attacks: dict, seed, batch_size
) -> RobustnessResult:
    """Attacks batches of stored order, each as a whole, to the last step, and judges the last
    iterates in that batch.

    Args:
        model: functional or sequential keras.Model; it stays as it is.
        images, labels: float32 [n, height, width, channels] and int32 [n]; the last batch may be
            smaller.
        threat_model, seed, batch_size: see `evaluate_robustness`. The batch size is part of the
            figure.
        attacks: name -> `PGD` or one of its kind. An example resists if it resists in every
            restart.
    """
    check_attacks(attacks)
    network = kept(model, "batch statistics", lambda: with_batch_statistics(model))
    give_weights(network, model.get_weights())  # the model may have been trained since

    def right(x, y):
        made = kept(network, ("right", *x.shape[1:]), lambda: compiled(judged, x, y))
        with full_float32():
            return made(x, y).numpy()

    def judged(x, y):
        return classification.is_correct(network(x, training=False), y)

    batches = [slice(start, start + batch_size) for start in range(0, len(labels), batch_size)]
    correct, seconds = {}, {}
    for name, attack in {"clean": None, **attacks}.items():
        started, found = time.perf_counter(), np.zeros(len(labels), bool)
        restarts = attack.restarts if attack else 1
        if attack:
            attack = copy.copy(attack)
            attack.restarts, attack.stop_when_fooled = 1, False
        for number, rows in enumerate(batches):
            x, y = tf.constant(images[rows]), tf.constant(labels[rows])
            found[rows] = right(x, y)
            for restart in range(restarts if attack else 0):
                drawn = np.random.SeedSequence([seed, number, restart]).generate_state(1)[0] >> 1
                adversarial = attack(network, x, y, threat_model=threat_model, seed=int(drawn))
                found[rows] &= right(adversarial, y)
        correct[name], seconds[name] = found, time.perf_counter() - started
    worst_case = None
    if len(attacks) > 1:
        together = np.logical_and.reduce(list(correct.values()))
        worst_case = WorstCase(together, float(together.mean()), clopper_pearson(together))
    line = (
        f"batch norm ran on the statistics of each batch of {min(batch_size, len(labels))}: no "
        "fixed network has these accuracies"
    )
    warnings.warn(line, RobustnessWarning, stacklevel=3)
    return RobustnessResult(
        threat_model=threat_model,
        num_examples=len(labels),
        seed=seed,
        attacks=tuple(correct),
        correct=correct,
        accuracy={name: float(found.mean()) for name, found in correct.items()},
        confidence_interval_95={name: clopper_pearson(found) for name, found in correct.items()},
        seconds=seconds,
        warnings=(line,),
        worst_case=worst_case,
        settings={name: full_name(attack) for name, attack in attacks.items()},
        batch_norm="batch",
        image_shape=tuple(images.shape[1:]),
        batch_size=batch_size,
    )
