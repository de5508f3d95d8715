"""Accuracy against the radius, of evaluations at several."""

import pathlib

from tf_robust_transfer.errors import InputError, of_flag
from tf_robust_transfer.files import check_readable
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
        outcomes = [outcome for path in config.results for outcome in _outcomes(path)]
    plot_sweep(
        outcomes,
        config.output,
        x="eps",
        series="results" if len(config.results) > 1 else "",
        attacks=config.attacks,
        title="accuracy against the radius of the threat model",
        labels={"eps": "eps, a fraction of the pixel range"},
    )


def _outcomes(text):
    """One for each radius of a file; the clean accuracy is that of eps 0, and of all."""
    path = pathlib.Path(text)
    path = path / "results.json" if path.is_dir() else path
    check_readable(path)
    result = read_results(path)
    if not isinstance(result.get("radii"), list) or len(result["radii"]) < 2:
        raise InputError(
            f"{str(path)!r} has one radius; evaluate at several: evaluate --eps=2/255,4/255,8/255"
        )
    name = path.parent.name if path.name == "results.json" else path.stem
    try:
        return [
            Outcome(
                {
                    "results": name,
                    "dataset": result["dataset"],
                    "norm": result["threat_model"]["norm"],
                    "eps": at["eps"],
                },
                at["accuracy"],
                at["confidence_interval_95"],
                f"{path.resolve()} {at['eps']}",
                result["num_examples"],
            )
            for at in result["radii"]
        ]
    except (KeyError, TypeError) as error:
        raise InputError(f"the radii of {str(path)!r} are no figures of ours") from error
