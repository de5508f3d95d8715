"""What every attack shares: the threat model, input checks, compilation, and the projection that no attack can skip."""

import dataclasses
import math
import numbers

import numpy as np
import tensorflow as tf

from tf_robust_transfer.errors import InputError
from tf_robust_transfer.losses import classification
from tf_robust_transfer.ops import norms, replicas


@dataclasses.dataclass(frozen=True)
class ThreatModel:
    """What an adversary may do: move each image within a ball around it, inside the pixel bounds.

    Attributes:
        norm: "linf" or "l2".
        eps: radius of the ball, as a fraction of the [0, 1] pixel range: 8 / 255, not 8.
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
        low, high = self.bounds
        if not low < high:
            raise InputError(f"bounds must be (lowest, highest), got {self.bounds}")
        if not (isinstance(self.eps, numbers.Real) and math.isfinite(self.eps) and self.eps >= 0):
            raise InputError(f"eps must be a number of at least 0, got {self.eps!r}")
        if self.norm == "linf" and self.eps > high - low:
            raise InputError(
                f"eps is a fraction of the pixel range [{low:g}, {high:g}] and cannot exceed it, got {self.eps:g}; "
                f"write {self.eps:g}/255 if you meant {self.eps:g} of 255 grey levels"
            )

    def project(self, adversarial, images, eps=None):
        """An allowed image near `adversarial`: projected on the ball, then clipped. Both float [batch, ...]; eps overrides.

        For linf this is the nearest allowed image. For l2 it is not quite where the bounds cut the ball, as in Foolbox
        and AutoAttack. Clipping to the bounds moves a pixel towards the clean image's value, which lies in the bounds,
        and so never leaves the ball.
        """
        perturbation = norms.project(adversarial - images, self.norm, self.eps if eps is None else eps)
        return tf.clip_by_value(images + perturbation, *self.bounds)


def fold_seed(seed, *numbers):
    """A stateless seed, int32 [2], that is a function of all its arguments; each may be a tensor."""
    folded = tf.stack([tf.cast(seed, tf.int32), tf.constant(0x5EED, tf.int32)]) if np.ndim(seed) == 0 else seed
    for number in numbers:
        folded = tf.random.experimental.stateless_fold_in(folded, tf.cast(number, tf.int32))
    return folded


class Attack:
    """Base of the attacks. A subclass writes `_search`; this class checks, compiles, restarts and projects.

    An attack is called on arrays (`attack(model, images, labels, threat_model=..., seed=0)`), or, inside a graph such as
    a training step, through `perturb`. Calls with the same batch shape reuse one compiled function.
    """

    restarts = 1

    def __init__(self):
        self._compiled = {}

    def __call__(self, model, images, labels, *, threat_model: ThreatModel, seed: int = 0):
        """Adversarial examples for images.

        Args:
            model: keras.Model, images in [0, 1] -> logits; called with training=False.
            images: float [batch, height, width, channels] inside threat_model.bounds.
            labels: int [batch], the true classes.
            threat_model: the ball and the bounds; every result lies in both.
            seed: the same seed gives the same examples.

        Returns:
            float32 tensor of the images' shape. With restarts, each example is that of its best restart: one that
            fools the model, or else the one with the largest margin.

        Raises:
            InputError: shapes that do not belong together, labels outside the model's classes, images outside the
                bounds.
        """
        images, labels = check_batch(model, images, labels, threat_model)
        best = self.run_restart(model, images, labels, threat_model=threat_model, seed=seed, restart=0)
        if self.restarts == 1:
            return best
        margin_of = self._function(model, "margin", lambda x, y: classification.margin(model(x, training=False), y))
        best_margin = margin_of(best, labels)
        for restart in range(1, self.restarts):
            found = self.run_restart(model, images, labels, threat_model=threat_model, seed=seed, restart=restart)
            found_margin = margin_of(found, labels)
            better = found_margin > best_margin
            best = tf.where(better[:, None, None, None], found, best)
            best_margin = tf.where(better, found_margin, best_margin)
        return best

    def run_restart(self, model, images, labels, *, threat_model, seed, restart):
        """One restart, compiled. Arguments as in __call__, unchecked. Returns the adversarial examples."""

        def search(images, labels, eps, seed):
            return self.perturb(lambda x: model(x, training=False), images, labels, threat_model, seed, eps=eps)

        function = self._function(model, (threat_model.norm, threat_model.bounds), search)
        return function(images, labels, tf.constant(threat_model.eps, tf.float32), fold_seed(seed, restart))

    def _function(self, model, key, python_function):
        """python_function compiled, once for each model and key."""
        key = (id(model), key)
        if key not in self._compiled:
            # The model is kept beside its function: an id is only unique while its object lives.
            self._compiled[key] = model, tf.function(python_function, reduce_retracing=True)
        return self._compiled[key][1]

    def perturb(self, logits_of, images, labels, threat_model, seed, eps=None):
        """Adversarial examples inside a graph; one restart.

        Args:
            logits_of: images -> logits.
            images, labels: as in __call__, unchecked.
            threat_model: norm and bounds, and eps where the argument is None.
            seed: int32 [2].
            eps: scalar tensor, so that one graph serves every radius.

        Returns:
            float [batch, ...] in ball and bounds, with no gradient to anything.
        """
        eps = threat_model.eps if eps is None else eps
        adversarial = self._search(logits_of, images, labels, threat_model, eps, seed)
        # A NaN from an overflowing gradient would slip through every clip: fall back to the clean pixel.
        adversarial = tf.where(tf.math.is_nan(adversarial), images, adversarial)
        return tf.stop_gradient(threat_model.project(adversarial, images, eps))

    def _search(self, logits_of, images, labels, threat_model, eps, seed):
        raise NotImplementedError(f"{type(self).__name__} must define _search")


def random_start(images, threat_model, eps, seed):
    """A uniform point of the ball around each image, clipped to the bounds."""
    shape = tf.shape(images)
    perturbation = norms.ball_from_noise(
        tf.ensure_shape(replicas.random_uniform(shape, fold_seed(seed, 1)), images.shape),
        tf.ensure_shape(replicas.random_normal(shape, fold_seed(seed, 2)), images.shape)
        if threat_model.norm == "l2"
        else None,
        threat_model.norm,
        eps,
    )
    return threat_model.project(images + perturbation, images, eps)


def check_batch(model, images, labels, threat_model):
    """Images as float32 and labels as int32 tensors, or an InputError that says what does not fit."""
    images, labels = tf.convert_to_tensor(images), tf.convert_to_tensor(labels)
    if images.dtype.is_integer:
        raise InputError(f"images must be float in {threat_model.bounds}, got {images.dtype.name}; divide by 255 first")
    if not labels.dtype.is_integer:
        raise InputError(f"labels must be integers, got {labels.dtype.name}")
    images, labels = tf.cast(images, tf.float32), tf.cast(labels, tf.int32)
    expected = tuple(model.input_shape[1:])
    got = tuple(images.shape[1:])
    if len(got) != 3 or len(expected) != 3 or any(e not in (None, g) for e, g in zip(expected, got, strict=True)):
        raise InputError(f"images must have shape [batch, {', '.join(map(str, expected))}], got {images.shape.as_list()}")
    if labels.shape.rank != 1 or labels.shape[0] != images.shape[0]:
        raise InputError(
            f"labels must be integers of shape [{images.shape[0]}], one for each image, got {labels.shape.as_list()}"
        )
    if images.shape[0]:
        classes = model.output_shape[-1]
        lowest, highest = int(tf.reduce_min(labels)), int(tf.reduce_max(labels))
        if highest >= classes or lowest < 0:
            raise InputError(
                f"labels must lie in 0..{classes - 1} for a model of {classes} logits, got {lowest} to {highest}"
            )
        low, high = float(tf.reduce_min(images)), float(tf.reduce_max(images))
        if not (threat_model.bounds[0] - 1e-6 <= low and high <= threat_model.bounds[1] + 1e-6):
            raise InputError(f"images must lie in {threat_model.bounds}, got values from {low:g} to {high:g}")
    return images, labels
