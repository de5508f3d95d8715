"""Run folders as points of a figure: what `visualize --kind=sweep` draws."""

import glob
import logging
import pathlib
import re
from collections.abc import Sequence

from tf_robust_transfer.command_line import train_flags
from tf_robust_transfer.errors import InputError, look_up, nearest
from tf_robust_transfer.papers import TABLES
from tf_robust_transfer.papers.figures import SWEEPS, paper_accuracy
from tf_robust_transfer.plots.outcomes import Outcome, number
from tf_robust_transfer.plots.sweep import plot_sweep
from tf_robust_transfer.runs.folder import (
    is_of_best,
    is_of_training,
    read_flags,
    results_of,
    run_folders,
)

_LOG = logging.getLogger("tf_robust_transfer")
# Flags that runs of one line may differ in: what they are called, where they lie, what is measured
# of them.
_FREE = {
    "attack_step_size",
    "attacks",
    "checkpoint_minutes",
    "data_dir",
    "dataset",
    "distribution_strategy",
    "eps",
    "log_every",
    "max_examples",
    "norm",
    "run_dir",
    "seed",
    "watch_attack",
    "watch_examples",
}


def draw(config) -> None:
    """Draws the figure of a VisualizeConfig.

    With --paper the paper's points and baselines stand beside ours, in the paper's unit, and it
    sets x and series, and the attacks where these are not given. Ours are the run folders of the
    figure's rows; if --x is given, all that --runs names.

    Raises:
        InputError: no runs, an unknown flag or figure, another x or series than the figure's, no
            numbers on x, an attack that nothing met.
    """
    figure = look_up("figure", config.paper, SWEEPS) if config.paper else None
    if figure is None and not config.x:
        raise InputError(
            "give --x=FLAG, the flag on the x axis, or --paper=FIGURE, one of " + ", ".join(SWEEPS)
        )
    folders = [folder for root in config.runs for folder in _folders(root)]
    folders = [
        folder for folder in dict.fromkeys(folders) if read_flags(folder).get("smoke") != "true"
    ]
    if not folders:
        raise InputError(
            f"--runs: no results*.json in {', '.join(config.runs)!r} or below; give run "
            "folders, or train first"
        )
    x, series = config.x or figure.x, config.series or (figure.series if figure else "")
    if figure is not None and (x, series) != (figure.x, figure.series):
        shown = f"--x={figure.x}" + (
            f" --series={figure.series}" if figure.series else " without --series"
        )
        raise InputError(
            f"the points of {config.paper} are at {shown}, not at --x={x} --series={series}"
        )
    if figure is not None and not config.x:
        found = _of_figure(figure, folders)
        if not found:
            example = next(row.flag_file for row in figure.table.rows if figure.place(row))
            raise InputError(
                f"no runs of {config.paper} in {', '.join(config.runs)!r}; train with "
                f"--flagfile={example} ..."
            )
    else:
        units = figure.units if figure else {}
        found = [
            outcome
            for folder in folders
            if read_flags(folder)
            for outcome in _outcomes(folder, units=units)
        ]
        if not found:
            raise InputError(
                f"no run folder in {', '.join(config.runs)!r} has a flags.txt, which tells where "
                "its point is, and results of other images than those of training"
            )
    known = {name for outcome in found for name in outcome.values}
    for name, value in (("x", x), ("series", series)):
        if value and value not in known:
            raise InputError(f"--{name}: unknown flag {value!r}; {nearest(value, known)}")
    _warn_of_differences([outcome for outcome in found if not outcome.baseline], x, series)
    attacks = config.attacks or (figure.attacks if figure else ())
    if figure is not None:
        attacks = config.attacks or [
            name for name in attacks if any(name in outcome.accuracy for outcome in found)
        ]
        found += _of_paper(figure)
    title = (
        figure.title
        if figure and not config.x
        else f"accuracy against {x}" + (f" and {series}" if series else "")
    )
    plot_sweep(
        found,
        config.output,
        x=x,
        series=series,
        attacks=attacks,
        title=title,
        labels=figure.labels if figure else None,
    )


def _folders(root):
    """The run folders in a folder or in those that a pattern such as runs/small/seed* names."""
    # A folder's own name may hold brackets.
    paths = [root] if pathlib.Path(root).exists() else sorted(glob.glob(root))
    return [folder for path in paths for folder in run_folders(path)]


def _outcomes(folder, place=None, baseline="", units=None):
    """One for each radius of each results file, of the run's own network and of other images than
    those of training. place: values of a paper's row, of which the run's own flags win.
    units: a figure's.
    """
    flags = read_flags(folder)
    # Older runs lack the flags that came after them.
    defaults = {flag.name: flag.shown for flag in train_flags(flags.get("method"))} if flags else {}
    own = {**defaults, **flags}
    own |= {
        name: factor * number(own[name]) for name, factor in (units or {}).items() if name in own
    }
    values = {**(place or {}), **own}
    size = re.fullmatch(r"wrn_(\d+)_(\d+)", values.get("model", ""))
    if size:
        values |= {"depth": size[1], "width": size[2]}
    outcomes = []
    for _, result in results_of(folder):
        if is_of_best(result) or is_of_training(result):
            continue
        threat = result["threat_model"]
        evaluated = {"dataset": result["dataset"], "norm": threat["norm"], "eps": threat["eps"]}
        if "batch_norm" in result:  # other than the moving averages
            evaluated["statistics"] = result["batch_norm"]
        outcome = Outcome(
            values | evaluated,
            result["accuracy"],
            result.get("confidence_interval_95", {}),
            str(folder.resolve()),
            result["num_examples"],
            baseline=baseline,
        )
        outcomes.append(outcome)
    return outcomes


def _of_figure(figure, folders):
    """What was measured of the figure's rows: the run folders of a row's name, or else of the row
    that it repeats.
    """
    outcomes = []
    for row in figure.table.rows:
        own = [folder for folder in folders if folder.name == row.folder]
        own = own or [
            folder for folder in folders if folder.name == pathlib.PurePath(row.same_as).name
        ]
        for folder in own:
            if figure.place(row):
                outcomes += _outcomes(folder, figure.place(row), units=figure.units)
            if row.name in figure.baselines:
                outcomes += _outcomes(folder, baseline=figure.baselines[row.name])
    return outcomes


def _of_paper(figure):
    outcomes = []
    for row in figure.table.rows:
        place, accuracy = figure.place(row), paper_accuracy(figure, row, TABLES)
        if place and accuracy:
            outcomes.append(Outcome(place, accuracy, run="paper", paper=True))
        if row.name in figure.baselines and accuracy:
            outcomes.append(Outcome({}, accuracy, paper=True, baseline=figure.baselines[row.name]))
    return outcomes


def _warn_of_differences(outcomes: Sequence[Outcome], x, series) -> None:
    """A line joins runs as though x alone were another: says which flags are too."""
    ignored = _FREE | {
        x,
        series,
        *(("model", "depth", "width") if {x, series} & {"depth", "width", "size_ratio"} else ()),
    }
    seen = {}
    for outcome in outcomes:
        for name, value in outcome.values.items():
            # Seeds have their own teacher, of the same name.
            value = pathlib.PurePath(value).name if name == "teacher" else str(value)
            seen.setdefault((name, outcome.values.get(series)), set()).add(value)
    differ = sorted(
        {name for (name, _), values in seen.items() if len(values) > 1 and name not in ignored}
    )
    if differ:
        _LOG.warning(
            "warning: beside %s, runs of one line differ in %s; choose runs (--runs=A,B), or tell "
            "them apart (--series=%s)",
            x,
            ", ".join(differ),
            differ[0],
        )
