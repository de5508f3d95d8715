"""The README keeps its promises: its Python example runs, and every file, flag and command that it
names exists.
"""

import pathlib
import re

import keras

import tf_robust_transfer as rt
from tests.commands import COMMANDS
from tf_robust_transfer import command_line

ROOT = pathlib.Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def test_the_python_example_transfers_robustness(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _train_the_quickstarts_teacher()
    (example,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    # AutoAttack is tested elsewhere, and takes most of the time here.
    example = example.replace('"autoattack"', '"autoattack:apgd-ce"')
    names = {}
    exec(compile(example, "README.md", "exec"), names)
    assert (tmp_path / "student.keras").exists()
    # The natural student of the quickstart has about 0.2 at this eps.
    assert names["result"].accuracy["clean"] > 0.9 and names["result"].accuracy["pgd20"] > 0.4


def _train_the_quickstarts_teacher():
    """One that is trained for a tenth of the quickstart's time, where the example looks for it."""
    digits = rt.data.load_data("digits", "train")
    teacher = rt.build_model("small_cnn", input_shape=(8, 8, 1), num_classes=10, width=2)
    training = rt.AdversarialTraining(
        student=teacher, threat_model=rt.ThreatModel(eps=0.15), attack=rt.attacks.PGD(steps=3)
    )
    training.compile(optimizer=keras.optimizers.Adam(2e-3))
    batches = rt.data.train_batches(digits, batch_size=64, seed=0)
    training.fit(batches, steps_per_epoch=20, epochs=10, verbose=0)
    folder = pathlib.Path("runs/quickstart/teacher")
    folder.mkdir(parents=True)
    rt.save_model(teacher, folder / "model.keras")


def test_it_is_short_and_its_lines_fit():
    lines = README.splitlines()
    assert len(lines) <= 150
    text = re.sub("<!-- table .*?<!-- end -->", "", README, flags=re.DOTALL)
    prose = [line for line in text.splitlines() if not line.startswith(("|", "    ", "!["))]
    assert max(map(len, prose)) <= 105  # a link may stand out


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
