"""Adversarial robustness transfer in Keras: IGAM, MixACM, their teachers, baselines and attacks."""

from tf_robust_transfer import adapters, attacks, data, losses, models
from tf_robust_transfer.attacks import ThreatModel
from tf_robust_transfer.checkpoints import list_teachers, load_model, save_model
from tf_robust_transfer.errors import InputError
from tf_robust_transfer.evaluation import evaluate_robustness, gradient_alignment
from tf_robust_transfer.methods import (
    IGAM,
    AdversarialDistillation,
    AdversarialTraining,
    Distillation,
    FineTune,
    IGAMMixACM,
    MixACM,
    Natural,
)
from tf_robust_transfer.models import build_discriminator, build_model, endpoints
from tf_robust_transfer.training.callbacks import StopOnNonFinite

__version__ = "0.1.0"

__all__ = [
    "IGAM",
    "AdversarialDistillation",
    "AdversarialTraining",
    "Distillation",
    "FineTune",
    "IGAMMixACM",
    "InputError",
    "MixACM",
    "Natural",
    "StopOnNonFinite",
    "ThreatModel",
    "adapters",
    "attacks",
    "build_discriminator",
    "build_model",
    "data",
    "endpoints",
    "evaluate_robustness",
    "gradient_alignment",
    "list_teachers",
    "load_model",
    "losses",
    "models",
    "save_model",
]
