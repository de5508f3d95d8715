"""Every flag file of our own rows: it parses, says what it is, and trains two steps of its real
network (most with -m slow).

Those of the papers' rows are in paper_flags_test.py.
"""

import contextlib
import pathlib

import pytest

from tf_robust_transfer.command_line import parse
from tf_robust_transfer.config import TrainConfig
from tf_robust_transfer.runs import run_training

ROOT = pathlib.Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.usefixtures("at_the_root")  # Flag files name each other from there.
# A file that others include is no row of its own.
# The small ones first, which the default suite then takes.
ROWS = sorted(
    (
        path
        for path in (ROOT / "flags").rglob("*.flags")
        if path.stem != "common" and path.parent.name not in ("igam", "mixacm")
    ),
    # A row across tasks trains its teacher's teacher too.
    key=lambda path: ("cifar" in path.stem, "14" not in path.stem, "from" in path.stem, path),
)


def rows():
    """Rows whose method and family of networks others before them have are slow: they differ in
    data and numbers.

    Adapters are all in igam_adapters_test.py.
    """
    seen = set()
    for path in ROWS:
        with contextlib.chdir(ROOT):  # Before any test has begun.
            config = parse(TrainConfig, [f"--flagfile={path}"])
        known = {config.model.partition("_")[0]}
        known.add(config.method)
        # The steps of these are long, and net_test.py takes twenty of igam_mixacm.
        slow = known <= seen or "cifar10" in path.parts or "igam_mixacm" in path.stem
        yield pytest.param(path, marks=[pytest.mark.slow] if slow else [])
        if not slow:
            seen |= known


@pytest.mark.parametrize("path", rows(), ids=lambda path: str(path.relative_to(ROOT / "flags")))
def test_a_flag_file_trains_two_steps(path, tmp_path):
    config = parse(TrainConfig, [f"--flagfile={path}", "--smoke", f"--run_dir={tmp_path}/run"])
    folder = run_training(config)
    assert folder.model.exists() and folder.results.exists()
    assert (
        (folder.checkpoints / "checkpoint")
        .read_text()
        .startswith('model_checkpoint_path: "ckpt-2"')
    )


@pytest.mark.parametrize("path", ROWS, ids=lambda path: str(path.relative_to(ROOT / "flags")))
def test_a_flag_file_parses_and_names_its_command(path):
    parse(TrainConfig, [f"--flagfile={path}"])
    header = path.read_text().split("--", 1)[0]
    assert header.startswith("# ")
    assert f"--flagfile={path.relative_to(ROOT)}" in path.read_text()
