"""Every flag file of the papers' rows trains two steps of its real network (--smoke), each in a
process of its own.

    python -m pytest -m slow -n 0 tests/smoke_test.py                          all of them, some two
    hours on a core python -m pytest -m slow -n 0 tests/smoke_test.py -k first                 one
    of each kind, half of that python -m pytest -m slow -n 0 tests/smoke_test.py -k "igam/table1"
    some

Files of one kind differ in nothing but numbers (learning rate, weights of loss terms, share of the
data), which leave the network, the method and its compiled step the same."""

import contextlib
import shutil
from pathlib import Path

import pytest

from tests import fresh_process
from tf_robust_transfer.command_line import all_flags, parse, train_flags
from tf_robust_transfer.config import TrainConfig

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.usefixtures("at_the_root")  # Flag files name each other from there.
# A file that others include is no model of its own.
FILES = [
    path.relative_to(ROOT / "flags").as_posix()
    for paper in ("igam", "mixacm")
    for path in sorted((ROOT / "flags" / paper).glob("*.flags"))
    if not path.name.startswith("common_")
]
# Flags whose value enters the step as a number, if it is not 0.
NUMBERS = {
    "learning_rate",
    "momentum",
    "weight_decay",
    "eps",
    "train_eps",
    "train_attack_step_size",
    "lambda_adv",
    "lambda_diff",
    "noise",
    "alpha_acm",
    "alpha_kld",
    "gamma",
    "schedule_factor",
}
# Flags that a smoke run replaces by its own, or that do not concern the training.
UNUSED = {
    "seed",
    "batch_size",
    "epochs",
    "train_steps",
    "train_fraction",
    "warm_up_epochs",
    "warm_up_learning_rate",
    "warm_start_epochs",
    "schedule_boundaries",
    "attacks",
    "attack_step_size",
    "max_examples",
    "watch_attack",
    "watch_examples",
    "checkpoint_minutes",
    "data_dir",
    "run_dir",
    "distribution_strategy",
}


def read(path):
    with contextlib.chdir(ROOT):  # Also before any test has begun.
        return parse(TrainConfig, [f"--flagfile={ROOT}/flags/{path}"])


def kind(path):
    """What a smoke run of this file depends on, numbers left out. The teacher is named by its file,
    and is one itself.
    """
    values = {name: value for name, value in values_of(path).items() if name not in UNUSED}
    return str({name: bool(value) if name in NUMBERS else value for name, value in values.items()})


def values_of(path):
    config = read(path)
    return {flag.name: getattr(config, flag.name) for flag in train_flags(config.method)}


def kinds():
    found = {}
    for path in FILES:
        found.setdefault(kind(path), []).append(path)
    return list(found.values())


KINDS = kinds()


def test_files_of_a_kind_differ_in_numbers_alone():
    assert NUMBERS | UNUSED <= set(all_flags(TrainConfig))
    for first, *others in KINDS:
        for other in others:
            ours, theirs = values_of(first), values_of(other)
            changed = {name for name in ours if ours[name] != theirs[name]} - UNUSED
            assert changed <= NUMBERS and all(ours[name] and theirs[name] for name in changed), (
                other
            )


def smoke(path, tmp_path):
    process = fresh_process.run_module(
        "tf_robust_transfer.train",
        f"--flagfile=flags/{path}",
        "--smoke",
        f"--run_dir={tmp_path}/run",
    )
    assert process.returncode == 0, process.stderr[-3000:]
    assert (tmp_path / "run/model.keras").exists() and (tmp_path / "run/results.json").exists()
    assert [other.name for other in tmp_path.iterdir()] == ["run"], (
        "teachers are built, not trained"
    )
    shutil.rmtree(tmp_path)  # Up to 4 GB.


@pytest.mark.slow
@pytest.mark.parametrize("path", [first for first, *_ in KINDS])
def test_the_first_of_its_kind(path, tmp_path):
    smoke(path, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("path", [path for _, *others in KINDS for path in others])
def test_another_of_its_kind(path, tmp_path):
    smoke(path, tmp_path)
