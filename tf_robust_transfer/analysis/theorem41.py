"""Theorem 4.1 of the MixACM paper, measured: its left side and the two terms that depend on the
student.

With probability 1 - delta over the n training examples D, for any student f and a teacher's feature
extractor h^T,

    E[max 1{y^(x + d) != y}] <= 2 L~(f, D) + 8 / gamma L~_dis(f, D) + 4 R_S(Psi_T) + 16 / n + 6
    sqrt((2 / delta) / (2 n))

    L~     = 1/n sum_i max_d [1 - phi_gamma(f(x_i + d), y_i)],    phi_gamma the softmax at
    temperature gamma L~_dis = 1/n inf_g sum_i max_d |f(x_i + d) - g(h^T(x_i + d))|,    g any
    classifier on top of the features

each maximum over ||d||_inf <= eps. Which way each estimate errs:

- **Left side**, `robust_error`: the share of test examples that PGD-20 fools. Too low: another
  attack may fool more.
- **L~**, `adversarial_loss`: PGD-20 on the loss, of training examples. Too low, as the maximum of
  what was found.
- **L~_dis**, `distillation_loss`: of the same examples, with g the teacher's own logit layer, so
  that g(h^T(x)) is the teacher's logits. Too high for that choice, since the infimum is over all g;
  too low for PGD-20 in place of the maximum. So the whole may err either way. It is the same g for
  all examples, as the theorem asks.
- All three are of the first examples of their split, with 95% intervals for what other examples
  would give, and of images whose pixels stay in [0, 1], which the theorem does not ask (too low
  again).

Not estimated, `other_terms`: R_S(Psi_T), the Rademacher complexity of the teacher's features under
all g. It is no function of the student; losses in [0, 1] bound it by 1, and it is at least 0. With
it unknown, and the maxima below their true values, what is measured can be at odds with the theorem
only where the two terms are below the left side by more than these errors; it cannot confirm it.

Where the statement is ambiguous or wrong:

- |.| of two vectors of logits is nowhere defined. The proof's last step needs |phi_gamma(a, y) -
  phi_gamma(b, y)| <= |a - b| / gamma and cites Gao and Pavel, who show it for the l2 norm:
  `logit_norm` "l2". It holds for "linf" as well (with 1 / (2 gamma)), which is smaller. The proof
  has |L(f) - L(g h)| up to that step, a third form, at most 1.
- The last term lacks a logarithm: the bound that the proof starts from has sqrt(log(2 / delta) / (2
  n)). And it holds for all log2(n) classes Psi_j at once with probability 1 - log2(n) delta, as the
  proof says and the statement does not. `other_terms` gives all of these.
- The student is trained on D, and so f depends on it; that is what "for any f" allows.
"""

import dataclasses
import math

import numpy as np
import tensorflow as tf
from scipy import stats

from tf_robust_transfer.attacks.threat_model import ThreatModel
from tf_robust_transfer.checkpoints import as_model
from tf_robust_transfer.errors import InputError, look_up
from tf_robust_transfer.evaluation.examples import collect
from tf_robust_transfer.evaluation.result import clopper_pearson
from tf_robust_transfer.evaluation.robust_accuracy import evaluate_robustness
from tf_robust_transfer.models.pairs import check_pair
from tf_robust_transfer.ops import random
from tf_robust_transfer.ops.gradients import input_gradient

STEPS = 20
# name -> (what is climbed, the norm): float [batch, classes] -> float [batch] each. The first rises
# with the second, and has a gradient where that has none.
LOGIT_NORMS = {
    "l2": (lambda z: tf.reduce_sum(z**2, axis=1), lambda z: tf.sqrt(tf.reduce_sum(z**2, axis=1))),
    "linf": (
        lambda z: tf.reduce_max(tf.abs(z), axis=1),
        lambda z: tf.reduce_max(tf.abs(z), axis=1),
    ),
}


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean over examples, and its 95% interval: Clopper and Pearson's of a share, Student's t of
    another mean.
    """

    mean: float
    confidence_interval_95: tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Terms:
    """What depends on one student; see the module for which way each errs."""

    robust_error: Estimate
    adversarial_loss: Estimate  # L~
    distillation_loss: Estimate  # L~_dis
    weighted_sum: float  # 2 L~ + 8 / gamma L~_dis


def measure(
    student, teacher, test, train, *, eps, gamma=1.0, logit_norm="l2", seed=0, batch_size=128
) -> Terms:
    """The left side and the student's two terms.

    Args:
        student, teacher: keras.Model or SPEC, images float32 [batch, height, width, channels] in
            [0, 1] -> logits of the same classes; called with training=False.
        test: (images, int labels [num_examples]) of the left side, an expectation over new
            examples.
        train: the same, of D or a part of it, for the two terms.
        eps: linf radius, a fraction of the pixel range.
        gamma: temperature, above 0.
        logit_norm: of the difference of logits: "l2" or "linf".
        seed: at least 0; of the random starts.
        batch_size: examples that are worked on at once. Same seed and batch size, same result.

    Raises:
        InputError: unknown norm, gamma not positive, models or examples that do not fit each other.
    """
    climbed, norm_of = look_up("logit norm", logit_norm, LOGIT_NORMS)
    if not gamma > 0:
        raise InputError(f"expected a gamma above 0, got {gamma}; the paper's soft labels have 10")
    student, teacher = as_model(student), as_model(teacher)
    check_pair(student, teacher)
    threat_model = ThreatModel(eps=eps)
    images, labels = collect(student, *train, threat_model, batch_size)

    def loss(x, y):
        logits = student(x, training=False) / gamma
        own = tf.one_hot(y, logits.shape[-1], on_value=True, off_value=False, dtype=tf.bool)
        others = tf.reduce_logsumexp(
            tf.where(own, tf.constant(-math.inf, logits.dtype), logits), axis=1
        )
        # Eq. 6: 1 - phi is the sigmoid of this, which has a gradient where 1 - phi and the
        # cross-entropy have none left.
        rising = others - tf.gather(logits, y, batch_dims=1)
        return rising, tf.sigmoid(rising)

    def difference(x, _):
        z = student(x, training=False) - teacher(x, training=False)
        return climbed(z), norm_of(z)

    found = [
        largest_values(values_of, images, labels, eps=eps, seed=seed, batch_size=batch_size)
        for values_of in (loss, difference)
    ]
    attacked = evaluate_robustness(
        student,
        *test,
        threat_model=threat_model,
        attacks=(f"pgd{STEPS}",),
        seed=seed,
        batch_size=batch_size,
    )
    wrong = ~attacked.correct[f"pgd{STEPS}"]
    return Terms(
        robust_error=Estimate(float(wrong.mean()), clopper_pearson(wrong)),
        adversarial_loss=mean_of(found[0]),
        distillation_loss=mean_of(found[1]),
        weighted_sum=float(2 * found[0].mean() + 8 / gamma * found[1].mean()),
    )


def largest_values(values_of, images, labels, *, eps, seed=0, batch_size=128):
    """The largest value that PGD-20 meets in each example's linf ball, pixels in [0, 1]: a lower
    bound of the maximum.

    Two runs, from the image itself and from a random point of the ball, with steps of 2.5 eps / 20.
    Every point that is visited counts. For a value that is linear in the image, or rises with one
    that is, it is the maximum.

    Args:
        values_of: (images float32 [batch, ...], labels) -> (what is climbed, the value), float
            [batch] each; the first rises with the second.
        images: float32 [num_examples, height, width, channels] in [0, 1]; labels: int
            [num_examples].
        eps, seed, batch_size: see `measure`.

    Returns:
        float64 [num_examples].
    """

    def ascend(images, labels, start):
        x, best = start, tf.fill(tf.shape(labels), -math.inf)
        for _ in tf.range(STEPS):
            gradient, _, values = input_gradient(lambda x: values_of(x, labels), x)
            best = tf.maximum(best, values)
            x = _allowed(x + 2.5 * eps / STEPS * tf.sign(gradient), images, eps)
        return tf.maximum(best, values_of(x, labels)[1])

    ascend = tf.function(ascend, reduce_retracing=True)
    parts = []
    for first in range(0, len(images), batch_size):
        batch, own = (
            tf.constant(images[first : first + batch_size]),
            tf.constant(labels[first : first + batch_size]),
        )
        noise = eps * (2.0 * random.uniform(tf.shape(batch), random.fold_seed(seed, first)) - 1.0)
        parts.append(
            tf.maximum(
                ascend(batch, own, batch), ascend(batch, own, _allowed(batch + noise, batch, eps))
            )
        )
    return np.concatenate(parts).astype(np.float64)


def _allowed(x, images, eps):
    return tf.clip_by_value(images + tf.clip_by_value(x - images, -eps, eps), 0.0, 1.0)


def mean_of(values) -> Estimate:
    """Mean of float [num_examples] and its 95% interval by Student's t, which a single example does
    not give (NaN).
    """
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values) if len(values) > 1 else math.nan
    mean = float(values.mean())
    return Estimate(mean, (mean - float(half), mean + float(half)))


def other_terms(num_examples: int, delta: float) -> dict:
    """The terms that no student changes, as plain numbers.

    Args:
        num_examples: n, the size of D.
        delta: in (0, 1).

    Returns:
        {"complexity": None, not estimated (4 R_S, in [0, 4]); "examples": 16 / n;
        "confidence_printed": the last term as printed; "confidence": with the logarithm that its
        source has; "probability_printed": 1 - delta; "probability": 1 - log2(n) delta, the
        proof's}.
    """
    n = num_examples
    return {
        "complexity": None,
        "examples": 16 / n,
        "confidence_printed": 6 * math.sqrt(2 / delta / (2 * n)),
        "confidence": 6 * math.sqrt(math.log(2 / delta) / (2 * n)),
        "probability_printed": 1 - delta,
        "probability": 1 - math.log2(n) * delta,
    }
