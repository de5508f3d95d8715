"""Runs an attack over any number of examples in batches.

The rows of the batch are lanes. A lane works on its example until that is decided (an image fools
the model, or every round is over) and then takes the next example of the queue, so that the model
is never run on decided ones for longer than a few steps. When the queue is empty, lanes without an
example are given up. What an example meets depends on the seed and the example alone: neither the
batch size nor an interruption changes its random numbers.
"""

import typing

import numpy as np
import tensorflow as tf

from tf_robust_transfer.attacks.lanes import LaneProgram, seeds_of
from tf_robust_transfer.inference.faster_copy import on_gpu
from tf_robust_transfer.inference.kept import compiled, kept
from tf_robust_transfer.ops.precision import full_float32

# Most steps between two looks of the host: few, since a lane that is done idles until then, and
# enough to hide the look.
STEPS_AT_ONCE = 10
# Steps of an attack that is worth a second number of lanes on a GPU.
LONG = 500


class Decided(typing.NamedTuple):
    """Examples that the search has decided, and how far it has come.

    Attributes:
        examples: int [n], indices.
        fooled: bool [n].
        margins: float32 [n], the largest margin found: positive where the model was fooled.
        images: float32 [n, height, width, channels], the one that fools the model, else the one of
            the largest margin; None unless the images are kept.
        taken: int [n], steps that each example took, over all rounds.
        steps: steps that the examples still in work have taken, for the progress.
    """

    examples: np.ndarray
    fooled: np.ndarray
    margins: np.ndarray
    images: np.ndarray | None
    taken: np.ndarray
    steps: int


class Search:
    """One attack on one model. It is compiled once for all searches of equal attacks on the model.

    Args:
        attack: an `Attack`.
        model: keras.Model, images -> logits; its float32 logits alone (on a GPU without TF32)
            decide whether an image fools it.
        threat_model: its norm and bounds; eps is an argument of `run`.
        batch_size: most lanes.
        logits_of: what the attack sees of the model, images -> float32 logits, such as a faster
            copy of it. None: the model itself.
        keep_images: hand the images out.

    Attributes:
        computed: steps of all lanes that `run` has computed.
        used: those of them that belonged to an example in work.
    """

    def __init__(
        self, attack, model, threat_model, *, batch_size, logits_of=None, keep_images=False
    ):
        self.attack, self.batch_size, self.keep_images = attack, batch_size, keep_images
        steps_at_once = getattr(attack, "steps_at_once", STEPS_AT_ONCE)
        self.program = LaneProgram(
            attack, model, threat_model, logits_of, keep_images, steps_at_once
        )
        self.rounds = self.program.rounds
        key = ("search", attack.identity(threat_model), steps_at_once, logits_of, keep_images)
        self._functions = kept(model, key, dict)
        self.lanes, self.queue = None, np.zeros(0, int)
        self.computed = self.used = 0

    @property
    def steps(self) -> int:
        """Most steps that an example takes."""
        return self.rounds * self.attack.iterations

    def judge(self, images, labels):
        """What the model says of images, float32 [n, ...]: (whether it is right: bool [n], margin:
        float32 [n]).
        """
        right, margins = np.zeros(len(labels), bool), np.zeros(len(labels), np.float32)
        for start in range(0, len(labels), self.batch_size):
            rows = np.arange(start, min(start + self.batch_size, len(labels)))
            filled = self._filled(rows, self._size)
            arguments = tf.constant(images[filled]), tf.constant(labels[filled])
            with full_float32():
                judged = self._compiled(self.program.judge_images, *arguments)
                right[rows], margins[rows] = (part.numpy()[: len(rows)] for part in judged)
        return right, margins

    def run(self, images, labels, examples, *, eps, seed, restored=None):
        """Attacks examples. Yields a `Decided` every few steps; between two of them `snapshot` may
        be taken.

        Args:
            images: float32 [num_examples, height, width, channels]; labels: int32 [num_examples].
            examples: int [n], indices of those to attack, which the model has to get right.
            eps: radius of the ball.
            seed: int or a tuple of ints, at least 0.
            restored: an earlier `snapshot` to go on from, in place of examples.
        """
        self.eps = tf.constant(eps, tf.float32)
        if restored is None:
            self.queue, self.lanes = np.asarray(examples), None
            size = self._lanes(min(len(self.queue), self.batch_size))
            self.example, self.round = np.full(size, -1), np.zeros(size, np.int32)
            self._fill(images, labels, seed)
        else:
            self._restore(restored, images, labels)
        self._iteration = self.lanes["iteration"].numpy()
        while (self.example >= 0).any():
            self._shrink()
            self.lanes, steps = self._compiled(self.program.advance, self.lanes, self.eps)
            self.computed += int(steps) * len(self.example)
            yield self._decide(images, labels, seed)
        self.lanes = None

    def snapshot(self) -> dict:
        """Everything that `run` needs to go on: a flat dict of arrays."""
        flat = tf.nest.flatten(self.lanes)
        own = {"queue": self.queue, "example": self.example, "round": self.round}
        return own | {f"lane{i}": part.numpy() for i, part in enumerate(flat)}

    def _restore(self, snapshot, images, labels):
        self.queue, self.example, self.round = (
            np.asarray(snapshot[k]) for k in ("queue", "example", "round")
        )
        # The lanes' form is that of a lane that begins.
        structure = self._begun(images, labels, 0, np.arange(1))
        parts = [tf.constant(snapshot[f"lane{i}"]) for i in range(len(tf.nest.flatten(structure)))]
        self.lanes = tf.nest.pack_sequence_as(structure, parts)

    def _decide(self, images, labels, seed):
        """Looks at the lanes, hands out what is decided, and fills the free lanes."""
        before, self._iteration = self._iteration, self.lanes["iteration"].numpy()
        self.used += int((self._iteration - before).sum())
        busy = self.example >= 0
        over = busy & (self._iteration >= self.attack.iterations)
        fooled = busy & self.lanes["fooled"].numpy()
        rows = np.flatnonzero(over if self.attack.judged_at_the_end else over | fooled)
        none = np.zeros(0, int)
        decided = Decided(none, none.astype(bool), none.astype(np.float32), None, none, 0)
        if len(rows):
            with full_float32():
                judgement = self._compiled(
                    self.program.judge,
                    self.lanes,
                    tf.constant(self._filled(rows, self._size)),
                    self.eps,
                )
                self.lanes = judgement[0]
                judged, right, margins = (part.numpy()[: len(rows)] for part in judgement[1:])
            last = self.round[rows] + 1 == self.rounds
            done = ~right | (over[rows] & last)
            decided = Decided(
                self.example[rows[done]],
                ~right[done],
                margins[done],
                judged[done] if self.keep_images else None,
                self._taken()[rows[done]],
                0,
            )
            self.example[rows[done]] = -1
            # A faster copy of the model may be fooled where the model itself is not: these lanes go
            # on.
            again = rows[over[rows] & ~done]
            self.round[again] += 1
            self._fill(images, labels, seed, again)
        busy = self.example >= 0
        return decided._replace(steps=int(self._taken()[busy].sum()))

    def _taken(self):
        """Steps of each lane on its present example."""
        return self.round * self.attack.iterations + self._iteration

    def _fill(self, images, labels, seed, again=()):
        """Gives the free lanes examples of the queue, and begins the next round in the rows
        `again`.
        """
        free = np.flatnonzero(self.example < 0)[: len(self.queue)]
        self.example[free], self.queue = self.queue[: len(free)], self.queue[len(free) :]
        self.round[free] = 0
        if self.lanes is None:
            self.lanes = self._begun(images, labels, seed, np.arange(len(self.example)))
            return
        rows = self._filled(np.concatenate([again, free]).astype(int), self._lanes)
        if len(rows):
            begun = self._begun(images, labels, seed, rows)
            arguments = tf.constant(rows), tf.constant(np.isin(rows, again))
            self.lanes = self._compiled(self.program.refill, self.lanes, begun, *arguments)
            self._iteration = np.array(self._iteration)
            self._iteration[rows] = 0

    def _begun(self, images, labels, seed, rows):
        """Lanes at the start of the rows' present examples and rounds."""
        example, round = self.example[rows], self.round[rows]
        seeds = seeds_of(seed, round, example).astype(np.int32)
        parts = images[example], labels[example], round, seeds, example >= 0
        return self._compiled(self.program.begin, *map(tf.constant, parts), self.eps)

    def _shrink(self):
        """Gives up lanes without an example, once the queue is empty."""
        busy = np.flatnonzero(self.example >= 0)
        size = self._lanes(len(busy))
        if len(self.queue) == 0 and size < len(self.example):
            rows = np.concatenate([busy, np.flatnonzero(self.example < 0)])[:size]
            self.lanes = tf.nest.map_structure(lambda part: tf.gather(part, rows), self.lanes)
            self.example, self.round = self.example[rows], self.round[rows]
            self._iteration = self._iteration[rows]

    def _lanes(self, count):
        """The number of lanes that `count` examples are attacked in, or begun."""
        # On a GPU XLA compiles the attacked copy anew for each number, which few steps do not earn.
        return self.batch_size if on_gpu() and self.steps < LONG else self._size(count)

    def _size(self, count):
        """The number of rows that `count` of them are computed with."""
        if on_gpu():
            # XLA compiles anew for each number, for longer than the lanes saved would take.
            quarter = max(self.batch_size // 4, 1)
            return quarter if count <= quarter else self.batch_size
        # Kernels of each shape are made once: few numbers, at most a sixteenth above what is
        # needed.
        step = 2 ** max(count.bit_length() - 5, 0)
        return min(-(-count // step) * step, self.batch_size)

    @staticmethod
    def _filled(rows, size):
        """The rows, some of them repeated where so few are not computed."""
        return np.resize(rows, size(len(rows))) if len(rows) else rows

    def _compiled(self, method, *arguments):
        """method(*arguments), compiled once for any number of lanes."""
        shapes = tuple(tuple(np.shape(part)[1:]) for part in tf.nest.flatten(arguments))
        key = method.__name__, shapes
        if key not in self._functions:
            self._functions[key] = compiled(method, *arguments)
        return self._functions[key](*arguments)
