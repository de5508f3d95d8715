"""Training methods: Keras models with a `train_step` of their own, for `compile` and `fit`."""

import fnmatch

from tf_robust_transfer.errors import InputError
from tf_robust_transfer.methods.adversarial import AdversarialTraining
from tf_robust_transfer.methods.adversarial_distillation import AdversarialDistillation
from tf_robust_transfer.methods.base import Method
from tf_robust_transfer.methods.context import Context
from tf_robust_transfer.methods.distillation import Distillation
from tf_robust_transfer.methods.finetune import FineTune
from tf_robust_transfer.methods.igam import IGAM
from tf_robust_transfer.methods.igam_mixacm import IGAMMixACM
from tf_robust_transfer.methods.mixacm import MixACM
from tf_robust_transfer.methods.natural import Natural
from tf_robust_transfer.methods.trades import TRADES
from tf_robust_transfer.plugins import find

__all__ = [
    "IGAM",
    "METHODS",
    "TRADES",
    "AdversarialDistillation",
    "AdversarialTraining",
    "Context",
    "Distillation",
    "FineTune",
    "IGAMMixACM",
    "Method",
    "MixACM",
    "Natural",
    "find_method",
    "list_methods",
]

METHODS = {
    "natural": Natural,
    "adversarial_training": AdversarialTraining,
    "ard": AdversarialDistillation,
    "distillation": Distillation,
    "rkd": Distillation,  # the MixACM paper's name for it: Goldblum et al. on natural images
    "finetune": FineTune,
    "igam": IGAM,
    "igam_mixacm": IGAMMixACM,
    "mixacm": MixACM,
    "trades": TRADES,
}


def find_method(name: str) -> type[Method]:
    """The class of a method: a name of `METHODS`, or of a plug-in, see `plugins`.

    Raises:
        InputError: an unknown name, or a plug-in that is no method.
    """
    found = find("method", name, METHODS)
    if not (isinstance(found, type) and issubclass(found, Method)):
        raise InputError(
            f"the method {name!r}: expected a subclass of tf_robust_transfer.methods.Method, "
            f"got {found!r}"
        )
    return found


def list_methods(pattern: str = "*") -> list[str]:
    """The names of methods that a pattern such as "ig*" matches, for --method."""
    return fnmatch.filter(METHODS, pattern)
