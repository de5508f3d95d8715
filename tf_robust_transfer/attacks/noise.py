"""Where the random numbers of an attack come from: stateless seeds, one for a batch or one for each
example.
"""

import tensorflow as tf

from tf_robust_transfer.ops import norms, random, replicas
from tf_robust_transfer.ops.random import fold_seed


class BatchNoise:
    """One seed for the global batch, split over the replicas: a training step.

    Args:
        seed: int32 [2].
        batch_size: examples of this replica, a Python int or a scalar tensor.
    """

    def __init__(self, seed, batch_size):
        self.seed, self.batch_size = seed, batch_size

    def uniform(self, shape, stream):
        """Uniform numbers in [0, 1). shape: of one example; stream: an int that tells draws apart.
        [batch, *shape].
        """
        drawn = replicas.random_uniform(
            tf.stack([self.batch_size, *shape]), fold_seed(self.seed, stream)
        )
        return tf.ensure_shape(drawn, [None, *shape])

    def normal(self, shape, stream):
        """Standard normal numbers; see uniform."""
        drawn = replicas.random_normal(
            tf.stack([self.batch_size, *shape]), fold_seed(self.seed, stream)
        )
        return tf.ensure_shape(drawn, [None, *shape])


class ExampleNoise:
    """A seed for each example, so that what it meets does not depend on the batch in which it is
    attacked.

    Args:
        seeds: int32 [batch, 2].
    """

    def __init__(self, seeds):
        self.seeds = seeds

    def uniform(self, shape, stream):
        """Uniform numbers in [0, 1). shape: of one example; stream: an int, or int [batch]. Returns
        [batch, *shape].
        """
        return self._draw(random.uniform, shape, stream)

    def normal(self, shape, stream):
        """Standard normal numbers; see uniform."""
        return self._draw(random.normal, shape, stream)

    def _draw(self, distribution, shape, stream):
        stream = tf.broadcast_to(tf.cast(stream, tf.int32), tf.shape(self.seeds)[:1])
        return tf.map_fn(
            lambda both: distribution(shape, fold_seed(both[0], both[1])),
            (self.seeds, stream),
            fn_output_signature=tf.TensorSpec(shape, tf.float32),
        )


def random_start(problem, images, noise):
    """A uniform point of the ball around each image, clipped to the bounds."""
    shape = images.shape[1:]
    norm = problem.threat_model.norm
    normal = noise.normal(shape, 2) if norm == "l2" else None
    return problem.project(
        images + norms.ball_from_noise(noise.uniform(shape, 1), normal, norm, problem.eps), images
    )
