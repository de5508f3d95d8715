"""Attacks. Each is a class in a file of its own and a line in `evaluation.attack_names`."""

from tf_robust_transfer.attacks.base import Attack
from tf_robust_transfer.attacks.fgsm import FGSM
from tf_robust_transfer.attacks.pgd import PGD
from tf_robust_transfer.attacks.threat_model import ThreatModel

__all__ = ["FGSM", "PGD", "Attack", "ThreatModel"]
