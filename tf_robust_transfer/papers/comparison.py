"""A paper's table with our columns beside the paper's, as text."""

import statistics
from collections.abc import Sequence

from tf_robust_transfer.flag_types import fraction
from tf_robust_transfer.papers.table import Row, Table


def comparison(table: Table, results: Sequence[tuple[str, dict]]) -> str:
    """The paper's rows with its figures, and beside them what was measured here; "-" where nothing
    was.

    Our columns are named after attack, eps and number of images, each combination a column of its
    own, since figures of different radii or of a part of the test set do not compare. Attacks that
    the paper does not have follow its own. A row takes the run folders with the name of its flag
    file, or else those of the row that it repeats; several, such as those of several seeds, give
    their mean, the sample standard deviation and their number.

    Args:
        table: one of `TABLES`.
        results: (the run folder, a results.json that lies in it). The folder's last part is its
            name.

    Returns:
        Lines of text, the last with its newline; accuracies in %.
    """
    measured = [_measured(row, results) for row in table.rows]
    columns = _our_columns(table, measured)
    labels, figures = len(table.labels), len(table.columns)
    lines = [
        ["", *[""] * (labels - 1), "paper", *[""] * (figures - 1), "ours", *[""] * len(columns)],
        [
            *table.labels,
            *(column.heading for column in table.columns),
            *(attack for attack, _, _ in columns),
            "flag file",
        ],
        [*[""] * (labels + figures), *(eps and f"eps {eps}" for _, eps, _ in columns), ""],
        [
            *[""] * (labels + figures),
            *("" if count is None else f"n={count}" for _, _, count in columns),
            "",
        ],
    ]
    for row, runs in zip(table.rows, measured):
        cells = [
            _cell([run[column] for run in runs if column in run], column) for column in columns
        ]
        lines.append([*row.labels, *row.figures, *cells, row.flag_file or "none"])
    text = "\n".join(
        _aligned([line for line in lines if any(line)], header=sum(map(any, lines[:4])))
    )
    notes = "".join(
        dict.fromkeys(f"{row.labels[0]}: {row.quoted}\n" for row in table.rows if row.quoted)
    )
    return (
        f"{table.title}: {table.caption}\n\n{text}\n\n{notes}"
        "A row is trained and measured by: python -m tf_robust_transfer.train "
        "--flagfile=FLAG_FILE\n"
    )


def _measured(row: Row, results):
    """For each run folder of the row {(attack, eps as text, number of images): accuracy in %}."""
    names = (name.rpartition("/")[2] for name in (row.name, row.same_as))
    for name in names:
        runs = {}
        for folder, result in results:
            if folder.rstrip("/").rpartition("/")[2] == name:
                run = runs.setdefault(folder, {})
                of_batch = " on batch statistics" if result.get("batch_norm") == "batch" else ""
                for attack, accuracy in result["accuracy"].items():
                    eps = "" if attack == "clean" else _eps(result["threat_model"])
                    # Of several results the first holds.
                    key = (attack + of_batch, eps, result["num_examples"])
                    run.setdefault(key, 100 * accuracy)
        if runs:
            return list(runs.values())
    return []


def _our_columns(table, measured):
    """(attack, eps, number of images or None where nothing was measured), the paper's attacks
    first.
    """
    found = list(dict.fromkeys(key for runs in measured for run in runs for key in run))
    expected = [
        (attack, "" if attack == "clean" else _eps({"norm": "linf", "eps": fraction(column.eps)}))
        for column in table.columns
        for attack in column.attacks.split(",")
    ]
    columns = []
    for pair in dict.fromkeys([*expected, *(key[:2] for key in found)]):
        counts = sorted((key[2] for key in found if key[:2] == pair), reverse=True)
        columns += [(*pair, count) for count in counts or [None]]
    return columns


def _eps(threat_model):
    """8/255 as "8/255", other radii as numbers; of norms other than linf with the norm."""
    pixels = round(255 * threat_model["eps"])
    close = pixels and abs(255 * threat_model["eps"] - pixels) < 1e-3
    text = f"{pixels}/255" if close else f"{threat_model['eps']:.4g}"
    return text if threat_model["norm"] == "linf" else f"{threat_model['norm']} {text}"


def _cell(values, column):
    if not values:
        return "-"
    digits = 2 if column[2] >= 10000 else 1
    mean = f"{statistics.mean(values):.{digits}f}"
    return (
        mean if len(values) == 1 else f"{mean} sd {statistics.stdev(values):.2f} of {len(values)}"
    )


def _aligned(lines, header):
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    texts = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines
    ]
    return [*texts[:header], "-" * max(map(len, texts)), *texts[header:]]
