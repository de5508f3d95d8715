"""Writes docs/reference/teachers.md from the table of teachers.

    python scripts/update_teachers.py [--check]

--check: writes nothing, and exits with code 1 where the page is not what it would write."""

import collections
import sys
from pathlib import Path

from tf_robust_transfer.checkpoints.teacher_kinds import KINDS
from tf_robust_transfer.checkpoints.teachers import (
    COLUMNS,
    LEFT_OUT,
    TEACHERS,
    list_teachers,
    table,
)

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reference" / "teachers.md"

HEAD = """\
# Teachers: published robust networks

Written by scripts/update_teachers.py from the table in `checkpoints/teacher_rows.py`: change the
table, not this page.

    rt.load_model("robustbench:Wang2023Better_WRN-28-10@cifar10_linf:FILE.pt")
    rt.load_model("robustbench:Wang2023Better_WRN-28-10:hf://ORG/REPO/FILE.pt#sha256=HEX")
    rt.list_teachers("wang2023*", dataset="cifar100", min_autoattack=30)
    python -m tf_robust_transfer.convert --list --dataset=cifar10

The files are RobustBench's (`load_model` of its library fetches them), or the authors' own where
the network and its names are the same. `ID` alone reads the network of that id which the file fits;
`ID@cifar100`, `ID@l2`, `ID@cifar10_l2` says which is meant.

- clean, AutoAttack: accuracies in percent from RobustBench's records (`model_info/` at 78fcc9e);
  other attack: a lower accuracy that the record has from another attack. eps as in the record.
  ImageNet's figures are of 5,000 images of RobustBench's list (`helper_files`), Wong2020Fast's of a
  crop of 288 pixels from the picture as it is, which `--image_size` does not give.
- M parameters: millions of trainable parameters.
- GiB, s: memory, and seconds of one core's time, of one input gradient of 128 images, by
  `scripts/teacher_costs.py` on this project's two-core machine: measured on 4 and 12 images (on
  ImageNet 2 and 6) and extended in a straight line, since the larger networks do not fit 24 GiB
  with 128. Other work ran beside it: 145 and 172 s stand for networks of nearly the same cost.
- licence: of the weights, from RobustBench's LICENSE, which says MIT of all that it does not name.

Kinds of networks, which is whose names a file has:

"""


def page() -> str:
    """The page's text."""
    lines = [f"- `{name}`: {kind.about}" for name, kind in KINDS.items()]
    text = HEAD + "\n".join(lines) + "\n"
    groups = dict.fromkeys((row.dataset, row.norm) for row in TEACHERS)
    for dataset, norm in groups:
        text += f"\n## {dataset}, {norm}\n\n"
        lines = [COLUMNS, ("---",) * len(COLUMNS)]
        found = list_teachers(dataset=dataset, norm=norm)
        for row, line in zip(found, table(found), strict=True):
            lines.append((f"[{row.id}]({row.paper[1]})", *line[1:]))
        text += "".join("| " + " | ".join(line) + " |\n" for line in lines)
    text += """
## Files that look alike

Nothing in the names and shapes of a file tells the networks of a line from each other: a file read
under another id of its line loads, and is right only where the normalisation is the same (given
here as in `checkpoints/teacher_kinds.py`), which is checked where the file has it. The id has to be
right. On a line of DeepMind's networks it is the same for all.

"""
    alike = collections.defaultdict(list)
    for row in TEACHERS:
        alike[row.network, row.kind, row.dataset].append(row)
    for (network, *_), rows in alike.items():
        ids = collections.defaultdict(list)
        for row in rows:
            ids[row.statistics].append(f"{row.id}@{row.norm}")
        if len(rows) > 1:
            listed = "; ".join(f"{name}: {', '.join(found)}" for name, found in ids.items())
            text += f"- {network}, {rows[0].dataset}, {rows[0].kind}: {listed}\n"
    text += "\n## Left out\n\nOf RobustBench's 135 entries on CIFAR-10 and CIFAR-100:\n\n"
    for (dataset, norm, name), reason in LEFT_OUT.items():
        text += f"- {name} ({dataset}, {norm}): {reason}\n"
    return text


def main() -> None:
    text = page()
    if "--check" in sys.argv[1:]:
        if not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text:
            sys.exit(f"{PAGE} is out of date: run python scripts/update_teachers.py")
        return
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
