"""Auto-PGD: PGD with momentum whose step size begins at twice the radius and is halved where the
loss no longer rises.

Croce & Hein (2020), "Reliable evaluation of adversarial robustness with an ensemble of diverse
parameter-free attacks", Algorithm 1, as the official AutoAttack runs it (fra31/auto-attack at
a392200)."""

import dataclasses

import numpy as np
import tensorflow as tf

from tf_robust_transfer.attacks.base import Attack
from tf_robust_transfer.flag_types import fraction
from tf_robust_transfer.losses import classification
from tf_robust_transfer.ops import norms
from tf_robust_transfer.ops.examples import beside_images, choose
from tf_robust_transfer.ops.gradients import input_gradient
from tf_robust_transfer.options import at_least, between, option

LOSSES = {
    "cross_entropy": classification.cross_entropy,
    "dlr": classification.dlr,
    "cw": classification.margin,
}
# Weight of the last movement in the next one, the paper's 1 - alpha.
MOMENTUM = 0.25


def fallback(loss: str, num_classes: int):
    """The loss that stands in where the model has too few classes for the one asked for.

    Two classes have no third logit for the denominator of DLR; its numerator, the margin, stays,
    whose gradient does not vanish for large logits either. Three classes have no fourth one for
    targeted DLR: the untargeted form takes its place, from as many random starts as there would
    have been targets.

    Args:
        loss: a name in LOSSES, or "targeted_dlr".
        num_classes: of the model.

    Returns:
        (the loss that is used: loss itself where the classes suffice; None, or one sentence for the
        user that says what was replaced).
    """
    if loss == "targeted_dlr" and num_classes == 3:
        return (
            "dlr",
            "the targeted DLR loss needs at least 4 classes and the model has 3: the untargeted "
            "one is used",
        )
    if loss in ("dlr", "targeted_dlr") and num_classes < 3:
        return (
            "cw",
            f"the DLR loss needs at least 3 classes and the model has {num_classes}: the margin is "
            "used",
        )
    return loss, None


def check_windows(steps: int) -> dict[int, int]:
    """When the step size is looked at, in the official code's rounding.

    Returns:
        {number of steps taken: how many of the last ones are looked at}. 100 steps: after 22, 41,
        57, 70, 80, 87, 93, 99.
    """
    window, shorter, shortest = (max(int(part * steps), 1) for part in (0.22, 0.03, 0.06))
    windows, taken = {}, window
    while taken <= steps:
        windows[taken] = window
        window = max(window - shorter, shortest)
        taken += window
    return windows


class APGD(Attack):
    """Untargeted Auto-PGD: ascent from a random point of the ball's border, with nothing to tune.

    A move of step size s from x, the point before which was x_old, goes to P(x + 0.75 (P(x + s d) -
    x) + 0.25 (x - x_old)), with P the projection and d the steepest ascent; the first one has no
    momentum. At each check (see `check_windows`) the step size is halved, and the search goes back
    to the best point, where the loss rose in at most `rho` of the moves since the last check, or
    where the step size was not halved at the last check and the best loss is still the same.

    One iteration evaluates a point and moves on, so that there are steps + 1 of them. Where the
    model has too few classes for the loss another takes its place, see `fallback`.

    As in the official code the first check compares the loss after the first move with 0, not with
    the loss at the start. A departure: the official code damps l2 moves where the gradient is
    shorter than about 1e-12; here every gradient but zero gives a full move.

    Args:
        loss: "cross_entropy", "dlr", or "cw": the margin.
        steps: moves, at least 1.
        restarts: rounds from other random points.
        rho: fraction of rising steps up to which the step size is halved, in [0, 1].
        eot_iterations: passes over which the gradient of a randomised model is averaged
            (expectation over transformation; AutoAttack's version `rand` takes 20). Loss and logits
            are those of the last pass, as in the official code.

    Raises:
        InputError: unknown loss, or a number outside its range.
    """

    # 101 or 102 iterations end a little before the 8th look of the host, so that few lanes idle
    # until it.
    steps_at_once = 13
    # Iterations before the start point is evaluated.
    _lead = 0

    loss: str  # as asked for

    @dataclasses.dataclass(frozen=True)
    class Options(Attack.Options):
        loss: str = option("cross_entropy", "what is climbed", choices=tuple(LOSSES))
        steps: int = option(100, "moves", int, **at_least(1))
        restarts: int = option(1, "rounds from other random points", int, **at_least(1))
        rho: float = option(
            0.75, "share of rising steps up to which the step is halved", fraction, **between(0, 1)
        )
        eot_iterations: int = option(1, "passes for each gradient", int, **at_least(1))

    @property
    def iterations(self):
        return self._lead + self.steps + 1

    @property
    def judged_at_the_end(self):
        return self.eot_iterations > 1

    def start(self, problem, images, labels, round, noise):
        shape = images.shape[1:]
        if problem.threat_model.norm == "linf":
            direction = 2.0 * noise.uniform(shape, 1) - 1.0
            largest = tf.reduce_max(tf.abs(direction), axis=[1, 2, 3], keepdims=True)
            direction = tf.math.divide_no_nan(direction, largest)
        else:
            direction = norms.steepest_ascent(noise.normal(shape, 2), "l2")
        begin = problem.project(images + direction * problem.eps, images)
        zeros = tf.zeros_like(images[:, 0, 0, 0])
        return {
            "current": begin,
            "last": begin,
            "best": begin,
            "best_gradient": tf.zeros_like(begin),
            "best_loss": zeros - float("inf"),
            "last_loss": zeros,
            "rises": tf.zeros_like(round),
            "step_size": zeros + 2.0 * problem.eps,
            # As after a halving: the first check asks for rises alone.
            "halved": tf.ones_like(round, tf.bool),
            "checked_loss": zeros,
        }

    def step(self, problem, images, labels, state, iteration, drawn):
        current = state["current"]
        gradient, loss, logits = self._evaluate(problem, labels, state, current)
        moves = iteration - self._lead  # that led to this point from the start point

        better = (moves >= 0) & (loss > state["best_loss"])
        best = choose(better, current, state["best"])
        best_gradient = choose(better, gradient, state["best_gradient"])
        best_loss = tf.where(better, loss, state["best_loss"])

        rises = state["rises"] + tf.cast((moves > 0) & (loss > state["last_loss"]), tf.int32)
        most_rises = tf.gather(self._most_rises(), iteration)
        checked = most_rises >= 0
        stuck = checked & ~state["halved"] & (state["checked_loss"] >= best_loss)
        halved = (rises <= most_rises) | stuck
        step_size = tf.where(halved, 0.5 * state["step_size"], state["step_size"])

        origin = choose(halved, best, current)
        ascent = norms.steepest_ascent(
            choose(halved, best_gradient, gradient), problem.threat_model.norm
        )
        moved = problem.project(origin + beside_images(step_size) * ascent, images)
        momentum = beside_images(tf.where(moves > 0, tf.cast(MOMENTUM, images.dtype), 0))
        moved = origin + (1.0 - momentum) * (moved - origin) + momentum * (origin - state["last"])
        following = problem.project(moved, images)

        after = {
            "current": following,
            "last": origin,
            "best": best,
            "best_gradient": best_gradient,
            "best_loss": best_loss,
            # The official code reads the loss before the first step from a place that still holds
            # 0.
            "last_loss": tf.where(moves > 0, loss, tf.zeros_like(loss)),
            "rises": tf.where(checked, 0, rises),
            "step_size": step_size,
            "halved": tf.where(checked, halved, state["halved"]),
            "checked_loss": tf.where(checked, best_loss, state["checked_loss"]),
        }
        return state | after, current, logits

    def result(self, state):
        return state["best"]

    def _most_rises(self):
        """int32 [iterations]: up to how many rises the step size is halved after this iteration;
        -1: no check.
        """
        most_rises = np.full(self.iterations, -1, np.int32)
        for taken, window in check_windows(self.steps).items():
            most_rises[self._lead + taken] = int(np.float32(self.rho * window))
        return tf.constant(most_rises)

    def _loss_of(self, logits, labels, state):
        return LOSSES[fallback(self.loss, logits.shape[1])[0]](logits, labels)

    def _evaluate(self, problem, labels, state, current):
        """(gradient of the loss, loss [batch], logits) at the current images."""

        def score_of(images):
            logits = problem.logits_of(images)
            return self._loss_of(logits, labels, state), logits

        def add_pass(i, total, loss, logits):
            gradient, loss, logits = input_gradient(score_of, current)
            return i + 1, total + gradient, loss, logits

        first = input_gradient(score_of, current)
        if self.eot_iterations == 1:
            return first
        # One pass at a time, since each needs as much memory as a step of one pass.
        _, total, loss, logits = tf.while_loop(
            lambda i, *_: i < self.eot_iterations,
            add_pass,
            (tf.constant(1), *first),
            parallel_iterations=1,
        )
        return total / self.eot_iterations, loss, logits


class APGDTargeted(APGD):
    """Auto-PGD on the targeted DLR loss, with a round for each of the likeliest wrong classes.

    Round r aims at the class ranked r // restarts + 1 among the wrong ones by the clean image's
    logits, from the largest down. To rank them the first iteration of each round visits the clean
    image; the random start comes second, so that there are steps + 2 iterations.

    The official code ranks the label with the others, as second to 10th; it attacks only images
    that are classified right, where that is the same.

    Args:
        targets: how many classes are aimed at; all wrong ones where there are no more.
        steps, restarts (of each target), rho, eot_iterations: as of APGD.

    Raises:
        InputError: a number outside its range.
    """

    _lead = 1

    loss = "targeted_dlr"

    @dataclasses.dataclass(frozen=True)
    class Options(Attack.Options):
        targets: int = option(9, "classes that are aimed at", int, **at_least(1))
        steps: int = option(100, "moves", int, **at_least(1))
        restarts: int = option(1, "rounds for each target", int, **at_least(1))
        rho: float = option(
            0.75, "share of rising steps up to which the step is halved", fraction, **between(0, 1)
        )
        eot_iterations: int = option(1, "passes for each gradient", int, **at_least(1))

    def rounds(self, num_classes):
        return min(self.targets, num_classes - 1) * self.restarts

    def start(self, problem, images, labels, round, noise):
        state = super().start(problem, images, labels, round, noise)
        # "best" keeps the random start until its turn comes.
        return state | {
            "current": images,
            "rank": round // self.restarts,
            "target": tf.zeros_like(round),
        }

    def step(self, problem, images, labels, state, iteration, drawn):
        after, visited, logits = super().step(problem, images, labels, state, iteration, drawn)
        clean = iteration == 0
        classes = logits.shape[1]
        label = tf.one_hot(labels, classes, on_value=True, off_value=False, dtype=tf.bool)
        wrong = tf.where(label, tf.constant(-float("inf"), logits.dtype), logits)
        ranked = tf.math.top_k(wrong, min(self.targets, classes - 1)).indices
        target = tf.gather(ranked, state["rank"], batch_dims=1)
        after["current"] = choose(clean, state["best"], after["current"])
        after["target"] = tf.where(clean, target, state["target"])
        return after, visited, logits

    def _loss_of(self, logits, labels, state):
        if fallback(self.loss, logits.shape[1])[0] == self.loss:
            return classification.targeted_dlr(logits, labels, state["target"])
        return super()._loss_of(logits, labels, state)
