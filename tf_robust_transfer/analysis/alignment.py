"""How the robustness of a network goes with its input gradient: section 6 of the IGAM paper.

Theorem 2 of Etmann et al. (2019), Eq. 18 there, bounds linearised robustness by alignment:

    rho(x) <= alpha(x) + C / ||g||,    alpha(x) = |<x, g>| / ||g||,

g being the gradient of Psi^{i*} - Psi^{j*}, the largest logit less the second largest, and, after
Etmann et al., rho(x) = min_{j != i*} (Psi^{i*}(x) - Psi^j(x)) / ||grad(Psi^{i*} - Psi^j)(x)||. For
a linear network rho is the l2 distance from x to the nearest decision boundary.

The paper leaves open: what C is ("a positive constant"); what the pixels are (here x and g are of
the [0, 1] pixels that the models take: alpha, unlike rho, depends on which colour is 0); and which
images (all that are given; i* is the class that the model predicts, so that a wrong prediction too
can have a large rho, as the paper notes)."""

import dataclasses

import numpy as np
import tensorflow as tf
from scipy import stats

from tf_robust_transfer.attacks.threat_model import ThreatModel
from tf_robust_transfer.checkpoints import as_model
from tf_robust_transfer.errors import InputError
from tf_robust_transfer.evaluation.examples import collect, image_shape
from tf_robust_transfer.losses import classification
from tf_robust_transfer.models.bounds import pixel_bounds
from tf_robust_transfer.models.pairs import check_pair
from tf_robust_transfer.ops.gradients import input_gradient

# Relative rounding of float32 gradients: a homogeneous network of two classes has rho = alpha, and
# holds the bound.
ROUNDING = 1e-5


@dataclasses.dataclass(frozen=True)
class GradientAlignment:
    """What `gradient_alignment` found: float64 [num_examples] each, in the order of the images, at
    least 0 but where said.

    Attributes:
        alpha: |<x, g>| / ||g||, in the l2 norm of [0, 1] pixels; NaN where g is zero.
        rho: linearised robustness, in the same unit; infinite where no difference of logits has a
            gradient.
        rho_minus_alpha: of either sign; NaN where alpha is.
        gradient_norm: ||g||.
        constant: |Psi^{i*}(x) - Psi^{j*}(x) - <x, g>|, the part of the difference that is not
            homogeneous in x (biases, say). With it as the example's C, Eq. 18 holds for any
            network, by the triangle inequality.
        cosine: between the input gradients of the cross-entropy of model and teacher, in [-1, 1];
            NaN where one of them is zero. None without a teacher.
        l2_distance: ||J_s - J_t|| of the same two; its square is L_diff, Eq. 13. None without a
            teacher.
    """

    alpha: np.ndarray
    rho: np.ndarray
    rho_minus_alpha: np.ndarray
    gradient_norm: np.ndarray
    constant: np.ndarray
    cosine: np.ndarray | None = None
    l2_distance: np.ndarray | None = None

    def summary(self) -> dict:
        """What stands in results.json, of plain numbers.

        Returns:
            {"num_examples"; name of an attribute: {"mean", "confidence_interval_95": [low, high] of
            the mean, by Student's t, "undefined": examples without a finite value, which the mean
            leaves out}; "rho_at_most_alpha": fraction of the examples, where it is defined, at
            which Eq. 18 holds with C = 0; "smallest_constant": the smallest C of at least 0 with
            which Eq. 18 holds at all of these examples}. None stands for a number that so few
            examples do not give.
        """
        result = {"num_examples": len(self.alpha)}
        for field in dataclasses.fields(self):
            values = getattr(self, field.name)
            if values is not None:
                result[field.name] = _mean(values)
        defined = np.isfinite(self.rho_minus_alpha)
        gap, length = self.rho_minus_alpha[defined], self.gradient_norm[defined]
        result["rho_at_most_alpha"] = (
            float(np.mean(gap <= ROUNDING * self.rho[defined])) if len(gap) else None
        )
        result["smallest_constant"] = float(max(0.0, np.max(gap * length))) if len(gap) else None
        return result


def gradient_alignment(
    model, images, labels=None, *, teacher=None, batch_size: int = 128, bounds=None
) -> GradientAlignment:
    """Alignment and linearised robustness of a model, and how near its input gradients are to a
    teacher's.

    It takes a backward pass for each class but one, of each image.

    Args:
        model: keras.Model, images in `bounds` -> logits; called with training=False.
        images: float [num_examples, height, width, channels] in `bounds`, or a finite
            `tf.data.Dataset` of batches (images, labels) in place of both.
        labels: int [num_examples], the true classes, of the cross-entropy that is compared with the
            teacher's; None with a dataset.
        teacher: None, or a keras.Model of the same images and classes.
        batch_size: images that are worked on at once; the result does not depend on it.
        bounds: (lowest, highest) pixel value; by default those that the model was told
            (`as_classifier`), else (0, 1). What is found is of pixels in [0, 1] all the same.

    Raises:
        InputError: no examples, examples that do not fit the model, or a teacher of other images or
            classes.
    """
    shape = image_shape(images)
    model, teacher = as_model(model, shape), None if teacher is None else as_model(teacher, shape)
    return Alignment(model, teacher, batch_size, bounds)(images, labels)


class Alignment:
    """`gradient_alignment` of one model, compiled once, for whoever asks again when its weights
    have changed.

    Args: see `gradient_alignment`. Called with images and labels it returns a `GradientAlignment`.
    """

    def __init__(self, model, teacher=None, batch_size: int = 128, bounds=None):
        if batch_size < 1:
            raise InputError(f"batch_size must be positive, got {batch_size}")
        if model.output_shape[-1] < 2:
            raise InputError(
                f"alignment needs a model of at least 2 logits, got {model.output_shape[-1]}"
            )
        if teacher is not None:
            check_pair(model, teacher)
        self.model, self.teacher, self.batch_size = model, teacher, batch_size
        self.bounds = tuple(bounds or pixel_bounds(model))
        self._measured = tf.function(self._measure)

    def __call__(self, images, labels=None) -> GradientAlignment:
        images, labels = collect(
            self.model, images, labels, ThreatModel(bounds=self.bounds), self.batch_size
        )
        count, size = len(labels), min(self.batch_size, len(labels))
        parts = []
        for start in range(0, count, size):
            # The last batch is filled up with its last image, so that there is one compiled
            # function.
            used = np.minimum(np.arange(start, start + size), count - 1)
            measured = self._measured(tf.constant(images[used]), tf.constant(labels[used]))
            parts.append({name: value.numpy()[: count - start] for name, value in measured.items()})
        found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

        # [num_examples, classes - 1], the runner-up first.
        margins, lengths = found["margins"], found["lengths"]
        rho = np.divide(margins, lengths, out=np.full_like(margins, np.inf), where=lengths > 0).min(
            axis=1
        )
        margin, length, product = margins[:, 0], lengths[:, 0], found["products"][:, 0]
        alpha = np.divide(
            np.abs(product), length, out=np.full_like(length, np.nan), where=length > 0
        )
        return GradientAlignment(
            alpha=alpha,
            rho=rho,
            rho_minus_alpha=rho - alpha,
            gradient_norm=length,
            constant=np.abs(margin - product),
            cosine=found.get("cosine"),
            l2_distance=found.get("l2_distance"),
        )

    def _measure(self, images, labels):
        """One batch; float64, for squares of tiny gradients underflow in float32. By pixels in
        [0, 1], whatever the bounds.
        """
        low, span = self.bounds[0], self.bounds[1] - self.bounds[0]
        with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
            tape.watch(images)
            logits = tf.cast(self.model(images, training=False), tf.float32)
        classes = logits.shape[1]
        largest, order = tf.math.top_k(logits, classes)
        largest, pixels = tf.cast(largest, tf.float64), (_flat(images) - low) / span

        def rival(rank):
            """Length of the gradient of i*'s logit less that of the class of this rank, and its
            product with x.
            """
            difference = tf.one_hot(order[:, 0], classes) - tf.one_hot(order[:, rank], classes)
            gradient = span * _flat(
                tape.gradient(
                    logits,
                    images,
                    output_gradients=difference,
                    unconnected_gradients=tf.UnconnectedGradients.ZERO,
                )
            )
            return tf.norm(gradient, axis=1), tf.reduce_sum(pixels * gradient, axis=1)

        # One class after the other: all gradients at once would not fit for two hundred classes.
        signature = (tf.TensorSpec([None], tf.float64),) * 2
        lengths, products = tf.map_fn(
            rival, tf.range(1, classes), fn_output_signature=signature, parallel_iterations=1
        )
        found = {
            "margins": largest[:, :1] - largest[:, 1:],
            "lengths": tf.transpose(lengths),
            "products": tf.transpose(products),
        }
        if self.teacher is not None:
            own, theirs = (
                span * _cross_entropy_gradient(network, images, labels)
                for network in (self.model, self.teacher)
            )
            # 0 / 0 is NaN.
            found["cosine"] = tf.reduce_sum(own * theirs, axis=1) / (
                tf.norm(own, axis=1) * tf.norm(theirs, axis=1)
            )
            found["l2_distance"] = tf.norm(own - theirs, axis=1)
        return found


def _cross_entropy_gradient(model, images, labels):
    def score_of(x):
        return classification.cross_entropy(
            tf.cast(model(x, training=False), tf.float32), labels
        ), None

    return _flat(input_gradient(score_of, images)[0])


def _flat(images):
    """float64 [batch, pixels]."""
    return tf.reshape(tf.cast(images, tf.float64), [tf.shape(images)[0], -1])


def _mean(values):
    """Mean of the finite values and its 95% interval."""
    finite = values[np.isfinite(values)]
    mean = low = high = None
    if len(finite):
        mean = float(finite.mean())
    if len(finite) > 1:
        half = float(stats.t.ppf(0.975, len(finite) - 1) * stats.sem(finite))
        low, high = mean - half, mean + half
    return {
        "mean": mean,
        "confidence_interval_95": [low, high],
        "undefined": len(values) - len(finite),
    }
