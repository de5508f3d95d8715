"""The chain of scripts/cifar10.sh on made-up images: its plan, its records, a second call that has
nothing to do.
"""

import json
import os
import pathlib
import subprocess
import sys

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


def test_the_plan_adds_up():
    plan = cifar10.plan(["mixacm", "natural"], ["0", "1"], share=1.0, jobs=2)
    takes = sum(cifar10.seconds(row, 1.0) for row in ("teacher", "mixacm", "natural"))
    assert plan.count("seed 0") == plan.count("seed 1") == 3
    assert f"(all done after {2 * takes:.0f} s)" in plan and "2 students at once" in plan
    assert cifar10.seconds("mixacm", 1 / 3) < cifar10.seconds("mixacm", 1.0)


@pytest.mark.slow
def test_the_chain_runs_through_and_goes_on(tmp_path):
    (tmp_path / "made_up.py").write_text(MADE_UP)
    command = [
        sys.executable,
        "scripts/cifar10.py",
        "--students=mixacm,igam,natural",
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
