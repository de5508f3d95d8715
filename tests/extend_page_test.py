"""The pages docs/guide/extend*.md: each block of Python that names its file is that file, and the
part in it works by its name.
"""

import os
import re
from pathlib import Path

import keras
import numpy as np
import pytest

import tf_robust_transfer as rt
from tests.commands import COMMANDS

GUIDE = Path(__file__).resolve().parents[1] / "docs/guide"
PAGES = "".join(path.read_text() for path in sorted(GUIDE.glob("extend*.md")))


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """The name of the package that the page's files make."""
    folder = tmp_path_factory.mktemp("page")
    package = folder / f"parts_of_the_page_{os.getpid()}"
    package.mkdir()
    (package / "__init__.py").touch()
    for block in re.findall(r"```python\n(.*?)```", PAGES, flags=re.DOTALL):
        name = re.match(r"# my_parts/(\w+\.py)\n", block)[1]
        (package / name).write_text(block.replace("my_parts", package.name))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield package.name


def test_every_part_runs_by_its_name(parts, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    COMMANDS["train"][0](
        [
            f"--method={parts}.trades:TRADES",
            f"--model={parts}.networks:two_blocks",
            "--model_options=channels=4",
            f"--dataset={parts}.sources:stripes",
            f"--attacks={parts}.corner:Halving[steps=2]",
            "--beta=2",
            "--train_attack_steps=2",
            "--train_steps=3",
            "--watch_examples=0",
            "--run_dir=run",
        ]
    )
    assert "--beta=2.0" in (tmp_path / "run/flags.txt").read_text()
    student = rt.load_model("run")
    assert isinstance(student, keras.Model) and student.output_shape == (None, 2)
    # The adapter, from a flag file.
    (tmp_path / "mirrored.flags").write_text(
        "--method=igam\n--teacher=run\n--lambda_adv=0\n--train_steps=2\n--watch_examples=0\n--attacks=\n"
        f"--dataset={parts}.sources:stripes\n--adapter={parts}.adapters:Mirror\n"
    )
    COMMANDS["train"][0](["--flagfile=mirrored.flags", "--run_dir=mirrored"])
    assert f"--adapter={parts}.adapters:Mirror" in (tmp_path / "mirrored/flags.txt").read_text()
    assert isinstance(rt.load_model("mirrored"), keras.Model)


def test_the_attack_halves_its_steps(parts):
    images = np.full((1, 2, 2, 1), 0.5, np.float32)
    inputs = keras.Input((2, 2, 1))
    dense = keras.layers.Dense(2, kernel_initializer=keras.initializers.Constant([[0, 1]] * 4))
    model = keras.Model(inputs, dense(keras.layers.Flatten()(inputs)))
    attack = rt.attacks.parse(f"{parts}.corner:Halving[steps=3]")
    # Of the right class: the ascent lowers every pixel, first by eps, and the ball ends it there.
    moved = attack(model, images, np.ones(1, int), threat_model=rt.ThreatModel(eps=0.1))
    np.testing.assert_allclose(moved, images - 0.1, atol=1e-6)


def test_the_guesses_are_corners_of_the_ball(parts):
    inputs = keras.Input((2, 2, 1))
    model = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Flatten()(inputs)))
    images = np.full((3, 2, 2, 1), 0.5, np.float32)
    labels = model.predict(images, verbose=0).argmax(1)
    attack = rt.attacks.parse(f"{parts}.guess:Guess[tries=4]")
    threat = rt.ThreatModel(eps=0.1)
    moved = attack(model, images, labels, threat_model=threat, seed=1).numpy()
    np.testing.assert_allclose(np.abs(moved - images), 0.1, atol=1e-6)
    again = attack(model, images[:1], labels[:1], threat_model=threat, seed=1).numpy()
    np.testing.assert_array_equal(again, moved[:1])


def test_the_adapter_mirrors(parts):
    images = np.random.default_rng(0).uniform(size=(2, 3, 3, 1)).astype(np.float32)
    mirror = rt.adapters.build_adapter(f"{parts}.adapters:Mirror", (3, 3, 1))
    np.testing.assert_array_equal(mirror(images), images[:, :, ::-1])
