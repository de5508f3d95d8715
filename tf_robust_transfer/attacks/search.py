"""Runs an attack over any number of examples in batches of one shape.

The rows of the batch are lanes. A lane works on its example until that is decided (an image fools
the model, or every round is over) and then takes the next example of the queue, so that the model
is never run on decided ones for longer than a few steps, and nothing is compiled twice. At the end,
when the queue is empty, the batch is halved and halved again. What an example meets depends on the
seed and the example alone: neither the batch size nor an interruption changes its random numbers.
"""

import typing

import numpy as np
import tensorflow as tf

from tf_robust_transfer.attacks.noise import ExampleNoise
from tf_robust_transfer.attacks.threat_model import Problem
from tf_robust_transfer.losses import classification
from tf_robust_transfer.ops.loops import out_of_line
from tf_robust_transfer.ops.precision import full_float32

# Steps between two looks of the host: few, since a lane that is done idles until then, and enough
# to hide the look.
STEPS_AT_ONCE = 10
# The batch shrinks no further: smaller ones cost as much.
SMALLEST_BATCH = 16


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
    """One attack on one model, compiled for one batch shape (and for the smaller ones at the end).

    Args:
        attack: an `Attack`.
        model: keras.Model, images -> logits; its float32 logits alone (on a GPU without TF32)
            decide whether an image fools it.
        threat_model: its norm and bounds; eps is an argument of `run`.
        batch_size: number of lanes.
        logits_of: what the attack sees of the model, images -> float32 logits, such as a faster
            copy of it. None: the model itself.
        keep_images: hand the images out.
    """

    def __init__(
        self, attack, model, threat_model, *, batch_size, logits_of=None, keep_images=False
    ):
        self.attack, self.model, self.threat_model = attack, model, threat_model
        self.batch_size, self.keep_images = batch_size, keep_images
        self.logits_of = logits_of or self._logits
        self.rounds = attack.rounds(model.output_shape[-1])
        self.steps_at_once = getattr(attack, "steps_at_once", STEPS_AT_ONCE)
        self._functions = {}
        self.lanes, self.queue = None, np.zeros(0, int)

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
            filled = np.resize(rows, self.batch_size)  # the last batch repeats its rows
            arguments = tf.constant(images[filled]), tf.constant(labels[filled])
            with full_float32():
                judged = self._compiled(self._judge_images, self.batch_size, *arguments)
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
            self.example = np.full(self.batch_size, -1)
            self.round = np.zeros(self.batch_size, np.int32)
            self._fill(images, labels, seed, again=np.zeros(self.batch_size, bool))
        else:
            self._restore(restored)
        while (self.example >= 0).any():
            self._shrink()
            self.lanes = self._compiled(self._advance, len(self.example), self.lanes, self.eps)
            yield self._decide(images, labels, seed)

    def snapshot(self) -> dict:
        """Everything that `run` needs to go on: a flat dict of arrays."""
        flat = tf.nest.flatten(self.lanes)
        own = {"queue": self.queue, "example": self.example, "round": self.round}
        return own | {f"lane{i}": part.numpy() for i, part in enumerate(flat)}

    def _restore(self, snapshot):
        self.queue, self.example, self.round = (
            np.asarray(snapshot[k]) for k in ("queue", "example", "round")
        )
        size = len(self.example)
        # The lanes' form is that of lanes begun on nothing.
        nothing = np.zeros((size, *self.model.input_shape[1:]), np.float32)
        structure = self._compiled(
            self._begin, len(self.example), *self._arguments(nothing, np.zeros(size, np.int32), 0)
        )
        parts = [tf.constant(snapshot[f"lane{i}"]) for i in range(len(tf.nest.flatten(structure)))]
        self.lanes = tf.nest.pack_sequence_as(structure, parts)

    def _decide(self, images, labels, seed):
        """Looks at the lanes, hands out what is decided, and fills the free lanes."""
        busy = self.example >= 0
        fooled = busy & self.lanes["fooled"].numpy()
        over = busy & (self.lanes["iteration"].numpy() >= self.attack.iterations)
        none = np.zeros(0, int)
        decided = Decided(none, none.astype(bool), none.astype(np.float32), None, none, 0)
        if (fooled | over).any():
            with full_float32():
                judgement = self._compiled(
                    self._judge_lanes, len(self.example), self.lanes, self.eps
                )
                self.lanes, judged, right, margins = judgement
                right, margins = right.numpy(), margins.numpy()
            beaten = (fooled | over) & ~right
            last = self.round + 1 == self.rounds
            done = beaten | (over & last)
            kept = judged.numpy()[done] if self.keep_images else None
            decided = Decided(
                self.example[done], beaten[done], margins[done], kept, self._taken()[done], 0
            )
            self.example[done] = -1
            # A faster copy of the model may be fooled where the model itself is not: these lanes go
            # on.
            again = over & ~done
            self.round[again] += 1
            self._fill(images, labels, seed, again=again)
        busy = self.example >= 0
        return decided._replace(steps=int(self._taken()[busy].sum()))

    def _taken(self):
        """Steps of each lane on its present example."""
        return self.round * self.attack.iterations + self.lanes["iteration"].numpy()

    def _fill(self, images, labels, seed, again):
        """Gives the free lanes examples of the queue, and begins the next round where `again` says
        so.
        """
        free = np.flatnonzero(self.example < 0)[: len(self.queue)]
        self.example[free], self.queue = self.queue[: len(free)], self.queue[len(free) :]
        self.round[free] = 0
        fresh = again.copy()
        fresh[free] = True
        if not fresh.any() and self.lanes is not None:
            return
        size = len(self.example)
        chosen, chosen_labels = (
            np.zeros((size, *images.shape[1:]), np.float32),
            np.zeros(size, np.int32),
        )
        chosen[fresh], chosen_labels[fresh] = (
            images[self.example[fresh]],
            labels[self.example[fresh]],
        )
        begun = self._compiled(
            self._begin, len(self.example), *self._arguments(chosen, chosen_labels, seed)
        )
        if self.lanes is None:
            self.lanes = begun
        else:
            masks = tf.constant(fresh), tf.constant(again)
            self.lanes = self._compiled(self._refill, size, self.lanes, begun, *masks)

    def _arguments(self, images, labels, seed):
        """The arguments of _begin for the lanes' present examples and rounds."""
        keys = (
            tuple(np.atleast_1d(seed)) + (int(r), int(e) + 1)
            for r, e in zip(self.round, self.example, strict=True)
        )
        seeds = [
            np.random.SeedSequence([int(part) % 2**32 for part in key]).generate_state(2) >> 1
            for key in keys
        ]
        parts = (images, labels, self.round, np.array(seeds, np.int32), self.example >= 0)
        return [*map(tf.constant, parts), self.eps]

    def _shrink(self):
        """Half of the batch, and again, once that holds all that is left."""
        busy = np.flatnonzero(self.example >= 0)
        size = len(self.example)
        while len(self.queue) == 0 and size // 2 >= max(len(busy), SMALLEST_BATCH):
            size //= 2
        if size < len(self.example):
            idle = np.flatnonzero(self.example < 0)
            rows = np.concatenate([busy, idle])[:size]
            self.lanes = tf.nest.map_structure(lambda part: tf.gather(part, rows), self.lanes)
            self.example, self.round = self.example[rows], self.round[rows]

    def _compiled(self, method, size, *arguments):
        """method(*arguments), compiled once for each number of lanes."""
        key = method.__name__, size
        if key not in self._functions:
            # Concrete, since TensorFlow warns of a function that is traced again for another shape.
            function = tf.function(method, autograph=False)
            self._functions[key] = function.get_concrete_function(*arguments)
        return self._functions[key](*arguments)

    # What follows runs compiled.

    def _logits(self, images):
        return tf.cast(self.model(images, training=False), tf.float32)

    def _judge_images(self, images, labels):
        # Mixed-precision models too are judged in float32, where logits tie less.
        logits = self._logits(images)
        return classification.is_correct(logits, labels), classification.margin(logits, labels)

    def _begin(self, images, labels, round, seeds, active, eps):
        """Lanes before their first step. images: [lanes, ...]; round: int32 [lanes]; seeds: int32
        [lanes, 2].
        """
        problem = Problem(self.logits_of, self.threat_model, eps)
        lanes = {
            "images": images,
            "labels": labels,
            "round": round,
            "seeds": seeds,
            "active": active,
            "iteration": tf.zeros_like(labels),
            "fooled": tf.zeros_like(active),
            "found": images,
            "state": self.attack.start(problem, images, labels, round, ExampleNoise(seeds)),
        }
        if self.keep_images:
            lanes |= {"closest": images, "closest_margin": tf.fill(tf.shape(labels), -float("inf"))}
        return lanes

    def _refill(self, lanes, begun, fresh, again):
        """Lanes with those of `begun` where fresh; where `again` the example stays, and what came
        closest with it.
        """
        merged = _choose(fresh, begun, lanes)
        for name in ("closest", "closest_margin") if self.keep_images else ():
            merged[name] = _choose(fresh & ~again, begun[name], lanes[name])
        return merged

    def _advance(self, lanes, eps):
        """The next steps of every lane that is neither fooled nor at the end of its round."""
        problem = Problem(self.logits_of, self.threat_model, eps)
        drawn = self.attack.draw(
            ExampleNoise(lanes["seeds"]), lanes["iteration"], self.steps_at_once
        )

        def unfinished(i, lanes):
            return (i < self.steps_at_once) & tf.reduce_any(lanes["active"])

        def step(lanes, now):
            images, labels, active = lanes["images"], lanes["labels"], lanes["active"]
            state, visited, logits = self.attack.step(
                problem, images, labels, lanes["state"], lanes["iteration"], now
            )
            allowed = active & problem.holds(visited, images)
            fooled = allowed & ~classification.is_correct(logits, labels)
            iteration = lanes["iteration"] + tf.cast(active, tf.int32)
            changed = {
                "state": _choose(active, state, lanes["state"]),
                "iteration": iteration,
                "fooled": lanes["fooled"] | fooled,
                "active": active & ~fooled & (iteration < self.attack.iterations),
                "found": _choose(fooled, visited, lanes["found"]),
            }
            if self.keep_images:
                changed |= self._closest(
                    lanes, allowed, visited, classification.margin(logits, labels)
                )
            return lanes | changed

        step = out_of_line(step)

        def body(i, lanes):
            return i + 1, step(lanes, tf.nest.map_structure(lambda numbers: numbers[:, i], drawn))

        return tf.while_loop(unfinished, body, (tf.constant(0), lanes))[1]

    def _judge_lanes(self, lanes, eps):
        """(lanes, images to hand out, whether the model is right on what was found, margins).

        The lanes that were fooled, but not in the model's own eyes, are set going again.
        """
        problem = Problem(self.logits_of, self.threat_model, eps)
        over = lanes["iteration"] >= self.attack.iterations
        found = _choose(lanes["fooled"], lanes["found"], self.attack.result(lanes["state"]))
        found = problem.allowed(found, lanes["images"])
        right, margins = self._judge_images(found, lanes["labels"])
        images = found
        if self.keep_images:
            lanes = lanes | self._closest(lanes, (lanes["fooled"] | over) & right, found, margins)
            images = _choose(right, lanes["closest"], found)
            margins = _choose(right, lanes["closest_margin"], margins)
        mistaken = lanes["fooled"] & right
        changed = {
            "fooled": lanes["fooled"] & ~mistaken,
            "active": lanes["active"] | (mistaken & ~over),
        }
        return lanes | changed, images, right, margins

    def _closest(self, lanes, allowed, images, margins):
        """What came closest so far, with these images among it where allowed."""
        better = allowed & (margins > lanes["closest_margin"])
        return {
            "closest": _choose(better, images, lanes["closest"]),
            "closest_margin": _choose(better, margins, lanes["closest_margin"]),
        }


def _choose(where, new, old):
    """new where `where`, bool [lanes], else old; both nests of tensors [lanes, ...] of one
    structure.
    """
    # The first form of `where` takes a condition for each row and copies whole rows, twenty times
    # as fast as broadcasting.
    return tf.nest.map_structure(lambda new, old: tf.compat.v1.where(where, new, old), new, old)
