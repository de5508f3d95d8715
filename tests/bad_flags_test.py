"""Every flag of every command with a value that is not allowed: one line that names the flag, what
was expected and what came, exit code 2, before any weights or data are read.

The values are made from the options themselves; what they cannot tell stands in `SPECIAL`.
"""

import json
import os
import pathlib
import subprocess
import sys

import keras
import pytest

from tests.commands import COMMANDS
from tf_robust_transfer import command_line
from tf_robust_transfer.config import (
    TrainConfig,
    attack_name,
    attack_names,
    augmentations,
    method_name,
)
from tf_robust_transfer.data import datasets
from tf_robust_transfer.flag_types import boolean, fraction, fractions, options, size, whole_numbers
from tf_robust_transfer.methods import METHODS

ROOT = pathlib.Path(__file__).resolve().parents[1]
NOWHERE = "no_such_folder/file"
TEACHER = "--teacher=flagfile:teacher.flags"
# What a command needs beside the flag that is tested; the files are there, and empty.
BESIDE = {
    "evaluate": ["--model=there.keras"],
    "convert": ["--output=x.keras", "--model=there.keras"],
    "visualize": ["--models=there.keras", "--output=x.png"],
    "fitness": ["--teacher=there.keras"],
    "theorem41": ["--models=there.keras", "--teacher=there.keras"],
}
# Flag, or command and flag -> a value that is not allowed, and what has to stand beside it.
SPECIAL = {
    "dataset": ("no_such_set", []),
    "data_dir": (NOWHERE, ["--dataset=mnist"]),
    "train run_dir": ("/dev/null/x", []),
    "quickstart run_dir": ("/dev/null/x", []),
    "train model": ("no_such_model", []),
    "model": ("no_such_model.keras", []),
    "models": ("no_such_model.keras", []),
    "model_options": ("depth", []),
    "train teacher": ("no_such_model.keras", ["--method=igam"]),
    "evaluate teacher": ("no_such_model.keras", ["--diagnostics=true"]),
    "teacher": ("no_such_model.keras", []),
    "schedule_boundaries": ("a", ["--schedule=piecewise"]),
    "adapter": ("no_such_adapter", ["--method=igam"]),
    "discriminator": ("no_such_one", ["--method=igam"]),
    "blocks": ("no_such_block", ["--method=mixacm", TEACHER]),
    "output": (f"{NOWHERE}.json", []),
    "save_adversarial": ("x.txt", []),
    "adversarial_examples": ("x.npy", []),
    "state": (f"{NOWHERE}.npz", []),
    "initial_model": ("no_such_model.keras", []),
    "part": ("2/2", ["--output=x.json"]),
    "write": ("no_such_folder", []),
    "sha256": ("x", []),
    "x": ("no_such_flag", ["--kind=sweep"]),
    "series": ("no_such_flag", ["--kind=sweep", "--x=seed"]),
    "visualize runs": ("no_such_folder", ["--kind=sweep", "--x=seed"]),
    "results": ("no_such.json", ["--kind=radii"]),
    "report runs": ("no_such_folder", []),
    "table": ("no_such_table", []),
    "convert split": ("no_such_split", ["--dataset=digits"]),
    "split": ("no_such_split", []),
}
# Every text is allowed.
ANYTHING = {
    "evaluate run_dir": "it writes no run folder; a contract has the flag in every command",
    "convert run_dir": "as of evaluate",
    "fitness run_dir": "as of evaluate",
    "visualize run_dir": "as of evaluate",
    "theorem41 run_dir": "as of evaluate",
    "theorem42 run_dir": "as of evaluate",
    "visualize attacks": "what it draws are names in results files, of other versions too",
}
# Which endpoints there are only a network of the data's shape tells.
READS_DATA = {"blocks"}


def cases():
    for command, (_, config) in COMMANDS.items():
        for name, flag in command_line.all_flags(config).items():
            value = bad_value(flag)
            beside = list(BESIDE.get(command, ()))
            if f"{command} {name}" in ANYTHING:
                continue
            special = SPECIAL.get(f"{command} {name}") or SPECIAL.get(name)
            if special:
                value, further = special
                beside += further
            elif config is TrainConfig and name not in {
                own.name for own in command_line.flags_of(TrainConfig)
            }:
                owner = next(
                    key
                    for key in METHODS
                    if name in {own.name for own in command_line.train_flags(key)}
                )
                beside.append(f"--method={owner}")
            yield pytest.param(command, name, value, beside, id=f"{command}-{name}")


def bad_value(flag):
    meta = flag.metadata
    if meta["choices"] or meta["expected"].startswith("one of"):
        return "none_of_them"
    if meta["parse"] in (attack_name, attack_names, augmentations, method_name, options, size):
        return "none_of_them"
    if meta["parse"] in (fraction, fractions, int, boolean, whole_numbers):
        return "x"
    return None


@pytest.fixture
def reading(monkeypatch):
    """What was read of data and weights."""
    found = []
    load_digits = datasets._load_digits

    def read(split):
        found.append(f"digits {split}")
        return load_digits(split)

    monkeypatch.setattr(datasets, "_load_digits", read)
    monkeypatch.setattr(keras.saving, "load_model", lambda *args, **kwargs: found.append("weights"))
    return found


@pytest.mark.parametrize(("command", "flag", "value", "beside"), cases())
def test_a_value_that_is_not_allowed(
    command, flag, value, beside, capsys, tmp_path, monkeypatch, reading
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.keras").touch()
    (tmp_path / "teacher.flags").write_text("--method=adversarial_training\n")
    run = tmp_path / "runs/a"
    run.mkdir(parents=True)
    (run / "flags.txt").write_text("--seed=0\n")
    threat = {"norm": "linf", "eps": 0.1}
    result = {"dataset": "digits", "split": "test", "num_examples": 10, "threat_model": threat}
    (run / "results.json").write_text(json.dumps(result | {"accuracy": {"clean": 0.5}}))
    assert value is not None, f"{flag}: no value is known that is not allowed"
    given = [argument for argument in beside if not argument.startswith(f"--{flag}=")]
    with pytest.raises(SystemExit) as ended:
        COMMANDS[command][0]([*given, f"--{flag}={value}"])
    err = capsys.readouterr().err
    assert ended.value.code == 2 and err.count("\n") == 1, err
    # MixACM's own check names the keyword, which is the flag's name too.
    assert (f"--{flag}" in err or err.startswith(f"error: {flag}: ")) and value.partition("/")[
        0
    ] in err, err
    assert not reading or flag in READS_DATA


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--momentum=2"], "--momentum: expected a number in [0, 1], got"),
        (
            ["--schedule=piecewise", "--schedule_boundaries="],
            "--schedule_boundaries: expected rising shares",
        ),
        (
            ["--schedule=piecewise", "--schedule_boundaries=3/4,1/2"],
            "--schedule_boundaries: expected rising shares",
        ),
        (
            ["--model=small_cnn", "--model_options=width=0"],
            "cannot be built for images of (8, 8, 1)",
        ),
        (["--model=wrn_10_1", "--model_options=stem_stride=abc"], "with stem_stride='abc'"),
        (["--model=wrn_by_group", "--model_options=blocks=1"], "with blocks=1"),
    ],
)
def test_numbers_of_another_range(flags, says, capsys, tmp_path):
    with pytest.raises(SystemExit) as ended:
        COMMANDS["train"][0](
            ["--dataset=digits", "--method=natural", "--check", f"--run_dir={tmp_path}", *flags]
        )
    err = capsys.readouterr().err
    assert ended.value.code == 2 and err.count("\n") == 1 and says in err, err


@pytest.mark.slow  # commands_test.py has one that starts faster
@pytest.mark.parametrize("arguments", [["train", "--noise=x"], ["evaluate", "--model=nothing"]])
def test_from_end_to_end(arguments, tmp_path):
    command, flag = arguments
    ended = subprocess.run(
        [sys.executable, "-m", f"tf_robust_transfer.{command}", flag],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
    )
    last = ended.stderr.splitlines()[-1]
    assert ended.returncode == 2 and "Traceback" not in ended.stderr
    assert last.startswith("error: ") and flag.partition("=")[0] in last
