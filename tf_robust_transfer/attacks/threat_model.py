"""The threat model, what images and labels have to fit, and the projection that every attack ends
with.
"""

import dataclasses
import math
import numbers
import typing

import tensorflow as tf

from tf_robust_transfer.errors import InputError
from tf_robust_transfer.models.bounds import as_floats, pixel_bounds
from tf_robust_transfer.ops import norms

# Rounding of float32 pixels may carry an image this far out of ball or bounds before it is
# projected; a fraction of the pixel range.
ROUNDING = 1e-6

# The model of two logits, 0 and z, that stands for one whose only output is z.
TWO_LOGITS = "keras.Model(model.input, keras.ops.pad(model.output, [(0, 0), (1, 0)]))"


@dataclasses.dataclass(frozen=True)
class ThreatModel:
    """What an adversary may do: move each image within a ball around it, inside the pixel bounds.

    The attacks themselves work on pixels in [0, 1], to which `to_unit` brings the images and from
    which `from_unit` brings them back. So every constant of theirs is a fraction of the pixel
    range, and what they find does not depend on the unit.

    Attributes:
        norm: "linf" or "l2".
        eps: radius of the ball, in the units of bounds: 8 / 255 in (0, 1), 8 in (0, 255).
        bounds: lowest and highest pixel value.

    Raises:
        InputError: unknown norm, eps not a number of that range, bounds not increasing.
    """

    norm: str = "linf"
    eps: float = 8 / 255
    bounds: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self):
        if self.norm not in norms.NORMS:
            raise InputError(f"norm must be one of {norms.NORMS}, got {self.norm!r}")
        try:
            low, high = map(float, self.bounds)
        except (TypeError, ValueError):
            low = high = math.nan
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise InputError(f"bounds must be (lowest, highest), got {self.bounds}")
        object.__setattr__(self, "bounds", (low, high))
        if not (isinstance(self.eps, numbers.Real) and math.isfinite(self.eps) and self.eps >= 0):
            raise InputError(f"eps must be a number of at least 0, got {self.eps!r}")
        object.__setattr__(self, "eps", float(self.eps))
        if self.norm == "linf" and self.eps > high - low:
            raise InputError(
                f"eps is in the units of the pixel range [{low:g}, {high:g}] and cannot exceed it, "
                f"got {self.eps:g}; write {self.eps:g}/255 if you meant {self.eps:g} of 255 grey "
                "levels"
            )

    @property
    def range(self) -> float:
        """Highest pixel value less the lowest."""
        return self.bounds[1] - self.bounds[0]

    def in_unit(self):
        """The same threat model for pixels in [0, 1]."""
        eps = self.eps / self.range
        return ThreatModel(self.norm, min(eps, 1.0) if self.norm == "linf" else eps)

    def to_unit(self, images):
        """Images in the bounds, float [batch, ...], as pixels in [0, 1]."""
        # Where nothing changes no operation is added either.
        return images if self.bounds == (0.0, 1.0) else (images - self.bounds[0]) / self.range

    def from_unit(self, images):
        """The inverse of `to_unit`."""
        return images if self.bounds == (0.0, 1.0) else self.bounds[0] + self.range * images

    def project(self, adversarial, images, eps=None):
        """An allowed image near `adversarial`: projected on the ball, then clipped. Both float
        [batch, ...]; eps overrides.

        For linf this is the nearest allowed image. For l2 it is not quite where the bounds cut the
        ball, as in Foolbox and AutoAttack. Clipping to the bounds moves a pixel towards the clean
        image's value, which lies in the bounds, and so never leaves the ball."""
        perturbation = norms.project(
            adversarial - images, self.norm, self.eps if eps is None else eps
        )
        return tf.clip_by_value(images + perturbation, *self.bounds)

    def allowed(self, adversarial, images, eps=None):
        """What an attack hands out: projected, and the clean pixel where it holds NaN."""
        # A NaN from an overflowing gradient would slip through every clip.
        return self.project(tf.where(tf.math.is_nan(adversarial), images, adversarial), images, eps)


def check_batch(model, images, labels, threat_model):
    """Images as float32 and labels as int32 tensors, or an InputError: what does not fit.

    Inside a tf.function only types and shapes can be looked at.
    """
    bounds = pixel_bounds(model)
    if bounds not in ((0.0, 1.0), threat_model.bounds):
        raise InputError(
            f"the classifier takes images in {bounds}, as as_classifier was told, and the threat "
            f"model has the bounds {threat_model.bounds}; give ThreatModel(bounds={bounds}), with "
            "eps and images in the same units"
        )
    images, labels = tf.convert_to_tensor(images), tf.convert_to_tensor(labels)
    if images.dtype.is_integer:
        raise InputError(
            f"images must be float in {threat_model.bounds}, got {images.dtype.name}; "
            + as_floats(threat_model.bounds)
        )
    if not labels.dtype.is_integer:
        raise InputError(f"labels must be integers, got {labels.dtype.name}")
    images, labels = tf.cast(images, tf.float32), tf.cast(labels, tf.int32)
    expected = tuple(model.input_shape[1:])
    got = tuple(images.shape[1:])
    if (
        len(got) != 3
        or len(expected) != 3
        or any(e not in (None, g) for e, g in zip(expected, got, strict=True))
    ):
        raise InputError(
            f"images must have shape [batch, {', '.join(map(str, expected))}], got "
            f"{images.shape.as_list()}"
        )
    if labels.shape.rank != 1 or not labels.shape.is_compatible_with(images.shape[:1]):
        raise InputError(
            f"labels must be integers of shape [{images.shape[0]}], one for each image, got "
            f"{labels.shape.as_list()}"
        )
    classes = model.output_shape[-1]
    if classes == 1:
        raise InputError(
            "the model has one output, which is not the logits of two classes; for a logit z of "
            f"class 1 attack {TWO_LOGITS}"
        )
    if tf.executing_eagerly() and images.shape[0]:
        _check_values(images, labels, classes, threat_model)
    return images, labels


def _check_values(images, labels, classes, threat_model):
    lowest, highest = int(tf.reduce_min(labels)), int(tf.reduce_max(labels))
    if highest >= classes or lowest < 0:
        raise InputError(
            f"labels must lie in 0..{classes - 1} for a model of {classes} logits, got "
            f"{lowest} to {highest}"
        )
    low, high = float(tf.reduce_min(images)), float(tf.reduce_max(images))
    slack = ROUNDING * threat_model.range
    if not (threat_model.bounds[0] - slack <= low and high <= threat_model.bounds[1] + slack):
        raise InputError(
            f"images must lie in {threat_model.bounds}, got values from {low:g} to {high:g}; give "
            "the bounds of your pixels to ThreatModel(bounds=...), and where images are "
            "standardised put the normalisation inside the model: rt.as_classifier(model, mean=, "
            "std=)"
        )


class Problem(typing.NamedTuple):
    """What an attack has to solve, inside a graph: for pixels in [0, 1], see `of`.

    Attributes:
        logits_of: images float32 [batch, height, width, channels] -> logits float32 [batch,
            classes].
        threat_model: norm and bounds; its eps is not used.
        eps: radius of the ball, a number or a scalar tensor, so that one graph serves every radius.
        clean_logits: of the clean images, float32 [batch, classes], for an attack that
            `uses_clean_logits`.
        range: of the pixels in the user's units, see `fraction`.
    """

    logits_of: typing.Callable
    threat_model: ThreatModel
    eps: typing.Any
    clean_logits: typing.Any = None
    range: float = 1.0

    @classmethod
    def of(cls, logits_of, threat_model, eps, clean_logits=None):
        """The problem for pixels in [0, 1] that stands for one in the threat model's units.

        logits_of: of images in the threat model's bounds; eps: in its units.
        """
        return cls(
            lambda images: logits_of(threat_model.from_unit(images)),
            threat_model.in_unit(),
            eps / threat_model.range,
            clean_logits,
            threat_model.range,
        )

    def fraction(self, size):
        """A step size that the user gave, in the units of the bounds, as a fraction of the pixel
        range.
        """
        return size / self.range

    def project(self, adversarial, images):
        """ThreatModel.project at this problem's eps."""
        return self.threat_model.project(adversarial, images, self.eps)

    def holds(self, adversarial, images):
        """Whether each image lies in ball and bounds, but for rounding. Returns bool [batch]."""
        low, high = self.threat_model.bounds
        flat = tf.reshape(adversarial, [tf.shape(adversarial)[0], math.prod(adversarial.shape[1:])])
        within = tf.reduce_all((flat >= low - ROUNDING) & (flat <= high + ROUNDING), axis=1)
        return within & (
            norms.lp_norm(adversarial - images, self.threat_model.norm) <= self.eps + ROUNDING
        )
