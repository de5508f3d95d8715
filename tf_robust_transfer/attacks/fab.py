"""FAB, the fast adaptive boundary attack, Croce & Hein (2020, "Minimally distorted adversarial
examples").
"""

import dataclasses
import math

import tensorflow as tf

from tf_robust_transfer.attacks.base import Attack
from tf_robust_transfer.flag_types import fraction
from tf_robust_transfer.losses import classification
from tf_robust_transfer.ops import norms
from tf_robust_transfer.ops.examples import beside_images, choose
from tf_robust_transfer.ops.gradients import input_gradient
from tf_robust_transfer.ops.projections import displacement_to_hyperplane
from tf_robust_transfer.options import above, at_least, option

# A way shorter than this counts as this long when the two ways are weighed against each other.
_SHORTEST_WAY = 1e-8


class FAB(Attack):
    """The smallest perturbation that fools: steps onto the linearised decision boundary, drawn
    towards the image.

    A step linearises the classifier at the current point, picks the nearest class boundary, and
    projects the current point and the image onto it (inside the bounds). It goes to the mean of the
    two, mostly the first, each a little beyond the boundary. Where that point fools the model, it
    is kept if it is the nearest so far, and the next step starts from a point between it and the
    image.

    The ball plays no part but for the random starts. A search ends with the first point of the ball
    that fools the model; the official implementation takes every step with every example, to the
    same flags. A round without such a point ends with the nearest that fools, of which the search
    tries the projection into the ball: so an example may fall here of which the official
    implementation finds perturbations that are a hair too long.

    Cost of a step: a pass forward at the new point and, at the current one, a pass forward and one
    backward for each class but one.

    Source: Algorithm 1 of the paper, as fra31/auto-attack does it (alpha_max, the weights of the
    mean, the first restart from the image and the others from half of eps away), without its l1
    norm. There a random start of a later restart ignores what the earlier ones found; so it does
    here.

    Args:
        steps: number of steps, at least 1.
        restarts: independent runs, the first from the image.
        alpha_max: largest weight of the image's projection in the mean, in (0, 1].
        eta: how far each way is overshot, at least 1.
        beta: where between the image (0) and the point that fooled (1) the next step starts, in (0,
            1].
    """

    @dataclasses.dataclass(frozen=True)
    class Options(Attack.Options):
        steps: int = option(100, "steps of a run", int, **at_least(1))
        restarts: int = option(1, "independent runs", int, **at_least(1))
        alpha_max: float = option(
            0.1, "largest weight of the image's projection", fraction, **above(0, 1)
        )
        eta: float = option(1.05, "how far each way is overshot", fraction, **at_least(1))
        beta: float = option(
            0.9,
            "where between image (0) and fooling point (1) the next step starts",
            fraction,
            **above(0, 1),
        )

    @property
    def iterations(self):
        return self.steps

    def start(self, problem, images, labels, round, noise):
        return {
            "current": self._first_point(problem, images, round, noise),
            "best": images,
            "distance": tf.fill(tf.shape(labels), float("inf")),
        }

    def _first_point(self, problem, images, round, noise):
        if self.restarts == 1:
            return images
        shape, norm = images.shape[1:], problem.threat_model.norm
        random = 2.0 * noise.uniform(shape, 1) - 1.0 if norm == "linf" else noise.normal(shape, 1)
        length = beside_images(norms.lp_norm(random, norm))
        random = images + 0.5 * problem.eps * tf.math.divide_no_nan(random, length)
        random = tf.clip_by_value(random, *problem.threat_model.bounds)
        return choose(round % self.restarts == 0, images, random)

    def step(self, problem, images, labels, state, iteration, drawn):
        values, normals, changed = self._nearest_boundary(problem, images, labels, state, iteration)
        moved = self._towards(problem.threat_model, images, state["current"], values, normals)
        logits = problem.logits_of(moved)
        fooled = ~classification.is_correct(logits, labels)
        distance = norms.lp_norm(moved - images, problem.threat_model.norm)
        nearer = fooled & (distance < state["distance"])
        changed |= {
            "current": choose(fooled, images + self.beta * (moved - images), moved),
            "best": choose(nearer, moved, state["best"]),
            "distance": tf.where(nearer, distance, state["distance"]),
        }
        return state | changed, moved, logits

    def _nearest_boundary(self, problem, images, labels, state, iteration):
        """The linearised boundary that the step goes to.

        Returns:
            (values float32 [batch] of the logit difference at the current point, its gradient there
            in the images' shape, changes to the state).
        """
        current, norm = state["current"], problem.threat_model.norm
        with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
            tape.watch(current)
            logits = problem.logits_of(current)
        classes = tf.shape(logits)[1]
        own = tf.one_hot(labels, classes)

        def nearer(k, nearest, values, normals):
            # The kth class after the label, so that nobody's own class costs a pass backward.
            difference = tf.one_hot((labels + k) % classes, classes) - own
            gradient = tape.gradient(
                logits,
                current,
                output_gradients=difference,
                unconnected_gradients=tf.UnconnectedGradients.ZERO,
            )
            value = tf.reduce_sum(logits * difference, axis=1)
            slope = norms.lp_norm(gradient, "l2") if norm == "l2" else _l1_norm(gradient)
            distance = tf.where(slope > 0, tf.abs(value) / slope, float("inf"))
            better = distance < nearest
            return (
                k + 1,
                tf.where(better, distance, nearest),
                tf.where(better, value, values),
                choose(better, gradient, normals),
            )

        # A loop, not a Jacobian: it holds one gradient at a time in memory, and its graph one pass
        # backward.
        begin = (
            1,
            tf.fill(tf.shape(labels), float("inf")),
            tf.zeros_like(logits[:, 0]),
            tf.zeros_like(current),
        )
        _, _, values, normals = tf.while_loop(
            lambda k, *_: k < classes, nearer, begin, parallel_iterations=1
        )
        return values, normals, {}

    def _towards(self, threat_model, images, current, values, normals):
        """The next point: beyond the boundary, between the projections of the current point and of
        the image.
        """
        shape = tf.shape(images)
        flat = [shape[0], math.prod(images.shape[1:])]
        points, origins, normals = (tf.reshape(part, flat) for part in (current, images, normals))
        at_origins = values + tf.reduce_sum(normals * (origins - points), axis=1)
        ways = displacement_to_hyperplane(
            tf.concat([points, origins], 0),
            tf.concat([normals, normals], 0),
            tf.concat([values, at_origins], 0),
            threat_model.norm,
            threat_model.bounds,
        )
        way, way_of_origins = tf.split(ways, 2)
        length, length_of_origins = tf.split(
            tf.maximum(norms.lp_norm(ways, threat_model.norm), _SHORTEST_WAY), 2
        )
        alpha = tf.minimum(length / (length + length_of_origins), self.alpha_max)[:, None]
        moved = (1.0 - alpha) * (points + self.eta * way) + alpha * (
            origins + self.eta * way_of_origins
        )
        moved = tf.clip_by_value(moved, *threat_model.bounds)
        # An overflowing gradient holds NaN; from the image the next step may do better.
        moved = tf.where(
            tf.reduce_all(tf.math.is_finite(moved), axis=1, keepdims=True), moved, origins
        )
        return tf.reshape(moved, shape)

    def result(self, state):
        return state["best"]


class FABTargeted(FAB):
    """FAB-T: FAB towards the boundary to one class in each round, at the cost of one gradient a
    step.

    Round by round the targets are the classes that the clean logits rank second, third and so on.

    Cost of a step: two passes forward and one backward.

    Args:
        steps, restarts, alpha_max, eta, beta: as for FAB; restarts for each target.
        targets: number of targets, at least 1; a model with fewer other classes has a round for
            each of those.
    """

    @dataclasses.dataclass(frozen=True)
    class Options(FAB.Options):
        targets: int = option(9, "classes that are aimed at", int, **at_least(1))

    def rounds(self, num_classes):
        return min(self.targets, num_classes - 1) * self.restarts

    def start(self, problem, images, labels, round, noise):
        state = super().start(problem, images, labels, round, noise)
        return state | {"round": round, "target": tf.zeros_like(labels)}

    def _nearest_boundary(self, problem, images, labels, state, iteration):
        first, round = iteration == 0, state["round"]

        def difference(points):
            logits = problem.logits_of(points)
            target = tf.where(
                first, self._target(problem, images, labels, logits, first, round), state["target"]
            )
            towards = tf.one_hot(target, tf.shape(logits)[1]) - tf.one_hot(
                labels, tf.shape(logits)[1]
            )
            return tf.reduce_sum(logits * towards, axis=1), target

        normals, values, target = input_gradient(difference, state["current"])
        return values, normals, {"target": target}

    def _target(self, problem, images, labels, logits, first, round):
        """The class of the round's rank in the clean logits, the label's left out. logits: at the
        current points.
        """
        if self.restarts > 1:
            # Random starts know nothing of the clean logits: a pass forward more for the first step
            # of a round.
            needed = tf.reduce_any(first & (round % self.restarts > 0))
            logits = tf.cond(needed, lambda: problem.logits_of(images), lambda: logits)
        of_label = tf.one_hot(labels, tf.shape(logits)[1], on_value=True, off_value=False)
        others = tf.where(of_label, -float("inf"), logits)
        ranked = tf.argsort(others, axis=1, direction="DESCENDING")
        return tf.gather(ranked, round // self.restarts, batch_dims=1)


def _l1_norm(images):
    return tf.reduce_sum(tf.abs(images), axis=[1, 2, 3])
