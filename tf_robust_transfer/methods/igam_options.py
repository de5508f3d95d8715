"""IGAM's options, as `IGAM` explains them."""

import dataclasses

from tf_robust_transfer.adapters import check_adapter
from tf_robust_transfer.flag_types import fraction
from tf_robust_transfer.methods.base import Method
from tf_robust_transfer.methods.igam_presets import PRESETS
from tf_robust_transfer.options import above, at_least, group, option
from tf_robust_transfer.plugins import plugin_or_nothing
from tf_robust_transfer.terms import GradientDifference, GradientGame, InputGradients


@dataclasses.dataclass(frozen=True)
class IGAMOptions(Method.Options):
    adapter: str = option(
        "",
        "map to the teacher's input, such as resize:64x64 or channel_mean+crop:28x28",
        check_adapter,
    )
    gradients: InputGradients.Options = group(InputGradients.Options)
    game: GradientGame.Options = group(GradientGame.Options)
    difference: GradientDifference.Options = group(GradientDifference.Options)
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
    discriminator: str = option(
        "", "package.module:function of the shape of its input; empty: ours", plugin_or_nothing
    )
    discriminator_optimizer: str = option(
        "same", "same (as the student's) or adam", choices=("same", "adam")
    )
    discriminator_learning_rate: float = option(0.001, "of adam", fraction, **above(0))

    @classmethod
    def implied(cls, texts):
        return {name: str(value) for name, value in PRESETS.get(texts.get("preset"), {}).items()}
