"""Parts from outside the package: one file with a method, an attack, a model, a data source and an
adapter, each used by its name.
"""

import json
import os
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest

import tf_robust_transfer as rt
from tests.commands import COMMANDS
from tf_robust_transfer import command_line, plugins
from tf_robust_transfer.config import TrainConfig

# As a user would write it: nothing of it is in the package.
MINE = '''
import dataclasses

import keras
import numpy as np

import tf_robust_transfer as rt
from tf_robust_transfer.flag_types import fraction
from tf_robust_transfer.losses import classification
from tf_robust_transfer.ops import replicas
from tf_robust_transfer.options import at_least, option


class Logits(rt.methods.Natural):
    """Cross-entropy and a penalty on large logits."""

    @dataclasses.dataclass(frozen=True)
    class Options(rt.methods.Natural.Options):
        penalty: float = option(0.1, "weight of the squared logits", fraction, **at_least(0))

    def term_names(self):
        return ("cross_entropy", "penalty")

    def loss_terms(self, images, labels):
        logits = self.student(images, training=True)
        cross_entropy = replicas.global_mean(classification.cross_entropy(logits, labels))
        squares = replicas.global_mean(keras.ops.mean(logits**2, axis=1))
        return logits, {
            "cross_entropy": (1.0, cross_entropy),
            "penalty": (self.options.penalty, squares),
        }


class Corner(rt.attacks.Attack):
    """The image moved by eps in every pixel, up."""

    def start(self, problem, images, labels, round, noise):
        return {"current": images}

    def step(self, problem, images, labels, state, iteration, drawn):
        moved = problem.project(images + problem.eps, images)
        return {"current": moved}, moved, problem.logits_of(moved)

    def result(self, state):
        return state["current"]


def tiny(input_shape, num_classes, *, units=4):
    images = keras.Input(input_shape, name="images")
    x = keras.layers.Dense(units, activation="relu")(keras.layers.Flatten()(images))
    return keras.Model(images, keras.layers.Dense(num_classes, name="logits")(x))


def stripes(split, data_dir):
    """Two classes of 6x6 images: bright above or below."""
    rng = np.random.default_rng(len(split))
    labels = (np.arange(64) % 2).astype(np.int32)
    images = rng.integers(0, 80, (64, 6, 6, 1))
    images[labels == 0, :3] += 120
    images[labels == 1, 3:] += 120
    return rt.data.ImageData(
        images.astype(np.uint8), labels, 2, ("above", "below"), "stripes", split
    )


def judge(input_shape):
    gradients = keras.Input(input_shape)
    x = keras.layers.Dense(1)(keras.layers.Flatten()(gradients))
    return keras.Model(gradients, keras.layers.Reshape(())(x), name="mine")


class Mirror(rt.adapters.Adapter):
    def call(self, images):
        return images[:, :, ::-1]
'''


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """The file, in the working folder and on sys.path under a package of its own."""
    folder = tmp_path / f"mine_{os.getpid()}_{tmp_path.name}"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "parts.py").write_text(MINE)
    monkeypatch.syspath_prepend(str(tmp_path))
    return f"{folder.name}.parts"


def test_each_part_by_its_name(mine):
    assert rt.methods.find_method(f"{mine}:Logits").__name__ == "Logits"
    model = rt.build_model(f"{mine}:tiny", (6, 6, 1), 2, units=3)
    assert model.layers[2].units == 3
    data = rt.data.load_data(f"{mine}:stripes", "test", image_size=(4, 4))
    assert data.images.shape == (64, 4, 4, 1) and data.num_classes == 2
    images = np.random.default_rng(0).uniform(size=(5, 6, 6, 1)).astype(np.float32)
    mirror = rt.adapters.build_adapter(f"{mine}:Mirror", (6, 6, 1))
    np.testing.assert_array_equal(mirror(images), images[:, :, ::-1])
    chain = rt.adapters.build_adapter(f"{mine}:Mirror+resize:3x3", (6, 6, 1))
    assert chain.output_shape == (None, 3, 3, 1)
    threat = rt.ThreatModel(eps=0.1)
    attack = rt.attacks.parse(f"{mine}:Corner")
    moved = attack(model, images, np.zeros(5, int), threat_model=threat).numpy()
    wrong = model.predict(images, verbose=0).argmax(1) != 0
    expected = np.where(wrong[:, None, None, None], images, np.minimum(images + 0.1, 1))
    np.testing.assert_allclose(moved, expected, atol=1e-6)


def test_a_discriminator_by_its_name(mine):
    student, teacher = (rt.build_model(f"{mine}:tiny", (6, 6, 1), 2) for _ in range(2))
    read = command_line.parse(TrainConfig, ["--method=igam", f"--discriminator={mine}:judge"])
    context = rt.methods.Context(student, teacher, rt.ThreatModel(), (6, 6, 1), 2, 0, 1)
    method = rt.IGAM.from_flags(read.of_method, context)
    assert method.discriminator.name == "mine"


def test_its_flags_are_flags(mine, tmp_path, capsys):
    (tmp_path / "mine.flags").write_text(
        f"--method={mine}:Logits\n--model={mine}:tiny\n--dataset={mine}:stripes\n--penalty=0.5\n"
    )
    read = command_line.parse(TrainConfig, [f"--flagfile={tmp_path}/mine.flags"])
    assert read.of_method.penalty == 0.5 and read.penalty == 0.5
    for arguments in (["--help"], ["--penalty=-1"], ["--penaltie=1"]):
        with pytest.raises(SystemExit) as ended:
            COMMANDS["train"][0]([f"--flagfile={tmp_path}/mine.flags", *arguments])
        out, err = capsys.readouterr()
        if arguments == ["--help"]:
            assert ended.value.code in (0, None) and "--penalty=0.1" in out
        else:
            assert ended.value.code == 2 and "--penalt" in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no.such_module:Mine", "cannot import the method 'no.such_module:Mine'"),
        ("keras.layers:Dense", "expected a subclass of"),
        ("keras.layers:Densee", "has no 'Densee'; nearest valid names: Dense"),
    ],
)
def test_a_wrong_name_is_one_line(name, words, capsys):
    with pytest.raises(SystemExit) as ended:
        COMMANDS["train"][0]([f"--method={name}"])
    err = capsys.readouterr().err
    assert ended.value.code == 2 and words in err and err.count("\n") == 1


def test_an_option_that_the_network_does_not_have(mine):
    with pytest.raises(rt.InputError, match="has no option 'unit'; nearest valid names: units"):
        rt.build_model(f"{mine}:tiny", (6, 6, 1), 2, unit=3)


def test_a_module_that_fails_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "broken_part.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(rt.InputError, match="ZeroDivisionError"):
        plugins.load("attack", "plugin:broken_part:Mine")


def test_names_of_ours_are_no_plugins():
    ours = (
        "folder:some.dir",
        "robustbench:Gowal2020:a.pt",
        "resize:64x64",
        "mnist:3.0.1",
        "cleverhans:fast_gradient_method",
        "autoattack:apgd-ce+square",
    )
    assert not any(map(plugins.is_plugin, ours))


@pytest.mark.slow
def test_a_run_of_parts_resumes_and_its_student_loads_without_them(tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "parts.py").write_text(MINE)
    (tmp_path / "mine.flags").write_text(
        textwrap.dedent(
            """\
            --method=outside.parts:Logits
            --model=outside.parts:tiny
            --dataset=outside.parts:stripes
            --attacks=outside.parts:Corner
            --batch_size=16
            --eps=0.3
            --watch_examples=0
            """
        )
    )

    def train(folder, *further):
        command = [sys.executable, "-m", "tf_robust_transfer.train", "--flagfile=mine.flags"]
        ended = subprocess.run(
            [*command, f"--run_dir={folder}", *further],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": os.getcwd(), "TF_CPP_MIN_LOG_LEVEL": "2"},
            capture_output=True,
            text=True,
        )
        assert ended.returncode == 0, ended.stderr
        return ended

    train("whole", "--train_steps=12")
    flags = (tmp_path / "whole" / "flags.txt").read_text()
    assert "--penalty=0.1" in flags and "--method=outside.parts:Logits" in flags
    results = json.loads((tmp_path / "whole" / "results.json").read_text())
    assert set(results["accuracy"]) == {"clean", "outside.parts:Corner"}
    # As a kill would leave it: without the files of its end it goes on from its last checkpoint.
    for name in ("model.keras", "results.json"):
        (tmp_path / "whole" / name).rename(tmp_path / name)
    assert "going on at step 12 of 12" in train("whole", "--train_steps=12").stderr
    once, again = (
        rt.load_model(str(path)).get_weights()
        for path in (tmp_path / "model.keras", tmp_path / "whole")
    )
    for a, b in zip(once, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert isinstance(rt.load_model(str(tmp_path / "whole")), keras.Model)
    assert "outside" not in sys.modules
