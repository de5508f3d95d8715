"""What waits for a GPU, rehearsed: benchmarks/gpu.py, its PyTorch side, scripts/gpu_check.sh."""

import importlib
import json
import os
import pathlib
import subprocess
import sys
import tarfile

import keras
import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]


@pytest.fixture
def benchmarks(monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.syspath_prepend(ROOT / "benchmarks")


@pytest.mark.parametrize(
    "options",
    [{}, {"preprocessing": "standardized", "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)}],
    ids=["pixels", "standardized"],
)
def test_the_torch_twin_is_the_network(benchmarks, tmp_path, options):
    """Its weights go the way that gpu.py and torch_side.py send them; flags/cifar10's are
    standardized.
    """
    gpu = importlib.import_module("gpu")
    import torch

    torch_side = importlib.import_module("torch_side")

    from tf_robust_transfer.models import build_model

    keras.utils.set_random_seed(0)
    model = build_model("preact_resnet_18", (8, 8, 3), 10, base_channels=2, **options)
    for layer in model.layers:  # what is learned, and not what a fresh network has
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.moving_mean.assign(0.1 * np.random.default_rng(1).normal(size=layer.gamma.shape))
            layer.moving_variance.assign(2.0 + layer.moving_variance)
    images = np.random.default_rng(0).random((4, 8, 8, 3)).astype(np.float32)
    gpu.twin(model, tmp_path / "twin.npz", images, np.arange(4))
    stored = np.load(tmp_path / "twin.npz")
    network = torch_side.PreActResNet18(channels=2)
    weights = {
        key: torch.tensor(stored[key])
        for key in set(stored.files) - {"images", "labels", "expected"}
    }
    missing = network.load_state_dict(weights, strict=False).missing_keys
    assert all(name.endswith("num_batches_tracked") for name in missing)
    trained = sum(part.numel() for part in network.parameters())
    assert trained == sum(int(np.prod(v.shape)) for v in model.trainable_variables)
    found = network.eval()(torch.tensor(images.transpose(0, 3, 1, 2))).detach().numpy()
    np.testing.assert_allclose(found, stored["expected"], rtol=1e-4, atol=1e-5)


def test_records_go_on_after_a_cut(benchmarks, tmp_path):
    gpu = importlib.import_module("gpu")

    path = tmp_path / "rows.jsonl"
    path.write_text('{"row": "one", "ms": 1.0}\n{"row": "tw')
    records = gpu.Records(path, minutes=1.0)
    assert not records.wants("one") and records.wants("two")
    records.add(row="two", ms=2.0)
    assert set(gpu.Records(path, minutes=1.0).rows) == {"one", "two"}
    records.add(row="three", failed="it died, or took over two minutes")
    assert records.wants("three")
    records.add(row="three", ms=2.0)
    assert not gpu.Records(path, minutes=1.0).wants("three"), "the last line of a row counts"
    assert not gpu.Records(path, minutes=-1.0).wants("four"), "no time is left"


def rows(path):
    return {row["row"]: row for row in map(json.loads, path.read_text().splitlines())}


@pytest.mark.slow
def test_the_whole_check_rehearsed(tmp_path):
    pytest.importorskip("torch")
    environment = os.environ | {
        "PY": sys.executable,
        "TORCH_PY": sys.executable,
        "SECONDS_IN_ALL": "3000",
        "PART_FACTOR": "5",
        "PACK": str(tmp_path / "check.tar.gz"),
    }
    command = [ROOT / "scripts" / "gpu_check.sh", "--rehearse", tmp_path]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    parts = (tmp_path / "parts.txt").read_text()
    for name in ("device", "steps", "resume", "evaluate", "autoattack", "tests"):
        assert f"{name}: code 0" in parts, ended.stdout + (tmp_path / f"{name}.log").read_text()
    steps = rows(tmp_path / "steps.jsonl")
    for kind in ("natural", "igam_adversarial"):
        for jit in ("on", "off"):
            for deterministic in ("on", "off"):
                row = steps[f"{kind}:bfloat16:xla={jit}:deterministic={deterministic}"]
                assert row["images_per_second"] > 0
    assert steps["torch:pgd7:bfloat16:eager"]["ms"] > 0
    resumed = [
        json.loads(x)
        for x in (tmp_path / "resume.log").read_text().splitlines()
        if x.startswith("{")
    ]
    assert [line["largest_difference"] for line in resumed] == [0.0, 0.0]
    assert [line["training"]["jit"] for line in resumed] == [True, False]
    with tarfile.open(tmp_path / "check.tar.gz") as pack:
        assert {"./parts.txt", "./steps.jsonl", "./autoattack.jsonl"} <= set(pack.getnames())
    assert all(row["code"] == 0 for row in rows(tmp_path / "evaluate.jsonl").values())
    assert set(rows(tmp_path / "autoattack.jsonl")) >= {"first", "second"}
