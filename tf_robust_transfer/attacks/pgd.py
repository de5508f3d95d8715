"""Projected gradient descent, Madry et al. (2018), Eq. 4 of the IGAM paper."""

import dataclasses

from tf_robust_transfer.attacks.base import Attack
from tf_robust_transfer.attacks.noise import random_start
from tf_robust_transfer.errors import InputError
from tf_robust_transfer.flag_types import boolean, fraction_or_none
from tf_robust_transfer.losses import classification
from tf_robust_transfer.losses.distillation import kl_divergence
from tf_robust_transfer.ops import norms
from tf_robust_transfer.ops.examples import choose
from tf_robust_transfer.ops.gradients import input_gradient
from tf_robust_transfer.options import above, at_least, none_or, option

LOSSES = {"cross_entropy": classification.cross_entropy, "cw": classification.margin}
# Losses of the clean images' logits in place of the labels.
ON_CLEAN = {"kl": lambda logits, clean_logits: kl_divergence(clean_logits, logits, 1.0)}


class PGD(Attack):
    """Steepest ascent of a loss in the threat model's norm, projected after each step.

    Args:
        steps: number of gradient steps, at least 1.
        step_size: in the units of eps, which are those of the threat model's bounds. None: 2.5 eps
            / steps (MadryLab's rule: from any start, every point of the ball is within reach). The
            papers use 2/255 at eps 8/255, of pixels in [0, 1].
        random_start: start at a uniform point of the ball, else at the image.
        restarts: independent runs; the best for each example counts.
        loss: "cross_entropy"; "cw": the margin between the best other logit and the label's; "kl":
            the divergence of the prediction from that of the clean image, which needs no label. It
            is zero, and flat, at the image itself.
        stop_when_fooled: an example that fools the model stays where it is, so that every iterate
            counts and not only the last. False is the textbook form, which attacks past the
            decision boundary.
    """

    @dataclasses.dataclass(frozen=True)
    class Options(Attack.Options):
        steps: int = option(20, "gradient steps", int, **at_least(1))
        step_size: float | None = option(
            None, "of a step; empty: 2.5 eps / steps", fraction_or_none, **none_or(above(0))
        )
        random_start: bool = option(True, "from a random point of the ball", boolean)
        restarts: int = option(1, "independent runs", int, **at_least(1))
        loss: str = option("cross_entropy", "what is climbed", choices=(*LOSSES, *ON_CLEAN))
        stop_when_fooled: bool = option(False, "an example that fools stays where it is", boolean)

    in_evaluations = {"stop_when_fooled": "true"}

    def __init__(self, *values, **keywords):
        super().__init__(*values, **keywords)
        # What a subclass does not leave open is an attribute of its class.
        name = self.loss
        self.loss, self.uses_clean_logits = (LOSSES | ON_CLEAN)[name], name in ON_CLEAN
        if self.uses_clean_logits and (self.stop_when_fooled or not self.random_start):
            raise InputError(
                f"loss {name} is for training, from a random start and without stop_when_fooled; "
                "an evaluation takes cross_entropy or cw"
            )

    @property
    def iterations(self):
        return self.steps

    def _default_step_size(self, eps):
        return 2.5 * eps / self.steps

    def _step_size(self, problem):
        if self.step_size is None:
            return self._default_step_size(problem.eps)
        return problem.fraction(self.step_size)

    def start(self, problem, images, labels, round, noise):
        return {"current": random_start(problem, images, noise) if self.random_start else images}

    def step(self, problem, images, labels, state, iteration, drawn):
        current = state["current"]
        gradient, logits = self._gradient(problem, current, labels)
        return (
            {"current": self._moved(problem, images, labels, current, gradient, logits)},
            current,
            logits,
        )

    def _gradient(self, problem, current, labels):
        """Gradient of the loss at the current images, and their logits."""

        def score_of(x):
            logits = problem.logits_of(x)
            return self.loss(
                logits, problem.clean_logits if self.uses_clean_logits else labels
            ), logits

        gradient, _, logits = input_gradient(score_of, current)
        return gradient, logits

    def _moved(self, problem, images, labels, current, gradient, logits):
        """The images after a step along `gradient`, or the current ones where those fool and the
        attack stops there.
        """
        moved = current + self._step_size(problem) * norms.steepest_ascent(
            gradient, problem.threat_model.norm
        )
        moved = problem.project(moved, images)
        if self.stop_when_fooled:
            moved = choose(classification.is_correct(logits, labels), moved, current)
        return moved

    def result(self, state):
        return state["current"]
