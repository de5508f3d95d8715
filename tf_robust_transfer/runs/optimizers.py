"""Optimizers and their schedules, from the flags."""

import keras
import tensorflow as tf

from tf_robust_transfer.errors import InputError
from tf_robust_transfer.flag_types import fraction


@keras.saving.register_keras_serializable("tf_robust_transfer")
class OneCycle(keras.optimizers.schedules.LearningRateSchedule):
    """A rate that grows linearly from 0 to its peak, then falls linearly to 0 (Smith & Topin 2017,
    as adversarial training of few epochs has it: Wong et al. 2020, de Jorge et al. 2022). Their
    code, PyTorch's CyclicLR, lowers the momentum too, from 0.9 to 0.8 at the peak; here it stays,
    so that the longest steps are twice theirs at the same rate.

    Args:
        rate: at the peak.
        steps: of the whole training.
        peak: the share of them at which the peak is, between 0 and 1.
    """

    def __init__(self, rate: float, steps: int, peak: float = 0.5):
        self.rate, self.steps, self.peak = rate, steps, peak

    def __call__(self, step):
        step = tf.cast(step, tf.float32)
        up = step / (self.peak * self.steps)
        down = (self.steps - step) / ((1 - self.peak) * self.steps)
        return self.rate * tf.maximum(0.0, tf.minimum(up, down))

    def get_config(self):
        return {"rate": self.rate, "steps": self.steps, "peak": self.peak}


def learning_rate(config, total_steps: int, warm_up_steps: int = 0):
    """The schedule of --schedule over the whole run, as a Keras schedule or a number.

    With a warm-up the rate grows linearly from --warm_up_learning_rate, and the cosine takes the
    steps that are left."""
    schedules = keras.optimizers.schedules
    if warm_up_steps and (config.schedule != "cosine" or warm_up_steps >= total_steps):
        raise InputError(
            "--warm_up_epochs needs --schedule=cosine and a longer training, got schedule "
            f"{config.schedule} and {warm_up_steps} of {total_steps} steps"
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
    if config.schedule == "one_cycle":
        return OneCycle(config.learning_rate, total_steps, config.schedule_peak)
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
