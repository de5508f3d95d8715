"""Run folders as tables of text."""

import pathlib
import statistics
import sys

from tf_robust_transfer.errors import InputError
from tf_robust_transfer.evaluation import robustbench_entry
from tf_robust_transfer.methods import METHODS
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


def show(folders) -> None:
    """Prints one table for each threat model, with a row for each run, and where the runs' files
    are.

    folders: run folders that hold a results.json, and perhaps more results, such as
    results_eps0.2.json."""
    folders = sorted(map(pathlib.Path, folders), key=_order)
    rows = [
        (folder, read_results(path)) for folder in folders for path in sorted(folder.glob(RESULTS))
    ]
    # Rows under different threat models or on different data do not belong under one heading.
    groups = {}
    for folder, result in rows:
        threat = result["threat_model"]
        heading = (
            f"{result['dataset']} {result['split']}, {result['num_examples']} images, "
            f"{threat['norm']} "
            f"eps {threat['eps']:.4g}; accuracy in % [95% interval]"
        )
        groups.setdefault(heading, []).append((folder, result))
    for heading, members in groups.items():
        columns = list(dict.fromkeys(name for _, result in members for name in result["accuracy"]))
        table = [["model", *columns]]
        for folder, result in members:
            table.append([_name(folder, result), *(_cell(result, column) for column in columns)])
        table += _means(members, columns)
        widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in table
        ]
        sys.stdout.write(
            f"\n{heading}\n\n"
            + "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])
            + "\n"
        )
    sys.stdout.write("\n")
    for folder in folders:
        kept = [
            folder / name
            for name in ("input_gradients.png", "tensorboard")
            if (folder / name).exists()
        ]
        sys.stdout.write(f"{folder.name}: {folder}" + "".join(f"  {path}" for path in kept) + "\n")


def _order(folder):
    """Baselines first, in the order of the registry of methods; then by name."""
    method, known = read_flags(folder).get("method"), list(METHODS)
    return (known.index(method) if method in known else len(known)), folder.name, str(folder)


def _name(folder, result):
    return f"{folder.name} (seed {result['seed']})" if result.get("seed") else folder.name


def _means(members, columns):
    """A row for each name that was run with several seeds: mean and sample standard deviation over
    them.
    """
    by_name = {}
    for folder, result in members:
        by_name.setdefault(folder.name, []).append(result["accuracy"])
    rows = []
    for name, runs in by_name.items():
        if len(runs) > 1:
            cells = []
            for column in columns:
                values = [100 * accuracy[column] for accuracy in runs if column in accuracy]
                complete = len(values) == len(runs)
                cells.append(
                    f"{statistics.mean(values):.1f} sd {statistics.stdev(values):.2f}"
                    if complete
                    else "-"
                )
            rows.append([f"{name}, mean of {len(runs)} seeds", *cells])
    return rows


def _cell(result, attack):
    if attack not in result["accuracy"]:
        return "-"
    accuracy = f"{100 * result['accuracy'][attack]:.1f}"
    if attack not in result.get("confidence_interval_95", {}):
        return accuracy
    low, high = result["confidence_interval_95"][attack]
    return f"{accuracy} [{100 * low:.1f}, {100 * high:.1f}]"
