"""Loss terms: what a training method is made of, and what a training loop of one's own can be.

    mixed = terms.MixedExamples(student, teacher)
    gradients = terms.InputGradients(student, teacher)
    game = terms.GradientGame(of=gradients, lambda_adv=1.0)
    both_papers = [
        terms.CrossEntropy(0.05, of=mixed),
        terms.SoftLabels(of=mixed, kld_weight=0.95),
        terms.ChannelMaps(of=mixed, acm_weight=5000.0),
        game,
        terms.GradientDifference(of=gradients, lambda_diff=10.0),
    ]
    shares, _ = terms.evaluate(both_papers, images, labels, seed)
    loss = terms.total(shares)

A pass (`passes`, `input_gradients`) sends a batch through the networks, a term is a loss of what
the pass has seen. Both take the keywords of the methods. examples/terms_in_a_loop.py trains so."""

from tf_robust_transfer.terms.channel_maps import ChannelMaps
from tf_robust_transfer.terms.classification import CrossEntropy, SoftLabels
from tf_robust_transfer.terms.gradient_difference import GradientDifference
from tf_robust_transfer.terms.gradient_game import GradientGame
from tf_robust_transfer.terms.input_gradients import InputGradients
from tf_robust_transfer.terms.passes import Logits, MixedExamples
from tf_robust_transfer.terms.term import Term, evaluate, total

__all__ = [
    "ChannelMaps",
    "CrossEntropy",
    "GradientDifference",
    "GradientGame",
    "InputGradients",
    "Logits",
    "MixedExamples",
    "SoftLabels",
    "Term",
    "evaluate",
    "total",
]
