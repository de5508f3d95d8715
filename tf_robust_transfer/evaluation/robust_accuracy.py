"""Accuracy under attacks.

An example is robust under an attack if no image that the attack visits, in any of its restarts,
fools the model. A clean image lies in its own ball, so that one which is misclassified already is
never robust and need not be attacked; and what has fallen is spared the rest."""

import dataclasses
import numbers
import warnings

import keras
import tensorflow as tf

from tf_robust_transfer.attacks.base import Attack
from tf_robust_transfer.attacks.names import full_name, parse_attack
from tf_robust_transfer.attacks.threat_model import ThreatModel
from tf_robust_transfer.checkpoints import as_model
from tf_robust_transfer.errors import InputError, look_up
from tf_robust_transfer.evaluation import batch_statistics
from tf_robust_transfer.evaluation.attacking import Evaluation
from tf_robust_transfer.evaluation.examples import collect, image_shape
from tf_robust_transfer.evaluation.result import RobustnessResult, RobustnessWarning
from tf_robust_transfer.evaluation.state import State
from tf_robust_transfer.models.batch_statistics import BATCH_NORMS
from tf_robust_transfer.models.settings import require_tensorflow


def evaluate_robustness(
    model,
    images,
    labels=None,
    *,
    threat_model: ThreatModel,
    attacks=("clean", "fgsm", "pgd20"),
    eps=None,
    seed: int = 0,
    batch_size: int = 256,
    step_size: float | None = None,
    progress: bool = False,
    keep_adversarial: bool = False,
    state=None,
    check_model: bool = True,
    precision: str = "float32",
    batch_norm: str = "moving",
    part: tuple[int, int] | None = None,
    parts=(),
) -> RobustnessResult:
    """Accuracy of a model, clean and under attacks.

    Args:
        model: keras.Model, images in threat_model.bounds -> logits; called with training=False.
            Any that `as_model` takes, such as a SPEC or a method, whose student it is then.
        images: float [num_examples, height, width, channels] inside threat_model.bounds, or a
            finite `tf.data.Dataset` of batches (images, labels) in place of both. All of them are
            held in memory.
        labels: int [num_examples] or [num_examples, 1], the true classes, or one-hot rows; None
            with a dataset.
        threat_model: what the adversary may do.
        attacks: names, see `parse_attack`, or a dict of names and attacks of your own. "clean" is
            always computed, listed or not.
        eps: several radii in place of the threat model's, in the units of its bounds: one
            evaluation, with a result for each in `RobustnessResult.radii`; the result itself is
            that of the largest. What falls to an attack at one radius has fallen at the larger
            ones too and is not attacked again, so that no accuracy rises with the radius.
        seed: at least 0. Same seed and batch size, same adversarial examples.
        batch_size: examples that are attacked at once.
        step_size: of the iterative attacks, in the units of eps; None: each attack's own rule.
        progress: show a progress bar for each attack on stderr.
        keep_adversarial: keep the adversarial examples in the result.
        state: a file (.npz) that is written as the evaluation goes on. If it exists, the evaluation
            that wrote it is gone on with, in the middle of an attack too, and gives the flags of
            one that was never interrupted.
        precision: of what the attacks see of the model, see `FasterCopy`: "float32"; "mixed",
            float32 logits with bfloat16 gradients; "bfloat16"; or "auto", by the device. Attacks
            that compare losses without a gradient take float32 in any case. Whether the model is
            fooled is always judged by the model itself.
        batch_norm: "moving" averages, or "batch": the statistics of each batch, to reproduce
            figures of code that attacks networks in training mode, such as IGAM's; see
            `evaluation.batch_statistics`. It goes without keep_adversarial, state, part and
            another precision.
        part: (i, n), i in [0, n): attack every n-th example from the i-th on, as the whole
            evaluation attacks it. The result is of these examples, and the flags of the others are
            False; with `state` it is one of the `parts` of the whole.
        parts: the states of all parts, in their order, in place of attacking: the result is that of
            the whole evaluation, with the parts' seconds summed. See `evaluation.parts`.
        check_model: look at the model too for what makes its figures doubtful
            (`checks.check_model`).

    Returns:
        RobustnessResult. What makes its figures doubtful stands in its `warnings` and is issued as
        a `RobustnessWarning` each.

    Raises:
        InputError: unknown attack, no examples, examples that do not fit the model or the bounds,
            or a state or part of another evaluation.
    """
    require_tensorflow("attacks")
    parsed = _parsed(attacks, step_size)
    names = ("clean", *parsed)
    threat_models = _at_radii(threat_model, eps)
    threat_model = threat_models[-1]
    whole = all(isinstance(number, numbers.Integral) for number in (batch_size, seed))
    if not whole or batch_size < 1 or not 0 <= seed < 2**31:
        raise InputError(
            "batch_size must be positive and seed in 0..2^31-1, both whole numbers, got "
            f"batch_size={batch_size}, seed={seed}"
        )
    look_up("batch_norm", batch_norm, dict.fromkeys(BATCH_NORMS))
    if batch_norm == "batch":
        batch_statistics.check_attacks(parsed)
        if keep_adversarial or precision != "float32" or part or parts or state:
            raise InputError(
                "batch_norm batch keeps no adversarial examples and no state, is float32 and in "
                "one piece: leave these options out"
            )
        if len(threat_models) > 1:
            raise InputError("batch_norm batch takes one radius; call it once for each")
    model = as_model(model, image_shape(images))
    images, labels = collect(model, images, labels, threat_model, batch_size)
    if batch_norm == "batch":
        return batch_statistics.evaluate(
            model,
            images,
            labels,
            threat_model=threat_model,
            attacks=parsed,
            seed=int(seed),
            batch_size=batch_size,
        )

    evaluation = Evaluation(
        model, images, labels, threat_models, int(seed), min(batch_size, len(labels)), progress
    )
    evaluation.precision = precision
    evaluation.take(part)
    identity, logits = {}, None
    if state or parts:
        identity = evaluation.identity(parsed, keep_adversarial)
        logits = evaluation.some_logits()
    evaluation.state = State(state, identity | (_of_part(part) if part else {}), logits)
    if keep_adversarial:
        evaluation.kept = {}
    if parts:
        evaluation.merge(parts, parsed, lambda part: identity | _of_part(part), logits)
    evaluation.clean()
    doubts = evaluation.doubts(parsed.values()) if check_model and not part else []
    for name in names[1:]:
        for threat_model in threat_models:
            evaluation.attack(name, parsed[name], threat_model)
    radii = {at.eps: evaluation.result(names, at) for at in threat_models}
    result = radii[threat_models[-1].eps]
    if len(radii) == 1:
        doubts += result.warnings
    else:
        doubts += [f"eps {eps:.4g}: {line}" for eps in radii for line in radii[eps].warnings]
        result = dataclasses.replace(result, radii=radii)
    for line in doubts:
        warnings.warn(line, RobustnessWarning, stacklevel=2)
    settings = {name: full_name(attack) for name, attack in parsed.items()}
    return dataclasses.replace(
        result,
        warnings=tuple(doubts),
        settings=settings,
        image_shape=tuple(images.shape[1:]),
        batch_size=evaluation.batch_size,
        precision=precision,
    )


def _parsed(attacks, step_size) -> dict:
    """The attacks by name, without "clean"."""
    if isinstance(attacks, str):
        attacks = attacks.split(",")
    names = list(attacks) if isinstance(attacks, (dict, list, tuple)) else [None]
    own = attacks if isinstance(attacks, dict) else {}
    if not all(isinstance(name, str) for name in names) or not all(
        isinstance(attack, (str, Attack)) or (name == "clean" and attack is None)
        for name, attack in own.items()
    ):
        raise InputError(
            "attacks: expected names such as ('pgd20', 'autoattack'), or a dict of a name each and "
            f"its attack, such as {{'mine': rt.attacks.PGD(steps=20)}}, got {attacks!r}"
        )
    found = {}
    for name in names:
        attack = own.get(name) or name
        if name != "clean":
            found[name] = parse_attack(attack, step_size) if isinstance(attack, str) else attack
            if found[name].uses_clean_logits:
                raise InputError(
                    f"attack {name!r}: a loss of the clean images' logits is for training; an "
                    "evaluation takes cross_entropy or cw"
                )
    return found


def _at_radii(threat_model, eps) -> list[ThreatModel]:
    """The threat model at each radius, the smallest first."""
    if eps is None:
        return [threat_model]
    radii = {eps} if isinstance(eps, numbers.Real) else set(eps)
    if not radii:
        raise InputError("eps: expected one or several radii, such as (2/255, 4/255), got none")
    at_each = [dataclasses.replace(threat_model, eps=radius) for radius in radii]
    return sorted(at_each, key=lambda at: at.eps)


def _of_part(part) -> dict[str, str]:
    """What parts have to agree in beside what any state has."""
    versions = f"tensorflow {tf.__version__}, keras {keras.__version__}"
    return {"part": f"{part[0]}/{part[1]}", "version": versions}
