"""Mixup (Zhang et al. 2018, https://arxiv.org/abs/1710.09412): images' = lam * x_i + (1 - lam) *
x_j, labels alike.

Why not `keras.layers.MixUp`: it draws its own weights and partners from a stateful generator (a
resumed run would not see the images that the uninterrupted one saw), one weight for each example
(the original code: one for each batch), and it refuses integer labels. Here the weights come from a
seed, and are an argument."""

import math

import tensorflow as tf

from tf_robust_transfer.errors import InputError
from tf_robust_transfer.ops import random

_PROPOSALS = 24


def mixup(images: tf.Tensor, labels: tf.Tensor, *, lam: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Mixes each example with its neighbour: 0 with 1, 2 with 3, ...; the last of an odd batch
    stays as it is.

    In a shuffled batch this is a random pairing without replacement. And no pair crosses the border
    where a distribution strategy cuts a batch into parts of even numbers of images: two devices see
    the same mixed images as one.

    Args:
        images: float [batch, height, width, channels]; any range.
        labels: float [batch, num_classes]: one-hot, or probabilities such as a teacher's.
        lam: float [] or [batch] in [0, 1]; example i is `lam[i]` of itself and `1 - lam[i]` of its
            partner.

    Returns:
        (mixed images, mixed labels), types and shapes as they came.

    Raises:
        InputError: integer images or labels (convert to one-hot first), or `lam` of rank 2 or more.
    """
    images, labels = tf.convert_to_tensor(images), tf.convert_to_tensor(labels)
    for name, value in (("images", images), ("labels", labels)):
        if not value.dtype.is_floating:
            raise InputError(
                f"mixup needs float {name}, got {value.dtype.name}; "
                + ("scale them to [0, 1]" if name == "images" else "use tf.one_hot first")
            )
    lam = tf.convert_to_tensor(lam, tf.float32)
    if lam.shape.rank is None or lam.shape.rank > 1:
        raise InputError(f"lam must be a scalar or [batch], got shape {lam.shape}")
    size = tf.shape(images)[0]
    indices = tf.range(size)
    partners = tf.bitwise.bitwise_xor(indices, 1)
    partners = tf.where(partners < size, partners, indices)

    def mixed(x):
        weight = tf.cast(lam, x.dtype)
        if weight.shape.rank == 1:
            weight = tf.reshape(weight, [-1] + [1] * (x.shape.rank - 1))
        return weight * x + (1.0 - weight) * tf.gather(x, partners)

    return mixed(images), mixed(labels)


def mixup_weights(
    batch_size: int | tf.Tensor, *, alpha: float, per_example: bool, seed: tf.Tensor
) -> tf.Tensor:
    """Mixup weights from Beta(alpha, alpha), a pure function of the seed.

    Beta is G1 / (G1 + G2), with G1 and G2 from Gamma(alpha). For a small alpha both gammas
    underflow; so they are drawn by their logarithms, as Gamma(alpha + 1) * U^(1 / alpha) (Marsaglia
    and Tsang 2000, section 6). Not `tf.random.stateless_gamma`, since XLA has no kernel for it
    (TensorFlow 2.21).

    Args:
        batch_size: the number of examples.
        alpha: > 0; 1 is uniform. (`keras.layers.MixUp` has 0.2 by default, the original code 1.)
        per_example: True: one weight for each example; False: one for the batch, as in the original
            code.
        seed: int32 or int64 [2].

    Returns:
        float32 [batch_size] in [0, 1], or float32 [] for `per_example=False`; either is a `lam` for
        `mixup`.

    Raises:
        InputError: alpha is not positive.
    """
    if not alpha > 0.0:
        raise InputError(
            f"mixup alpha must be positive, got {alpha!r}; without mixup, leave the mixing out"
        )
    shape = (
        tf.reshape(tf.cast(batch_size, tf.int32), [1]) if per_example else tf.zeros([0], tf.int32)
    )
    shape = tf.concat([[2], shape], axis=0)
    gamma_seed, power_seed = (random.fold_seed(seed, i) for i in (0, 1))
    log_power = tf.math.log(random.open_uniform(shape, power_seed)) / alpha
    log_gamma = _log_gamma_sample(shape, alpha + 1.0, gamma_seed) + log_power
    return tf.sigmoid(log_gamma[0] - log_gamma[1])


def _log_gamma_sample(shape: tf.Tensor, alpha: float, seed: tf.Tensor) -> tf.Tensor:
    """Logarithms of samples from Gamma(alpha), alpha >= 1: Marsaglia and Tsang 2000, section 5.

    The loop over proposals is unrolled: `_PROPOSALS` at once, the first accepted one is taken. More
    than 95% of the proposals are accepted, so that the chance to find none (the first one is taken
    then) is below 1e-31."""
    d = alpha - 1.0 / 3.0
    c = 1.0 / math.sqrt(9.0 * d)
    shape = tf.concat([[_PROPOSALS], shape], axis=0)
    normal_seed, accept_seed = (random.fold_seed(seed, i) for i in (0, 1))
    x = random.normal(shape, normal_seed)
    root = 1.0 + c * x
    log_v = 3.0 * tf.math.log(tf.maximum(root, 1e-6))
    log_u = tf.math.log(random.open_uniform(shape, accept_seed))
    accepted = (root > 0.0) & (log_u < 0.5 * x * x + d - d * tf.exp(log_v) + d * log_v)
    first = tf.argmax(tf.cast(accepted, tf.int32), axis=0, output_type=tf.int32)
    chosen = tf.one_hot(first, _PROPOSALS, axis=0, on_value=True, off_value=False, dtype=tf.bool)
    return math.log(d) + tf.reduce_sum(tf.where(chosen, log_v, 0.0), axis=0)
