"""Theorem 4.2: both sides against brute force on few points, the constants by hand, and the command
on real digits.
"""

import json

import numpy as np
import pytest
from scipy import integrate, optimize, special, stats

from tf_robust_transfer import theorem42 as command
from tf_robust_transfer.analysis import relu_network, theorem42
from tf_robust_transfer.analysis.relu_network import ReluNetwork
from tf_robust_transfer.command_line import parse
from tf_robust_transfer.errors import InputError
from tf_robust_transfer.theorem42 import Theorem42Config

RNG = np.random.default_rng(0)
POINTS = RNG.standard_normal((6, 4))
POINTS -= POINTS.mean(axis=0)
LINEAR = ReluNetwork((RNG.standard_normal((1, 4)),))
DEEP = ReluNetwork(
    (RNG.standard_normal((5, 4)), RNG.standard_normal((3, 5)), RNG.standard_normal((1, 3)))
)
LABELS = (LINEAR(POINTS) > 0).astype(float)
SOFT = special.expit(1.5 * LINEAR(POINTS))


def loss(logit, label):
    """Cross-entropy of a probability, not the form that the code has."""
    p = special.expit(logit)
    return -(label * np.log(p) + (1 - label) * np.log(1 - p))


def test_the_logistic_loss_is_the_cross_entropy():
    logits, labels = RNG.standard_normal(20) * 3, RNG.uniform(size=20)
    np.testing.assert_allclose(theorem42.logistic_loss(logits, labels), loss(logits, labels))


def test_the_networks_gradient_by_finite_differences_and_its_homogeneity():
    for network in (LINEAR, DEEP):
        gradient = network.gradient(POINTS)
        for i in range(4):
            step = 1e-6 * np.eye(4)[i]
            numeric = (network(POINTS + step) - network(POINTS - step)) / 2e-6
            np.testing.assert_allclose(gradient[:, i], numeric, atol=1e-7)
        np.testing.assert_allclose(
            (gradient * POINTS).sum(axis=1), network(POINTS)
        )  # f(x) = grad f(x)^T x


@pytest.mark.filterwarnings("ignore:The occurrence of roundoff")  # quad, at the kinks
@pytest.mark.parametrize("mixup", [(1.0, 1.0), (2.0, 0.5)])
@pytest.mark.parametrize("network", [LINEAR, DEEP], ids=["linear", "deep"])
def test_the_mixup_loss_against_an_adaptive_integral(network, mixup):
    """Smooth in the linear case, with kinks in the other: 64 nodes leave an error that the
    network's tolerance shows.
    """
    points, labels = POINTS[:4], LABELS[:4]
    total = 0.0
    for i in range(4):
        for j in range(4):

            def value(lam, i=i, j=j):
                mixed = lam * points[i] + (1 - lam) * points[j]
                return loss(network(mixed[None])[0], lam * labels[i] + (1 - lam) * labels[j])

            if mixup == (1.0, 1.0):
                total += integrate.quad(value, 0, 1, limit=200)[0]
            else:
                # The weight of quad's "alg" is its own end-point singularity: x^(a-1) (1-x)^(b-1).
                weighted = integrate.quad(
                    value, 0, 1, weight="alg", wvar=(mixup[0] - 1, mixup[1] - 1), limit=200
                )[0]
                total += weighted / special.beta(*mixup)
    got = theorem42.mixup_loss(network, points, labels, mixup)
    np.testing.assert_allclose(got, total / 16, rtol=1e-9 if network is LINEAR else 2e-3)


@pytest.mark.parametrize("eps", [0.0, 0.05, 0.6])
def test_the_linear_left_side_is_the_worst_corner_of_the_box(eps):
    """The loss is convex in x, so that a corner of the box is worst: all 16 of them, hard and soft
    labels apart.
    """
    corners = eps * np.array(np.meshgrid(*[[-1, 1]] * 4)).reshape(4, -1).T
    expected = 0.0
    for weight, labels in ((1.0, LABELS), (0.7, SOFT)):
        expected += weight * np.mean(
            [
                max(loss(LINEAR((x + d)[None])[0], y) for d in corners)
                for x, y in zip(POINTS, labels)
            ]
        )
    (side,) = theorem42.measure(LINEAR, POINTS, LABELS, SOFT, [eps], alpha=0.7)
    np.testing.assert_allclose([side.left_lower, side.left_upper], expected, rtol=1e-12)
    assert side.left_l2 >= side.left_upper - 1e-12


def test_the_l2_left_side_by_numeric_optimisation():
    eps, expected = 0.2, 0.0
    for weight, labels in ((1.0, LABELS), (0.7, SOFT)):
        for x, y in zip(POINTS, labels):
            found = [
                optimize.minimize(
                    lambda d, x=x, y=y: -loss(LINEAR((x + d)[None])[0], y),
                    sign * 0.1 * LINEAR.weights[0][0],
                    constraints={"type": "ineq", "fun": lambda d: (eps * 2) ** 2 - d @ d},
                ).fun
                for sign in (1, -1)
            ]  # fmt: skip
            expected -= weight * min(found) / len(POINTS)
    (side,) = theorem42.measure(LINEAR, POINTS, LABELS, SOFT, [eps], alpha=0.7)
    np.testing.assert_allclose(side.left_l2, expected, rtol=1e-5)  # sqrt(d) = 2


def test_the_range_of_a_network_holds_what_a_dense_search_finds():
    corners = np.array(np.meshgrid(*[np.linspace(-1, 1, 9)] * 4)).reshape(4, -1).T
    for eps in (1e-4, 0.1, 0.5):
        found_low, found_high, low, high = theorem42.logit_range(DEEP, POINTS, eps)
        grid = np.stack([DEEP(x + eps * corners) for x in POINTS])
        slack = 1e-12
        assert (low - slack <= np.minimum(found_low, grid.min(axis=1))).all()
        assert (high + slack >= np.maximum(found_high, grid.max(axis=1))).all()
        if eps == 1e-4:  # no unit switches: exact
            np.testing.assert_array_equal(found_high, high)
            np.testing.assert_allclose(high, grid.max(axis=1), rtol=1e-12)
            np.testing.assert_allclose(low, grid.min(axis=1), rtol=1e-12)
        # At 0.5 some are stuck where every unit is off.
        assert (
            eps == 0.5
            or (found_high >= DEEP(POINTS) + 0.8 * (grid.max(axis=1) - DEEP(POINTS)) - slack).all()
        )


def test_the_constants_by_hand():
    a, b, alpha = 2.0, 0.5, 0.7
    got = theorem42.assumptions(LINEAR, POINTS, LABELS, SOFT, alpha=alpha, mixup=(a, b))
    theta, g = LINEAR.weights[0][0], special.expit(LINEAR(POINTS))
    k = max(abs(s - q) / abs(y - q) for s, q, y in zip(SOFT, g, LABELS))
    cosine = min(abs(theta @ x) / np.linalg.norm(theta) / np.linalg.norm(x) for x in POINTS)
    c_x = min(np.linalg.norm(x) for x in POINTS) / 2
    # E[1 - lambda] under the mixture of Beta(a + 1, b) and Beta(b + 1, a).
    weight = a / (a + b) * (1 - stats.beta(a + 1, b).mean()) + b / (a + b) * (
        1 - stats.beta(b + 1, a).mean()
    )
    assert got.training_errors == 0
    np.testing.assert_allclose(got.mean_norm, 0, atol=1e-12)
    np.testing.assert_allclose(
        (got.closeness, got.cosine, got.c_x, got.expected_weight), (k, cosine, c_x, weight)
    )
    np.testing.assert_allclose(got.eps_paper, (1 - alpha * k) / (1 + k) * c_x * cosine * weight)
    np.testing.assert_allclose(
        got.eps_proof, (1 - alpha * k) / (1 + alpha * k) * c_x * cosine * weight
    )
    assert 0 < got.eps_paper < got.eps_proof


def test_a_failed_assumption_allows_no_eps():
    wrong = theorem42.assumptions(LINEAR, POINTS, 1 - LABELS, SOFT, alpha=0.1)
    assert wrong.training_errors == 6 and wrong.eps_paper == wrong.eps_proof == 0
    far = theorem42.assumptions(LINEAR, POINTS, LABELS, 1 - LABELS, alpha=1.0)
    assert far.closeness > 1 and far.eps_paper == far.eps_proof == 0


def test_the_expansions_agree_with_the_losses_to_second_order():
    """The left one at a small eps; the right one, which is in (1 - lambda) theta^T (x_j - x_i), for
    points near together.
    """
    eps = 1e-3
    (side,) = theorem42.measure(LINEAR, POINTS, LABELS, SOFT, [eps], alpha=0.7)
    (still,) = theorem42.measure(LINEAR, POINTS, LABELS, SOFT, [0.0], alpha=0.7)
    np.testing.assert_allclose(
        side.expanded_left - still.left_lower, side.left_l2 - still.left_lower, rtol=1e-3
    )
    small = 0.05 * POINTS
    (side,) = theorem42.measure(LINEAR, small, LABELS, SOFT, [0.0], alpha=0.7)
    np.testing.assert_allclose(side.expanded_right, side.right, rtol=1e-5)
    assert (
        abs(side.right - side.left_lower) > 1e-3 * side.right
    )  # it is not the constant alone that agrees


def test_the_largest_eps_is_where_the_sides_meet():
    eps = theorem42.largest_eps(LINEAR, POINTS, LABELS, SOFT, alpha=0.7)
    (side,) = theorem42.measure(LINEAR, POINTS, LABELS, SOFT, [eps], alpha=0.7)
    assert eps > 0
    np.testing.assert_allclose(side.left_upper, side.right, rtol=1e-9)
    with pytest.raises(ValueError, match="logistic regression alone"):
        theorem42.largest_eps(DEEP, POINTS, LABELS, SOFT, alpha=0.7)


def test_training_follows_the_gradient_of_the_loss():
    labels = RNG.uniform(size=6)
    gradients = relu_network._weight_gradients(DEEP, POINTS, labels)
    for number, gradient in enumerate(gradients):
        for index in [(0, 0), (0, gradient.shape[1] - 1)]:
            sides = []
            for sign in (1, -1):
                weights = [w.copy() for w in DEEP.weights]
                weights[number][index] += sign * 1e-6
                sides.append(loss(ReluNetwork(tuple(weights))(POINTS), labels).mean())
            np.testing.assert_allclose(gradient[index], (sides[0] - sides[1]) / 2e-6, atol=1e-8)


def test_the_command_on_digits(tmp_path, capsys):
    """On real images the inequality holds up to the allowed eps, for the losses and for the
    expansions.
    """
    output = tmp_path / "found.json"
    command.run(
        parse(Theorem42Config, ["--num_points=60", "--hidden_units=8", f"--output={output}"])
    )
    found = json.loads(output.read_text())
    assert (found["dataset"], found["points"]) == ("digits", 60)
    for name in ("logistic regression", "ReLU network"):
        allowed, sides = found[name]["assumptions"]["eps_proof"], found[name]["sides"]
        assert found[name]["assumptions"]["training_errors"] == 0
        assert found[name]["assumptions"]["mean_norm"] < 1e-12
        within = [side for side in sides if side["eps"] <= allowed]
        assert allowed == 0 or len(within) == 5
        for side in within:
            assert (
                side["left_upper"] <= side["right"]
                and side["expanded_left"] <= side["expanded_right"] + 1e-12
            )
        lefts = [side["left_upper"] for side in sides]
        assert lefts == sorted(lefts) and lefts[-1] > lefts[0]
    assert found["logistic regression"]["assumptions"]["eps_proof"] > 0
    assert "allowed eps" in capsys.readouterr().out


@pytest.mark.parametrize("classes", ["0,10", "3,3", "1", "1,2,3", "0,1,1"])
def test_bad_classes(classes):
    with pytest.raises(InputError, match="two classes in 0..9"):
        command.run(parse(Theorem42Config, [f"--classes={classes}"]))


def test_a_robust_teacher_trains_on_points_moved_uphill():
    rng = np.random.default_rng(0)
    points = rng.standard_normal((40, 4))
    labels = (points[:, 0] > 0).astype(float)

    def worst(network):
        margin = (2 * labels - 1) * network(points) - 0.3 * np.abs(network.weights[0]).sum()
        return theorem42.logistic_loss(margin, 1.0).mean()

    plain, robust = (
        relu_network.train_network(points, labels, (), 0, 600, eps) for eps in (0.0, 0.3)
    )
    assert worst(robust) < 0.95 * worst(plain)
