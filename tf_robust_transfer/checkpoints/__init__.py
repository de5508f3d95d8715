"""Reading and writing models."""

from tf_robust_transfer.checkpoints.any_model import as_classifier, as_model, endpoints
from tf_robust_transfer.checkpoints.native import save_model
from tf_robust_transfer.checkpoints.specs import SCHEMES, check_spec, load_model
from tf_robust_transfer.checkpoints.teachers import list_teachers

__all__ = [
    "SCHEMES",
    "as_classifier",
    "as_model",
    "check_spec",
    "endpoints",
    "list_teachers",
    "load_model",
    "save_model",
]
