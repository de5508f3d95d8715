"""Decision regions and loss landscapes, Figure 7 of the IGAM paper.

A plane through an image x: x + a u + b v, with u the adversarial direction of the model that is
drawn and v a random one. The paper says no more than "along the adversarial perturbation and a
random direction". Here, for the linf norm, u is the sign of the model's own input gradient of the
cross-entropy (the step of FGSM) and v has entries -1 and 1 with equal probability (Rademacher); for
l2, u is that gradient and v the part of such a v at a right angle to it, both of length 1. So a and
b are distances in the norm, and the ball of radius eps is |a| + |b| <= eps for linf (wherever u and
v agree in a pixel and differ in another) and a circle for l2. The points are those of the plane,
not clipped to [0, 1]."""

import dataclasses

import numpy as np
import tensorflow as tf

from tf_robust_transfer.attacks.threat_model import ThreatModel, check_batch
from tf_robust_transfer.checkpoints import as_model
from tf_robust_transfer.errors import InputError
from tf_robust_transfer.losses import classification
from tf_robust_transfer.models.bounds import pixel_bounds
from tf_robust_transfer.ops.gradients import input_gradient

POINTS = 41
_BATCH = 123


@dataclasses.dataclass(frozen=True)
class Landscape:
    """A model on a plane through an image.

    Attributes:
        coordinates: float64 [points], of both axes, from -extent to extent.
        predicted: int [points, points], the class; [i, j] is at a = coordinates[j] along the
            adversarial direction and b = coordinates[i] along the random one, so that row 0 is the
            lowest.
        cross_entropy: float32 [points, points], of the true class, in the same order.
        adversarial, random: float32 [height, width, channels], the directions u and v.
    """

    coordinates: np.ndarray
    predicted: np.ndarray
    cross_entropy: np.ndarray
    adversarial: np.ndarray
    random: np.ndarray


def loss_landscapes(
    model, images, labels, *, extent: float, norm: str = "linf", points: int = POINTS, seed: int = 0
):
    """The landscape around each image, in batches of one compiled function.

    Args:
        model: keras.Model or SPEC, images in [0, 1] -> logits; called with training=False.
        images: float [n, height, width, channels] in [0, 1].
        labels: int [n], the true classes.
        extent: half the width of the plane, in the norm; above 0.
        norm: "linf" or "l2".
        points: on each axis, at least 2; an odd number has the image itself in the middle.
        seed: of the random direction, which depends on nothing else but the image's place and
            shape: all models are shown along the same.

    Returns:
        list of n `Landscape`. Where the gradient is zero, so is the adversarial direction.

    Raises:
        InputError: images or labels that do not fit the model, an extent or a number of points that
            is too small.
    """
    if not 0 < extent < np.inf or points < 2:
        raise InputError(
            f"a landscape needs an extent above 0 and at least 2 points, got {extent} and {points}"
        )
    model = as_model(model, np.shape(images)[1:])
    images, labels = check_batch(
        model, images, labels, ThreatModel(norm=norm, bounds=pixel_bounds(model))
    )

    @tf.function
    def look(image, label, directions, places):
        batch = image + tf.tensordot(places, directions, 1)
        logits = tf.cast(model(batch, training=False), tf.float32)
        repeated = tf.fill([tf.shape(places)[0]], label)
        return tf.argmax(logits, axis=1), classification.cross_entropy(logits, repeated)

    coordinates = np.linspace(-extent, extent, points)
    places = np.stack(
        [grid.ravel() for grid in np.meshgrid(coordinates, coordinates)], axis=1
    ).astype(np.float32)
    found = []
    for number, adversarial in enumerate(_adversarial_directions(model, images, labels, norm)):
        directions = np.stack([adversarial, _random_direction(adversarial, norm, (seed, number))])
        parts = []
        for start in range(0, len(places), _BATCH):
            # The last batch is filled up with the last place, for one compiled function.
            used = np.minimum(np.arange(start, start + _BATCH), len(places) - 1)
            result = look(
                images[number], labels[number], tf.constant(directions), tf.constant(places[used])
            )
            parts.append([values.numpy()[: len(places) - start] for values in result])
        predicted, losses = (
            np.concatenate(values).reshape(points, points) for values in zip(*parts, strict=True)
        )
        found.append(Landscape(coordinates, predicted, losses, *directions))
    return found


def _adversarial_directions(model, images, labels, norm):
    """float32 [n, height, width, channels]."""

    def score_of(x):
        return classification.cross_entropy(
            tf.cast(model(x, training=False), tf.float32), labels
        ), None

    # As a graph, which leaves out the gradients of the kernels.
    gradient = tf.function(lambda: input_gradient(score_of, images)[0])().numpy()
    if norm == "linf":
        return np.sign(gradient)
    return np.stack([_unit(part) for part in gradient])


def _random_direction(adversarial, norm, seed):
    random = np.random.default_rng(seed).choice(np.array([-1, 1], np.float32), adversarial.shape)
    if norm == "linf":
        return random
    return _unit(random - np.vdot(adversarial, random) * adversarial)


def _unit(array):
    """Of l2 length 1; zero stays zero."""
    # Squares of a sure model's gradients underflow in float32.
    length = np.linalg.norm(array.astype(np.float64))
    return (array / length if length > 0 else array).astype(np.float32)
