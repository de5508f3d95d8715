"""The counts of docs/reliability.md, between its markers, from the JSON record."""

import json
import pathlib
import re
import sys

PAGE = pathlib.Path("docs/reliability.md")
_MARKS = re.compile(r"(<!-- counts -->\n).*?(<!-- end of counts -->)", re.DOTALL)
_TITLES = {
    "kills": "Kills",
    "disk": "Disks",
    "bad_files": "Damaged files",
    "fuzz": "Random texts and random cases",
    "load": "Load",
}


def write(record: pathlib.Path) -> None:
    """Brings the page up to date with a record: python -m scripts.torture.page RECORD."""
    found = json.loads(record.read_text())
    lines = []
    for name, title in _TITLES.items():
        if name not in found:
            lines += [f"### {title}: not run yet", ""]
            continue
        section = found[name]
        end = "" if section["finished"] else ", stopped before its end"
        lines += [f"### {title} (seed {section['seed']}, {section['seconds']} s{end})", ""]
        counts = _summed(section["counts"])
        columns = list(dict.fromkeys(key for row in counts.values() for key in row))
        lines += [
            f"| | {' | '.join(columns)} |",
            f"|---|{'---:|' * len(columns)}",
            *(
                f"| {what} | {' | '.join(str(row.get(key, '')) for key in columns)} |"
                for what, row in counts.items()
            ),
            "",
        ]
        lines += [f"- {figure}: {value}" for figure, value in section["figures"].items()]
        lines += [f"- **failed**: {line[:160]}" for line in section["failures"]]
        lines += [""] if section["figures"] or section["failures"] else []
    text = "\n".join(lines).rstrip() + "\n"
    PAGE.write_text(_MARKS.sub(lambda marks: marks[1] + text + marks[2], PAGE.read_text()))


def _summed(counts):
    """One row for a command, a format, or all attacks; the record lists all of them."""
    rows = {}
    for what, row in counts.items():
        name = "attacks" if what.startswith("attack ") else re.split("[:,]", what)[0]
        total = rows.setdefault(name, {})
        for key, number in row.items():
            total[key] = total.get(key, 0) + number
    return rows


if __name__ == "__main__":
    write(pathlib.Path(sys.argv[1]))
