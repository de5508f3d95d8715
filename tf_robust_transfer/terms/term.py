"""A term of a loss, and the sum of a list of them."""

import tensorflow as tf

from tf_robust_transfer.errors import InputError
from tf_robust_transfer.ops import replicas

# What the logs of a step call something else.
RESERVED = ("loss", "accuracy", "weight_decay", "regularization", "gradient_norm")


class Term:
    """A weight times the mean over the batch of a loss of each example.

    Args:
        name: in the logs.
        weight: a number.
        loss: a function of what the pass has seen -> float [batch].
        of: the pass, a callable (images, labels, seed) -> what it has seen, a dict; see `passes`.
            Terms of the same pass share one call of it.

    Attributes:
        names: what the term calls its values in the logs.
        variables: what is trained beside the student's own variables.
    """

    variables = ()

    def __init__(self, name, weight, loss, *, of):
        if not callable(loss):
            raise InputError(
                f"term {name!r}: expected a function of what the pass has seen, got {loss!r}; "
                "a method is a keras.Model, whose own names (loss, metrics, optimizer) are taken"
            )
        self.names = (name,)
        self.weight, self.loss, self.of = weight, loss, of

    def __call__(self, seen) -> dict:
        """{name: (weight, this replica's share of the mean over the global batch)}"""
        values = self.loss(seen)
        if len(values.shape) != 1:
            raise InputError(
                f"term {self.names[0]!r}: expected one value an example, float [batch], got the "
                f"shape {values.shape}; the mean over the batch is taken afterwards"
            )
        return {self.names[0]: (self.weight, replicas.global_mean(values))}

    def state(self) -> dict:
        """{name: what a resumed run needs of the term}, for `tf.train.Checkpoint`."""
        return {}


def evaluate(terms, images, labels, seed):
    """Calls each pass once, where its first term stands, and takes the terms in their order.

    Args:
        terms: list of `Term`.
        images: float32 [batch, height, width, channels] in [0, 1].
        labels: int [batch].
        seed: int32 [2], of every random number of the step.

    Returns:
        ({name: (weight, this replica's share)}, {pass: what it has seen}).
    """
    shares, seen = {}, {}
    for term in terms:
        if term.of not in seen:
            seen[term.of] = term.of(images, labels, seed)
        found = term(seen[term.of])
        twice = sorted(set(found) & set(shares))
        if twice:
            raise InputError(_named_twice(twice[0]))
        shares |= found
    return shares, seen


def check_names(names) -> None:
    """Raises an InputError unless terms of these names can stand in one loss."""
    for place, name in enumerate(names):
        if name in names[:place]:
            raise InputError(_named_twice(name))
        if name in RESERVED:
            raise InputError(f"a term cannot be called {name!r}, as the logs call something else")


def _named_twice(name):
    return f"two terms are called {name!r}: give one another name (name=...)"


def total(shares):
    """The loss: a scalar. shares: {name: (weight, value)}; those of weight 0 are only shown."""
    return tf.add_n([weight * value for weight, value in shares.values()])
