"""A training run: its folder, its objects built from the flags, its callbacks, and the loop that
survives a kill.
"""

from tf_robust_transfer.runs.trainer import check_training, run_training
from tf_robust_transfer.runs.watching import StopOnNonFinite

__all__ = ["StopOnNonFinite", "check_training", "run_training"]
