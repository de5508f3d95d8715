"""Records of what was measured, and the tables of `PAGES` that are made of them.

    python benchmarks/speed.py            # writes the tables between the pages' markers anew

A record is docs/results/speed/NAME.json: command, commit, machine, rows. On the page it stands
between `<!-- speed NAME -->` and `<!-- end -->`, a column for each key of its rows."""

import datetime
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "results" / "speed"
_RECORDS = ":(exclude)docs/results"  # which a benchmark writes itself
PAGES = (ROOT / "docs" / "performance.md", ROOT / "docs" / "guide" / "several_machines.md")


def write(path: pathlib.Path, rows: list[dict]) -> None:
    """Writes what this process measured. rows: of one form; a number is in the unit of its key."""
    command = ["python", os.path.relpath(sys.argv[0], ROOT), *sys.argv[1:]]
    found = {
        # Paths of this machine say nothing elsewhere.
        "command": " ".join(shlex.quote(part) for part in command),
        "commit": _git("rev-parse", "--short", "HEAD")
        + (" with changes" if _git("status", "--porcelain", "-uno", "--", ".", _RECORDS) else ""),
        "machine": machine(),
        "load": round(os.getloadavg()[1], 1),
        "date": datetime.date.today().isoformat(),
        "rows": rows,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n")


def machine() -> str:
    """The processor's name and how many cores of it are here."""
    description = pathlib.Path("/proc/cpuinfo")
    text = description.read_text() if description.exists() else ""
    name = re.search(r"model name\s*: (.*)", text)
    return f"{name[1] if name else 'unknown processor'}, {os.cpu_count()} cores"


def _git(*arguments) -> str:
    ended = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    return ended.stdout.strip()


def table(record: dict) -> str:
    """A record as Markdown: where it is from, then its rows."""
    keys = list(dict.fromkeys(key for row in record["rows"] for key in row))
    lines = [
        f"    {record['command']}",
        "",
        f"{record['date']}, commit {record['commit']}, {record['machine']}"
        + (f"; load of the machine {record['load']}." if record["load"] is not None else "."),
        "",
        "| " + " | ".join(keys) + " |",
        "|" + "---|" * len(keys),
    ]
    lines += [
        "| " + " | ".join(_shown(row.get(key, "")) for key in keys) + " |" for row in record["rows"]
    ]
    return "\n".join(lines)


def _shown(value) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def with_tables(page: str) -> str:
    """The page with the tables of the records as they are now."""

    def anew(found):
        record = json.loads((FOLDER / f"{found[1]}.json").read_text())
        return f"<!-- speed {found[1]} -->\n{table(record)}\n<!-- end -->"

    return re.sub(r"<!-- speed (\w+) -->\n.*?<!-- end -->", anew, page, flags=re.DOTALL)


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(with_tables(page.read_text()))
