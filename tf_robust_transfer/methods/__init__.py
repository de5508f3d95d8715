"""Training methods: Keras models with a `train_step` of their own, for `compile` and `fit`."""

from tf_robust_transfer.methods.adversarial import AdversarialTraining
from tf_robust_transfer.methods.adversarial_distillation import AdversarialDistillation
from tf_robust_transfer.methods.base import Context, Method
from tf_robust_transfer.methods.distillation import Distillation
from tf_robust_transfer.methods.finetune import FineTune
from tf_robust_transfer.methods.igam import IGAM
from tf_robust_transfer.methods.igam_mixacm import IGAMMixACM
from tf_robust_transfer.methods.mixacm import MixACM
from tf_robust_transfer.methods.natural import Natural

__all__ = [
    "IGAM",
    "METHODS",
    "AdversarialDistillation",
    "AdversarialTraining",
    "Context",
    "Distillation",
    "FineTune",
    "IGAMMixACM",
    "Method",
    "MixACM",
    "Natural",
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
}
