"""The chain of scripts/cifar10.sh on made-up images: its plan, its records, a second call that has
nothing to do.
"""

import json
import os
import pathlib
import subprocess
import sys
import tarfile

import pytest

from scripts import cifar10

ROOT = pathlib.Path(__file__).resolve().parents[1]
MADE_UP = """
import numpy as np
from tf_robust_transfer.data import ImageData

def load(split, data_dir):
    rng = np.random.default_rng(len(split))
    images = rng.integers(0, 256, (200, 32, 32, 3), dtype=np.uint8)
    labels = (np.arange(200) % 10).astype(np.int32)
    return ImageData(images, labels, 10, tuple("abcdefghij"), "made up", split)
"""
TINY = (
    "--dataset=plugin:made_up:load --model_options=base_channels=4 --epochs=1 --batch_size=50 "
    "--warm_start_epochs=0 --mixed_precision=none"
)


def test_the_plan_adds_up(tmp_path):
    plan = cifar10.plan(["mixacm", "natural"], ["0", "1"], share=1.0, jobs=2, run_dir=tmp_path)
    takes = sum(cifar10.seconds(row, 1.0) for row in ("teacher", "mixacm", "natural"))
    assert plan.count("seed 0") == plan.count("seed 1") == 3
    assert f"(all done after {2 * takes:.0f} s)" in plan and "2 students at once" in plan
    assert cifar10.seconds("mixacm", 1 / 3) < cifar10.seconds("mixacm", 1.0)


def test_no_teacher_is_planned_that_is_there_or_not_needed(tmp_path):
    teacher = tmp_path / "seed0" / "cifar10_teacher"
    teacher.mkdir(parents=True)
    (teacher / "results.json").touch()
    plan = cifar10.plan(["mixacm"], ["0", "1"], share=1.0, jobs=1, run_dir=tmp_path)
    assert plan.count("teacher") == 1 and "seed 1  teacher" in plan
    plan = cifar10.plan(["pgd7", "natural"], ["1"], share=1.0, jobs=1, run_dir=tmp_path)
    assert "teacher" not in plan


def test_it_ends_in_time_with_what_its_processes_save(tmp_path, monkeypatch):
    """A process of the session that is told to stop is waited for, and one that will not is not."""
    saving = tmp_path / "saving.py"
    saving.write_text(
        "import pathlib, signal, subprocess, sys, time\n"
        "def stop(*_):\n"
        "    time.sleep(1)\n"
        "    pathlib.Path(sys.argv[1]).write_text('saved')\n"
        "    sys.exit()\n"
        "signal.signal(signal.SIGTERM, stop)\n"
        "pathlib.Path(sys.argv[2]).touch()\n"
        "time.sleep(60)\n"
    )
    starting = tmp_path / "starting.py"
    starting.write_text("import subprocess, sys\nsubprocess.run([sys.executable, *sys.argv[1:]])\n")
    monkeypatch.setattr(cifar10, "LAST_CHECKPOINT", 20)
    saved, ready = tmp_path / "saved", tmp_path / "ready"
    command = [sys.executable, starting, saving, saved, ready]
    assert cifar10.run(command, minutes=26 / 60) == 124
    assert ready.exists() and saved.read_text() == "saved"
    assert cifar10.run([sys.executable, "-c", "raise SystemExit(3)"], minutes=0) == 3


def test_the_pack_has_the_records_and_the_logs(tmp_path):
    for name in ("records/a/results.json", "runs/logs/a.log", "runs/seed0/a/model.keras"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    cifar10.pack(tmp_path / "x.tar.gz", tmp_path / "records", tmp_path / "runs")
    with tarfile.open(tmp_path / "x.tar.gz") as tar:
        assert tar.getnames() == ["records/a/results.json", "runs/logs/a.log"]


def test_without_a_gpu_it_does_not_begin(capsys, tmp_path):
    with pytest.raises(SystemExit) as error:
        cifar10.main([f"--run_dir={tmp_path}"])
    assert error.value.code == 2 and "TensorFlow finds no GPU" in capsys.readouterr().err


def test_a_seed_of_no_row_is_refused():
    command = [sys.executable, "scripts/results.py", "cifar10_resnet", "--seeds=7"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "no row is chosen: of seeds 7" in done.stderr


@pytest.mark.slow
def test_the_chain_runs_through_and_goes_on(tmp_path):
    (tmp_path / "made_up.py").write_text(MADE_UP)
    command = [
        sys.executable,
        "scripts/cifar10.py",
        "--students=mixacm,igam,natural",
        "--cpu",
        f"--pack={tmp_path}/all.tar.gz",
        f"--train_flags={TINY}",
        f"--run_dir={tmp_path}/runs",
        f"--records={tmp_path}/records",
        "--",
        "--max_examples=8",
    ]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{tmp_path}"}
    for _ in range(2):
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1500
        )
        assert done.returncode == 0, done.stderr[-2000:]
        assert done.stdout.startswith("plan, by the steps of one H200")
    found = sorted(path.parent.name for path in tmp_path.glob("records/*/seed0/*/results.json"))
    assert found == ["cifar10_igam", "cifar10_mixacm", "cifar10_natural", "cifar10_teacher"]
    record = tmp_path / "records/cifar10_resnet/seed0/cifar10_mixacm/results.json"
    result = json.loads(record.read_text())
    assert result["num_examples"] == 8 and "autoattack" in result["accuracy"]
    assert result["training"]["steps"] == 4
    assert "records/" not in done.stdout.split("\n\n")[-1]  # nothing was left to do
    with tarfile.open(tmp_path / "all.tar.gz") as tar:
        assert "records/cifar10_resnet/seed0/cifar10_mixacm/results.json" in tar.getnames()
