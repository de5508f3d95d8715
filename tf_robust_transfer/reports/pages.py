"""Fills the tables and figures of the results pages from records: `report --write=docs`.

A page names them in comments that a reader does not see:

    <!-- table igam14 columns=noise,lambda_diff attacks=clean,autoattack -->
    <!-- end -->

    keeps <!-- = igam14:igam14_l2:autoattack -->51.9 [48.8, 55.0]<!-- end -->

What stands between a comment and its end is written anew each time. `igam14` is a file of
docs/results/rows. Of a table, `rows=a,b` takes some of its rows (another file's as `FILE:ROW`),
`columns` shows flags of their runs, `head` names the column of labels, or `-` leaves it out, and
`split` takes the figures of training or of test images, where rows have both. Of a figure,
`FILE:ROW:ATTACK` is the mean over the seeds, or one seed's with its interval, of test images where
a row has both;
`FILE:ROW:ATTACK:0` is seed 0's, `a - b` a difference in points, `a / b` a share in %, both of the
seeds that the two have in common.
"""

import pathlib
import re
import statistics

from tf_robust_transfer.command_line import train_flags
from tf_robust_transfer.config import TrainConfig
from tf_robust_transfer.errors import InputError, nearest
from tf_robust_transfer.files import write_text
from tf_robust_transfer.flag_types import names
from tf_robust_transfer.options import flags_of
from tf_robust_transfer.reports.experiments import Experiment, all_experiments
from tf_robust_transfer.reports.records import NOT_RECORDED
from tf_robust_transfer.reports.table import Row, table

_TABLE = re.compile(r"(<!-- table (\S+)((?: [\w]+=\S+)*) -->\n).*?(<!-- end -->)", re.DOTALL)
_FIGURE = re.compile(r"(<!-- = ([^>]+?) -->).*?(<!-- end -->)", re.DOTALL)


def write_pages(docs) -> list[pathlib.Path]:
    """Fills every page of a folder, and the README beside it.

    Args:
        docs: the folder; records are in results/records, rows in results/rows.

    Returns:
        the pages whose text changed.

    Raises:
        InputError: a comment that names no row, attack or column.
    """
    docs = pathlib.Path(docs)
    if not (docs / "results" / "rows").is_dir():
        raise InputError(f"no folder {str(docs / 'results' / 'rows')!r}; give the docs' folder")
    filler = Filler(docs / "results")
    changed = []
    for page in [docs.resolve().parent / "README.md", *sorted(docs.rglob("*.md"))]:
        text = page.read_text() if page.exists() else ""
        filled = filler.fill(text, str(page))
        if filled != text:
            write_text(page, filled)
            changed.append(page)
    return changed


class Filler:
    """Fills the comments of texts.

    Args:
        results: a folder of `rows` and `records`.
    """

    def __init__(self, results: pathlib.Path):
        self._records = results / "records"
        self._experiments = all_experiments(results / "rows")

    def fill(self, text: str, page: str = "") -> str:
        """The text with its tables and figures written anew. page: its name in an error."""
        try:
            text = _TABLE.sub(
                lambda found: found[1] + self._table(found[2], found[3]) + found[4], text
            )
            return _FIGURE.sub(lambda found: found[1] + self.figure(found[2]) + found[3], text)
        except InputError as error:
            raise InputError(f"{page}: {error}") from None

    def _table(self, file, options):
        rows = self._file(file)
        given = dict(option.split("=", 1) for option in options.split())
        known = ("rows", "columns", "attacks", "head", "split")
        unknown = set(given) - set(known)
        if unknown:
            raise InputError(f"a table has no {sorted(unknown)[0]!r}: {', '.join(known)}")
        chosen = [
            self._row(*(name.split(":") if ":" in name else (file, name)))
            for name in names(given.get("rows", ",".join(rows)))
        ]
        columns = names(given.get("columns", ""))
        found = {row.name: self._found(row, given.get("split", "")) for row in chosen}
        attacks = names(given.get("attacks", "")) or tuple(
            dict.fromkeys(
                attack
                for records in found.values()
                for record in records
                for attack in record.attacks
            )
        )
        head = (given.get("head", "network").replace("_", " "),)
        labels = [(row.label,) for row in chosen]
        if head == ("-",):
            head, labels = (), [()] * len(chosen)
        lines = [
            Row((*label, *(_flag(found[row.name], column) for column in columns)), found[row.name])
            for row, label in zip(chosen, labels, strict=True)
        ]
        one = table((*head, *columns), lines, attacks)
        return f"{_caption(found.values(), one)}\n\n{one.markdown()}"

    def figure(self, expression: str) -> str:
        """The text of `FILE:ROW:ATTACK[:SEED]`, of `a - b` in points or of `a / b` in %."""
        parts = expression.split()
        if len(parts) == 1:
            figures = [figure for _, figure in self._figures(parts[0])]
            if len(figures) == 1:
                return figures[0].text
            return f"{_mean(figures):.1f}"
        if len(parts) != 3 or parts[1] not in ("-", "/"):
            raise InputError(f"expected a, a - b or a / b, got {expression!r}")
        sides = [self._figures(part) for part in (parts[0], parts[2])]
        # Of the seeds that both have, where there are such.
        common = set.intersection(*({seed for seed, _ in side} for side in sides))
        left, right = (
            _mean([figure for seed, figure in side if seed in common or not common])
            for side in sides
        )
        return f"{left - right:.1f}" if parts[1] == "-" else f"{100 * left / right:.0f}%"

    def _figures(self, name):
        if not 2 <= name.count(":") <= 3:
            raise InputError(f"expected FILE:ROW:ATTACK or FILE:ROW:ATTACK:SEED, got {name!r}")
        file, row, attack, *seed = name.split(":")
        chosen = self._row(file, row)
        records = self._found(chosen, "test") or self._found(chosen)
        if seed:
            records = tuple(record for record in records if str(record.seed) == seed[0])
        figures = [(record.seed, figure) for record in records if (figure := record.figure(attack))]
        if not figures:
            raise InputError(f"no record of {name!r}: run it, or take the sentence out")
        return figures

    def _found(self, row: Experiment, split=""):
        """The row's records of one split: of training and test images no mean is taken."""
        records = row.records(self._records)
        if split:
            return tuple(record for record in records if record.split == split)
        several = sorted({record.split for record in records})
        if len(several) > 1:
            said = " or ".join(f"split={name}" for name in several)
            raise InputError(f"{row.name!r} has figures of several splits: say {said}")
        return records

    def _file(self, file):
        if file not in self._experiments:
            raise InputError(f"no rows {file!r}; {nearest(file, self._experiments)}")
        return self._experiments[file]

    def _row(self, file, name) -> Experiment:
        rows = self._file(file)
        if name not in rows:
            raise InputError(f"no row {name!r} in {file}; {nearest(name, rows)}")
        return rows[name]


def _mean(figures):
    return statistics.mean(100 * figure.accuracy for figure in figures)


def _flag(records, name):
    """The value of a flag of the runs, `-` where a method has no such flag; all values where seeds
    differ.
    """
    values = [_value(record.flags, name) for record in records]
    return ", ".join(dict.fromkeys(value.removesuffix(".0") for value in values)) or "-"


def _value(flags, name):
    if not flags:
        return NOT_RECORDED
    # Once flags.txt had the flags of every method, at their defaults.
    shared = {flag.name for flag in flags_of(TrainConfig)}
    known = {flag.name for flag in train_flags(None)}
    own = {flag.name for flag in train_flags(flags.get("method"))}
    return "-" if name in known - shared - own else flags.get(name, "-")


def _caption(groups, one):
    """Data, threat model, precision and seeds of a table's rows, each said once."""
    all_records = [record for records in groups for record in records]
    if not all_records:
        return "Nothing of this table is recorded."
    where = "; ".join(dict.fromkeys(record.heading for record in all_records))
    seeds = sorted({record.seed for record in all_records})
    images = "" if one.num_examples is None else f", {one.num_examples:,} images"
    # Of rows with a mean of some of the seeds alone.
    fewer = {tuple(sorted({record.seed for record in group})) for group in groups} - {tuple(seeds)}
    said = " or ".join(", ".join(map(str, some)) for some in sorted(fewer) if len(some) > 1)
    some = f" (of some rows {said})" if said else ""
    several = (
        f"mean ± standard deviation over seeds {', '.join(map(str, seeds))}{some}, or one seed's "
        "with its"
        if len(seeds) > 1
        else f"seed {seeds[0]}, with the"
    )
    return f"{where}{images}{one.attacked}; accuracy in %: {several} 95% interval."
