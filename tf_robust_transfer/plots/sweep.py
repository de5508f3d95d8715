"""Accuracy against a flag that was swept, with 95% intervals: the form of Figures 3, 6 and 7 of the
MixACM paper.
"""

import collections
import math
import statistics
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.transforms import ScaledTranslation

from tf_robust_transfer.plots.input_gradients import write_figure
from tf_robust_transfer.plots.outcomes import Outcome, attack_name, lines_of, short, shown_attacks

LOG_SPAN = 30  # Values that span more than this factor stand on a logarithmic axis.
_MARKERS = "osD^vP*X"
_DODGE = 4.5  # points between runs that stand at one place


def plot_sweep(outcomes: Sequence[Outcome], path, *, x: str, **options) -> None:
    """Writes what `sweep_figure` draws. path: its suffix (.png, .pdf, .svg) sets the format; it
    appears only when complete.

    Raises:
        InputError: as `sweep_figure`; a suffix that matplotlib cannot write.
    """
    write_figure(sweep_figure(outcomes, x=x, **options), Path(path))


def sweep_figure(
    outcomes: Sequence[Outcome],
    *,
    x: str,
    series: str = "",
    attacks: Sequence[str] = (),
    title: str = "",
    labels: Mapping[str, str] | None = None,
) -> Figure:
    """Accuracy in % against the flag x.

    Each run is a point with its 95% interval as error bar, runs of one x (several seeds) side by
    side, and a line goes through the means of the runs at each x. Without series one panel has a
    line for each attack; with it each attack has a panel, with a line for each value of that flag.
    Results on other data or at other radii than the rest are lines of their own. Of several results
    of one run for one point that of the most examples holds. A paper's points are hollow, on dashed
    paler lines; baselines are dotted.

    Args:
        outcomes: what was measured.
        x: flag on the x axis; logarithmic where its positive values span more than a factor
            `LOG_SPAN`.
        series: flag whose values are told apart; "": none.
        attacks: the attacks that are drawn; none: clean and all others in the order in which they
            came.
        title: of the figure.
        labels: what is written instead of a flag's name, or of "flag=value" in the legend.

    Returns:
        matplotlib Figure, not yet written.

    Raises:
        InputError: nothing to draw, an attack that nothing met, an x that is no number.
    """
    labels = labels or {}
    attacks = shown_attacks(outcomes, attacks)
    panels = [(attack,) for attack in attacks] if series else [tuple(attacks)]
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    figure = Figure(
        figsize=(4.6 * columns if columns > 1 else 5.8, 3.4 * rows + 1.3),
        dpi=150,
        layout="constrained",
    )
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    handles, ours = {}, []
    for axis, shown in zip(axes, panels):
        lines = lines_of(outcomes, x, series, shown)
        ours += [point for key, points in lines.items() if not key[3] for point in points]
        _draw_lines(axis, lines, series, labels, handles)
        levels = _draw_baselines(axis, outcomes, shown, handles)
        _set_axes(axis, [point for points in lines.values() for point in points], levels)
        axis.set_xlabel(labels.get(x, x), fontsize=9)
        axis.set_ylabel("accuracy (%)", fontsize=9)
        if series:
            axis.set_title(attack_name(shown[0]), fontsize=10)
    width = figure.get_figwidth()
    figure.suptitle(textwrap.fill(title, int(11 * width)), fontsize=10.5)
    # The caption is the legend's title, so that the layout keeps both apart. A letter of the legend
    # takes 1/15 inch.
    most = max(1, int(14 * width / (max(map(len, handles)) + 7)))
    ncols = -(-len(handles) // -(-len(handles) // most))
    caption = textwrap.fill(_caption(outcomes, ours, (x, series)), int(16 * width))
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="outside lower center",
        ncols=ncols,
        fontsize=8,
        frameon=False,
        title=caption,
        title_fontsize=7,
    )
    return figure


def _draw_lines(axis, lines, series, labels, handles):
    """handles: label -> what the legend shows for it, of all panels."""
    conditions = [pair for attack, _, condition, _ in lines for pair in condition]
    differ = {
        name
        for name, text in conditions
        if any(name == other and text != this for other, this in conditions)
    }
    own = [
        (attack, point.x)
        for (attack, *_, paper), points in lines.items()
        if not paper
        for point in points
    ]
    room, taken = collections.Counter(own), collections.Counter()
    colours, palette = {}, colormaps["tab10"]
    for (attack, value, condition, paper), points in lines.items():
        # The paper's line has the colour of ours.
        same = [known for known in colours if known[:2] == (attack, value)]
        place = colours.setdefault(
            same[0] if paper and same else (attack, value, condition), len(colours)
        )
        style = {"color": palette(place % palette.N), "marker": _MARKERS[place % len(_MARKERS)]}
        label = (
            labels.get(f"{series}={value}", f"{labels.get(series, series)} {value}")
            if series
            else attack_name(attack)
        )
        label += "".join(f", {name} {text}" for name, text in condition if name in differ)
        if paper:
            label += ", paper"
            style |= {"markerfacecolor": "white", "alpha": 0.5}
        by_x = {}
        for point in points:
            by_x.setdefault(point.x, []).append(point.accuracy)
        means = [statistics.mean(values) for values in by_x.values()]
        line = {
            "color": style["color"],
            "alpha": style.get("alpha", 0.8),
            "ls": "--" if paper else "-",
            "lw": 1.2,
        }
        axis.plot(list(by_x), means, label=f"mean: {label}", **line)
        # Points that stand at one x are moved apart on the paper, not in the data.
        by_shift = {}
        for point in points:
            shift = 0 if paper else taken[attack, point.x] - (room[attack, point.x] - 1) / 2
            taken[attack, point.x] += not paper
            by_shift.setdefault(shift, []).append(point)
        for shift, moved in by_shift.items():
            transform = axis.transData + ScaledTranslation(
                shift * _DODGE / 72, 0, axis.figure.dpi_scale_trans
            )
            places, accuracies = [point.x for point in moved], [point.accuracy for point in moved]
            # max: rounding may put an accuracy of 100% outside of its interval by a hair, which
            # matplotlib refuses.
            bars = [
                [max(0.0, p.accuracy - p.low) for p in moved],
                [max(0.0, p.high - p.accuracy) for p in moved],
            ]
            measured = not all(math.isnan(point.low) for point in moved)
            drawn = axis.errorbar(
                places,
                accuracies,
                yerr=bars if measured else None,
                ls="none",
                ms=4.5,
                capsize=2.5,
                lw=1,
                label=label,
                transform=transform,
                zorder=3,
                **style,
            )
            handles.setdefault(label, drawn)


def _draw_baselines(axis, outcomes, attacks, handles):
    """Dotted lines at the mean of each baseline's runs. Returns where they are."""
    levels = {}
    for outcome in outcomes:
        for attack in attacks if outcome.baseline else ():
            if attack in outcome.accuracy:
                name = outcome.baseline + (f", {attack_name(attack)}" if len(attacks) > 1 else "")
                key = name + (", paper" if outcome.paper else ""), outcome.paper
                levels.setdefault(key, []).append(100 * outcome.accuracy[attack])
    levels = {key: statistics.mean(values) for key, values in levels.items()}
    for (label, paper), level in levels.items():
        line = axis.axhline(
            level, ls=":", lw=1.1, color="0.6" if paper else "black", label=label, zorder=1
        )
        handles.setdefault(label, line)
    return list(levels.values())


def _set_axes(axis, points, levels):
    places = sorted({point.x for point in points})
    positive = [place for place in places if place > 0]
    if positive and positive[-1] > LOG_SPAN * positive[0]:
        # Of a sweep with 0 in it the part up to the first value is linear.
        axis.set_xscale("log") if places[0] > 0 else axis.set_xscale(
            "symlog", linthresh=positive[0]
        )
    scale = axis.xaxis.get_transform()
    shown = scale.transform(places)
    room = shown[-1] - shown[0]
    margin = 0.07 * room or 0.5
    axis.set_xlim(*scale.inverted().transform([shown[0] - margin, shown[-1] + margin]))
    ticks = [0]
    for index in range(1, len(places)):
        # Labels that are nearer would touch.
        if shown[index] - shown[ticks[-1]] > 0.07 * room:
            ticks.append(index)
    axis.set_xticks([places[index] for index in ticks], [short(places[index]) for index in ticks])
    axis.minorticks_off()
    ends = [
        end
        for point in points
        for end in (point.accuracy, point.low, point.high)
        if not math.isnan(end)
    ] + levels
    margin = 0.05 * (max(ends) - min(ends)) or 1
    axis.set_ylim(max(min(ends) - margin, -2), min(max(ends) + margin, 102))
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.25, lw=0.6)
    axis.spines[["top", "right"]].set_visible(False)


def _caption(outcomes, points, swept):
    counts = {point.num_examples for point in points} - {0}
    text = "Each point is a run with its 95% interval"
    if counts:
        low, high = min(counts), max(counts)
        text += (
            f" on {low:,} test images" if low == high else f" on {low:,} to {high:,} test images"
        )
    for name, before in (("dataset", " of "), ("norm", ", "), ("eps", " eps ")):
        found = {
            short(outcome.values[name])
            for outcome in outcomes
            if not outcome.paper and name in outcome.values
        }
        if len(found) == 1 and name not in swept:
            text += before + found.pop()
    text += "; lines join the means of the runs at a value."
    return text + (
        " Hollow, dashed: as in the paper." if any(outcome.paper for outcome in outcomes) else ""
    )
