"""Both sides of Theorem 4.2 of the MixACM paper, measured for given networks and points.

    L~(f, D) + alpha L~(f, D_dis) <= L_mix(f, D) + alpha L_mix(f, D_dis)    for every eps up to a
    bound

with the logistic loss L(f, y) = log(1 + e^f) - y f; L~ its mean under the worst perturbation of
size eps of each point, L_mix its mean over all n^2 pairs and over the mixup weight lambda ~ Beta(a,
b); D the points with their labels y in {0, 1}, D_dis the same points with the teacher's soft labels
y*. With e = y - g(f(x)), e* = y* - g(f(x)) and g the logistic function, what the proof (appendix
B.2) uses is:

1. f(x) = theta^T x without a constant, or a network of ReLUs without biases, for which f(x) = grad
   f(x)^T x;
2. no training error: y = 1 where f > 0 and y = 0 elsewhere;
3. the student is nearer to its teacher than to the labels: |e*| <= k |e| at every point, and alpha
   k < 1;
4. c_x = min ||x|| / sqrt(d) above 0, R = min |cos(grad f(x), x)|;
5. points whose mean is zero (nowhere stated; the proof drops the mean of theta^T x);
6. Taylor expansions to second order, of the left side in the perturbation and of the right side in
   1 - lambda. So the theorem is about the expansions; for the losses themselves it is an
   approximation, and (1 - lambda) is not small.

Where the statement is ambiguous:

- It bounds eps by (1 - alpha beta) / (1 + beta) c_x R E[1 - lambda] and says of P~_lambda that it
  is alpha / (alpha + beta) Beta(alpha + 1, beta) + beta / (alpha + beta) Beta(beta + 1, alpha). The
  same two letters stand for the weight of the distillation term, the constant k of 3 (the proof
  writes k) and the two parameters of the mixup distribution. Here they are `alpha`, k and (a, b).
- The left side grows with |e| + alpha |e*| <= (1 + alpha k) |e|, where the paper has 1 + k. So the
  bound that the proof gives is (1 - alpha k) / (1 + alpha k) c_x R E[1 - lambda]; the paper's is
  smaller for alpha < 1 and too large for alpha > 1. `Assumptions` has both.
- y* is written f^T(x), but compared with a probability: the teacher's probability of class 1 is
  taken.
- The proof bounds the l2 ball of radius eps sqrt(d), which contains the linf ball of the theorem.

Where alpha k >= 1 the theorem allows no eps at all. A student that minimises L + alpha L* at every
point has k = 1 / alpha and is just there."""

import dataclasses

import numpy as np
from scipy import special

_NODES = 64  # of the quadrature over lambda; a ReLU network's loss has kinks in it
_ATTACK_STEPS = 20


@dataclasses.dataclass(frozen=True)
class Assumptions:
    """What the theorem asks of network and points, and the eps that it then allows (fractions of
    the pixel range).
    """

    training_errors: int
    closeness: float  # k, the smallest that fits
    mean_norm: float  # ||mean of the points||, which the proof takes as 0
    c_x: float
    cosine: float  # R
    expected_weight: float  # E[1 - lambda] under P~
    eps_paper: float  # 0 where an assumption fails
    eps_proof: float


@dataclasses.dataclass(frozen=True)
class Sides:
    """Both sides at one eps. The left one is bracketed: exact, lower = upper, for logistic
    regression and wherever no unit of the network can switch inside the ball."""

    eps: float
    left_lower: float  # linf ball of eps
    left_upper: float
    left_l2: (
        float | None
    )  # l2 ball of eps sqrt(d), which the proof bounds; exact, for logistic regression alone
    right: float
    expanded_left: float  # the two expansions that the proof compares
    expanded_right: float


def logistic_loss(logits, labels):
    """log(1 + e^f) - y f, elementwise; labels in [0, 1]."""
    return np.logaddexp(0, logits) - labels * logits


def assumptions(network, points, labels, soft_labels, *, alpha, mixup=(1.0, 1.0)) -> Assumptions:
    """The theorem's constants for float64 points [n, d], labels 0 or 1 [n], soft_labels in [0, 1]
    [n]; mixup: (a, b).
    """
    a, b = mixup
    logits, gradient = network(points), network.gradient(points)
    errors = int(np.sum((2 * labels - 1) * logits < 0))
    ours, theirs = (
        np.abs(labels - special.expit(logits)),
        np.abs(soft_labels - special.expit(logits)),
    )
    closeness = float(
        np.max(np.divide(theirs, ours, out=np.where(theirs > 0, np.inf, 0.0), where=ours > 0))
    )
    lengths = np.linalg.norm(points, axis=1)
    c_x = float(lengths.min() / np.sqrt(points.shape[1]))
    product = np.linalg.norm(gradient, axis=1) * lengths
    cosine = float(
        np.min(np.abs(np.divide(logits, product, out=np.zeros_like(product), where=product > 0)))
    )
    weight = 2 * a * b / ((a + b) * (a + b + 1))
    allowed = (
        c_x * cosine * weight * (1 - alpha * closeness)
        if not errors and alpha * closeness < 1
        else 0.0
    )
    return Assumptions(
        training_errors=errors,
        closeness=closeness,
        mean_norm=float(np.linalg.norm(points.mean(axis=0))),
        c_x=c_x,
        cosine=cosine,
        expected_weight=weight,
        eps_paper=allowed / (1 + closeness) if allowed else 0.0,
        eps_proof=allowed / (1 + alpha * closeness) if allowed else 0.0,
    )


def mixup_loss(network, points, labels, mixup=(1.0, 1.0)) -> float:
    """L_mix: the mean over all pairs, exact, and over lambda ~ Beta(a, b), by Gauss-Jacobi
    quadrature with 64 nodes.
    """
    a, b = mixup
    nodes, weights = special.roots_jacobi(_NODES, b - 1, a - 1)
    lam, weights = (nodes + 1) / 2, weights / weights.sum()
    # The first matrix is applied once to each point instead of to each mixture.
    first, rest = points @ network.weights[0].T, network.weights[1:]
    total = 0.0
    for value, label in zip(first, labels):
        mixed = lam[:, None, None] * value + (1 - lam)[:, None, None] * first  # [nodes, n, units]
        for matrix in rest:
            mixed = np.maximum(mixed, 0) @ matrix.T
        mixed_labels = lam[:, None] * label + (1 - lam)[:, None] * labels
        total += weights @ logistic_loss(mixed[..., 0], mixed_labels).mean(axis=1)
    return total / len(points)


def logit_range(network, points, eps):
    """Bounds of the lowest and of the highest logit within the linf ball of eps around each point.

    Returns:
        (lowest, highest) logits that were found, by gradient steps, and (lowest, highest) that are
        possible, by interval arithmetic; four arrays [n]. Both are exact, and equal, for points at
        which no ReLU can switch inside the ball.
    """
    values, radius, fixed = points, np.full_like(points, eps), np.ones(len(points), bool)
    low = high = None
    for number, matrix in enumerate(network.weights):
        centre, radius = values @ matrix.T, radius @ np.abs(matrix).T
        low, high = centre - radius, centre + radius
        if number < len(network.weights) - 1:
            fixed &= np.all((low > 0) | (high < 0), axis=1)
            low, high = np.maximum(low, 0), np.maximum(high, 0)
            values, radius = (low + high) / 2, (high - low) / 2
    logits = network(points)
    reach = eps * np.abs(network.gradient(points)).sum(axis=1)
    found = [_extreme_logit(network, points, eps, sign) for sign in (-1, 1)]
    found_low, found_high = (
        np.where(fixed, logits - reach, found[0]),
        np.where(fixed, logits + reach, found[1]),
    )
    return (
        found_low,
        found_high,
        np.where(fixed, logits - reach, low[:, 0]),
        np.where(fixed, logits + reach, high[:, 0]),
    )


def _extreme_logit(network, points, eps, sign):
    x, best = points, sign * network(points)
    for step in range(_ATTACK_STEPS):
        size = eps if step == 0 else eps / 5
        x = np.clip(x + size * sign * np.sign(network.gradient(x)), points - eps, points + eps)
        best = np.maximum(best, sign * network(x))
    return sign * best


def measure(
    network, points, labels, soft_labels, eps_values, *, alpha, mixup=(1.0, 1.0)
) -> list[Sides]:
    """Both sides of the inequality for each eps.

    Args:
        network: the student.
        points: float64 [n, d] with a mean of zero.
        labels: float64 [n], 0 or 1.
        soft_labels: float64 [n] in [0, 1], the teacher's probabilities of class 1.
        eps_values: radii, in the units of the points.
        alpha: weight of the distillation term.
        mixup: (a, b) of the Beta distribution of lambda.
    """
    targets = ((1.0, labels), (alpha, soft_labels))
    logits, gradient, dimension = network(points), network.gradient(points), points.shape[1]
    right = sum(weight * mixup_loss(network, points, wanted, mixup) for weight, wanted in targets)
    expanded_right = sum(
        weight * _expanded_right(points, gradient, logits, wanted, mixup)
        for weight, wanted in targets
    )

    def worst(low, high):
        """The loss is convex in the logit, so that it is largest at one of its extremes."""
        return sum(
            weight * np.maximum(logistic_loss(low, wanted), logistic_loss(high, wanted)).mean()
            for weight, wanted in targets
        )

    result = []
    lengths = np.linalg.norm(gradient, axis=1)
    for eps in eps_values:
        found_low, found_high, low, high = logit_range(network, points, eps)
        reach = eps * np.sqrt(dimension) * lengths
        result.append(
            Sides(
                eps=float(eps),
                left_lower=float(worst(found_low, found_high)),
                left_upper=float(worst(low, high)),
                left_l2=float(worst(logits - reach, logits + reach))
                if len(network.weights) == 1
                else None,
                right=float(right),
                expanded_left=float(
                    sum(w * _expanded_left(logits, wanted, reach) for w, wanted in targets)
                ),
                expanded_right=float(expanded_right),
            )
        )
    return result


def _expanded_left(logits, labels, reach):
    """mean of L + |g - y| r + g (1 - g) r^2 / 2, with r the largest change of the linearised logit
    in the l2 ball.
    """
    probability = special.expit(logits)
    change = np.abs(probability - labels) * reach + 0.5 * probability * (1 - probability) * reach**2
    return (logistic_loss(logits, labels) + change).mean()


def _expanded_right(points, gradient, logits, labels, mixup):
    """mean of L + E[1 - lambda] I_3 + E[(1 - lambda)^2] I_4 of the proof, with the mean of the
    points as it is.
    """
    a, b = mixup
    probability = special.expit(logits)
    change = (
        gradient @ points.T - np.sum(gradient * points, axis=1)[:, None]
    )  # [i, j]: grad f(x_i)^T (x_j - x_i)
    first = 2 * a * b / ((a + b) * (a + b + 1)) * (probability - labels) * change.mean(axis=1)
    second = (
        a
        * b
        / ((a + b) * (a + b + 1))
        / 2
        * probability
        * (1 - probability)
        * (change**2).mean(axis=1)
    )
    return (logistic_loss(logits, labels) + first + second).mean()


def largest_eps(network, points, labels, soft_labels, *, alpha, mixup=(1.0, 1.0)) -> float:
    """The eps of the linf ball at which logistic regression's exact left side reaches the right
    one; 0 where it is above already without any perturbation.

    Raises:
        ValueError: a network with hidden layers, whose left side is not known exactly.
    """
    if len(network.weights) > 1:
        raise ValueError("the left side is exact for logistic regression alone")
    targets = ((1.0, labels), (alpha, soft_labels))
    right = sum(weight * mixup_loss(network, points, wanted, mixup) for weight, wanted in targets)
    logits, slope = network(points), np.abs(network.weights[0]).sum()

    def left(eps):
        return sum(
            w
            * np.maximum(*(logistic_loss(logits + s * eps * slope, wanted) for s in (-1, 1))).mean()
            for w, wanted in targets
        )

    low, high = 0.0, 1.0 / slope
    if left(low) > right:
        return 0.0
    while left(high) < right:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if left(middle) < right else (low, middle)
    return low
