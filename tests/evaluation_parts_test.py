"""An evaluation in parts against the same in one piece, on the command line."""

import json
import shutil

import keras
import numpy as np
import pytest

from tests import fresh_process
from tests.commands import COMMANDS
from tf_robust_transfer import command, evaluate
from tf_robust_transfer.attacks import ThreatModel
from tf_robust_transfer.config import SharedConfig
from tf_robust_transfer.data import load_data
from tf_robust_transfer.errors import InputError
from tf_robust_transfer.evaluation import evaluate_robustness, parts
from tf_robust_transfer.models import build_model
from tf_robust_transfer.runs import local_parts

SHARED = ("--dataset=digits", "--max_examples=121", "--batch_size=32", "--eps=0.1")
# Steps so small that the last of them still take examples: a warning, which has to be merged.
ATTACKS = "--attacks=fgsm,pgd[steps=10;step_size=0.01;random_start=false]"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    keras.utils.set_random_seed(0)
    model = build_model("small_cnn", (8, 8, 1), 10)
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    train = load_data("digits", "train")
    model.fit(train.images / np.float32(255), train.labels, epochs=3, verbose=0)
    path = tmp_path_factory.mktemp("model") / "model.keras"
    model.save(path)
    return path


def run(model, output, *flags):
    evaluate.main([f"--model={model}", *SHARED, ATTACKS, f"--output={output}", *flags])


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    run(model, folder / "r.json", f"--save_adversarial={folder}/x.npy")
    return folder


def without_seconds(path):
    found = json.loads(path.read_text())
    assert all(value > 0 for value in found.pop("seconds").values())
    return found


@pytest.fixture(scope="module")
def both_halves(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("halves")
    for part in ("0/2", "1/2"):
        run(model, folder / "r.json", f"--part={part}", f"--save_adversarial={folder}/x.npy")
    return folder


@pytest.fixture
def halves(both_halves, tmp_path):
    return shutil.copytree(both_halves, tmp_path / "halves")


def test_two_parts_merged_are_the_whole(model, whole, halves, capsys):
    assert not (halves / "r.json").exists()
    capsys.readouterr()
    run(model, halves / "r.json", "--merge", f"--save_adversarial={halves}/x.npy")
    assert without_seconds(halves / "r.json") == without_seconds(whole / "r.json")
    np.testing.assert_array_equal(np.load(halves / "x.npy"), np.load(whole / "x.npy"))
    assert sorted(path.name for path in halves.iterdir()) == ["r.json", "x.npy"]
    found = json.loads((whole / "r.json").read_text())
    assert found["num_examples"] == 121 and 0 < found["accuracy"]["fgsm"] < 1
    assert any("pgd" in line for line in found["warnings"])  # of all parts' steps


@pytest.mark.parametrize(
    "flags, line",
    [
        (["--seed=1"], "another seed"),
        (["--max_examples=120"], "another set of examples"),
        (["--batch_size=16"], "another batch size"),
    ],
)
def test_parts_of_another_evaluation_are_refused(model, halves, flags, line, capsys):
    keep = f"--save_adversarial={halves}/x.npy"
    with pytest.raises(SystemExit) as ended:
        run(model, halves / "r.json", "--merge", keep, *flags)
    assert ended.value.code == 2 and line in capsys.readouterr().err
    assert len([*halves.glob("*.npz")]) == 2


def test_a_part_of_another_model_is_refused(halves, tmp_path, capsys):
    keras.utils.set_random_seed(1)
    build_model("small_cnn", (8, 8, 1), 10).save(tmp_path / "other.keras")
    keep = f"--save_adversarial={halves}/x.npy"
    with pytest.raises(SystemExit) as ended:
        run(tmp_path / "other.keras", halves / "r.json", "--merge", keep)
    told = capsys.readouterr().err
    assert ended.value.code == 2 and "belongs to an evaluation with another model;" in told
    assert not (halves / "r.json").exists()


def test_a_part_that_is_missing_or_of_another_division_is_refused(model, halves, capsys):
    for change, line in (
        (lambda path: path.rename(halves / "kept"), "part 1/2 is missing: run evaluate --part=1/2"),
        (lambda path: shutil.copy(halves / "kept", parts.part_path(halves / "r.json", (1, 3))),
         "parts of 2 and parts of 3"),
    ):  # fmt: skip
        change(parts.part_path(halves / "r.json", (1, 2)))
        with pytest.raises(SystemExit):
            run(model, halves / "r.json", "--merge")
        assert line in capsys.readouterr().err


def test_the_home_folder_is_written_as_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    paths = [parts.part_path("~/r.json", (i, 2)) for i in range(2)]
    assert [path.parent for path in paths] == [tmp_path] * 2
    for path in paths:
        path.touch()
    assert parts.paths_beside("~/r.json") == paths


@pytest.mark.parametrize(
    "flags, line",
    [
        (["--part=2/2"], "expected I/N such as 0/2"),
        (["--part=0/2", "--state=x.npz"], "no --state"),
        (["--part=0/2", "--merge"], "give one of the two"),
    ],
)
def test_flags_that_do_not_go_together(model, tmp_path, flags, line, capsys):
    with pytest.raises(SystemExit):
        run(model, tmp_path / "r.json", *flags)
    assert line in capsys.readouterr().err


@pytest.mark.parametrize("part", [(1, 2), (2, 2), (-1, 2), (0, 0)])
def test_a_part_without_examples_is_refused(model, part):
    one = np.zeros((1, 8, 8, 1), np.float32), np.zeros(1, np.int32)
    says = f"part {part[0]}/{part[1]}: .* N at most 1, the number of examples"
    with pytest.raises(InputError, match=says):
        evaluate_robustness(str(model), *one, threat_model=ThreatModel(), attacks=(), part=part)


def test_more_parts_than_examples_are_refused(model, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        run(model, tmp_path / "r.json", "--max_examples=2", "--part=0/4")
    assert ended.value.code == 2 and not [*tmp_path.iterdir()]
    assert "error: part 0/4: expected I/N" in capsys.readouterr().err


@pytest.mark.parametrize("examples, count", [(2, 2), (0, 8), (99, 8)])
def test_no_more_devices_than_examples_are_used(examples, count, model, tmp_path, monkeypatch):
    used = []

    def begun(texts, number):
        used.append(number)
        raise InputError("far enough")

    monkeypatch.setattr(local_parts, "num_devices", lambda: 8)
    monkeypatch.setattr(local_parts, "run", begun)
    with pytest.raises(SystemExit):
        run(model, tmp_path / "r", "--distribution_strategy=mirrored", f"--max_examples={examples}")
    assert used == [count]


def test_commands_name_a_strategy_that_has_no_effect(caplog):
    used = {"train": ("mirrored", "multi_worker_mirrored"), "evaluate": ("mirrored",)}
    for name, (_, config_class) in COMMANDS.items():
        for strategy in ("one_device", "mirrored", "multi_worker_mirrored"):
            if issubclass(config_class, SharedConfig):
                caplog.clear()
                command._tell_unused(config_class(distribution_strategy=strategy))
                told = f"--distribution_strategy={strategy} has no effect" in caplog.text
                assert told == (strategy not in ("one_device", *used.get(name, ()))), name


@pytest.mark.slow
def test_mirrored_runs_the_parts_by_itself(model, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(local_parts, "num_devices", lambda: 2)
    run(model, tmp_path / "r.json", "--distribution_strategy=mirrored")
    assert without_seconds(tmp_path / "r.json") == without_seconds(whole / "r.json")


# Killed at the third write of a search's snapshot, in the middle of a component.
_KILLED = """
import os, signal, sys
from tf_robust_transfer.evaluation import state

state.SECONDS_BETWEEN_WRITES = 0.0
write, times = state.State.write, []


def killing(self, arrays=None, *, now=True):
    write(self, arrays, now=now)
    running = self.values.get("running", {})
    if arrays is not None and len(running.get("components", ())) == 1 and self.arrays[
            "running/done"].any():
        sys.stderr.write(f"within {running['name']}, after {list(running['components'])}")
        sys.stderr.flush()
        os.kill(os.getpid(), signal.SIGKILL)


state.State.write = killing
from tf_robust_transfer.evaluate import main

main(sys.argv[1:])
"""


@pytest.mark.slow
def test_a_part_of_autoattack_that_is_killed_within_a_component_goes_on(model, tmp_path):
    """AutoAttack, 24 examples: pytest tests/evaluation_parts_test.py -m slow."""
    flags = [f"--model={model}", "--dataset=digits", "--max_examples=24", "--eps=0.05",
             "--batch_size=8", "--attacks=pgd20,autoattack"]  # fmt: skip
    kept = [f"--save_adversarial={tmp_path}/x.npy"]
    evaluate.main([*flags, f"--output={tmp_path}/whole.json", *kept])
    whole = np.load(tmp_path / "x.npy")
    ours = [*flags, f"--output={tmp_path}/r.json", *kept]
    killed = fresh_process.run(_KILLED, *ours, "--part=0/2")
    assert killed.returncode == -9, killed.stderr[-2000:]
    assert "within autoattack, after ['apgd-ce']" in killed.stderr
    for part in ("--part=0/2", "--part=1/2", "--merge"):
        evaluate.main([*ours, part])
    assert without_seconds(tmp_path / "r.json") == without_seconds(tmp_path / "whole.json")
    # How many rows are computed at once rounds otherwise, and not all attacks step by signs.
    np.testing.assert_allclose(np.load(tmp_path / "x.npy"), whole, rtol=0, atol=1e-6)
