"""Reading and writing models."""

from tf_robust_transfer.checkpoints.native import save_model
from tf_robust_transfer.checkpoints.specs import SCHEMES, check_spec, load_model

__all__ = ["SCHEMES", "check_spec", "load_model", "save_model"]
