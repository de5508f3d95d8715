"""Accuracy against the radius, of evaluations at several."""

from tf_robust_transfer.errors import InputError, of_flag
from tf_robust_transfer.evaluation.result import at_each_radius
from tf_robust_transfer.files import check_readable, path_of, told_apart
from tf_robust_transfer.plots.outcomes import Outcome
from tf_robust_transfer.plots.sweep import plot_sweep
from tf_robust_transfer.runs.folder import read_results


def draw(config) -> None:
    """Writes config.output: a line for each attack, and a panel for each where there are several
    files.

    config: the flags of `visualize`: results, attacks and output.

    Raises:
        InputError: no file, or one that is no results file or has one radius.
    """
    with of_flag("results"):
        files = list(dict.fromkeys(map(_file, config.results)))
        names = told_apart([_parts(file) for file in files])
        outcomes = [
            outcome for item in zip(files, names, strict=True) for outcome in _outcomes(*item)
        ]
    plot_sweep(
        outcomes,
        config.output,
        x="eps",
        series="results" if len(files) > 1 else "",
        attacks=config.attacks,
        title="accuracy against the radius of the threat model",
        labels={"eps": "eps, a fraction of the pixel range"},
    )


def _file(text):
    path = path_of(text)
    return (path / "results.json" if path.is_dir() else path).absolute()


def _parts(path):
    """What a file may be called by: its name, that of its folder where it is a run's."""
    return path.parent.parts if path.name == "results.json" else (*path.parent.parts, path.stem)


def _outcomes(path, name):
    """One for each radius of a file; the clean accuracy is that of eps 0, and of all."""
    check_readable(path)
    at_each = at_each_radius(read_results(path))
    if len(at_each) < 2:
        raise InputError(
            f"{str(path)!r} has one radius; evaluate at several: evaluate --eps=2/255,4/255,8/255"
        )
    return [
        Outcome(
            {
                "results": name,
                "dataset": result["dataset"],
                "norm": result["threat_model"]["norm"],
                "eps": result["threat_model"]["eps"],
            },
            result["accuracy"],
            result.get("confidence_interval_95", {}),
            f"{path} {result['threat_model']['eps']}",
            result["num_examples"],
        )
        for result in at_each
    ]
