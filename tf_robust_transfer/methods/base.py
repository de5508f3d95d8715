"""What every training method shares: options, the step, its loss of terms, L2 weight decay."""

import dataclasses
import inspect

import keras
import tensorflow as tf

from tf_robust_transfer.errors import InputError
from tf_robust_transfer.flag_types import boolean, fraction
from tf_robust_transfer.methods import batches, networks, watch
from tf_robust_transfer.methods.averaging import WeightAverage, copied
from tf_robust_transfer.methods.clipping import clip
from tf_robust_transfer.methods.from_flags import MadeFromFlags
from tf_robust_transfer.methods.keras_calls import TakesCheckedBatches
from tf_robust_transfer.methods.logs import LogsItsTerms
from tf_robust_transfer.methods.random_layers import seed_layers
from tf_robust_transfer.methods.replicated import RunsOnReplicas
from tf_robust_transfer.methods.saving import SavesItsStudent
from tf_robust_transfer.methods.steps import CountsItsSteps
from tf_robust_transfer.models.settings import check_settings, require_tensorflow
from tf_robust_transfer.ops import replicas
from tf_robust_transfer.options import Options, at_least, from_keywords, option, parameters_of
from tf_robust_transfer.terms import CrossEntropy, Logits, evaluate, total
from tf_robust_transfer.terms.term import check_names
from tf_robust_transfer.terms.weight_decay import half_squares, kernels

WEIGHT_DECAY_OF = ("kernels", "all")


class Method(
    TakesCheckedBatches,
    CountsItsSteps,
    RunsOnReplicas,
    LogsItsTerms,
    SavesItsStudent,
    MadeFromFlags,
    keras.Model,
):
    """A Keras model that trains its student. `compile(optimizer=...)` it and `fit` it on (images,
    integer labels).

    A subclass has its `Options` and sets `terms`; everything else is here. Calling a method calls
    its student.

    Args (keyword-only):
        student: keras.Model, images float32 [batch, height, width, channels] in [0, 1] -> logits
            [batch, classes].
        weight_decay: L2 weight decay: adds weight_decay / 2 times the sum of the squared variables
            to the loss, whose gradient is what PyTorch's SGD and MadryLab's TF1 code add. (Keras
            optimizers' own `weight_decay` is the decoupled form.)
        weight_decay_of: "kernels": the student's weights of two axes and more, without biases and
            batch-norm parameters, as in MadryLab's code and IGAM's, which is built on it. "all":
            every variable that the step trains, as PyTorch's SGD does with what it is given; of
            method mixacm the affine transformations too.
        gradient_clip_norm: 0, or the most that the l2 norm of the gradient may be, all trained
            variables together and summed over the replicas; a larger one is scaled down to it.
            The weight decay's share is clipped with it, so that a norm far above weakens the decay
            too (PyTorch's clip_grad_norm_ leaves its optimizers' decay whole).
            Under float16 that is the norm without the loss's scale. The norm before clipping is
            logged as "gradient_norm" (0 in a step that float16's scaling skips). Keras's own
            `global_clipnorm` clips each replica's share, and before the scale is taken out.
        weight_averaging: 0, or the decay of an average of the student's weights over the steps,
            such as 0.999: a state of its own, which `averaged_student` gives; the student itself is
            trained as without it.
        synchronized_batch_norm: under a strategy of several replicas, batch norm in training takes
            the statistics of the whole batch, as on one device, in every network of the step, your
            own among them. False: each replica its own examples', which is faster, and another
            training. Nothing of it is saved.
        seed: of every random number that the steps draw, dropout's included, together with the
            step's number; so a resumed run draws what an uninterrupted one would have. They are
            those of one device, but for dropout's, whose masks are the same on every replica.

    The student's own regularizers (`kernel_regularizer` and its like) are a term of every method's
    loss, "regularization".

    Attributes:
        terms: list of `terms.Term`, the loss in the order of its sum, set before `compile`; by
            default the cross-entropy on the images as they come.
        asked_to_stop: set to True to end a training of several workers, on one of them;
            `told_to_stop` is True on all of them after the same step.
    """

    @dataclasses.dataclass(frozen=True)
    class Options(Options):
        weight_decay: float = option(0.0, "L2 weight decay", fraction, **at_least(0))
        weight_decay_of: str = option(
            "kernels", "kernels (MadryLab, IGAM) or all (PyTorch's)", choices=WEIGHT_DECAY_OF
        )
        gradient_clip_norm: float = option(
            0.0, "most that the gradient's global l2 norm may be; 0: any", fraction, **at_least(0)
        )
        weight_averaging: float = option(
            0.0,
            "decay of an average of the weights, such as 0.999, which is watched, saved and "
            "attacked in place of the last; 0: none",
            fraction,
            check=lambda value: 0 <= value < 1,
            expected="0, or a decay below 1",
        )
        synchronized_batch_norm: bool = option(
            True, "on several replicas: statistics of the whole batch, as on one device", boolean
        )

    # Those of the command line, where a method may have others than in Python.
    Flags = Options

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if "Flags" not in vars(cls) and "Options" in vars(cls):
            theirs = super(cls, cls).Flags  # with what the flags of the parent have beside
            cls.Flags = (
                cls.Options
                if issubclass(cls.Options, theirs)
                else dataclasses.dataclass(frozen=True)(type("Flags", (cls.Options, theirs), {}))
            )
        if "__init__" in vars(cls):
            cls.__init__ = networks.takes_any_model(cls.__init__)
        # What help() and editors show: the roles, then every option with its default.
        roles = _keyword_only(cls.__init__) | {
            name: parameter
            for name, parameter in _keyword_only(Method.__init__).items()
            if name in ("seed", "name")
        }
        cls.__signature__ = inspect.Signature([*roles.values(), *parameters_of(cls.Options)])

    @networks.takes_any_model
    def __init__(self, *, student, seed=0, name=None, **options):
        require_tensorflow("methods")
        check_settings()
        super().__init__(name=name)
        self.options = options = from_keywords(self.Options, options)
        self.student = student
        self.weight_decay, self.weight_decay_of = options.weight_decay, options.weight_decay_of
        self.gradient_clip_norm = options.gradient_clip_norm
        self.seed = seed
        self.average = (
            WeightAverage(student, options.weight_averaging) if options.weight_averaging else None
        )
        self.terms = [CrossEntropy(of=Logits(student))]
        self.watch = watch.Watch()
        self.asked_to_stop = self.told_to_stop = False
        self.built = True

    def term_names(self) -> tuple[str, ...]:
        """The names of what loss_terms may return, by the method's options."""
        return tuple(name for term in self.terms for name in term.names)

    def call(self, images, training=False):
        return self.student(images, training=training)

    def compile(self, optimizer="rmsprop", **kwargs):
        """As keras.Model.compile, without loss and metrics: a method brings its own."""
        theirs = ("loss", "metrics", "weighted_metrics", "loss_weights")
        if any(kwargs.get(name) is not None for name in theirs):
            raise InputError(
                f"{type(self).__name__} has its own loss; compile it with optimizer=... alone, "
                f"without {', '.join(theirs)}"
            )
        if not self.terms:
            raise InputError(f"{type(self).__name__} has no terms: set self.terms in __init__")
        if not self._trained:
            raise InputError(
                "the student has no weights to train: all its layers are frozen; set "
                "student.trainable = True, of a clone on each layer"
            )
        check_names(self.term_names())
        if self.average is not None:
            self.average.check(self.student)
        done = self.steps_done if self.compiled else None
        super().compile(optimizer=optimizer, **kwargs)
        further = (
            ("weight_decay", self.weight_decay),
            ("regularization", self._regularized()),
            ("gradient_norm", self.gradient_clip_norm),
        )
        names = ("loss", *self.term_names(), *(name for name, used in further if used), "accuracy")
        with self.distribute_strategy.scope():
            # Keras would build the optimizer for teacher and discriminator as well.
            self.optimizer.build(self._trained)
            self._follow(names)
            if done is not None:
                self._count_on_from(done)
        self.watch.terms = names
        # Where Keras finds them for `save_weights`.
        self.layers_of_terms = [
            layer
            for term in self.terms
            for layer in term.state().values()
            if isinstance(layer, keras.Layer)
        ]

    def state(self) -> dict:
        """Everything that a resumed run needs, for `tf.train.Checkpoint(**method.state())`."""
        state = {"student": self.student, "optimizer": self.optimizer}
        if self.average is not None:
            state["average"] = self.average
        if self._steps_before is not None:
            state["steps_before"] = self._steps_before.value
        for term in self.terms:
            state |= term.state()
        return state

    def averaged_student(self, batches) -> keras.Model:
        """A copy of the student with the average of its weights.

        Args:
            batches: images float32 [batch, height, width, channels] of the training, such as 50
                batches: batch norm's statistics are estimated anew on them.

        Raises:
            InputError: a method without weight_averaging, or a student that Keras cannot clone.
        """
        if self.average is None:
            raise InputError(
                "this method has no average of its weights: make it with weight_averaging=0.999"
            )
        copy = copied(self.student)
        self.average.give(copy, self.student, batches)
        return copy

    def step_terms(self) -> list:
        """The terms of the next step: those of `terms`, unless a method starts with others."""
        return self.terms

    def accuracy_of(self):
        """The pass whose logits the training accuracy in the logs is of: the last term's."""
        return self.step_terms()[-1].of

    def loss_terms(self, images, labels):
        """The terms of one step.

        Returns:
            (logits float [batch, classes] for the accuracy that is shown, or a pair of them and
            the labels int [batch] that they belong to, where those are not the batch's; {term name:
            (weight, this replica's share of the term)}).
        """
        shares, seen = evaluate(self.step_terms(), images, labels, self.step_seed())
        shown = seen[self.accuracy_of()]
        own = shown.get("classes", shown.get("labels", labels))
        own = own if own.dtype.is_integer else tf.argmax(own, axis=1)
        return (shown["logits"], own), shares

    def other_losses(self, terms) -> list:
        """What a step trains beside the student, by the terms that `loss_terms` returned: (loss,
        variables, optimizer) of each.
        """
        return []

    def train_step(self, data):
        images, labels = self.unpacked(data)
        seed_layers(self, self.step_seed())
        with tf.GradientTape(persistent=self.several_losses) as tape:
            shown, terms = self.loss_terms(images, labels)
            loss = self._total(terms)
            scaled = self.optimizer.scale_loss(loss)
            others = self.other_losses(terms)
        gradients = tape.gradient(scaled, self._trained)
        # Before the student's optimizer, which moves the rate of all on to the next step.
        for other, variables, optimizer in others:
            optimizer.apply(tape.gradient(other, variables), variables)
        del tape
        networks.check_losses(self.student)  # those that a layer adds in training alone
        self._apply(gradients, terms)
        return self._log(loss, terms, *(shown if isinstance(shown, tuple) else (shown, labels)))

    def unpacked(self, data):
        """(images float32 of the student's shape, class numbers [batch]) of a batch with labels as
        `fit` takes them, or an InputError.
        """
        images, labels = batches.unpack(data)
        taken = tf.TensorShape([None, *self.student.input_shape[1:]])
        if not images.shape.is_compatible_with(taken):
            raise InputError(
                f"images must be of shape {tuple(taken[1:])}, as the student takes them, got "
                f"{tuple(images.shape[1:])}"
            )
        # Decoded images often come without a static size, which attacks and losses need.
        return tf.ensure_shape(images, taken), labels

    @property
    def _trained(self):
        """The variables that a step of the optimizer changes: the student's, then the terms'."""
        further = [variable for term in self.terms for variable in term.variables]
        return [*self.student.trainable_variables, *further]

    def _regularized(self) -> list:
        """The student's trained variables that have a Keras regularizer of their own."""
        return [v for v in self.student.trainable_variables if v.regularizer is not None]

    def _apply(self, gradients, terms):
        """One step of the optimizer, clipped; the norm joins the terms that are shown."""
        if self.gradient_clip_norm:
            gradients, norm = clip(gradients, self.gradient_clip_norm, self.optimizer)
            terms["gradient_norm"] = 0.0, replicas.once(norm)
        elif isinstance(self.optimizer, keras.optimizers.LossScaleOptimizer):
            gradients = replicas.finite_or_nan(gradients)
        self.optimizer.apply(gradients, self._trained)
        if self.average is not None:
            self.average.see(self.student, self.iterations)
        self.watch.see_weights(self._trained, self.iterations)

    def _total(self, terms):
        if self.weight_decay:
            decayed = (
                self._trained
                if self.weight_decay_of == "all"
                else kernels(self.student.trainable_variables)
            )
            terms["weight_decay"] = self.weight_decay, replicas.once(half_squares(decayed))
        regularized = self._regularized()
        if regularized:
            losses = [variable.regularizer(variable) for variable in regularized]
            terms["regularization"] = 1.0, replicas.once(tf.add_n(losses))
        return total(terms)


def _keyword_only(function):
    parameters = inspect.signature(function).parameters
    return {name: p for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY}
