"""Attacks. Each is a class in a file of its own and a line in `attacks.names`."""

from tf_robust_transfer.attacks.apgd import APGD, APGDTargeted
from tf_robust_transfer.attacks.autoattack import AutoAttack
from tf_robust_transfer.attacks.base import Attack
from tf_robust_transfer.attacks.bim import BIM
from tf_robust_transfer.attacks.carlini_wagner import CarliniWagnerL2
from tf_robust_transfer.attacks.fab import FAB, FABTargeted
from tf_robust_transfer.attacks.fgsm import FGSM
from tf_robust_transfer.attacks.mim import MIM
from tf_robust_transfer.attacks.names import ATTACKS, list_attacks
from tf_robust_transfer.attacks.names import parse_attack as parse
from tf_robust_transfer.attacks.pgd import PGD
from tf_robust_transfer.attacks.spsa import SPSA
from tf_robust_transfer.attacks.square import Square
from tf_robust_transfer.attacks.threat_model import ThreatModel

__all__ = [
    "ATTACKS",
    "APGD",
    "BIM",
    "FAB",
    "FGSM",
    "MIM",
    "PGD",
    "SPSA",
    "APGDTargeted",
    "Attack",
    "AutoAttack",
    "CarliniWagnerL2",
    "FABTargeted",
    "Square",
    "ThreatModel",
    "list_attacks",
    "parse",
]
