"""The steps of a method's training, counted over more than one `compile`."""

import keras
import tensorflow as tf


class CountsItsSteps:
    """How many steps a method has done, and the seed that each draws by."""

    optimizer: keras.optimizers.Optimizer  # of keras.Model, from `compile` on
    seed: int  # of the method
    _steps_before = None  # an integer variable from the second `compile` on

    @property
    def iterations(self):
        """Number of training steps so far, an integer scalar.

        A step is of a batch, also where the optimizer gathers the gradients of several, whose own
        `iterations` count its updates. A second `compile` goes on counting, as the weights go on:
        a warm start is not begun again; its optimizer, and a schedule in it, begin at 0."""
        own = self._iterations
        return own if self._steps_before is None else own + self._steps_before

    @property
    def _iterations(self):
        return getattr(self.optimizer, "inner_optimizer", self.optimizer)._iterations

    def _count_on_from(self, done):
        """The steps before the present optimizer's become part of the state."""
        if self._steps_before is None:
            self._steps_before = self.add_weight(
                shape=(), dtype="int64", initializer="zeros", trainable=False, name="steps_before"
            )
        own = int(keras.ops.convert_to_numpy(self._iterations))  # of one that goes on, not 0
        self._steps_before.assign(done - own)

    @property
    def steps_done(self) -> int:
        """Number of training steps so far."""
        # int() fails on a mirrored variable.
        before = self._steps_before
        counts = (self._iterations, *(() if before is None else (before,)))
        return sum(int(keras.ops.convert_to_numpy(count)) for count in counts)

    def step_seed(self):
        """int32 [2], a function of the seed and of the number of the step."""
        return tf.stack([tf.constant(self.seed, tf.int32), tf.cast(self.iterations, tf.int32)])
