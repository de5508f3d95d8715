"""What was measured of the models of a sweep, and the lines that it makes."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

from tf_robust_transfer.errors import InputError


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What was measured of one model: a results file of ours, or a row of a paper's table.

    Attributes:
        values: flag -> its value, a number or text; for ours with the dataset, norm and eps of the
            evaluation.
        accuracy: attack -> fraction in [0, 1].
        interval: attack -> (low, high), of 95%, fractions. Attacks without one are drawn without an
            error bar.
        run: name of the run, one for all of its results files.
        num_examples: that were attacked; 0 where that is not known.
        paper: whether the figures are a paper's.
        baseline: "" for a point, else the label of the dotted line that is drawn across at its
            accuracy.
    """

    values: Mapping[str, object]
    accuracy: Mapping[str, float]
    interval: Mapping[str, Sequence[float]] = dataclasses.field(default_factory=dict)
    run: str = ""
    num_examples: int = 0
    paper: bool = False
    baseline: str = ""


@dataclasses.dataclass(frozen=True)
class Point:
    x: float
    accuracy: float  # in %, as low and high
    low: float  # NaN where there is no interval
    high: float
    num_examples: int


def number(value) -> float | None:
    """A flag's value as a number, which may be written as a fraction, or None where it is none."""
    numerator, slash, denominator = str(value).partition("/")
    try:
        result = float(numerator) / float(denominator) if slash else float(numerator)
    except (ValueError, ZeroDivisionError):
        return None
    return result if math.isfinite(result) else None


def shown_attacks(outcomes, attacks):
    met = list(
        dict.fromkeys(
            name
            for outcome in outcomes
            if not outcome.paper and not outcome.baseline
            for name in outcome.accuracy
        )
    )
    if not met:
        raise InputError("there is no accuracy to draw")
    for attack in attacks:
        if attack not in met:
            raise InputError(f"no run was measured under {attack!r}; there are {', '.join(met)}")
    return list(dict.fromkeys(attacks)) or sorted(met, key=lambda name: name != "clean")


def lines_of(outcomes, x, series, attacks):
    """(attack, value of series, condition, whether a paper's) -> [Point] by x, the lines ordered
    by value of series.
    """
    best = {}
    for outcome in outcomes:
        if outcome.baseline:
            continue
        place = number(outcome.values.get(x))
        if place is None:
            raise InputError(
                f"{x} is no number: {str(outcome.values.get(x, ''))!r}; give it as the series, not "
                "as x"
            )
        value = short(outcome.values.get(series, "")) if series else ""
        for attack in attacks:
            if attack in outcome.accuracy:
                key = (
                    attack,
                    value,
                    _condition(outcome, attack, (x, series)),
                    outcome.paper,
                    place,
                    outcome.run,
                )
                if key not in best or outcome.num_examples > best[key].num_examples:
                    low, high = outcome.interval.get(attack, (math.nan, math.nan))
                    accuracy = outcome.accuracy[attack]
                    best[key] = Point(
                        place, 100 * accuracy, 100 * low, 100 * high, outcome.num_examples
                    )

    def order(key):
        value = number(key[1])
        return (
            attacks.index(key[0]),
            key[3],
            (1, 0, key[1]) if value is None else (0, value, ""),
            key[2:],
        )

    lines = {}
    for key in sorted(best, key=order):
        lines.setdefault(key[:4], []).append(best[key])
    return lines


def _condition(outcome, attack, swept):
    """What else tells results apart that are no points of one line. A paper's lines are named so
    and need none.
    """
    names = ("dataset", "statistics", *(() if attack == "clean" else ("norm", "eps")))
    used = [name for name in names if name in outcome.values and name not in swept]
    return () if outcome.paper else tuple((name, short(outcome.values[name])) for name in used)


def attack_name(attack):
    return "clean" if attack == "clean" else f"under {attack}"


def short(value):
    """A number as short as it is well read, 8/255 as such; other text as it is."""
    found = number(value)
    if found is None:
        return str(value) or "(none)"
    pixels = found * 255
    if 0 < found < 0.2 and abs(pixels - round(pixels)) < 1e-4:
        return f"{round(pixels)}/255"
    return f"{found:.0f}" if found == round(found) and abs(found) < 1e6 else f"{found:.4g}"
