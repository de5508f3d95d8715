"""How robust a model is: accuracy under attacks, with confidence intervals, and what its input
gradients say of it.
"""

from tf_robust_transfer.evaluation.alignment import GradientAlignment, gradient_alignment
from tf_robust_transfer.evaluation.attack_names import parse_attack
from tf_robust_transfer.evaluation.result import RobustnessResult, RobustnessWarning
from tf_robust_transfer.evaluation.robust_accuracy import evaluate_robustness

__all__ = [
    "GradientAlignment",
    "RobustnessResult",
    "RobustnessWarning",
    "evaluate_robustness",
    "gradient_alignment",
    "parse_attack",
]
