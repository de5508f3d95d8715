"""What makes a robust accuracy doubtful, found by looking at the model and at how the attacks went.

After `checks.py` of the official AutoAttack and Carlini et al. (2019), "On evaluating adversarial
robustness". Each check returns one line for the reader, or nothing."""

import numpy as np
import tensorflow as tf

from tf_robust_transfer.attacks.pgd import PGD
from tf_robust_transfer.inference.kept import compiled, kept
from tf_robust_transfer.losses import classification
from tf_robust_transfer.models.probabilities import probability_layer
from tf_robust_transfer.ops.gradients import input_gradient

# Logits divided by their l2 norm may differ by so much between two passes, as in the official
# checks.
SAME = 1e-4
# Percentage points of accuracy that a late attack, restart or step may still gain.
SQUARE_GAIN, LATE_GAIN = 0.2, 0.5
RANDOM = (
    "the model is random: passes on the same images give other logits; attack it with "
    "autoattack-rand"
)
# Fewer examples than this say little about how an attack went on.
ENOUGH = 100


def check_model(model, images, labels, threat_model, seed: int) -> list[str]:
    """Looks at the model on some examples.

    Args:
        model: images -> logits.
        images: float32 [batch, height, width, channels]; labels: int32 [batch]; a few dozen are
            enough.
        threat_model: ball and bounds.
        seed: of the search for zero gradients inside the ball.
    """
    logits = _logits(model, images)
    if not np.isfinite(logits).all():
        bad = int((~np.isfinite(logits)).any(axis=1).sum())
        return [
            f"{bad} of {len(logits)} clean images give NaN or infinite logits; these count as "
            "errors of the model"
        ]
    random = _randomised(model, images, logits)
    return [
        line
        for line in (
            random,
            # Whether a random model looks at other images cannot be seen so.
            None if random else _batch_statistics(model, images, logits, threat_model.bounds[0]),
            _probabilities(model, logits),
            *_zero_gradients(model, images, labels, threat_model, seed),
        )
        if line
    ]


def _run(model, name, function, *arguments):
    """function(*arguments), compiled once for the model."""
    key = ("checks", name, *arguments[0].shape[1:])
    return kept(model, key, lambda: compiled(function, *arguments))(*arguments)


def _logits(model, images):
    return _run(
        model, "logits", lambda x: tf.cast(model(x, training=False), tf.float32), images
    ).numpy()


def _difference(one, other):
    """Largest l2 distance between normalised logits."""
    one, other = (z / (np.linalg.norm(z, axis=1, keepdims=True) + 1e-10) for z in (one, other))
    return float(np.linalg.norm(one - other, axis=1).max())


def _randomised(model, images, logits):
    passes = [_logits(model, images) for _ in range(4)]
    if max(_difference(logits, z) for z in passes) > SAME:
        return RANDOM
    return None


def _batch_statistics(model, images, logits, lowest):
    if len(images) < 2:
        return None
    # The same image among other images: with batch statistics its logits change.
    among = tf.concat([images[:1], tf.fill(tf.shape(images[1:]), lowest)], axis=0)
    if _difference(_logits(model, among)[:1], logits[:1]) > SAME:
        return (
            "an image's logits depend on the other images of its batch (batch norm in training "
            "mode?); robust accuracy then depends on the batches"
        )
    return None


def _probabilities(model, logits):
    if probability_layer(model) or (
        logits.min() >= -1e-5
        and logits.max() <= 1 + 1e-5
        and np.abs(logits.sum(axis=1) - 1).max() <= 1e-5
    ):
        return (
            "the model returns probabilities, not logits: losses of logits then have small or no "
            "gradients; give it without its softmax"
        )
    return None


def _zero_gradients(model, images, labels, threat_model, seed):
    """At the images and at points inside the ball, for the cross-entropy of the logits."""

    def vanishes(x, y):
        def score_of(x):
            return classification.cross_entropy(
                tf.cast(model(x, training=False), tf.float32), y
            ), None

        gradient, _, _ = input_gradient(score_of, x)
        finite = tf.reduce_all(tf.math.is_finite(gradient), axis=(1, 2, 3))
        return tf.reduce_all(gradient == 0, axis=(1, 2, 3)), ~finite

    right = classification.is_correct(tf.constant(_logits(model, images)), labels)
    inside = PGD(3, stop_when_fooled=True)(
        model, images, labels, threat_model=threat_model, seed=seed
    )
    for where, points in (
        ("at clean images", images),
        ("inside the ball, after three steps of PGD", inside),
    ):
        vanished, not_finite = _run(model, "vanished", vanishes, points, labels)
        for images_of, what, more in (
            (vanished, "exactly zero", "apgd-t, fab-t and square"),
            (not_finite, "NaN or infinite", "square"),
        ):
            share = float(tf.reduce_mean(tf.cast(tf.boolean_mask(images_of, right), tf.float32)))
            if share > 0:  # NaN where no image is classified correctly
                yield (
                    f"the cross-entropy's gradient is {what} for {100 * share:.0f}% of the images "
                    f"{where}: gradient attacks are blind there; believe {more} more"
                )


def check_square(accuracies: dict[str, float]) -> str | None:
    """Square, which sees no gradient, must not beat those that do. accuracies: after each
    component, in order.
    """
    names = list(accuracies)
    if "square" in names and names.index("square") > 0:
        gained = 100 * (accuracies[names[names.index("square") - 1]] - accuracies["square"])
        if gained > SQUARE_GAIN:
            return (
                f"square took {gained:.1f} points off what the gradient attacks had left: "
                "gradients may be masked; give it more queries and look for an adaptive attack"
            )
    return None


def check_progress(name: str, attack, fooled_at, num_examples: int) -> list[str]:
    """Whether more restarts or steps would still have gained.

    Args:
        name: of the attack.
        attack: an `Attack` without targets, so that its rounds are restarts.
        fooled_at: int [n], for every fooled example the steps that it took, over all rounds.
        num_examples: of the evaluation.
    """
    lines = []
    if num_examples < ENOUGH:
        return lines
    if attack.restarts >= 4:
        late = (
            100
            * float((fooled_at > attack.iterations * (attack.restarts * 3 // 4)).sum())
            / num_examples
        )
        if late > LATE_GAIN:
            lines.append(
                f"the last quarter of {name}'s restarts still took {late:.1f} points: give it more "
                "restarts"
            )
    if attack.iterations >= 10:
        step = (fooled_at - 1) % attack.iterations
        late = 100 * float((step >= attack.iterations * 9 // 10).sum()) / num_examples
        if late > LATE_GAIN:
            lines.append(
                f"the last tenth of {name}'s steps still took {late:.1f} points: give it more steps"
            )
    return lines


def check_autoattack(accuracy: dict[str, float]) -> str | None:
    """Whether PGD alone would have flattered the model. accuracy: of all its attacks."""
    pgd = [
        value for name, value in accuracy.items() if "pgd" in name and not name.startswith("apgd")
    ]
    auto = [value for name, value in accuracy.items() if name.startswith("autoattack")]
    if pgd and auto and 100 * (min(pgd) - min(auto)) > 3:
        return (
            f"AutoAttack is {100 * (min(pgd) - min(auto)):.1f} points below PGD: make claims "
            "with AutoAttack"
        )
    return None
