"""The game of the input gradients: a discriminator learns to tell the student's from the teacher's
(Eqs. 10 and 11 of the IGAM paper)."""

import dataclasses

import tensorflow as tf

from tf_robust_transfer.errors import InputError
from tf_robust_transfer.flag_types import fraction, whole_numbers
from tf_robust_transfer.losses import input_gradient as losses
from tf_robust_transfer.models import build_discriminator
from tf_robust_transfer.models.discriminator import DISCRIMINATOR_CHANNELS, INITIALIZERS
from tf_robust_transfer.models.probabilities import probability_layer
from tf_robust_transfer.ops import norms, replicas
from tf_robust_transfer.options import Options, above, at_least, from_keywords, option
from tf_robust_transfer.plugins import load
from tf_robust_transfer.terms.term import Term
from tf_robust_transfer.terms.weight_decay import half_squares, kernels

# An input gradient of a smaller share of the teacher's norm counts as vanished.
VANISHED = 1e-6
# The discriminator's loss, in shares of minus Eq. 10.
DISCRIMINATOR_LOSSES = {"sum": 1.0, "mean": 0.5}


class GradientGame(Term):
    """lambda_adv L_adv, the student's side of the game. `discriminator_loss` is the other side's.

    In the logs: "adversarial", Eq. 10, and where the student minimises another form,
    "non_saturating" beside it; "discriminator_accuracy", of both models' gradients;
    "vanished_gradients", the share of the examples whose student gradient has less than a millionth
    of the teacher's norm.

    Args:
        of: `InputGradients`.
        discriminator: keras.Model, input gradient of `of.seen_shape` -> score [batch], or the name
            of a plug-in (`plugins`), a function of that shape that returns one; by default
            `build_discriminator` of that shape.
        keywords: lambda_adv, adversarial_form, discriminator_input and its like; see `rt.IGAM`.

    Raises:
        InputError: a discriminator of another shape, of other scores than one logit an example.
    """

    @dataclasses.dataclass(frozen=True)
    class Options(Options):
        lambda_adv: float = option(1.0, "weight of the adversarial term", fraction, **at_least(0))
        discriminator_input: str = option(
            "zero_mean_l2",
            "raw, l2 or zero_mean_l2 input gradients",
            choices=losses.DISCRIMINATOR_INPUTS,
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
            "glorot_uniform",
            "of its kernels: glorot_uniform or reference_code",
            choices=INITIALIZERS,
        )
        discriminator_loss: str = option(
            "sum",
            "the discriminator's: sum (minus Eq. 10) or mean (half of it)",
            choices=DISCRIMINATOR_LOSSES,
        )
        discriminator_weight_decay: float = option(
            0.0, "L2 weight decay of its kernels", fraction, **at_least(0)
        )

    def __init__(self, *, of, discriminator=None, **keywords):
        self.options = options = from_keywords(self.Options, keywords)
        super().__init__("adversarial", options.lambda_adv, self._scores, of=of)
        own = ("non_saturating",) if options.adversarial_form == "non_saturating" else ()
        self.names = (*self.names, *own, "discriminator_accuracy", "vanished_gradients")
        if isinstance(discriminator, str):
            discriminator = load("discriminator", discriminator)(of.seen_shape)
        self.discriminator = discriminator or build_discriminator(
            of.seen_shape,
            channels=options.discriminator_channels,
            batch_norm_epsilon=options.discriminator_batch_norm_epsilon,
            initializer=options.discriminator_initializer,
        )
        self._check_discriminator()

    def _check_discriminator(self):
        seen = self.of.seen_shape
        taken = getattr(self.discriminator, "input_shape", (None, *seen))[1:]
        if taken != seen:  # of a subclassed model, or one that is not built, the call says it
            raise InputError(
                f"the discriminator takes gradients of shape {taken}, but the teacher sees {seen} "
                "of the images"
            )
        # The call builds one that is not built yet, before its optimizer is.
        scores = self.discriminator(tf.zeros([2, *(side or 32 for side in seen)]), training=False)
        shape = tuple(getattr(scores, "shape", ()))
        squashed = probability_layer(self.discriminator)
        if shape not in ((2,), (2, 1)) or squashed:
            raise InputError(
                "a discriminator gives one score an example, a logit above 0 for the teacher's "
                "gradients; this one "
                + (f"ends in {squashed!r}: leave it out" if squashed else f"gives {shape[1:]}")
            )

    def state(self):
        return {"discriminator": self.discriminator}

    def __call__(self, seen):
        student_scores, teacher_scores = self._scores(seen)
        adversarial = replicas.global_mean(losses.adversarial(teacher_scores, student_scores))
        if self.options.adversarial_form == "minimax":
            shares = {"adversarial": (self.weight, adversarial)}
        else:
            own = replicas.global_mean(losses.non_saturating(student_scores))
            shares = {"adversarial": (0.0, adversarial), "non_saturating": (self.weight, own)}
        right = tf.cast(teacher_scores > 0, tf.float32) + tf.cast(student_scores < 0, tf.float32)
        vanished = norms.l2_norm(seen["student_gradient"]) < VANISHED * norms.l2_norm(
            seen["teacher_gradient"]
        )
        return shares | {
            "discriminator_accuracy": (0.0, replicas.global_mean(right / 2)),
            "vanished_gradients": (0.0, replicas.global_mean(tf.cast(vanished, tf.float32))),
        }

    def discriminator_loss(self, shares):
        """This replica's share of what the discriminator minimises. shares: what calling the term,
        or `evaluate`, returned.
        """
        _, adversarial = shares["adversarial"]
        loss = -DISCRIMINATOR_LOSSES[self.options.discriminator_loss] * adversarial
        if self.options.discriminator_weight_decay:
            squares = replicas.once(half_squares(kernels(self.discriminator.trainable_variables)))
            loss += self.options.discriminator_weight_decay * squares
        return loss

    def _scores(self, seen):
        """The discriminator's logits of both gradients, each float [batch]."""
        gradients = map(self.of.seen_part, (seen["student_gradient"], seen["teacher_gradient"]))
        both = losses.discriminator_input(
            tf.concat(list(gradients), axis=0),
            self.options.discriminator_input,
            self.options.discriminator_input_epsilon,
        )
        if self.options.discriminator_batch_norm == "joint":
            return tf.split(self.discriminator(both, training=True), 2)
        return [self.discriminator(one, training=True) for one in tf.split(both, 2)]
