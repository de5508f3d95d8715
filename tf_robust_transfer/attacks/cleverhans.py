"""Attacks of CleverHans 4.0 (Papernot et al. 2016, `cleverhans.tf2`) behind the interface of this
package.
"""

import dataclasses
import importlib

import numpy as np

from tf_robust_transfer.attacks.base import Attack
from tf_robust_transfer.errors import InputError
from tf_robust_transfer.flag_types import fraction_or_none
from tf_robust_transfer.options import above, at_least, none_or, option

# CleverHans's function -> whether it iterates. Each lives in a module of its own name. Left out:
# attacks without a radius (Carlini-Wagner) and those whose random start takes no seed (madry_et_al,
# spsa).
ATTACKS = {
    "fast_gradient_method": False,
    "momentum_iterative_method": True,
    "projected_gradient_descent": True,
}


class CleverHans(Attack):
    """An attack as CleverHans runs it: from the image, on the cross-entropy, without early stopping
    or restarts.

    Ball and bounds are handed to CleverHans; the base class projects its result once more.
    CleverHans's PGD has no random start unless asked for one, which takes no seed, so that here
    every result is deterministic.

    Args:
        name: a function of `cleverhans.tf2.attacks`, see `ATTACKS`.
        steps: CleverHans's nb_iter, for the iterative ones.
        step_size: CleverHans's eps_iter, in the units of eps, at most eps. None: 2.5 eps / steps.

    Raises:
        InputError: unknown name, steps or step_size not positive, or CleverHans is not installed.
    """

    @dataclasses.dataclass(frozen=True)
    class Options(Attack.Options):
        name: str = option(
            "projected_gradient_descent", "a function of cleverhans.tf2.attacks", choices=ATTACKS
        )
        steps: int = option(20, "nb_iter, of the iterative ones", int, **at_least(1))
        step_size: float | None = option(
            None, "eps_iter; empty: 2.5 eps / steps", fraction_or_none, **none_or(above(0))
        )

    def __init__(self, *values, **keywords):
        super().__init__(*values, **keywords)
        name, self.iterates = self.name, ATTACKS[self.name]
        if self.steps < 3 and self.iterates and self.step_size is None:
            raise InputError(
                f"CleverHans takes no step beyond eps, so that steps={self.steps} needs a step_size"
            )
        try:
            # Imported only here: no other part of the package needs CleverHans.
            self._cleverhans = getattr(
                importlib.import_module(f"cleverhans.tf2.attacks.{name}"), name
            )
        except ImportError as error:
            raise InputError(
                f"cleverhans:{name} needs `pip install cleverhans==4.0.0` ({error})"
            ) from error

    stop_when_fooled = False

    def identity(self, threat_model):
        # eps is a number in CleverHans's graph, see step.
        return *super().identity(threat_model), threat_model.eps

    def start(self, problem, images, labels, round, noise):
        return {"current": images}

    def step(self, problem, images, labels, state, iteration, drawn):
        # CleverHans compares eps with its step in a Python assert, which a tensor in a graph cannot
        # pass.
        eps = problem.threat_model.eps
        options = {"norm": {"linf": np.inf, "l2": 2}[problem.threat_model.norm], "y": labels}
        if self.iterates:
            options["nb_iter"] = self.steps
            step_size = (
                2.5 * eps / self.steps
                if self.step_size is None
                else problem.fraction(self.step_size)
            )
            if step_size > eps:
                raise InputError(
                    f"CleverHans takes no step beyond eps: a step of {step_size:g} at eps {eps:g}, "
                    "as fractions of the pixel range; give a smaller step_size, or none"
                )
            options["eps_iter"] = step_size
        low, high = problem.threat_model.bounds
        # sanity_checks call NumPy on tensors and so cannot run in a graph; the base class checks
        # more.
        found = self._cleverhans(
            problem.logits_of,
            images,
            eps=eps,
            clip_min=low,
            clip_max=high,
            sanity_checks=False,
            **options,
        )
        return {"current": found}, images, problem.logits_of(images)

    def result(self, state):
        return state["current"]
