"""The base of the attacks: an attack is a start and a step; this module and `search` do the rest.

Two callers drive the same two methods. `Attack.perturb` runs all steps on a batch inside a graph,
as a training step needs it. `search.Search` runs an evaluation: examples that are fooled make room
for others."""

import dataclasses
import inspect

import numpy as np
import tensorflow as tf

from tf_robust_transfer.attacks.noise import BatchNoise
from tf_robust_transfer.attacks.search import Search
from tf_robust_transfer.attacks.threat_model import Problem, ThreatModel, check_batch
from tf_robust_transfer.checkpoints import as_model
from tf_robust_transfer.data.labels import class_labels
from tf_robust_transfer.errors import InputError
from tf_robust_transfer.inference.kept import compiled, kept
from tf_robust_transfer.losses import classification
from tf_robust_transfer.ops.examples import choose
from tf_robust_transfer.ops.loops import out_of_line
from tf_robust_transfer.ops.random import fold_seed
from tf_robust_transfer.options import Options, from_arguments, keywords_of, parameters_of


class Attack:
    """Base of the attacks. A subclass writes start, step and result; this class checks, compiles,
    restarts, projects.

    An attack is called on arrays, or on tensors of a tf.function (`attack(model, images, labels,
    threat_model=..., seed=0)`), or, inside a training step of this package, through `perturb`.
    What is compiled is kept with the model, and serves every attack of equal attributes.

    start, step and result see pixels in [0, 1], whatever the threat model's bounds are; a step size
    that the user gave goes through `Problem.fraction`.

    Attributes:
        iterations: steps of one round.
        restarts: rounds; an attack that aims at several classes has a round for each of them, see
            `rounds`.
        stop_when_fooled: a call ends for an example with the first image that fools the model.
            Otherwise it goes on to the last iterate, past the decision boundary, as the textbook
            forms do.
        uses_clean_logits: whether its loss looks at the clean images' logits; such an attack is for
            training alone.
        judged_at_the_end: of a model with randomness inside, where any pass may err: an evaluation
            goes on to the round's end and judges the last image that fooled a pass, by one more.
            Otherwise a search ends with the first image that the model is wrong on.
        norms: of the threat models that it attacks in.
        uses_gradients: whether it follows gradients, so that rounding in the model bends the way;
            one that compares losses alone sees no rounded copy.
    """

    @dataclasses.dataclass(frozen=True)
    class Options(Options):
        """What can be set, in Python and in an attack's name: `pgd[steps=50;restarts=5]`."""

    # Of an attack that does not call __init__.
    options = Options()
    # What an evaluation sets, where a name does not.
    in_evaluations: dict = {}

    iterations = 1
    restarts = 1
    stop_when_fooled = True
    judged_at_the_end = False
    uses_gradients = True
    norms: tuple[str, ...] = ("linf", "l2")
    uses_clean_logits = False

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        cls.__signature__ = inspect.Signature(
            [p.replace(kind=p.POSITIONAL_OR_KEYWORD) for p in parameters_of(cls.Options)]
        )

    def __init__(self, *values, **keywords):
        self.options = from_arguments(self.Options, values, keywords)
        for name, value in keywords_of(self.options).items():
            setattr(self, name, value)

    def __repr__(self):
        given = ", ".join(f"{key}={value!r}" for key, value in keywords_of(self.options).items())
        return f"{type(self).__name__}({given})"

    def components(self, num_classes: int, norm: str) -> dict:
        """The attacks of an ensemble by name; an attack alone is its own only component.

        Each component attacks what resisted those before it. num_classes: of the model; norm:
        "linf" or "l2"."""
        return {"": self}

    def identity(self, threat_model):
        """What the attack's graph depends on, hashable: equal ones share what is compiled."""
        values = tuple(sorted(vars(self).items()))
        try:
            hash(values)
        except TypeError:  # lists, arrays: then the attack is equal to itself alone
            values = self
        return type(self), values, threat_model.norm, threat_model.bounds

    def rounds(self, num_classes: int) -> int:
        """How often the search is begun anew for an example that still resists. num_classes: of the
        model.
        """
        return self.restarts

    def start(self, problem, images, labels, round, noise) -> dict:
        """The state before the first step. It must not call the model.

        Args:
            problem: a `threat_model.Problem`.
            images: float32 [batch, height, width, channels]; labels: int32 [batch].
            round: int32 [batch], from 0; examples of one batch may be in different rounds.
            noise: `noise.BatchNoise` or `noise.ExampleNoise`, seeded anew for each round.

        Returns:
            dict of tensors [batch, ...].
        """
        raise NotImplementedError(f"{type(self).__name__} must define start")

    def draw(self, noise, iteration, count: int):
        """Random numbers for the next `count` steps: a tensor [batch, count, ...] or a tuple of
        them.

        Drawn for many steps at once since a seed for each example costs more than the numbers.
        iteration: int32 [batch]."""
        return ()

    def step(self, problem, images, labels, state, iteration, drawn):
        """One step of every example, with one pass through the model or a few.

        Args:
            problem, images, labels: as in start.
            state: as start or an earlier step returned it.
            iteration: int32 [batch], below `iterations`: steps taken before this one; examples may
                differ.
            drawn: this step's random numbers [batch, ...], see draw.

        Returns:
            (state, visited: float32 [batch, height, width, channels], its logits float32 [batch,
            classes]). A visited image counts where it lies in ball and bounds.
        """
        raise NotImplementedError(f"{type(self).__name__} must define step")

    def result(self, state):
        """The image that a round ends with, float32 [batch, height, width, channels]; it may not
        have been visited yet.
        """
        raise NotImplementedError(f"{type(self).__name__} must define result")

    def perturb(self, logits_of, images, labels, threat_model, seed, eps=None):
        """One round on a batch, inside a graph.

        Args:
            logits_of: images -> logits.
            images, labels: as in __call__, unchecked.
            threat_model: norm and bounds, and eps where the argument is None.
            seed: int32 [2].
            eps: scalar tensor, so that one graph serves every radius.

        Returns:
            float [batch, ...] in ball and bounds, with no gradient to anything.
        """
        clean_logits = tf.stop_gradient(logits_of(images)) if self.uses_clean_logits else None
        eps = threat_model.eps if eps is None else eps
        problem, unit = (
            Problem.of(logits_of, threat_model, eps, clean_logits),
            threat_model.to_unit(images),
        )
        batch_size = tf.shape(images)[0]
        noise, zeros = BatchNoise(seed, batch_size), tf.zeros([batch_size], tf.int32)
        drawn = self.draw(noise, zeros, self.iterations)

        step_of = out_of_line(
            lambda state, at, now: self.step(problem, unit, labels, state, at, now)[0]
        )

        def step(i, state):
            now = tf.nest.map_structure(lambda numbers: numbers[:, i], drawn)
            return i + 1, step_of(state, zeros + i, now)

        state = self.start(problem, unit, labels, zeros, noise)
        if self.iterations == 1:
            state = step(0, state)[1]  # FGSM pays for no loop
        else:
            state = tf.while_loop(lambda i, _: i < self.iterations, step, (tf.constant(0), state))[
                1
            ]
        found = threat_model.from_unit(self.result(state))
        return tf.stop_gradient(threat_model.allowed(found, images, eps))

    def check_norm(self, norm: str) -> None:
        """Raises an InputError unless it attacks in this norm."""
        if norm not in self.norms:
            raise InputError(
                f"{type(self).__name__} attacks in {' and '.join(self.norms)}, got norm {norm!r}; "
                "take another, such as PGD or Square"
            )

    @tf.autograph.experimental.do_not_convert
    def __call__(self, model, images, labels, *, threat_model: ThreatModel, seed: int = 0):
        """Adversarial examples for images.

        Args:
            model: keras.Model, images in threat_model.bounds -> logits; called with training=False.
                Any that `checkpoints.as_model` takes, such as a SPEC or a method.
            images: float [batch, height, width, channels] inside threat_model.bounds.
            labels: int [batch], the true classes; eagerly also [batch, 1] or one-hot rows.
            threat_model: the ball and the bounds; every result lies in both.
            seed: the same seed gives the same examples. Inside a tf.function it may be a tensor.

        Returns:
            float32 tensor of the images' shape. An image that the model gets wrong already stays as
            it is where the attack stops when fooled. Of several rounds each example is that of its
            best: one that fools the model, or else the one with the largest margin.

        Raises:
            InputError: shapes that do not belong together, a model with one output, and, but for
                calls inside a tf.function, labels outside the model's classes, images outside the
                bounds.
        """
        model = as_model(model, images.shape[1:] if hasattr(images, "shape") else None)
        if tf.executing_eagerly() and model.output_shape[-1] > 1:
            labels = class_labels(labels, model.output_shape[-1])
        images, labels = check_batch(model, images, labels, threat_model)
        if images.shape[0] == 0:
            return images
        if self.stop_when_fooled:
            search = self._search if tf.executing_eagerly() else self._search_in_graph
            return search(model, images, labels, threat_model, seed)
        best = self._round(model, images, labels, threat_model, seed, 0)
        if self.restarts == 1:
            return best
        margin_of = kept(
            model,
            ("margin", *images.shape[1:]),
            lambda: compiled(
                lambda x, y: classification.margin(model(x, training=False), y), best, labels
            ),
        )
        best_margin = margin_of(best, labels)
        for restart in range(1, self.restarts):
            found = self._round(model, images, labels, threat_model, seed, restart)
            found_margin = margin_of(found, labels)
            better = found_margin > best_margin
            best = choose(better, found, best)
            best_margin = tf.where(better, found_margin, best_margin)
        return best

    def _round(self, model, images, labels, threat_model, seed, restart):
        def perturb(images, labels, eps, *seed):
            return self.perturb(
                lambda x: model(x, training=False),
                images,
                labels,
                threat_model,
                tf.stack(seed),
                eps=eps,
            )

        eps = tf.constant(threat_model.eps, tf.float32)
        arguments = images, labels, eps, *tf.unstack(fold_seed(seed, restart))
        key = ("perturb", self.identity(threat_model), *images.shape[1:])
        return kept(model, key, lambda: compiled(perturb, *arguments))(*arguments)

    def _searches(self, model, threat_model, batch_size, seed):
        """(search, its seed) of each component in turn."""
        for name, attack in self.components(model.output_shape[-1], threat_model.norm).items():
            search = Search(attack, model, threat_model, batch_size=batch_size, keep_images=True)
            yield search, (seed, *name.encode())

    def _search(self, model, images, labels, threat_model, seed):
        found, images, labels = images.numpy(), images.numpy(), labels.numpy()
        margins = np.full(len(images), -np.inf, np.float32)
        judge = Search(Attack(), model, threat_model, batch_size=len(images)).judge
        resists = judge(images, labels)[0]
        for search, seeds in self._searches(model, threat_model, len(images), seed):
            for decided in search.run(
                images, labels, resists.nonzero()[0], eps=threat_model.eps, seed=seeds
            ):
                if not len(decided.examples):
                    continue
                closer = decided.fooled | (decided.margins > margins[decided.examples])
                found[decided.examples[closer]] = decided.images[closer]
                margins[decided.examples] = np.maximum(margins[decided.examples], decided.margins)
                resists[decided.examples] = ~decided.fooled
        return tf.constant(found)

    def _search_in_graph(self, model, images, labels, threat_model, seed):
        """As _search."""
        found, margins = images, tf.fill(tf.shape(labels), -float("inf"))
        resists = classification.is_correct(model(images, training=False), labels)
        for search, seeds in self._searches(model, threat_model, 1, seed):
            new, right, new_margins = search.program.whole(
                images, labels, resists, tf.constant(threat_model.eps, tf.float32), seeds
            )
            closer = resists & (~right | (new_margins > margins))
            found = choose(closer, new, found)
            margins = tf.where(closer, new_margins, margins)
            resists &= right
        return tf.stop_gradient(found)
