"""Records as tables: text, Markdown, CSV, JSON."""

import csv
import dataclasses
import io
import json
import re
import statistics
from collections.abc import Callable, Sequence

from tf_robust_transfer.methods import METHODS
from tf_robust_transfer.reports.records import NOT_RECORDED, Record, image_size
from tf_robust_transfer.runs.folder import FREE_FLAGS

_DIGITS = "⁰¹²³⁴⁵⁶⁷⁸⁹"
# As a sentence has them; another stands under its own name.
_PRECISIONS = {"mixed": "mixed precision", "auto": "the precision that the device chose"}


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of a table: what stands before the figures, and the records of its seeds."""

    label: tuple[str, ...]
    records: tuple[Record, ...]


@dataclasses.dataclass(frozen=True)
class Table:
    """Cells as text.

    Attributes:
        columns: their headings.
        lines: a tuple of cells for each row.
        notes: footnotes, with their marks.
        num_examples: of every figure; None where they differ, and stand in headings or cells.
        precision: of every attack, where all are of one and it is not float32; empty where they
            differ, and footnotes say which.
    """

    columns: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]
    num_examples: int | None
    precision: str = ""

    @property
    def attacked(self) -> str:
        """What a caption says of the precision: `, attacked in bfloat16`, or nothing."""
        return f", {_attacked_in(self.precision)}" if self.precision else ""

    def text(self) -> str:
        """In columns of one width, for a terminal."""
        rows = [self.columns, *self.lines]
        widths = [max(len(row[i]) for row in rows) for i in range(len(self.columns))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        notes = "".join(f"\n{note}" for note in self.notes)
        return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]]) + notes + "\n"

    def markdown(self) -> str:
        """As GitHub reads it."""
        rows = [self.columns, ("---",) * len(self.columns), *self.lines]
        notes = "".join(f"\n{note}\n" for note in self.notes)
        return "".join("| " + " | ".join(row) + " |\n" for row in rows) + notes


def table(headings: Sequence[str], rows: Sequence[Row], attacks: Sequence[str]) -> Table:
    """A line for each row: its label, then each attack's figure.

    One seed's figure stands with its 95% interval, several seeds' as mean ± sample standard
    deviation. The number of images stands in the column's heading where all are of one number, and
    else in the cell. A figure that an evaluation warned of has a mark, its footnote the warning; so
    has one of an attack in less than float32, where not all are.

    Args:
        headings: of the label's parts.
        rows: in the table's order; one without records is told to have none.
        attacks: the columns.
    """
    notes: dict[str, list[str]] = {}
    counts = {attack: _counts(rows, attack) for attack in attacks}
    precision = _precision(rows, attacks)
    lines = [
        (*row.label, *(_cell(row, attack, counts[attack], notes, precision) for attack in attacks))
        for row in rows
    ]
    every = sorted({number for count in counts.values() for number in count})
    shared = every[0] if len(every) == 1 else None
    named = tuple(
        f"{attack}, {count[0]:,} images" if shared is None and len(count) == 1 else attack
        for attack, count in counts.items()
    )
    footnotes = tuple(
        f"{_mark(index)} {_joined(kind, lines)}."
        for index, (kind, lines) in enumerate(notes.items())
    )
    return Table((*headings, *named), tuple(lines), footnotes, shared, precision)


def _counts(rows, attack):
    return sorted({figure.num_examples for row in rows for figure in _figures(row, attack)})


def _precision(rows, attacks):
    """That of all attacks; empty where it is float32, not recorded or not one."""
    found = {
        figure.precision
        for row in rows
        for attack in attacks
        if attack != "clean"
        for figure in _figures(row, attack)
    }
    return found.pop() if len(found) == 1 and not found & _FULL else ""


_FULL = {"float32", NOT_RECORDED}


def _attacked_in(precision):
    return f"attacked in {_PRECISIONS.get(precision, precision)}"


def _figures(row, attack):
    return [figure for record in row.records if (figure := record.figure(attack))]


def _cell(row, attack, counts, notes, precision):
    """precision: what the caption says of all."""
    figures = _figures(row, attack)
    if not figures:
        return "no record" if not row.records else "-"
    said = [f"Warned: {line}" for figure in figures for line in figure.warnings]
    if attack != "clean":
        for other in sorted({figure.precision for figure in figures} - _FULL - {precision}):
            every = all(figure.precision == other for figure in figures)
            said.append(("" if every else "some of the seeds ") + _attacked_in(other))
    marks = sorted({_index(line, notes) for line in said})
    if len(figures) == 1:
        shown = figures[0].text
    else:
        values = [100 * figure.accuracy for figure in figures]
        shown = f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"
        if len(figures) < len(row.records):
            shown += f" ({len(figures)} seeds)"
    if len(counts) > 1:
        own = sorted({figure.num_examples for figure in figures})
        shown += f" ({' and '.join(f'{number:,}' for number in own)} images)"
    return shown + "".join(f" {_mark(index)}" for index in marks)


def _index(line, notes):
    """Which footnote is of this kind of line: lines that differ in numbers are one."""
    line = line[0].upper() + line[1:]
    kind = _NUMBER.sub("#", line)
    notes.setdefault(kind, []).append(line)
    return [*notes].index(kind)


def _mark(index):
    """The number of a footnote, from 1, in superscript digits."""
    return "".join(_DIGITS[int(digit)] for digit in str(index + 1))


_NUMBER = re.compile(r"(?<![\w-])\d+(?:\.\d+)?")


def _joined(kind, lines):
    """The kind's sentence, each of its numbers as the range over the lines."""
    found = [_NUMBER.findall(line) for line in lines]
    for numbers in zip(*found, strict=True):
        low, high = min(numbers, key=float), max(numbers, key=float)
        kind = kind.replace("#", low if low == high else f"{low} to {high}", 1)
    return kind


def by_heading(found: Sequence[Record]) -> list[tuple[str, Table]]:
    """A table for each data set, image size and threat model: rows by method, then by name.

    Seeds of one name, and of the same flags, are lines of their own, with their mean below."""
    groups: dict[str, list[Record]] = {}
    for record in sorted(found, key=_order):
        groups.setdefault(record.heading, []).append(record)
    tables = []
    for heading, members in groups.items():
        rows = [Row((_name(record),), (record,)) for record in members]
        alike: dict[tuple, dict[str, Record]] = {}
        for record in members:
            seed = record.flags.get("seed", str(record.seed))
            alike.setdefault(_settings(record), {}).setdefault(seed, record)
        for seeds in map(dict.values, alike.values()):
            if len(seeds) > 1:
                label = f"{next(iter(seeds)).name}, mean of {len(seeds)} seeds"
                rows.append(Row((label,), tuple(seeds)))
        attacks = tuple(dict.fromkeys(name for record in members for name in record.attacks))
        tables.append((heading, table(("model",), rows, attacks)))
    return tables


def _settings(record):
    """What the seeds of one network have in common: its name and its flags, but for its places."""
    own = {"seed", "teacher", "initial_model", *FREE_FLAGS}
    return record.name, tuple(item for item in sorted(record.flags.items()) if item[0] not in own)


def _order(record):
    """Baselines first, in the order of the registry of methods; then by name."""
    method, known = record.flags.get("method"), list(METHODS)
    return (known.index(method) if method in known else len(known)), record.name, str(record.folder)


def _name(record):
    return f"{record.name} (seed {record.seed})" if record.seed else record.name


def as_text(found: Sequence[Record]) -> str:
    """For a terminal."""
    return "".join(f"\n{title}\n\n{one.text()}" for title, one in _titled(found))


def as_markdown(found: Sequence[Record]) -> str:
    """As GitHub and the docs read it."""
    return "\n".join(f"{title}\n\n{one.markdown()}" for title, one in _titled(found))


def _titled(found):
    for heading, one in by_heading(found):
        images = "" if one.num_examples is None else f", {one.num_examples:,} images"
        yield f"{heading}{images}{one.attacked}; accuracy in % [95% interval]", one


def files(found: Sequence[Record]) -> str:
    """A line for each run: where it lies and what is to be looked at there."""
    folders = dict.fromkeys(record.folder for record in sorted(found, key=_order))
    lines = []
    for folder in folders:
        kept = [folder / name for name in ("input_gradients.png", "tensorboard")]
        shown = "".join(f"  {path}" for path in kept if path.exists())
        lines.append(f"{folder.name}: {folder}{shown}\n")
    return "\n" + "".join(lines)


def as_csv(found: Sequence[Record]) -> str:
    """A line for each figure of each record."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, _FIELDS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(figures(found))
    return stream.getvalue()


def as_json(found: Sequence[Record]) -> str:
    """A list of figures, each an object."""
    return json.dumps(figures(found), indent=1) + "\n"


FORMATS: dict[str, Callable[[Sequence[Record]], str]] = {
    "text": as_text,
    "markdown": as_markdown,
    "csv": as_csv,
    "json": as_json,
}
_FIELDS = (
    "model",
    "dataset",
    "split",
    "image_size",
    "num_examples",
    "norm",
    "eps",
    "seed",
    "attack",
    "settings",
    "accuracy",
    "low",
    "high",
    "seconds",
    "precision",
    "device",
    "commit",
    "warnings",
)


def figures(found: Sequence[Record]) -> list[dict]:
    """Every figure with what is known of how it was measured; "not recorded" where a file does not
    say.

    Returns dicts of one set of keys; accuracy, low and high are fractions in [0, 1].
    """
    rows = []
    for record in found:
        for attack in record.attacks:
            figure = record.figure(attack)
            assert figure is not None
            result = figure.result
            low, high = figure.interval or (None, None)
            rows.append(
                {
                    "model": record.name,
                    "dataset": result["dataset"],
                    "split": result["split"],
                    "image_size": image_size(result, record.flags),
                    "num_examples": figure.num_examples,
                    "norm": result["threat_model"]["norm"],
                    "eps": result["threat_model"]["eps"],
                    "seed": record.seed,
                    "attack": attack,
                    "settings": result.get("settings", {}).get(
                        attack, "" if attack == "clean" else NOT_RECORDED
                    ),
                    "accuracy": figure.accuracy,
                    "low": low,
                    "high": high,
                    "seconds": result.get("seconds", {}).get(attack, NOT_RECORDED),
                    "precision": figure.precision,
                    "device": result.get("device", NOT_RECORDED),
                    "commit": result.get("commit", NOT_RECORDED),
                    "warnings": "; ".join(figure.warnings),
                }
            )
    return rows
