"""N-FGSM, de Jorge et al. (2022): single-step adversarial training that does not overfit to its
attack.
"""

import tensorflow as tf

from tf_robust_transfer.attacks import ThreatModel
from tf_robust_transfer.errors import InputError
from tf_robust_transfer.losses import classification
from tf_robust_transfer.ops import replicas
from tf_robust_transfer.ops.gradients import input_gradient


class NFGSM:
    """One step of size eps from strong noise, without a projection: the examples may lie outside
    the ball, up to (noise + 1) eps from the image. So it is for training and is no `Attack`.

    As the reference code (pdejorge/N-FGSM, train.py), but for batch statistics: it takes them of
    the batch, here they are frozen, as in all training attacks of this package.

    Args:
        noise: k of the uniform noise in [-k eps, k eps]; the paper's 2.
        step_size: in the units of eps; None: eps, the paper's.

    Raises:
        InputError: noise below 0 or a step that is not positive.

    >>> rt.AdversarialTraining(student=student, threat_model=threat_model, attack="n-fgsm")
    """

    def __init__(self, noise: float = 2.0, step_size: float | None = None):
        if noise < 0 or (step_size is not None and step_size <= 0):
            raise InputError(
                "n-fgsm: expected noise of at least 0 and a positive step_size, got "
                f"noise={noise}, step_size={step_size}"
            )
        self.noise, self.step_size = noise, step_size

    def perturb(self, logits_of, images, labels, threat_model: ThreatModel, seed, eps=None):
        """The images of a training step, moved.

        Args:
            logits_of: images -> logits [batch, classes].
            images: float32 [batch, height, width, channels] in threat_model.bounds.
            labels: int [batch].
            threat_model: linf.
            seed: int32 [2].
            eps: scalar that overrides the threat model's.

        Returns:
            float32 of the images' shape, in the bounds; no gradient passes it.

        Raises:
            InputError: a threat model of another norm.
        """
        if threat_model.norm != "linf":
            raise InputError(f"n-fgsm is for linf, got norm {threat_model.norm}")
        eps = threat_model.eps if eps is None else eps
        step = eps if self.step_size is None else self.step_size
        uniform = replicas.random_uniform(tf.shape(images), seed)
        noise = tf.ensure_shape(self.noise * eps * (2 * uniform - 1), images.shape)
        started = tf.clip_by_value(images + noise, *threat_model.bounds)

        def loss_of(x):
            logits = logits_of(x)
            return classification.cross_entropy(logits, labels), logits

        gradient, _, _ = input_gradient(loss_of, started)
        moved = tf.clip_by_value(started + step * tf.sign(gradient), *threat_model.bounds)
        return tf.stop_gradient(moved)
