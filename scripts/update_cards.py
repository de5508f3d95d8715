"""Writes docs/reference/model_cards.md: the model cards of the quickstart's networks.

    python scripts/update_cards.py [--check]

They are written from the records of docs/results, which have no networks: each network is built
anew, untrained. --check: writes nothing, and exits with code 1 where the page is not what it would
write."""

import contextlib
import json
import sys
import tempfile
from pathlib import Path

from tf_robust_transfer.command_line import parse
from tf_robust_transfer.config import TrainConfig
from tf_robust_transfer.evaluation.model_card import card_path
from tf_robust_transfer.quickstart import ROWS
from tf_robust_transfer.runs.images import load_train
from tf_robust_transfer.runs.method import student_network
from tf_robust_transfer.runs.trainer import write_card_of_run

ROOT = Path(__file__).resolve().parent.parent
RECORDS = ROOT / "docs" / "results" / "records" / "quickstart" / "seed0"
PAGE = ROOT / "docs" / "reference" / "model_cards.md"

HEAD = """\
# Model cards

Written by scripts/update_cards.py from docs/results/records/quickstart: change that, not this page.

`train` and `convert` write a card beside each network's file (`model.keras.md`), and
`evaluate --model_card` adds figures: see
[Teachers](../guide/teachers.md#convert-and-model-cards). These are the cards of the quickstart's
four networks. On top of a card stand the metadata that model hubs read, here in a block of their
own.
"""


def page() -> str:
    """The page's text."""
    return HEAD + "".join(f"\n## {row}\n\n{_section(card(row))}" for row in ROWS)


def card(row: str) -> str:
    """The card that the quickstart leaves beside the network of a row."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(ROOT):
        config = parse(TrainConfig, [f"--flagfile={RECORDS / row / 'flags.txt'}"])
        model = student_network(config, load_train(config))
        results = json.loads((RECORDS / row / "results.json").read_text(encoding="utf-8"))
        path = Path(folder) / "model.keras"
        write_card_of_run(path, model, config, results)
        return card_path(path).read_text(encoding="utf-8")


def _section(text):
    """A card as a section of the page: without its title, and its headings a level deeper."""
    _, metadata, body = text.split("---\n", 2)
    body = body.partition("# model\n\n")[2].replace("\n## ", "\n### ")
    return f"```yaml\n{metadata}```\n\n{body}"


def main() -> None:
    text = page()
    if "--check" in sys.argv[1:]:
        if not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text:
            sys.exit(f"{PAGE} is out of date: run python scripts/update_cards.py")
        return
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
