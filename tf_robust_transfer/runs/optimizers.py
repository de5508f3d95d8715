"""Optimizers and their schedules, from the flags."""

import keras

from tf_robust_transfer.errors import InputError
from tf_robust_transfer.flag_types import fraction


def learning_rate(config, total_steps: int, warm_up_steps: int = 0):
    """The schedule of --schedule over the whole run, as a Keras schedule or a number.

    With a warm-up the rate grows linearly from --warm_up_learning_rate, and the cosine takes the
    steps that are left."""
    schedules = keras.optimizers.schedules
    if warm_up_steps and (config.schedule != "cosine" or warm_up_steps >= total_steps):
        raise InputError(
            "--warm_up_epochs needs --schedule=cosine and a longer training, got schedule "
            f"{config.schedule} and "
            f"{warm_up_steps} of {total_steps} steps"
        )
    if warm_up_steps:
        return schedules.CosineDecay(
            config.warm_up_learning_rate,
            total_steps - warm_up_steps,
            warmup_target=config.learning_rate,
            warmup_steps=warm_up_steps,
        )
    if config.schedule == "cosine":
        return schedules.CosineDecay(config.learning_rate, total_steps)
    if config.schedule == "piecewise":
        boundaries = [round(fraction(share) * total_steps) for share in config.schedule_boundaries]
        rates = [
            config.learning_rate * config.schedule_factor**i for i in range(len(boundaries) + 1)
        ]
        return schedules.PiecewiseConstantDecay(boundaries, rates)
    return config.learning_rate


def optimizer(config, total_steps: int, warm_up_steps: int = 0) -> keras.optimizers.Optimizer:
    """The optimizer of --optimizer with its schedule. Weight decay is the method's (L2), not the
    optimizer's.

    Under --mixed_precision=float16 it scales the loss, without which small gradients would be zero.
    """
    rate = learning_rate(config, total_steps, warm_up_steps)
    if config.optimizer == "adam":
        result = keras.optimizers.Adam(rate)
    else:
        result = keras.optimizers.SGD(rate, momentum=config.momentum, nesterov=config.nesterov)
    return (
        keras.optimizers.LossScaleOptimizer(result)
        if config.mixed_precision == "float16"
        else result
    )
