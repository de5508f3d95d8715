"""convert: what it writes, and that bad input of every kind gives one line, exit code 2 and no
file.
"""

import hashlib
import json
import os
import pathlib
import pickle
import shutil
import sys

import keras
import numpy as np
import pytest

import tf_robust_transfer as rt
from tests import fresh_process, tf1_networks
from tf_robust_transfer import convert, evaluate, train, visualize
from tf_robust_transfer.command import run_command
from tf_robust_transfer.config import TrainConfig
from tf_robust_transfer.convert import ConvertConfig
from tf_robust_transfer.evaluate import EvaluateConfig
from tf_robust_transfer.visualize import VisualizeConfig

COMMANDS = {
    "convert": (convert.run, ConvertConfig),
    "evaluate": (evaluate.run, EvaluateConfig),
    "train": (train.run, TrainConfig),
    "visualize": (visualize.run, VisualizeConfig),
}


@pytest.fixture
def call(monkeypatch, capsys):
    """Runs a command in this process. Returns (exit code, stdout, stderr)."""

    def run(command, *arguments):
        monkeypatch.setattr(sys, "argv", [command, *map(str, arguments)])
        try:
            run_command(*COMMANDS[command])
            code = 0
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A .keras file of a network for the digits."""
    keras.utils.set_random_seed(0)
    path = tmp_path_factory.mktemp("saved") / "cnn.keras"
    rt.save_model(rt.build_model("small_cnn", (8, 8, 1), 10, batch_norm=True), path)
    return path


@pytest.fixture(scope="module")
def arrays():
    """The variables of a mnist_challenge checkpoint, as its repository names them."""
    rng = np.random.default_rng(0)
    shapes = (5, 5, 1, 32), (32,), (5, 5, 32, 64), (64,), (3136, 1024), (1024,), (1024, 10), (10,)
    return {
        f"Variable_{number}" if number else "Variable": rng.normal(0, 0.05, shape).astype(
            np.float32
        )
        for number, shape in enumerate(shapes)
    }


@pytest.fixture(scope="module")
def mnist(arrays, tmp_path_factory):
    """Prefix of that checkpoint, with global_step."""
    prefix = tmp_path_factory.mktemp("mnist") / "checkpoint-100"
    return tf1_networks.save_arrays(prefix, {**arrays, "global_step": np.int64(100)})


def sha256_of(path):
    return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()


def listing(folder):
    """Every file below a folder with its content."""
    return {
        path: path.read_bytes()
        for path in sorted(pathlib.Path(folder).rglob("*"))
        if path.is_file()
    }


class TestWritten:
    def test_a_tf1_checkpoint_with_clean_accuracy(self, call, mnist, tmp_path):
        """The parent folder is made; digits are shown at MNIST's size."""
        output = tmp_path / "models" / "new" / "madry.keras"
        data = pathlib.Path(f"{mnist}.data-00000-of-00001")
        code, out, err = call(
            "convert",
            f"--model=madry_mnist:{mnist}",
            f"--output={output}",
            f"--sha256={sha256_of(data)}",
            "--dataset=digits",
            "--image_size=28x28",
            "--max_examples=30",
        )
        assert code == 0, err
        assert sorted(os.listdir(output.parent)) == [
            "madry.keras",
            "madry.keras.json",
            "madry.keras.md",
        ]
        images = np.random.default_rng(1).uniform(size=(3, 28, 28, 1)).astype(np.float32)
        written = keras.saving.load_model(output)
        expected = rt.load_model(f"madry_mnist:{mnist}")
        np.testing.assert_array_equal(written(images), expected(images))
        described = json.loads((output.parent / "madry.keras.json").read_text())
        assert described["model"] == "madry.keras" and described["sha256"] == sha256_of(output)
        assert described["source"] == f"madry_mnist:{mnist}"
        index = pathlib.Path(f"{mnist}.index")
        assert described["source_sha256"] == {str(file): sha256_of(file) for file in (data, index)}
        assert (described["input_shape"], described["num_classes"]) == ([28, 28, 1], 10)
        assert described["num_parameters"] == 3_274_634
        assert described["versions"]["keras"] == keras.__version__
        test = rt.data.load_data("digits", "test", image_size=(28, 28), max_examples=30)
        right = np.argmax(expected(test.images.astype(np.float32) / 255), axis=1) == test.labels
        low, high = described["confidence_interval_95"]["clean"]
        assert (
            described["accuracy"]["clean"] == right.mean() and 0 <= low <= right.mean() <= high <= 1
        )
        assert (described["dataset"], described["split"], described["num_examples"]) == (
            "digits",
            "test",
            30,
        )
        assert f"clean {100 * right.mean():.2f}%" in out and "3,274,634 parameters" in out

    def test_an_older_file_is_replaced_and_without_data_there_is_no_accuracy(
        self, call, saved, tmp_path
    ):
        output = tmp_path / "model.keras"
        output.write_text("older")
        (tmp_path / "model.keras.json").write_text("older")
        assert call("convert", f"--model={saved}", f"--output={output}")[0] == 0
        described = json.loads((tmp_path / "model.keras.json").read_text())
        assert (
            described["sha256"] == sha256_of(output)
            and "accuracy" not in described
            and "dataset" not in described
        )
        assert sorted(os.listdir(tmp_path)) == ["model.keras", "model.keras.json", "model.keras.md"]

    def test_a_model_onto_itself(self, call, saved, tmp_path):
        path = shutil.copy(saved, tmp_path / "model.keras")
        before = sha256_of(path)
        assert call("convert", f"--model={path}", f"--output={path}")[0] == 0
        described = json.loads((tmp_path / "model.keras.json").read_text())
        assert described["source_sha256"] == {str(path): before} and described[
            "sha256"
        ] == sha256_of(path)

    @pytest.mark.parametrize("failing", ["save", "check", "sidecar"])
    def test_where_writing_fails_the_older_files_stay(
        self, call, saved, tmp_path, monkeypatch, failing
    ):
        (tmp_path / "model.keras").write_text("older")
        (tmp_path / "model.keras.json").write_text("older")
        before = listing(tmp_path)
        if failing == "save":
            monkeypatch.setattr(keras.Model, "save", half_written)
        elif failing == "check":
            other = rt.build_model("small_cnn", (8, 8, 1), 10)
            monkeypatch.setattr(
                convert,
                "load_model",
                lambda spec, **_: other if "/." in spec else rt.load_model(spec),
            )
        else:
            monkeypatch.setattr(pathlib.Path, "write_text", half_text)
        arguments = f"--model={saved}", f"--output={tmp_path}/model.keras"
        if failing == "check":
            with pytest.raises(RuntimeError, match="other logits"):
                call("convert", *arguments)
        else:
            code, _, err = call("convert", *arguments)
            assert code == 2 and "no space left" in err
        assert listing(tmp_path) == before

    def test_a_description_that_is_there_describes_the_model_beside_it(
        self, call, saved, tmp_path, monkeypatch
    ):
        """Cut off at any rename: a pair that belongs together, or a model without a description."""
        older = tmp_path / "model.keras"
        call("convert", f"--model={saved}", f"--output={older}")
        real = os.replace
        for stop_at in (1, 2, 3):
            renames = iter(range(1, 9))

            def replace(source, target, renames=renames, stop_at=stop_at):
                if next(renames) == stop_at:
                    raise KeyboardInterrupt
                real(source, target)

            monkeypatch.setattr(os, "replace", replace)
            assert call("convert", f"--model={saved}", f"--output={older}")[0] == 130
            monkeypatch.setattr(os, "replace", real)
            sidecar = tmp_path / "model.keras.json"
            assert older.exists()
            if sidecar.exists():
                assert json.loads(sidecar.read_text())["sha256"] == sha256_of(older)


def half_text(path, text):
    path.write_bytes(text[: len(text) // 2].encode())
    raise OSError("no space left on device")


def half_written(first, second, *_):
    """In place of a function that writes a file, the first or second argument: something, then a
    full disk.
    """
    path = next(part for part in (first, second) if isinstance(part, pathlib.Path))
    path.write_text("half")
    raise OSError("no space left on device")


class Exploit:
    """Unpickled, it makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def damaged(kind, tmp_path, arrays, mnist, saved):
    """(arguments, what the error says) of each kind of bad input."""
    folder = tmp_path / "input"
    folder.mkdir()
    if kind in ("missing variable", "extra key", "wrong shape"):
        changed = {
            "missing variable": {
                name: value for name, value in arrays.items() if name != "Variable_3"
            },
            "extra key": {**arrays, "ema/decay": np.float32(1)},
            "wrong shape": {**arrays, "Variable_7": np.zeros(11, np.float32)},
        }[kind]
        says = {
            "missing variable": "1 missing (Variable_3)",
            "extra key": "1 not expected (ema/decay)",
            "wrong shape": "Variable_7 (11,) float32 instead of (10,)",
        }[kind]
        return [f"--model=madry_mnist:{tf1_networks.save_arrays(folder / 'model', changed)}"], says
    if kind == "truncated data file":
        for end in (".index", ".data-00000-of-00001"):
            shutil.copy(f"{mnist}{end}", folder / f"model{end}")
        os.truncate(folder / "model.data-00000-of-00001", 5000)
        return [f"--model=madry_mnist:{folder}/model"], "a file of it is damaged or absent"
    if kind == "truncated .keras":
        (folder / "model.keras").write_bytes(saved.read_bytes()[:-100])
        return [f"--model={folder}"], "it is damaged or of another format"
    if kind.startswith("empty directory"):
        scheme = kind.partition(", ")[2]
        return [
            f"--model={scheme}{folder}"
        ], f"no checkpoint in the folder {str(folder)!r}" if scheme else "no model at"
    pt = folder / "model.pt"
    arguments = [f"--model=robustbench:Wong2020Fast:{pt}"]
    if kind == "HTML as .pt":
        pt.write_text("<!DOCTYPE html><html><head><title>Google Drive</title></head></html>")
        return arguments, "is a web page (HTML), no PyTorch file"
    if kind == "malicious pickle":
        pt.write_bytes(pickle.dumps({"conv1.weight": Exploit(tmp_path / "victim")}, protocol=2))
        return arguments, "only tensors are read"
    if kind == "wrong sha256":
        pt.write_bytes(b"anything")
        return [
            *arguments,
            f"--sha256={'0' * 64}",
        ], f"SHA-256 is {sha256_of(pt)}, expected {'0' * 64}"
    if kind == "wrong sha256 of TF1":
        return [
            f"--model=madry_mnist:{mnist}",
            f"--sha256={'0' * 64}",
        ], ".data-00000-of-00001' is not the expected file"
    if kind == "malformed sha256":
        return [f"--model={saved}", "--sha256=md5"], "64 hexadecimal digits, got 'md5'"
    if kind == "unknown ID":
        return [f"--model=robustbench:Wong2020:{pt}"], "nearest valid names: Wong2020Fast, "
    if kind == "unknown scheme":
        return [f"--model=mardy_mnist:{mnist}"], "nearest valid names: madry_mnist"
    if kind == "no model":
        return [], "no model given"
    if kind == "weights that are not finite":
        model = rt.load_model(saved)
        model.get_layer("logits").bias.assign(np.full(10, np.nan))
        model.save(folder / "model.keras")
        return [f"--model={folder}"], "logits that are not finite"
    if kind == "data of other classes":
        images = folder / "images" / "test"
        for name in ("a", "b"):
            (images / name).mkdir(parents=True)
            keras.utils.save_img(images / name / "0.png", np.zeros((8, 8, 3)))
        return [f"--model={saved}", f"--dataset=folder:{folder}/images"], "the model has 10 classes"
    if kind == "data of another size":
        return [
            f"--model={saved}",
            "--dataset=digits",
            "--image_size=9x9",
        ], "images must have shape [batch, 8, 8, 1]"
    if kind == "unknown data":
        return [f"--model={saved}", "--dataset=digitz"], "digits"
    raise ValueError(kind)


KINDS = (
    "missing variable",
    "extra key",
    "wrong shape",
    "truncated data file",
    "truncated .keras",
    "empty directory",
    "empty directory, madry_mnist:",
    "empty directory, madry_cifar10:",
    "empty directory, igam:",
    "HTML as .pt",
    "malicious pickle",
    "wrong sha256",
    "wrong sha256 of TF1",
    "malformed sha256",
    "unknown ID",
    "unknown scheme",
    "no model",
    "weights that are not finite",
    "data of other classes",
    "data of another size",
    "unknown data",
)


@pytest.mark.parametrize("kind", KINDS)
def test_bad_input_gives_one_line_exit_code_2_and_no_file(
    call, kind, tmp_path, arrays, mnist, saved
):
    if kind == "malicious pickle":
        pytest.importorskip("torch")
    arguments, says = damaged(kind, tmp_path, arrays, mnist, saved)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "older.keras").write_text("older")
    before = listing(tmp_path)
    for output in ("out/model.keras", "out/older.keras", "new/model.keras"):
        code, out, err = call("convert", *arguments, f"--output={tmp_path}/{output}")
        lines = [line for line in err.splitlines() if line.startswith("error:")]
        assert code == 2 and not out
        assert len(lines) == 1 and says in lines[0], err
        assert (
            listing(tmp_path) == before
            and not (tmp_path / "new").exists()
            and not (tmp_path / "victim").exists()
        )


@pytest.mark.parametrize(
    ("output", "says"),
    [
        ("model.h5", "expected a name that ends in .keras, got"),
        ("", "expected a name that ends in .keras, got ''"),
        ("folder.keras", "is a folder"),
        ("file/model.keras", "is no folder that can be written to"),
    ],
)
def test_an_output_that_cannot_be_written(call, output, says, saved, tmp_path):
    (tmp_path / "folder.keras").mkdir()
    (tmp_path / "file").write_text("")
    before = listing(tmp_path)
    code, out, err = call(
        "convert", f"--model={saved}", f"--output={tmp_path / output if output else ''}"
    )
    assert code == 2 and not out and says in err and len(err.strip().splitlines()) == 1
    assert listing(tmp_path) == before


def test_a_real_process(tmp_path):
    (tmp_path / "model.pt").write_text("<html>")
    arguments = (
        f"--model=robustbench:Wong2020Fast:{tmp_path}/model.pt",
        f"--output={tmp_path}/model.keras",
    )
    process = fresh_process.run_module("tf_robust_transfer.convert", *arguments)
    assert process.returncode == 2 and not process.stdout
    assert process.stderr.splitlines()[-1].startswith("error: ") and "web page" in process.stderr
    assert "Traceback" not in process.stderr
    assert os.listdir(tmp_path) == ["model.pt"]


class TestEveryCommandTakesASpec:
    def test_train(self, call, mnist, tmp_path):
        code, _, err = call(
            "train",
            "--method=distillation",
            f"--teacher=madry_mnist:{mnist}",
            "--dataset=digits",
            "--image_size=28x28",
            "--smoke",
            "--attacks=fgsm",
            "--watch_attack=fgsm",
            "--eps=0.1",
            f"--run_dir={tmp_path}/run",
        )
        assert code == 0, err
        assert (tmp_path / "run" / "model.keras").exists()

    def test_evaluate_and_visualize(self, call, mnist, tmp_path):
        shared = ("--dataset=digits", "--image_size=28x28")
        code, out, err = call(
            "evaluate",
            f"--model=madry_mnist:{mnist}",
            "--attacks=fgsm",
            "--max_examples=20",
            *shared,
        )
        assert code == 0 and "fgsm" in out, err
        code, _, err = call(
            "visualize",
            f"--models=madry_mnist:{mnist}",
            "--num_images=2",
            f"--output={tmp_path}/x.png",
            *shared,
        )
        assert code == 0 and (tmp_path / "x.png").exists(), err

    @pytest.mark.parametrize(
        "arguments",
        [
            ("evaluate", "--model=madry_minst:x", "--dataset=digits"),
            ("train", "--teacher=madry_minst:x", "--method=igam", "--run_dir={tmp}/run"),
            ("visualize", "--models=madry_minst:x", "--dataset=digits", "--output={tmp}/x.png"),
        ],
    )
    def test_an_unknown_scheme(self, call, arguments, tmp_path):
        code, _, err = call(*(argument.format(tmp=tmp_path) for argument in arguments))
        assert (
            code == 2
            and "unknown kind of model 'madry_minst'; nearest valid names: madry_mnist" in err
        )
