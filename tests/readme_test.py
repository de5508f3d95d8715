"""The README keeps its promises: its Python example runs, and every file, flag and command that it
names exists.
"""

import pathlib
import re

from tests.commands import COMMANDS
from tf_robust_transfer import command_line

ROOT = pathlib.Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def test_the_python_example_transfers_robustness(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    names = {}
    exec(compile(example, "README.md", "exec"), names)
    assert (tmp_path / "student.keras").exists()
    assert names["adversarial"].shape == (8, 8, 8, 1)
    # The natural student of the quickstart has about 0.2 at this eps.
    assert names["result"].accuracy["clean"] > 0.9 and names["result"].accuracy["pgd20"] > 0.4


def test_named_files_exist():
    for path in re.findall(
        r"\b(?:flags|scripts|tests|benchmarks)/[\w./]+\.(?:flags|sh|py|png)\b", README
    ):
        assert (ROOT / path).exists(), path


def test_named_flags_exist():
    known = {name for _, config in COMMANDS.values() for name in command_line.all_flags(config)}
    named = set(re.findall(r"(?<![\w-])--(\w+)", README)) - {"help", "flagfile", "logdir"}
    scripts = [*(ROOT / "benchmarks").glob("*.py"), *(ROOT / "scripts").glob("*.py")]
    theirs = {flag for script in scripts for flag in re.findall(r'"--(\w+)"', script.read_text())}
    assert named <= known | theirs, named - known - theirs
