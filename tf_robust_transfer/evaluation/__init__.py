"""How robust a model is: accuracy under attacks, with confidence intervals."""

from tf_robust_transfer.evaluation.attack_names import parse_attack
from tf_robust_transfer.evaluation.result import RobustnessResult
from tf_robust_transfer.evaluation.robust_accuracy import RobustnessWarning, evaluate_robustness

__all__ = ["RobustnessResult", "RobustnessWarning", "evaluate_robustness", "parse_attack"]
