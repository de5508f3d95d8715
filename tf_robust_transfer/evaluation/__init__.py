"""How robust a model is: accuracy under attacks, with confidence intervals."""

from tf_robust_transfer.attacks.names import parse_attack
from tf_robust_transfer.evaluation.result import RobustnessResult, RobustnessWarning
from tf_robust_transfer.evaluation.robust_accuracy import evaluate_robustness

__all__ = ["RobustnessResult", "RobustnessWarning", "evaluate_robustness", "parse_attack"]
