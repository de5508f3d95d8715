"""Reading and writing models."""

from tf_robust_transfer.checkpoints.native import load_model, save_model

__all__ = ["load_model", "save_model"]
