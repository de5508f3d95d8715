"""Run folders beside a paper's table, and as RobustBench's entries."""

import sys

from tf_robust_transfer.errors import InputError
from tf_robust_transfer.evaluation import robustbench_entry
from tf_robust_transfer.papers import TABLES, comparison
from tf_robust_transfer.runs.folder import is_of_best, is_of_training, read_flags, results_of


def robustbench_entries(folders):
    """RobustBench's entries of all results that have an AutoAttack, by the files that they would be
    there.
    """
    found = []  # (results file, its content)
    for folder in folders:
        for path, result in results_of(folder):
            if "autoattack" not in result["accuracy"] or is_of_training(result):
                continue
            found.append((path, result))
            if result["num_examples"] < 10000:
                sys.stderr.write(
                    f"warning: {path}: {result['num_examples']} examples; RobustBench wants "
                    "10,000\n"
                )
    if not found:
        raise InputError(
            "no results with autoattack; run evaluate --attacks=autoattack "
            "--output=RUN/results_auto.json"
        )
    paths = list(dict.fromkeys(path for path, _ in found))
    name_of = dict(zip(paths, _told_apart(paths), strict=True))
    entries = {}
    for path, result in found:
        several = sum(path == other for other, _ in found) > 1
        radius = f"_eps{result['threat_model']['eps']:.4g}" if several else ""
        name = f"{robustbench_entry.folder(result)}/{name_of[path]}{radius}.json"
        entries[name] = robustbench_entry.entry(result)
    return entries


def _told_apart(paths):
    """A name for each results file: its folder's; where two have it, with the folders above it, and
    with its own, as far as they are needed."""
    paths = [path.absolute() for path in paths]
    longest = max(len(path.parts) for path in paths)
    forms = [
        ["_".join(path.parent.parts[-depth:]) for path in paths] for depth in range(1, longest)
    ]
    forms += [[f"{name}_{path.stem}" for name, path in zip(forms[-1], paths, strict=True)]]
    return [
        next(form[i] for form in forms if form.count(form[i]) == 1 or form is forms[-1])
        for i in range(len(paths))
    ]


def paper_table(name, folders):
    """A paper's table; all of its known names for an unknown one. A smoke run's figures mean
    nothing and stay out, and so do those of training images.
    """
    if name not in TABLES:
        raise InputError(f"--table: unknown table {name!r}; the tables are {', '.join(TABLES)}")
    kept = [folder for folder in folders if read_flags(folder).get("smoke") != "true"]
    results = [
        (folder.resolve().as_posix(), result)
        for folder in kept
        for _, result in results_of(folder)
        if not is_of_best(result) and not is_of_training(result)
    ]
    return comparison(TABLES[name], results)
