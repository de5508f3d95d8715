"""Adversarial robustness transfer in Keras: IGAM, MixACM, their teachers, baselines and attacks."""

import sys as _sys

from tf_robust_transfer import startup as _startup

try:
    _startup.hold()
    import keras as _  # noqa: F401 - before all that needs it
except (ImportError, ValueError) as _error:  # the backend that Keras is told to use is not there
    _message = (
        f"Keras cannot start: {' '.join(str(_error).split())}; this package computes in "
        "TensorFlow: set the environment variable KERAS_BACKEND=tensorflow"
    )
    if _startup.is_command():
        _sys.stderr.write(f"error: {_message}\n")
        _sys.exit(2)
    raise ImportError(_message) from _error

from tf_robust_transfer import adapters, attacks, data, losses, methods, models, terms
from tf_robust_transfer.analysis.alignment import gradient_alignment
from tf_robust_transfer.attacks import ThreatModel, list_attacks
from tf_robust_transfer.checkpoints import (
    as_classifier,
    endpoints,
    list_teachers,
    load_model,
    save_model,
)
from tf_robust_transfer.data import list_datasets
from tf_robust_transfer.errors import InputError
from tf_robust_transfer.evaluation import RobustnessResult, RobustnessWarning, evaluate_robustness
from tf_robust_transfer.methods import (
    IGAM,
    TRADES,
    AdversarialDistillation,
    AdversarialTraining,
    Distillation,
    FineTune,
    IGAMMixACM,
    MixACM,
    Natural,
    list_methods,
)
from tf_robust_transfer.models import build_discriminator, build_model, list_models
from tf_robust_transfer.runs.watching import StopOnNonFinite

_startup.release()

__version__ = "0.1.0"

__all__ = [
    "IGAM",
    "TRADES",
    "AdversarialDistillation",
    "AdversarialTraining",
    "Distillation",
    "FineTune",
    "IGAMMixACM",
    "InputError",
    "MixACM",
    "Natural",
    "RobustnessResult",
    "RobustnessWarning",
    "StopOnNonFinite",
    "ThreatModel",
    "adapters",
    "as_classifier",
    "attacks",
    "build_discriminator",
    "build_model",
    "data",
    "endpoints",
    "evaluate_robustness",
    "gradient_alignment",
    "list_teachers",
    "load_model",
    "list_attacks",
    "list_datasets",
    "list_methods",
    "list_models",
    "losses",
    "methods",
    "models",
    "save_model",
    "terms",
]
