"""IGAM's options, as `IGAM` explains them."""

import dataclasses

from tf_robust_transfer.flag_types import fraction, whole_numbers
from tf_robust_transfer.inference.faster_copy import PRECISIONS
from tf_robust_transfer.losses import classification
from tf_robust_transfer.losses.input_gradient import DISCRIMINATOR_INPUTS
from tf_robust_transfer.methods.base import Method
from tf_robust_transfer.methods.igam_presets import PRESETS
from tf_robust_transfer.models.batch_statistics import BATCH_NORMS
from tf_robust_transfer.models.discriminator import DISCRIMINATOR_CHANNELS, INITIALIZERS
from tf_robust_transfer.ops import replicas
from tf_robust_transfer.options import above, at_least, option

# What the matched gradient is taken of: the paper's choice and that of its reference code.
GRADIENT_OF = {
    "cross_entropy": classification.cross_entropy,
    "probability": classification.true_class_probability,
}
REDUCTIONS = {"mean": replicas.global_mean, "sum": replicas.global_sum}
# The discriminator's loss, in shares of minus Eq. 10.
DISCRIMINATOR_LOSSES = {"sum": 1.0, "mean": 0.5}


@dataclasses.dataclass(frozen=True)
class IGAMOptions(Method.Options):
    adapter: str = option(
        "", "map to the teacher's input, such as resize:64x64 or channel_mean+crop:28x28"
    )
    lambda_adv: float = option(1.0, "weight of the adversarial term", fraction, **at_least(0))
    lambda_diff: float = option(10.0, "weight of the l2 term", fraction, **at_least(0))
    gradient_of: str = option(
        "cross_entropy", "cross_entropy or probability (of the true class)", choices=GRADIENT_OF
    )
    pixel_range: float = option(
        1.0, "gradients with respect to [0, 1] or [0, 255] pixels", fraction, **above(0)
    )
    difference_reduction: str = option(
        "mean", "l2 term as mean over examples or sum over the batch", choices=REDUCTIONS
    )
    difference_region: str = option(
        "whole",
        "l2 term of the whole image or of what a crop leaves: whole or seen",
        choices=("whole", "seen"),
    )
    discriminator_input: str = option(
        "zero_mean_l2", "raw, l2 or zero_mean_l2 input gradients", choices=DISCRIMINATOR_INPUTS
    )
    discriminator_input_epsilon: float = option(
        1e-24, "least squared norm of a gradient that is divided by", fraction, **at_least(0)
    )
    # The discriminator maximises Eq. 10 in both.
    adversarial_form: str = option(
        "minimax",
        "minimax (Eq. 11) or non_saturating: the student's term",
        choices=("minimax", "non_saturating"),
    )
    teacher_batch_norm: str = option(
        "moving",
        "the teacher's moving averages, or batch: those of the current batch",
        choices=BATCH_NORMS,
    )
    teacher_precision: str = option(
        "float32",
        "of the teacher's gradients: float32, mixed, bfloat16 or auto",
        choices=PRECISIONS,
    )
    discriminator_channels: tuple = option(
        DISCRIMINATOR_CHANNELS["16-256"], "of the discriminator's layers", whole_numbers,
        lambda value: bool(value) and min(value) > 0, "whole numbers above 0 such as 8,16,32",
    )  # fmt: skip
    discriminator_batch_norm: str = option(
        "joint",
        "joint or separate passes over both models' gradients",
        choices=("joint", "separate"),
    )
    discriminator_batch_norm_epsilon: float = option(
        1e-5, "of the discriminator's batch norm", fraction, **above(0)
    )
    discriminator_initializer: str = option(
        "glorot_uniform", "of its kernels: glorot_uniform or reference_code", choices=INITIALIZERS
    )
    discriminator_loss: str = option(
        "sum",
        "the discriminator's: sum (minus Eq. 10) or mean (half of it)",
        choices=DISCRIMINATOR_LOSSES,
    )
    discriminator_weight_decay: float = option(
        0.0, "L2 weight decay of its kernels", fraction, **at_least(0)
    )
    discriminator_update: str = option(
        "simultaneous",
        "simultaneous, or after_student: with its new weights",
        choices=("simultaneous", "after_student"),
    )
    discriminator_every: int = option(
        5, "steps for one update of the discriminator", int, **at_least(1)
    )
    warm_start_steps: int = option(
        0,
        "plain training before the two terms",
        fraction,
        **at_least(0),
        flag="warm_start_epochs",
        in_epochs=True,
    )
    noise: float = option(0.0, "uniform noise on the training images", fraction, **at_least(0))


@dataclasses.dataclass(frozen=True)
class IGAMFlags(IGAMOptions):
    preset: str = option(
        "none",
        "choices as in paper or reference_code; flags given beside it win; lambda_adv is half the "
        "code's beta",
        choices=("none", *PRESETS),
    )
    discriminator_optimizer: str = option(
        "same", "same (as the student's) or adam", choices=("same", "adam")
    )
    discriminator_learning_rate: float = option(0.001, "of adam", fraction, **above(0))

    @classmethod
    def implied(cls, texts):
        return {name: str(value) for name, value in PRESETS.get(texts.get("preset"), {}).items()}
