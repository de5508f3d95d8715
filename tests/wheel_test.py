"""The wheel: what is in it, and that it alone runs a row of the quickstart."""

import importlib
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.commands import COMMANDS
from tf_robust_transfer.checkpoints.zoo import FOLDER

ROOT = Path(__file__).resolve().parents[1]
BUILD = "from setuptools import build_meta; import sys; build_meta.build_wheel(sys.argv[1])"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy, since setuptools leaves files behind."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("tf_robust_transfer", "flags"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    for name in ("pyproject.toml", "requirements.txt", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    subprocess.run(
        [sys.executable, "-c", BUILD, target], cwd=source, check=True, capture_output=True
    )
    (path,) = target.glob("*.whl")
    return path


def test_the_wheel_holds_the_package_and_every_flag_file(wheel):
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    package = {
        str(path.relative_to(ROOT)) for path in (ROOT / "tf_robust_transfer").rglob("*.py")
    } | {"tf_robust_transfer/py.typed"}
    package |= {str(path.relative_to(ROOT)) for path in FOLDER.iterdir()}  # the zoo
    flags = {
        f"tf_robust_transfer/{path.relative_to(ROOT)}" for path in (ROOT / "flags").rglob("*.flags")
    }
    assert len(flags) > 200 and inside == package | flags


def test_every_command_has_its_name():
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert set(scripts) == {f"rt-{name}" for name in COMMANDS}
    for script, target in scripts.items():
        module, _, function = target.partition(":")
        assert getattr(importlib.import_module(module), function) is COMMANDS[script[3:]][0]


@pytest.mark.slow
def test_the_wheel_alone_runs_a_row_of_the_quickstart(wheel, tmp_path):
    """In an empty environment, outside the checkout, teacher and all."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "TF_"))
    }
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "env"], check=True)
    installed = subprocess.run(
        [tmp_path / "env/bin/python", "-m", "pip", "install", "--quiet", wheel],
        env=environment,
        capture_output=True,
        text=True,
    )
    if "ConnectionError" in installed.stderr or "NameResolution" in installed.stderr:
        pytest.skip("no package registry can be reached")
    assert installed.returncode == 0, installed.stderr[-2000:]
    (tmp_path / "work").mkdir()
    process = subprocess.run(
        [tmp_path / "env/bin/rt-train", "--flagfile=quickstart/igam.flags"],
        cwd=tmp_path / "work",
        env=environment,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr[-2000:]
    assert process.stdout.startswith("\ndigits test, images of 8x8, linf eps 0.15, 500 images")
    for run in ("teacher", "igam"):
        assert (tmp_path / "work/runs/quickstart" / run / "results.json").exists()
