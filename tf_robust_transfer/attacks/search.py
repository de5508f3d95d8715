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

from tf_robust_transfer.attacks.noise import ExampleNoise
from tf_robust_transfer.attacks.threat_model import Problem
from tf_robust_transfer.inference.faster_copy import on_gpu
from tf_robust_transfer.inference.kept import compiled, kept
from tf_robust_transfer.losses import classification
from tf_robust_transfer.ops.examples import choose
from tf_robust_transfer.ops.loops import out_of_line
from tf_robust_transfer.ops.precision import full_float32
from tf_robust_transfer.ops.random import seed_sequence

# Most steps between two looks of the host: few, since a lane that is done idles until then, and
# enough to hide the look.
STEPS_AT_ONCE = 10
# The host looks earlier where more than one in so many lanes is done.
MANY_DONE = 16
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
        self.attack, self.model, self.threat_model = attack, model, threat_model
        self.batch_size, self.keep_images = batch_size, keep_images
        self.rounds = attack.rounds(model.output_shape[-1])
        self.steps_at_once = getattr(attack, "steps_at_once", STEPS_AT_ONCE)
        key = ("search", attack.identity(threat_model), self.steps_at_once, logits_of, keep_images)
        self._functions = kept(model, key, dict)
        self.logits_of = logits_of or self._logits
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
                judged = self._compiled(self._judge_images, *arguments)
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
            self.lanes, steps = self._compiled(self._advance, self.lanes, self.eps)
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
        rows = np.flatnonzero(over | (busy & self.lanes["fooled"].numpy()))
        none = np.zeros(0, int)
        decided = Decided(none, none.astype(bool), none.astype(np.float32), None, none, 0)
        if len(rows):
            with full_float32():
                judgement = self._compiled(
                    self._judge_lanes,
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
            self.lanes = self._compiled(self._refill, self.lanes, begun, *arguments)
            self._iteration = np.array(self._iteration)
            self._iteration[rows] = 0

    def _begun(self, images, labels, seed, rows):
        """Lanes at the start of the rows' present examples and rounds."""
        example, round = self.example[rows], self.round[rows]
        seeds = _seeds(seed, round, example).astype(np.int32)
        parts = images[example], labels[example], round, seeds, example >= 0
        return self._compiled(self._begin, *map(tf.constant, parts), self.eps)

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
        name = method.__name__
        if name not in self._functions:
            self._functions[name] = compiled(method, *arguments)
        return self._functions[name](*arguments)

    # What follows runs compiled.

    def whole(self, images, labels, resists, eps, seed):
        """What `run` finds, inside a graph: all examples at once, to the end.

        Args:
            images: float32 [n, height, width, channels]; labels: int32 [n].
            resists: bool [n], which examples to attack.
            eps: scalar.
            seed: int, scalar tensor, or a tuple of them.

        Returns:
            (images [n, ...], whether the model is right on them, margins), as of `Decided`; of
            examples that are not attacked, anything.
        """
        everyone = tf.range(tf.shape(labels)[0])

        def begin(round, resists):
            rounds = tf.zeros_like(labels) + round
            seeds = tf.cast(_seeds(seed, rounds, everyone), tf.int32)
            return self._begin(images, labels, rounds, seeds, resists, eps)

        def advance(lanes):
            lanes = self._advance(lanes, eps)[0]
            return (self._judge_lanes(lanes, everyone, eps)[0],)

        def one_round(round, lanes, resists, *found):
            (lanes,) = tf.while_loop(
                lambda lanes: tf.reduce_any(lanes["active"]), advance, (lanes,)
            )
            lanes, *new = self._judge_lanes(lanes, everyone, eps)
            found = [choose(resists, one, other) for one, other in zip(new, found, strict=True)]
            resists &= new[1]
            begun = begin(round + 1, resists)
            closest = {name: lanes[name] for name in ("closest", "closest_margin")}
            return round + 1, begun | closest, resists, *found

        return tf.while_loop(
            lambda round, lanes, resists, *_: (round < self.rounds) & tf.reduce_any(resists),
            one_round,
            (0, begin(0, resists), resists, images, resists, tf.zeros_like(images[:, 0, 0, 0])),
        )[3:]

    def _logits(self, images):
        return tf.cast(self.model(images, training=False), tf.float32)

    def _problem(self, eps):
        return Problem.of(self.logits_of, self.threat_model, eps)

    def _judge_images(self, images, labels):
        # Mixed-precision models too are judged in float32, where logits tie less.
        logits = self._logits(images)
        return classification.is_correct(logits, labels), classification.margin(logits, labels)

    def _begin(self, images, labels, round, seeds, active, eps):
        """Lanes before their first step. images: [lanes, ...]; round: int32 [lanes]; seeds: int32
        [lanes, 2].
        """
        unit = self.threat_model.to_unit(images)
        lanes = {
            "images": images,
            "labels": labels,
            "round": round,
            "seeds": seeds,
            "active": active,
            "iteration": tf.zeros_like(labels),
            "fooled": tf.zeros_like(active),
            "found": images,
            "state": self.attack.start(
                self._problem(eps), unit, labels, round, ExampleNoise(seeds)
            ),
        }
        if self.keep_images:
            lanes |= {"closest": images, "closest_margin": tf.fill(tf.shape(labels), -float("inf"))}
        return lanes

    def _refill(self, lanes, begun, rows, again):
        """Lanes with those of `begun` in the rows; where `again` the example stays, and what came
        closest with it.
        """
        for name in ("closest", "closest_margin") if self.keep_images else ():
            stays = choose(again, tf.gather(lanes[name], rows), begun[name])
            begun = begun | {name: stays}
        return _scatter(lanes, rows, begun)

    def _advance(self, lanes, eps):
        """The next steps of every lane that is neither fooled nor at the end of its round, and how
        many they were.
        """
        problem = self._problem(eps)
        unit = self.threat_model.to_unit(lanes["images"])
        drawn = self.attack.draw(
            ExampleNoise(lanes["seeds"]), lanes["iteration"], self.steps_at_once
        )

        busy = _count(lanes["active"])

        def unfinished(i, lanes):
            left = _count(lanes["active"])
            going = (i < self.steps_at_once) & (left > 0)
            if tf.nest.flatten(drawn):
                return going  # the numbers are those of the steps from look to look
            # Where many lanes are done the host looks at once.
            return going & (MANY_DONE * (busy - left) <= tf.shape(lanes["active"])[0])

        def step(lanes, now):
            labels, active = lanes["labels"], lanes["active"]
            state, visited, logits = self.attack.step(
                problem, unit, labels, lanes["state"], lanes["iteration"], now
            )
            allowed = active & problem.holds(visited, unit)
            visited = self.threat_model.from_unit(visited)
            fooled = allowed & ~classification.is_correct(logits, labels)
            iteration = lanes["iteration"] + tf.cast(active, tf.int32)
            changed = {
                "state": choose(active, state, lanes["state"]),
                "iteration": iteration,
                "fooled": lanes["fooled"] | fooled,
                "active": active & ~fooled & (iteration < self.attack.iterations),
                "found": choose(fooled, visited, lanes["found"]),
            }
            if self.keep_images:
                changed |= self._closest(
                    lanes, allowed, visited, classification.margin(logits, labels)
                )
            return lanes | changed

        step = out_of_line(step)

        def body(i, lanes):
            return i + 1, step(lanes, tf.nest.map_structure(lambda numbers: numbers[:, i], drawn))

        steps, lanes = tf.while_loop(unfinished, body, (tf.constant(0), lanes))
        return lanes, steps

    def _judge_lanes(self, lanes, rows, eps):
        """(lanes; of the rows: images to hand out, whether the model is right on what was found,
        margins).

        The lanes that were fooled, but not in the model's own eyes, are set going again.
        """
        some = tf.nest.map_structure(lambda part: tf.gather(part, rows), lanes)
        over = some["iteration"] >= self.attack.iterations
        result = self.threat_model.from_unit(self.attack.result(some["state"]))
        found = choose(some["fooled"], some["found"], result)
        found = self.threat_model.allowed(found, some["images"], eps)
        right, margins = self._judge_images(found, some["labels"])
        mistaken = some["fooled"] & right
        changed = {
            "fooled": some["fooled"] & ~mistaken,
            "active": some["active"] | (mistaken & ~over),
        }
        images = found
        if self.keep_images:
            changed |= self._closest(some, (some["fooled"] | over) & right, found, margins)
            closest = self.threat_model.allowed(changed["closest"], some["images"], eps)
            images = choose(right, closest, found)
            margins = choose(right, changed["closest_margin"], margins)
        kept_lanes = {name: lanes[name] for name in changed}
        return lanes | _scatter(kept_lanes, rows, changed), images, right, margins

    def _closest(self, lanes, allowed, images, margins):
        """What came closest so far, with these images among it where allowed."""
        better = allowed & (margins > lanes["closest_margin"])
        return {
            "closest": choose(better, images, lanes["closest"]),
            "closest_margin": choose(better, margins, lanes["closest_margin"]),
        }


def _seeds(seed, round, example):
    """int32 or uint32 [n, 2], below 2^31: what each example's noise in each round is drawn from.

    Args:
        seed: see `Search.run`.
        round, example: int [n].
    """
    words = (*seed, round, example + 1) if isinstance(seed, tuple) else (seed, round, example + 1)
    return seed_sequence(words, 2) // 2


def _count(where):
    return tf.reduce_sum(tf.cast(where, tf.int32))


def _scatter(lanes, rows, new):
    """lanes, with `new` in the rows; both nests of tensors of one structure."""
    return tf.nest.map_structure(
        lambda old, new: tf.tensor_scatter_nd_update(old, rows[:, None], new), lanes, new
    )
