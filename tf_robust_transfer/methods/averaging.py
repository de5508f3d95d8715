"""An average of a student's weights over the steps of its training."""

from collections.abc import Iterable

import keras
import tensorflow as tf

from tf_robust_transfer.errors import InputError
from tf_robust_transfer.methods.random_layers import seed_layers
from tf_robust_transfer.models.copies import give_weights
from tf_robust_transfer.models.precision import same_precision
from tf_robust_transfer.ops import replicas


class WeightAverage(keras.layers.Layer):
    """The exponential moving average of a network's trained weights, a state of its own.

    It is never written back into the network, and it is saved with the method's state. Over the
    first steps its decay is (1 + step) / (10 + step), so that fresh weights are soon forgotten (the
    rule of TensorFlow's `ExponentialMovingAverage`). With one average a run needs no second
    training for what Rice et al. (2020) and Gowal et al. (2020) gain by averaging.

    Args:
        network: a built keras.Model.
        decay: in (0, 1), such as 0.999.
    """

    def __init__(self, network: keras.Model, decay: float):
        super().__init__(name="weight_average", dtype="float32", trainable=False)
        self.decay = decay
        # By their places: a layer may be frozen, or set free, while it is trained.
        trained = {id(variable) for variable in network.trainable_variables}
        self._places = [i for i, v in enumerate(network.weights) if id(v) in trained]
        self.averages = [
            self.add_weight(
                shape=variable.shape,
                initializer=lambda shape, dtype, value=variable: keras.ops.cast(value, dtype),
                trainable=False,
                name=f"average{index}",
            )
            for index, variable in enumerate(self._of(network))
        ]
        for average in self.averages:
            # `tf.train.Checkpoint` looks at attributes alone.
            setattr(self, average.name, average)
        self.built = True

    def _of(self, network):
        """The variables of a network of this form that are averaged."""
        return [network.weights[place] for place in self._places]

    def check(self, network: keras.Model) -> None:
        """Raises an InputError where a variable is trained that is not averaged."""
        averaged = {id(variable) for variable in self._of(network)}
        if any(id(variable) not in averaged for variable in network.trainable_variables):
            raise InputError(
                "weight_averaging is of the layers that were trainable when the method was made, "
                "and others are now: make the method anew"
            )

    def see(self, network: keras.Model, step) -> None:
        """Takes the network's weights in. step: the number of steps done, an int scalar tensor."""
        step = tf.cast(step, tf.float32)
        share = 1.0 - tf.minimum(self.decay, (1.0 + step) / (10.0 + step))
        replicas.update(
            lambda average, weight, share: average.assign_add(share * (weight - average)),
            self.averages,
            self._of(network),
            share,
        )

    def give(self, copy: keras.Model, network: keras.Model, batches: Iterable) -> None:
        """Gives a copy of the network the average, with batch statistics that are its own.

        Args:
            copy: of the network's form; its other weights are taken from the network.
            network: that was averaged.
            batches: images float32 [batch, height, width, channels], such as 50 batches of the
                training's; looked at only where the network has batch norm.
        """
        give_weights(copy, network.get_weights())
        for variable, average in zip(self._of(copy), self.averages, strict=True):
            variable.assign(average)
        seed_layers(copy, tf.constant([0, 0]))  # the same masks, however often it was asked for
        estimate_batch_statistics(copy, batches)


def copied(network: keras.Model) -> keras.Model:
    """A copy of a network, to be given an average of its weights.

    Raises:
        InputError: a network that Keras cannot clone, such as a subclassed one.
    """
    try:
        return same_precision(network)
    except InputError as error:
        raise InputError(f"weight_averaging: {error}") from None


def estimate_batch_statistics(network: keras.Model, batches: Iterable) -> None:
    """Sets the moving statistics of every batch norm to the mean over some batches of theirs.

    As `torch.optim.swa_utils.update_bn`, but for Keras's biased variance.

    Args:
        network: built keras.Model; one without batch norm is left alone.
        batches: images float32 [batch, height, width, channels].
    """
    norms = [
        layer
        for layer in network._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    if not norms:
        return
    momenta = [layer.momentum for layer in norms]
    for seen, images in enumerate(batches):
        for layer in norms:
            layer.momentum = seen / (seen + 1)
        network(images, training=True)
    for layer, momentum in zip(norms, momenta, strict=True):
        layer.momentum = momentum
