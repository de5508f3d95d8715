"""The part of a search that runs compiled: what begins, advances and judges its lanes, a nest of
tensors whose first axis is the lane.
"""

import copy

import tensorflow as tf

from tf_robust_transfer.attacks.noise import ExampleNoise
from tf_robust_transfer.attacks.threat_model import Problem
from tf_robust_transfer.losses import classification
from tf_robust_transfer.ops.examples import choose
from tf_robust_transfer.ops.loops import out_of_line
from tf_robust_transfer.ops.random import seed_sequence

# The host looks earlier where more than one in so many lanes is done.
MANY_DONE = 16


class LaneProgram:
    """What a search computes with its lanes; of each, one example.

    Args:
        attack, model, threat_model, logits_of, keep_images: as of `Search`.
        steps_at_once: most steps between two looks of the host.
    """

    def __init__(self, attack, model, threat_model, logits_of, keep_images, steps_at_once):
        self.attack, self.model, self.threat_model = attack, model, threat_model
        self._moving = _that_goes_on(attack)
        self.keep_images, self.steps_at_once = keep_images, steps_at_once
        self.rounds = attack.rounds(model.output_shape[-1])
        self.logits_of = logits_of or self._logits

    def whole(self, images, labels, resists, eps, seed):
        """What `Search.run` finds, inside a graph: all examples at once, to the end.

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
            seeds = tf.cast(seeds_of(seed, rounds, everyone), tf.int32)
            return self.begin(images, labels, rounds, seeds, resists, eps)

        def advance(lanes):
            lanes = self.advance(lanes, eps)[0]
            if self.attack.judged_at_the_end:
                return (lanes,)
            return (self.judge(lanes, everyone, eps)[0],)

        def one_round(round, lanes, resists, *found):
            (lanes,) = tf.while_loop(
                lambda lanes: tf.reduce_any(lanes["active"]), advance, (lanes,)
            )
            lanes, *new = self.judge(lanes, everyone, eps)
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

    def judge_images(self, images, labels):
        # Mixed-precision models too are judged in float32, where logits tie less.
        logits = self._logits(images)
        return classification.is_correct(logits, labels), classification.margin(logits, labels)

    def begin(self, images, labels, round, seeds, active, eps):
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

    def refill(self, lanes, begun, rows, again):
        """Lanes with those of `begun` in the rows; where `again` the example stays, and what came
        closest with it.
        """
        for name in ("closest", "closest_margin") if self.keep_images else ():
            stays = choose(again, tf.gather(lanes[name], rows), begun[name])
            begun = begun | {name: stays}
        return _scatter(lanes, rows, begun)

    def advance(self, lanes, eps):
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
            # Lanes that are done go through here too.
            at = tf.minimum(lanes["iteration"], self.attack.iterations - 1)
            state, visited, logits = self._moving.step(
                problem, unit, labels, lanes["state"], at, now
            )
            allowed = active & problem.holds(visited, unit)
            visited = self.threat_model.from_unit(visited)
            fooled = allowed & ~classification.is_correct(logits, labels)
            going_on = True if self.attack.judged_at_the_end else ~fooled
            iteration = lanes["iteration"] + tf.cast(active, tf.int32)
            changed = {
                "state": choose(active, state, lanes["state"]),
                "iteration": iteration,
                "fooled": lanes["fooled"] | fooled,
                "active": active & going_on & (iteration < self.attack.iterations),
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

    def judge(self, lanes, rows, eps):
        """(lanes; of the rows: images to hand out, whether the model is right on what was found,
        margins).

        The lanes that were fooled, but not in the model's own eyes, are set going again.
        """
        some = tf.nest.map_structure(lambda part: tf.gather(part, rows), lanes)
        over = some["iteration"] >= self.attack.iterations
        result = self.threat_model.from_unit(self.attack.result(some["state"]))
        found = choose(some["fooled"], some["found"], result)
        found = self.threat_model.allowed(found, some["images"], eps)
        right, margins = self.judge_images(found, some["labels"])
        mistaken = some["fooled"] & right
        if not self.attack.judged_at_the_end:  # there one pass is all that counts
            # At the end there is the last image too, which no step has looked at.
            last = self.threat_model.allowed(result, some["images"], eps)
            last = choose(mistaken & over, last, found)
            found, right, margins = tf.cond(
                tf.reduce_any(mistaken & over),
                lambda: (last, *self.judge_images(last, some["labels"])),
                lambda: (found, right, margins),
            )
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


def _that_goes_on(attack):
    """The attack, whose steps do not stop where its view of the model is fooled: a search ends a
    lane itself, once the model is.
    """
    if not attack.stop_when_fooled:
        return attack
    moving = copy.copy(attack)
    moving.stop_when_fooled = False
    return moving


def seeds_of(seed, round, example):
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
