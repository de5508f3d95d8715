"""The commands as people call them: output, exit codes, one clear line for bad input, nothing
half-written.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest

import tf_robust_transfer as rt
from tests import fresh_process
from tf_robust_transfer import convert, data, evaluate, quickstart, report, train, visualize
from tf_robust_transfer.command import run_command
from tf_robust_transfer.config import TrainConfig
from tf_robust_transfer.evaluate import EvaluateConfig
from tf_robust_transfer.evaluation import challenge_files
from tf_robust_transfer.quickstart import QuickstartConfig
from tf_robust_transfer.report import ReportConfig
from tf_robust_transfer.visualize import VisualizeConfig

ROOT = pathlib.Path(__file__).resolve().parents[1]
COMMANDS = {
    "train": (train.run, TrainConfig),
    "evaluate": (evaluate.run, EvaluateConfig),
    "report": (report.run, ReportConfig),
    "visualize": (visualize.run, VisualizeConfig),
    "quickstart": (quickstart.run, QuickstartConfig),
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
def model(tmp_path_factory):
    """A briefly trained classifier of the digits, as a .keras file."""
    keras.utils.set_random_seed(0)
    digits = data.load_data("digits", "train")
    network = rt.build_model("small_cnn", digits.input_shape, digits.num_classes)
    method = rt.Natural(student=network)
    method.compile(optimizer=keras.optimizers.Adam(0.003))
    method.fit(
        data.train_batches(digits, batch_size=64, seed=0),
        steps_per_epoch=80,
        verbose=0,
        shuffle=False,
    )
    path = tmp_path_factory.mktemp("models") / "natural.keras"
    rt.save_model(network, path)
    return path


def test_train_as_a_process_prints_a_table_and_progress(tmp_path):
    process = subprocess.run(
        [
            sys.executable,
            "-m",
            "tf_robust_transfer.train",
            "--epochs=1",
            "--eps=0.1",
            "--attacks=fgsm",
            "--max_examples=40",
            "--watch_examples=10",
            "--watch_attack=fgsm",
            f"--run_dir={tmp_path}/run",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr[-2000:]
    assert "digits test, images of 8x8, linf eps 0.1, 40 images;" in process.stdout
    assert "images/s" in process.stderr and "cross_entropy" in process.stderr


def test_bad_input_of_a_process_is_one_line_and_exit_code_2(tmp_path):
    process = fresh_process.run_module(
        "tf_robust_transfer.train", "--eps=8", f"--run_dir={tmp_path}/run"
    )
    assert process.returncode == 2
    assert "Traceback" not in process.stderr
    assert process.stderr.splitlines()[-1].startswith(
        "error: eps is in the units of the pixel range"
    )
    assert not (tmp_path / "run").exists()


def test_a_flag_without_effect_is_told(call, model, tmp_path, caplog):
    run = ["--dataset=digits", "--max_examples=9", "--attacks=fgsm", f"--run_dir={tmp_path}/r"]
    assert call("evaluate", f"--model={model}", *run)[0] == 0
    assert f"--run_dir={tmp_path}/r has no effect on this command" in caplog.text
    assert not (tmp_path / "r").exists()


def test_pictures_of_a_model_of_other_pixels_are_refused(call, model, tmp_path):
    """They were of nearly black images."""
    rt.save_model(
        rt.as_classifier(rt.load_model(str(model)), bounds=(0, 255)), tmp_path / "m.keras"
    )
    for kind in ("input_gradients", "channel_maps", "loss_landscape"):
        flags = [f"--kind={kind}", f"--models={tmp_path}/m.keras", f"--output={tmp_path}/x.png"]
        code, _, error = call("visualize", *flags, "--dataset=digits")
        assert code == 2 and "the model m takes images in (0.0, 255.0)" in error


def test_output_on_a_full_disk_is_a_line():
    code = f"""
import os, sys
from tf_robust_transfer import report
os.dup2(os.open("/dev/full", os.O_WRONLY), 1)
sys.stdout = open(1, "w", closefd=False)
report.main(["--runs={ROOT}/docs/results/records/quickstart", "--format=csv"])
"""
    process = fresh_process.run(code)
    assert process.returncode == 2 and "Traceback" not in process.stderr, process.stderr
    assert process.stderr.splitlines()[-1] == (
        "error: the output cannot be written: No space left on device"
    )


def test_a_reader_that_has_had_enough_ends_the_command_without_a_word(tmp_path):
    code = f"""
import os, sys
from tf_robust_transfer import report
read, write = os.pipe()
os.close(read)
os.dup2(write, 1)
sys.stdout = open(1, "w", closefd=False)
report.main(["--runs={ROOT}/docs/results/records/quickstart"])
"""
    process = fresh_process.run(code)
    assert process.returncode == 141 and "Error" not in process.stderr


def test_evaluate_writes_the_contracts_json(call, model, tmp_path):
    output = tmp_path / "results.json"
    code, out, _ = call(
        "evaluate",
        f"--model={model}",
        "--dataset=digits",
        "--attacks=fgsm,pgd20,pgd5x2",
        "--eps=8/255",
        "--max_examples=100",
        f"--output={output}",
    )
    assert code == 0
    result = json.loads(output.read_text())
    assert result["num_examples"] == 100 and result["split"] == "test"
    assert result["threat_model"]["eps"] == pytest.approx(0.031372549)
    assert set(result["accuracy"]) == {"clean", "fgsm", "pgd20", "pgd5x2"} == set(result["seconds"])
    for attack, accuracy in result["accuracy"].items():
        low, high = result["confidence_interval_95"][attack]
        assert 0 <= low <= accuracy <= high <= 1
        assert f"{100 * accuracy:.2f}%" in out


@pytest.mark.slow  # state_test.py, checkpoints_test.py and others look at each kind of path
def test_the_home_folder_is_written_as_a_tilde(call, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/a").mkdir(parents=True)
    images = keras.Input((8, 8, 1))
    model = keras.Model(images, keras.layers.Dense(10)(keras.layers.Flatten()(images)))
    rt.save_model(model, "~/runs/a/model.keras")
    few = ("--dataset=digits", "--max_examples=2", "--attacks=fgsm", "--eps=0.1,0.2")
    (tmp_path / "few.flags").write_text("\n".join(few))
    written = "--output=~/runs/a/results.json", "--save_adversarial=~/x.npy"
    assert call("evaluate", "--flagfile=~/few.flags", "--model=~/runs/a", *written)[0] == 0
    assert json.loads((tmp_path / "runs/a/results.json").read_text())["model"] == "~/runs/a"
    clean = data.load_data("digits", "test", max_examples=2).images / np.float32(255)
    challenge_files.read("~/x.npy", clean, rt.ThreatModel(eps=0.2))
    convert.main(["--model=~/runs/a", "--output=~/new/again.keras"])
    assert "2 images" in call("report", "--runs=~/runs")[1]
    drawn = "--kind=radii", "--results=~/runs/a", "--output=~/radii.png"
    assert call("visualize", *drawn)[0] == 0
    shown = "--models=~/runs/a", "--dataset=digits", "--num_images=1", "--output=~/gradients.png"
    assert call("visualize", *shown)[0] == 0
    # The state is gone, and nowhere is a folder "~".
    assert sorted(path.name for path in tmp_path.rglob("*")) == [
        *("a", "again.keras", "again.keras.json", "again.keras.md", "few.flags", "gradients.png"),
        *("model.keras", "new", "radii.png", "results.json", "runs", "x.npy"),
    ]


@pytest.mark.slow  # scripts/torture.sh --quick kills one too
def test_an_interrupted_evaluate_goes_on(call, model, tmp_path, monkeypatch):
    """Stopped in the last attack; what was done before stands in the state, which goes when the
    results are written.
    """
    output = tmp_path / "results.json"
    arguments = (
        f"--model={model}",
        "--dataset=digits",
        "--attacks=pgd20,autoattack:apgd-ce+square",
        "--eps=0.1",
        "--max_examples=60",
        f"--output={output}",
    )
    assert call("evaluate", *arguments)[0] == 0
    whole = json.loads(output.read_text())
    output.unlink()
    with monkeypatch.context() as patch:
        patch.setattr(
            rt.attacks.Square, "start", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        code, _, err = call("evaluate", *arguments)
    assert code == 130 and "start the same command again" in err and not output.exists()
    header = json.loads(str(np.load(f"{output}.state.npz")["header"]))
    code, out, _ = call("evaluate", *arguments)
    assert code == 0 and "after square" in out
    again = json.loads(output.read_text())
    assert (
        again["seconds"]["pgd20"] == header["values"]["finished"]["pgd20"]["seconds"]
    )  # it did not run again
    assert again["accuracy"] == whole["accuracy"] and again["components"] == whole["components"]
    assert not pathlib.Path(f"{output}.state.npz").exists()


def test_warnings_are_lines_in_the_terminal_and_in_the_results(call, tmp_path):
    images = keras.Input((8, 8, 1))
    flat = keras.layers.Flatten()(images)
    rt.save_model(
        keras.Model(images, keras.layers.Dense(10, activation="softmax")(flat)),
        tmp_path / "softmax.keras",
    )
    code, _, err = call(
        "evaluate",
        f"--model={tmp_path}/softmax.keras",
        "--dataset=digits",
        "--attacks=fgsm",
        "--max_examples=20",
        f"--output={tmp_path}/results.json",
    )
    assert code == 0
    (line,) = (line for line in err.splitlines() if line.startswith("warning:"))
    assert "returns probabilities" in line
    assert json.loads((tmp_path / "results.json").read_text())["warnings"] == [
        line.removeprefix("warning: ")
    ]


def test_robustbench_entries(call, model, tmp_path):
    (tmp_path / "mine").mkdir()
    arguments = (f"--model={model}", "--dataset=digits", "--eps=8/255", "--max_examples=40")
    call("evaluate", *arguments, "--attacks=fgsm", f"--output={tmp_path}/mine/results.json")
    code, _, err = call("report", f"--runs={tmp_path}", "--robustbench")
    assert code == 2 and "no results with autoattack" in err
    result = json.loads((tmp_path / "mine/results.json").read_text())
    result["accuracy"] |= {"clean": 0.95123, "autoattack": 0.5}
    (tmp_path / "mine/results.json").write_text(json.dumps(result))
    code, out, err = call("report", f"--runs={tmp_path}", "--robustbench")
    assert code == 0 and "RobustBench wants 10,000" in err
    # The keys of RobustBench's model_info/cifar10/Linf/Hendrycks2019Using.json, in its order.
    assert list(json.loads(out)["digits/Linf/mine.json"]) == [
        "link",
        "name",
        "authors",
        "additional_data",
        "number_forward_passes",
        "dataset",
        "venue",
        "architecture",
        "eps",
        "clean_acc",
        "reported",
        "autoattack_acc",
        "unreliable",
    ]
    entry = json.loads(out)["digits/Linf/mine.json"]
    assert (entry["eps"], entry["clean_acc"], entry["autoattack_acc"]) == (
        "8/255",
        "95.12",
        "50.00",
    )
    assert entry["unreliable"] is False
    # Seeds, and several files of a run, are entries of their own.
    for name in ("seed0/its/results.json", "seed1/its/results.json", "seed1/its/results_b.json"):
        path = tmp_path / "more" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result))
    code, out, _ = call("report", f"--runs={tmp_path}/more", "--robustbench")
    names = [key.rpartition("/")[2] for key in json.loads(out)]
    assert len(names) == 3 and names[0] == "seed0_its.json"


def test_robustbench_entries_of_each_radius(call, model, tmp_path):
    """The last one stood for all."""
    (tmp_path / "mine").mkdir()
    call(
        "evaluate",
        f"--model={model}",
        "--dataset=digits",
        "--eps=4/255,8/255",
        "--max_examples=40",
        "--attacks=fgsm",
        f"--output={tmp_path}/mine/results.json",
    )
    path = tmp_path / "mine" / "results.json"
    result = json.loads(path.read_text())
    for figures in (result, *result["radii"]):
        figures["accuracy"]["autoattack"] = 0.5
    path.write_text(json.dumps(result))
    code, out, _ = call("report", f"--runs={tmp_path}", "--robustbench")
    assert code == 0
    assert {name: entry["eps"] for name, entry in json.loads(out).items()} == {
        "digits/Linf/mine_eps0.01569.json": "4/255",
        "digits/Linf/mine_eps0.03137.json": "8/255",
    }


def test_saved_adversarial_examples_are_read_back_and_fool_as_much(call, model, tmp_path):
    saved = tmp_path / "adversarial.npy"
    shared = (
        f"--model={model}",
        "--dataset=digits",
        "--eps=0.1",
        "--max_examples=100",
        "--attacks=fgsm",
    )
    code, out, _ = call("evaluate", *shared, f"--save_adversarial={saved}")
    assert code == 0
    examples = np.load(saved)
    assert examples.shape == (100, 64) and examples.dtype == np.float32, (
        "MadryLab's form for grey images"
    )
    accuracy = next(line.split()[1] for line in out.splitlines() if line.startswith("fgsm"))
    code, again, _ = call("evaluate", *shared, f"--adversarial_examples={saved}")
    assert code == 0
    assert again.split()[1] == accuracy
    np.save(saved, examples + np.float32(0.05) * (examples < 0.5))
    code, _, err = call("evaluate", *shared, f"--adversarial_examples={saved}")
    assert code == 2 and "from its image in linf, allowed is eps 0.1" in err


def test_visualize_writes_a_png(call, model, tmp_path, monkeypatch):
    titles, draw = [], visualize.plot_input_gradients
    monkeypatch.setattr(
        visualize,
        "plot_input_gradients",
        lambda models, *given: (titles.extend(models), draw(models, *given)),
    )
    for name in ("noise_0.4", "noise_0.6"):
        (tmp_path / name).mkdir()
        shutil.copy(model, tmp_path / name / "model.keras")
    specs = [model, model, tmp_path / "noise_0.4", tmp_path / "noise_0.6" / "model.keras"]
    code, _, err = call(
        "visualize",
        "--kind=input_gradients",
        f"--models={','.join(map(str, specs))}",
        "--dataset=digits",
        "--num_images=2",
        f"--output={tmp_path}/gradients.png",
    )
    assert code == 0, err
    assert (tmp_path / "gradients.png").read_bytes().startswith(b"\x89PNG")
    assert titles == ["natural", "noise_0.4", "noise_0.6"]  # a model that is given twice once


def test_report_prints_a_row_for_each_run(call, model, tmp_path):
    for name, eps in (("a", "0.1"), ("b", "0.1"), ("c", "0.2")):
        (tmp_path / name).mkdir()
        call(
            "evaluate",
            f"--model={model}",
            "--dataset=digits",
            "--attacks=fgsm",
            f"--eps={eps}",
            "--max_examples=50",
            f"--output={tmp_path}/{name}/results.json",
        )
    code, out, _ = call("report", f"--runs={tmp_path}")
    assert code == 0
    assert out.count("digits test, images of 8x8, linf eps 0.1, 50 images;") == 1, (
        "runs of one threat model share a table"
    )
    assert out.count("digits test, images of 8x8, linf eps 0.2, 50 images;") == 1
    stored = json.loads((tmp_path / "a" / "results.json").read_text())
    assert f"{100 * stored['accuracy']['fgsm']:.1f} [" in out
    assert stored["image_shape"] == [8, 8, 1] and stored["precision"] == "float32"
    code, out, _ = call("report", f"--runs={tmp_path}", "--format=json")
    assert code == 0 and {figure["device"] for figure in json.loads(out)} == {stored["device"]}


@pytest.mark.parametrize(
    ("command", "arguments", "says"),
    [
        ("evaluate", ["--model=/nowhere.keras"], "no model at '/nowhere.keras'"),
        ("evaluate", [], "no model given"),
        ("evaluate", [f"--model=madry_mnist:{'x' * 300}"], "xxx': File name too long"),
        ("evaluate", ["--model=madry_mnist:/"], "no checkpoint in the folder '/'"),
        ("evaluate", ["--model={model}/below.keras"], "no model at"),
        ("train", [f"--flagfile={'x' * 300}"], "File name too long"),
        ("train", [f"--run_dir={'x' * 300}"], "File name too long"),
        (
            "evaluate",
            ["--model={model}", "--dataset=digits", "--attacks=autoatack"],
            "unknown attack 'autoatack'",
        ),
        (
            "evaluate",
            ["--model={model}", "--dataset=digits", "--image_size=9x9"],
            "images must have shape",
        ),
        (
            "evaluate",
            ["--model={model}", "--dataset=digits", "--split=tset"],
            "unknown split 'tset'",
        ),
        (
            "evaluate",
            ["--model={model}", "--output=/nowhere/x.json"],
            "cannot write '/nowhere/x.json'",
        ),
        ("evaluate", ["--model={model}", "--dataset=folder:{tmp}/empty"], "empty"),
        ("evaluate", ["--model={corrupt}"], "is no .keras or .h5 file: it is damaged"),
        ("evaluate", ["--model={truncated}"], "is no .keras or .h5 file: it is damaged"),
        ("evaluate", ["--model={scrambled}"], "cannot be loaded"),
        (
            "visualize",
            ["--kind=gradients"],
            "unknown --kind 'gradients'; nearest valid names: input_gradients",
        ),
        ("visualize", [], "and --models=A,B"),
        ("report", ["--runs={tmp}"], "no results*.json in"),
        ("report", ["--table=igam_table1", "--format=csv"], "--format=csv is of the table of runs"),
        (
            "visualize",
            ["--kind=loss_landscape", "--models={model}", "--output={tmp}/landscape"],
            "end the name in .png, .pdf or .svg",
        ),
        ("train", ["--epoch=3"], "unknown flag --epoch; nearest valid names: epochs"),
        ("quickstart", ["--sed=3"], "unknown flag --sed; nearest valid names: seed"),
    ],
)
def test_bad_input_gives_one_line_and_exit_code_2(call, model, tmp_path, command, arguments, says):
    (tmp_path / "empty").mkdir()
    whole = model.read_bytes()
    files = {name: tmp_path / f"{name}.keras" for name in ("corrupt", "truncated", "scrambled")}
    files["corrupt"].write_bytes(b"no archive")
    files["truncated"].write_bytes(whole[: len(whole) // 2])
    middle = len(whole) // 2
    scrambled = bytes(byte ^ 255 for byte in whole[middle : middle + 2000])
    files["scrambled"].write_bytes(whole[:middle] + scrambled + whole[middle + 2000 :])
    before = sorted(os.listdir(tmp_path))
    values = {"model": model, "tmp": tmp_path, **files}
    code, out, err = call(command, *(argument.format(**values) for argument in arguments))
    assert code == 2
    lines = [line for line in err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1 and says in lines[0], err
    assert not out
    assert sorted(os.listdir(tmp_path)) == before, "nothing is written for bad input"


def test_the_public_names_of_the_contract():
    for name in (
        "build_model",
        "load_model",
        "endpoints",
        "ThreatModel",
        "evaluate_robustness",
        "IGAM",
        "MixACM",
        "Natural",
        "AdversarialTraining",
        "FineTune",
    ):
        assert callable(getattr(rt, name))
    assert callable(rt.attacks.PGD) and callable(rt.attacks.FGSM)
