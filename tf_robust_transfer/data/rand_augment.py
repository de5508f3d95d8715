"""RandAugment (Cubuk et al. 2020, https://arxiv.org/abs/1909.13719) by Keras's layer, from a seed.

`keras.layers.RandAugment` draws from stateful generators, so that a resumed run would not see the
images that the uninterrupted one saw, and it draws one pair of operations for a whole batch. Here
every image has its own, as in the paper, and all that the layer draws is a function of the step's
seed."""

import functools

import keras
import tensorflow as tf

from tf_robust_transfer.ops import random

# Of the images that Keras's layer takes.
CHANNELS = (1, 3)
_NUM_OPS = 2
# Near the magnitude 9 of 30 that is usual on ImageNet: turns up to 36 degrees, shifts up to a
# tenth. Keras's default of 0.5 turns by up to 180 degrees and shifts by half the image. The MixACM
# paper gives no figure.
_FACTOR = 0.1
# Bits that are kept. Keras would derive 1 from the factor: the smaller, the stronger, against all
# the other operations.
_POSTERIZATION_BITS = 4


def rand_augment(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Two random operations of Keras's eleven on each image: shear, shift, rotation, colour,
    contrast and the like.

    It costs about the time of all eleven, twice, for each image; with images of one channel colour
    does nothing.

    Args:
        images: float32 [batch, height, width, 1 or 3] in [0, 1].
        seed: int32 [2].

    Returns:
        float32, same shape and range.
    """
    layer = _layer()

    def of_one(numbered):
        number, image = numbered
        # Only looked at while this is traced: each draw of the layer asks it for the next seed.
        layer.generator = _Seeds(random.fold_seed(seed, number))
        transformation = layer.get_random_transformation(image[tf.newaxis], training=True)
        return layer.transform_images(image[tf.newaxis], transformation)[0]

    numbers = tf.range(tf.shape(images)[0])
    changed = tf.map_fn(
        of_one, (numbers, images), fn_output_signature=tf.TensorSpec(images.shape[1:], tf.float32)
    )
    return tf.ensure_shape(tf.clip_by_value(changed, 0.0, 1.0), images.shape)


class _Seeds(keras.random.SeedGenerator):
    """Seeds of one image's draws: fold_in(seed, 0), fold_in(seed, 1), ..., without a variable."""

    def __init__(self, seed):
        self.seed, self.drawn = seed, 0

    def next(self, ordered=True):
        self.drawn += 1
        return random.fold_seed(self.seed, self.drawn - 1)


@functools.cache
def _layer():
    with tf.init_scope():  # its own generators, which are never asked, are variables
        layer = keras.layers.RandAugment(
            value_range=(0, 1), num_ops=_NUM_OPS, factor=_FACTOR, seed=0
        )
        layer.random_posterization = keras.layers.RandomPosterization(
            _POSTERIZATION_BITS, value_range=(0, 1), seed=0
        )
        return layer
