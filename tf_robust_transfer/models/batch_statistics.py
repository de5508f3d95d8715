"""A network whose batch norm runs on the statistics of the current batch and has no moving ones to
change.
"""

import keras

from tf_robust_transfer.errors import InputError
from tf_robust_transfer.models.copies import copy_of

# Where a choice is offered: moving averages, or the statistics of the current batch.
BATCH_NORMS = ("moving", "batch")


class BatchStatistics(keras.layers.BatchNormalization):
    """Batch norm on the mean and the (biased) variance of its batch, whatever `training` and
    `trainable` say.

    Keras's own layer does so with training=True only, then moves its moving statistics, and not at
    all where it is frozen."""

    def call(self, inputs, training=None, mask=None):
        """inputs: float [batch, ...] -> the same shape. training and mask change nothing."""
        # As Keras does: half precision overflows in a variance.
        x = keras.ops.cast(inputs, keras.backend.result_type(inputs.dtype, "float32"))
        mean, variance = self._moments(x, None)
        scale, offset = (
            None if v is None else keras.ops.cast(v, x.dtype) for v in (self.gamma, self.beta)
        )
        outputs = keras.ops.batch_normalization(
            x, mean, variance, self.axis, offset, scale, self.epsilon
        )
        return keras.ops.cast(outputs, self.compute_dtype)


def with_batch_statistics(model: keras.Model) -> keras.Model:
    """A copy of the model in which every batch-norm layer is a `BatchStatistics`; its other layers
    (dropout) stay as they are.

    Args:
        model: functional or sequential keras.Model; it stays as it was.

    Returns:
        keras.Model: of the same inputs, outputs and weights. Weights that the given model gets
        later do not reach it.

    Raises:
        InputError: a subclassed model, or a batch-norm layer inside a layer that is no functional
            model.
    """
    return _cloned(model, lambda layer: type(layer).from_config(layer.get_config()))


def on_batch_statistics(model: keras.Model) -> keras.Model:
    """As `with_batch_statistics`, but its layers are the model's own, except for batch norm, which
    is copied as it is now.

    So weights that the given model gets later reach it, but for those of batch norm.
    """
    return _cloned(model, lambda layer: layer)


def _cloned(model, of_other_layers):
    """A clone with `BatchStatistics` for each batch norm and of_other_layers(layer) for the other
    layers.
    """

    def clone(layer):
        if isinstance(layer, keras.layers.BatchNormalization):
            return BatchStatistics.from_config(layer.get_config())
        return of_other_layers(layer)

    try:
        copy = copy_of(model, clone_function=clone, recursive=True)
    except InputError as error:
        raise InputError(f"for batch statistics {error}; or use moving averages") from None
    left = [
        layer.name
        for layer in copy._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization)
        and not isinstance(layer, BatchStatistics)
    ]
    if left:
        raise InputError(
            f"batch statistics cannot reach the layers {', '.join(left)}, which are inside layers "
            "that are no functional models; use moving averages"
        )
    return copy
