"""Networks of ReLUs without biases, of which Theorem 4.2 of the MixACM paper speaks."""

import dataclasses

import numpy as np
from scipy import special

_LEARNING_RATE, _LAST_LAYER_SCALE = 0.005, 0.1  # of the first weights


@dataclasses.dataclass(frozen=True)
class ReluNetwork:
    """x -> W_N relu(... relu(W_1 x)), without biases; of a single matrix it is logistic regression.

    weights: float64 matrices, each [outputs, inputs], the last one with 1 output.
    """

    weights: tuple

    def hidden(self, x):
        """float [n, d] -> the values before each ReLU, and the output [n, 1]."""
        values = [x @ self.weights[0].T]
        for matrix in self.weights[1:]:
            values.append(np.maximum(values[-1], 0) @ matrix.T)
        return values

    def __call__(self, x):
        """float [n, d] -> logits of class 1, [n]."""
        return self.hidden(x)[-1][:, 0]

    def gradient(self, x):
        """The logit's gradient with respect to each point, [n, d]."""
        *before, _ = self.hidden(x)
        result = np.repeat(self.weights[-1], len(x), axis=0)
        for matrix, values in zip(self.weights[-2::-1], before[::-1]):
            result = (result * (values > 0)) @ matrix
        return result


def train_network(points, targets, hidden_units, seed, steps, eps=0.0) -> ReluNetwork:
    """Full-batch Adam on the logistic loss; with eps on the points moved by an FGSM step of that
    size. The last layer starts small.
    """
    rng, widths = np.random.default_rng(seed), (points.shape[1], *hidden_units, 1)
    weights = [rng.standard_normal((n, m)) * np.sqrt(2 / m) for m, n in zip(widths, widths[1:])]
    weights[-1] *= _LAST_LAYER_SCALE
    moments = [(np.zeros_like(w), np.zeros_like(w)) for w in weights]
    for step in range(1, steps + 1):
        network = ReluNetwork(tuple(weights))
        error = special.expit(network(points)) - targets
        moved = points + eps * np.sign(error[:, None] * network.gradient(points))
        for number, gradient in enumerate(_weight_gradients(network, moved, targets)):
            first, second = moments[number]
            moments[number] = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
            first, second = (
                moments[number][0] / (1 - 0.9**step),
                moments[number][1] / (1 - 0.999**step),
            )
            weights[number] = weights[number] - _LEARNING_RATE * first / (np.sqrt(second) + 1e-8)
    return ReluNetwork(tuple(weights))


def _weight_gradients(network, points, targets):
    """Of the mean logistic loss, by back-propagation."""
    *before, logits = network.hidden(points)
    inputs = [points, *(np.maximum(values, 0) for values in before)]
    error = (special.expit(logits[:, 0]) - targets)[:, None] / len(points)
    gradients = []
    for number in reversed(range(len(network.weights))):
        gradients.append(error.T @ inputs[number])
        if number:
            error = error @ network.weights[number] * (before[number - 1] > 0)
    return gradients[::-1]
