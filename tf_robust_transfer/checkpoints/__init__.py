"""Reading and writing models."""

from tf_robust_transfer.checkpoints.native import save_model
from tf_robust_transfer.checkpoints.specs import SCHEMES, load_model
from tf_robust_transfer.checkpoints.teachers import list_teachers

__all__ = ["SCHEMES", "list_teachers", "load_model", "save_model"]
