"""Input gradient adversarial matching (IGAM), Algorithm 1 of the IGAM paper."""

import keras
import tensorflow as tf

from tf_robust_transfer.adapters import adapt
from tf_robust_transfer.errors import InputError
from tf_robust_transfer.methods.base import Method
from tf_robust_transfer.methods.igam_options import IGAMFlags, IGAMOptions
from tf_robust_transfer.models.bounds import pixel_bounds
from tf_robust_transfer.models.pairs import check_pair
from tf_robust_transfer.ops import replicas
from tf_robust_transfer.ops.random import fold_seed
from tf_robust_transfer.options import keywords_of
from tf_robust_transfer.terms import (
    CrossEntropy,
    GradientDifference,
    GradientGame,
    InputGradients,
    Logits,
)


class StudentsRate(keras.optimizers.schedules.LearningRateSchedule):
    """The learning rate that another optimizer has now, whatever sets it: its schedule, a callback,
    a restored run.
    """

    def __init__(self, optimizer):
        self.optimizer = optimizer

    def __call__(self, step):
        return tf.convert_to_tensor(self.optimizer.learning_rate)


def _config_without_rate(optimizer):
    """An optimizer's config; a user's schedule need not have one."""
    rate = optimizer._learning_rate
    try:
        object.__setattr__(optimizer, "_learning_rate", 0.0)
        return optimizer.get_config()
    finally:
        object.__setattr__(optimizer, "_learning_rate", rate)


class IGAM(Method):
    """Cross-entropy + lambda_adv L_adv + lambda_diff L_diff (Eq. 14), with a discriminator of input
    gradients.

    The defaults are the paper's choices; `igam_presets.PRESETS` has those of paper and reference
    code, one by one.

    Args (keyword-only), beside those of `Method`:
        teacher: robust keras.Model of the student's input shape and classes; frozen, called with
            training=False. A teacher that was fine-tuned behind an adapter has it inside and needs
            nothing more.
        adapter: None, or what maps the student's images to the input of a teacher whose classes are
            the student's already, such as "resize:64x64"; see `adapters.build_adapter`. The
            teacher's gradient is with respect to the student's image (Eq. 17), and "random_pad"
            draws its places in each step.
        discriminator: keras.Model, input gradient -> score [batch]; by default
            `build_discriminator` for the student's images, of the three arguments below. Not used
            where lambda_adv is 0. Where the adapter crops, both gradients are cropped to what the
            teacher sees before they are normalised and shown to the discriminator (section 4.3.2),
            which is of that shape.
        discriminator_channels, discriminator_batch_norm_epsilon, discriminator_initializer: of the
            default discriminator, see `build_discriminator`. The reference code: 1e-3 and
            "reference_code".
        lambda_adv: weight of the adversarial term, Eq. 10. The reference code's loss has -beta
            times the discriminator's mean cross-entropy over student's and teacher's gradients,
            which is beta / 2 times Eq. 10: lambda_adv is half its beta.
        lambda_diff: weight of the l2 term, Eq. 13. The reference code's gamma, with a sum over its
            batch of 32 and 0-255 pixels.
        gradient_of: "cross_entropy" (the paper) or "probability", the softmax probability of the
            true class (the reference code).
        pixel_range: 1 takes gradients with respect to [0, 1] pixels, 255 those with respect to
            0-255 pixels (the reference code), which are 255 times smaller.
        difference_reduction: "mean" over the examples, or "sum" over the batch (the reference
            code).
        difference_region: where the teacher's adapter crops, the l2 term is of the "whole" image,
            so that outside the crop the student's gradient is drawn to zero (Eq. 13 as it stands;
            the paper speaks of cropping for the discriminator alone, and so does the reference
            code), or of what is "seen".
        discriminator_input: "zero_mean_l2" (the reference code), "l2" or "raw"; see
            `losses.discriminator_input`.
        discriminator_input_epsilon: least squared norm that is divided by (the reference code:
            1e-12).
        adversarial_form: "minimax", where the student minimises Eq. 10 (Eq. 11, and the reference
            code: see lambda_adv), or "non_saturating", where it minimises -log f(J_s), which is
            then logged beside Eq. 10. The discriminator maximises Eq. 10 in both, and "adversarial"
            in the logs is its value: -log 4 where it cannot tell. Attack such students by more than
            PGD: without noise and l2 term AutoAttack left 4.4 and 6.6% where PGD-20 left 7.8 and
            9.2 (docs/results/igam_terms.md).
        teacher_batch_norm: "moving", the teacher's frozen averages, or "batch", the statistics of
            the current batch (the reference code), in a copy of the teacher as it is now. Both
            leave the teacher as it is, averages included (there the averages follow the batches,
            and nothing reads them).
        teacher_precision: of the teacher's gradients, see `FasterCopy`: "float32"; "mixed", whose
            way back is in bfloat16 (on an untrained WRN-10-1 this moved the gradient by 1% of its
            norm); "bfloat16" (13 to 17% there: the way there decides which ReLUs are open); "auto",
            mixed where the processor gains by it. Neither the paper nor the reference code has it.
        discriminator_batch_norm: "joint", one pass over the student's and the teacher's gradients,
            so that batch norm sees the mixture that is to be told apart (the reference code), or
            "separate", one pass of each.
        discriminator_every: the discriminator is updated once every so many steps of the student
            (Appendix A: 5 or 10, by experiment; the reference code's run scripts: 5).
        discriminator_loss: "sum", minus Eq. 10, or "mean", half of it: the cross-entropy's mean
            over both models' gradients (the reference code). With SGD, but for the weight decay,
            "mean" is half the learning rate.
        discriminator_weight_decay: L2 weight decay of the discriminator's kernels (the reference
            code: 2e-4).
        discriminator_update: "simultaneous", both networks move from the same weights (Algorithm
            1), or "after_student", the discriminator sees the gradients of the student as it is
            after its step (the reference code); that costs the student's gradient once more, and
            its batch statistics move twice in such a step, as they do there.
        warm_start_steps: so many first steps train on the cross-entropy alone. Without them a small
            network falls into the trivial solution, a constant classifier, whose gradients are
            zero. The reference code: 280,000 of 320,000.
        noise: uniform noise in [-noise, noise] added to every training image, clipped to [0, 1];
            where the student takes other bounds, in their units, as a radius is (the reference
            code: 8/255 from CIFAR-10 to CIFAR-100, 0 from Tiny-ImageNet to CIFAR-10).

    Every example's gradient is that of its own cross-entropy. Eq. 8 read literally takes the
    gradient of the batch's mean, which is smaller by the batch size; lambda_diff would then depend
    on it.

    The logs also have "discriminator_accuracy", of both models' gradients, and
    "vanished_gradients", the share of the examples whose student gradient has less than a millionth
    of the teacher's norm: what attacks cannot climb.

    The student's and the discriminator's gradients come from one forward pass of each, unless the
    discriminator is updated after the student. `compile` takes `discriminator_optimizer`; by
    default a copy of the student's, whose learning rate is the student's at each step, however
    seldom the discriminator is updated (the reference code: both are functions of the global step).
    An optimizer that is given keeps its own rate."""

    Options, Flags = IGAMOptions, IGAMFlags
    takes_teacher = several_losses = True

    def __init__(self, *, student, teacher, discriminator=None, **kwargs):
        super().__init__(student=student, **kwargs)
        options = self.options
        if options.adapter:
            teacher = adapt(teacher, options.adapter, student.input_shape[1:])
        check_pair(student, teacher)
        self.teacher = teacher
        teacher.trainable = False
        self.gradients = InputGradients(student, teacher, **keywords_of(options.gradients))
        self.game = self.discriminator = self.discriminator_optimizer = None
        if options.game.lambda_adv:
            self.game = GradientGame(
                of=self.gradients, discriminator=discriminator, **keywords_of(options.game)
            )
            self.discriminator = self.game.discriminator
        self.warm_start_terms = [CrossEntropy(of=Logits(student))]
        self.terms = [
            CrossEntropy(of=self.gradients),
            *([self.game] if self.game else []),
            GradientDifference(of=self.gradients, **keywords_of(options.difference)),
        ]
        # Which of three steps the next one is; see make_train_function.
        self._matching, self._update_discriminator = True, self.game is not None

    @classmethod
    def keywords(cls, flags, context):
        own = {"discriminator": flags.discriminator} if flags.discriminator else {}
        return super().keywords(flags, context) | own

    def compile_arguments(self, flags):
        if flags.discriminator_optimizer == "same":
            return {}
        return {"discriminator_optimizer": keras.optimizers.Adam(flags.discriminator_learning_rate)}

    def compile(self, optimizer="rmsprop", discriminator_optimizer=None, **kwargs):
        """As `Method.compile`; discriminator_optimizer: by default a fresh copy of the student's,
        at the student's rate.
        """
        if kwargs.get("steps_per_execution", 1) != 1:
            raise InputError(
                "IGAM chooses the kind of each step on the host: steps_per_execution must be 1"
            )
        for given in (optimizer, discriminator_optimizer) if self.game is not None else ():
            if isinstance(given, keras.optimizers.LossScaleOptimizer):
                raise InputError(
                    "float16's loss scaling is of one loss, and IGAM with its game has two: take "
                    "bfloat16 and the optimizer alone, or lambda_adv=0"
                )
        super().compile(optimizer=optimizer, **kwargs)
        if self.game is not None:
            if discriminator_optimizer is None:
                config = _config_without_rate(self.optimizer)
                config |= {"learning_rate": StudentsRate(self.optimizer)}
                discriminator_optimizer = type(self.optimizer).from_config(config)
            self.discriminator_optimizer = keras.optimizers.get(discriminator_optimizer)
            with self.distribute_strategy.scope():
                self.discriminator_optimizer.build(self.discriminator.trainable_variables)

    def state(self) -> dict:
        state = super().state()
        if self.game is not None:
            state["discriminator_optimizer"] = self.discriminator_optimizer
        return state

    def make_train_function(self, force=False):
        """One compiled function for each kind of step, chosen on the host by the number of the
        step.

        A tf.cond would do on one device, but an optimizer's update inside one is refused under
        MirroredStrategy; and the warm start should not pay for what it does not use."""
        # Not read before the first step: a callback may restore the optimizer until then.
        self._next_step = None
        self._refresh_passes()
        if self.train_function is not None and not force:
            return self.train_function
        functions = {}

        def train_function(iterator):
            step = self.steps_done if self._next_step is None else self._next_step
            self._matching = step >= self.options.warm_start_steps
            self._update_discriminator = (
                self._matching
                and self.game is not None
                and (step - self.options.warm_start_steps) % self.options.discriminator_every == 0
            )
            kind = self._matching, self._update_discriminator
            if kind not in functions:
                super(IGAM, self).make_train_function(force=True)
                functions[kind] = self.train_function
                self.train_function = train_function
            logs = functions[kind](iterator)
            # Counted after the step: of data of unknown length Keras asks for one batch more than
            # there is.
            self._next_step = step + 1
            return logs

        self.train_function = train_function
        return train_function

    def networks(self):
        return [*super().networks(), self.gradients.matched_teacher]

    def step_terms(self):
        return self.terms if self._matching else self.warm_start_terms

    def other_losses(self, terms):
        if not self._update_discriminator or self.options.discriminator_update == "after_student":
            return []
        return [self._of_discriminator(self.game.discriminator_loss(terms))]

    def train_step(self, data):
        images, labels = self.unpacked(data)
        images, seed = self._noisy(images), self.step_seed()
        logs = super().train_step((images, labels))
        if self._update_discriminator and self.options.discriminator_update == "after_student":
            seen = self.gradients(images, labels, seed)
            with tf.GradientTape() as tape:
                loss = self.game.discriminator_loss(self.game(seen))
            loss, variables, optimizer = self._of_discriminator(loss)
            optimizer.apply(tape.gradient(loss, variables), variables)
        return logs

    def _of_discriminator(self, loss):
        return loss, self.discriminator.trainable_variables, self.discriminator_optimizer

    def _noisy(self, images):
        if not self.options.noise:
            return images
        bounds = pixel_bounds(self.student)
        uniform = replicas.random_uniform(tf.shape(images), fold_seed(self.step_seed(), 3))
        noise = self.options.noise * (2.0 * uniform - 1.0)
        return tf.ensure_shape(tf.clip_by_value(images + noise, *bounds), images.shape)
