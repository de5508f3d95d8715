"""Run folders beside a paper's table, and as RobustBench's entries."""

import sys

from tf_robust_transfer.errors import InputError
from tf_robust_transfer.evaluation import robustbench_entry
from tf_robust_transfer.papers import TABLES, comparison
from tf_robust_transfer.runs.folder import RESULTS, read_flags, read_results


def robustbench_entries(folders):
    """RobustBench's entries of all results that have an AutoAttack, by the files that they would be
    there.
    """
    entries = {}
    for folder in folders:
        for path in sorted(folder.glob(RESULTS)):
            result = read_results(path)
            if "autoattack" not in result["accuracy"]:
                continue
            entries[f"{robustbench_entry.folder(result)}/{folder.name}.json"] = (
                robustbench_entry.entry(result)
            )
            if result["num_examples"] < 10000:
                sys.stderr.write(
                    f"warning: {path}: {result['num_examples']} examples; RobustBench wants "
                    "10,000\n"
                )
    if not entries:
        raise InputError(
            "no results with autoattack; run evaluate --attacks=autoattack "
            "--output=RUN/results_auto.json"
        )
    return entries


def paper_table(name, folders):
    """A paper's table; all of its known names for an unknown one. A smoke run's figures mean
    nothing and stay out.
    """
    if name not in TABLES:
        raise InputError(f"--table: unknown table {name!r}; the tables are {', '.join(TABLES)}")
    kept = [folder for folder in folders if read_flags(folder).get("smoke") != "true"]
    results = [
        (folder.resolve().as_posix(), read_results(path))
        for folder in kept
        for path in sorted(folder.glob(RESULTS))
    ]
    return comparison(TABLES[name], results)
