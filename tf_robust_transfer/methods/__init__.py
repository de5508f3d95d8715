"""Training methods: Keras models with a `train_step` of their own, for `compile` and `fit`."""

from tf_robust_transfer.methods.adversarial import AdversarialTraining
from tf_robust_transfer.methods.base import Method
from tf_robust_transfer.methods.distillation import Distillation
from tf_robust_transfer.methods.finetune import FineTune
from tf_robust_transfer.methods.igam import IGAM
from tf_robust_transfer.methods.mixacm import MixACM
from tf_robust_transfer.methods.natural import Natural

__all__ = ["IGAM", "METHODS", "AdversarialTraining", "Distillation", "FineTune", "Method", "MixACM", "Natural"]

METHODS = {
    "natural": Natural,
    "adversarial_training": AdversarialTraining,
    "distillation": Distillation,
    "finetune": FineTune,
    "igam": IGAM,
    "mixacm": MixACM,
}
