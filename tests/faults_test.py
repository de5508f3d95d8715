"""Faults of use, one of each kind that is cheap; scripts/torture.sh makes them by the hundred."""

import json
import logging
import os
import pathlib
import random
import shutil
import subprocess
import sys
import threading
import time
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_robust_transfer as rt
from scripts.torture import damages
from tf_robust_transfer import command_line, evaluate, train
from tf_robust_transfer.checkpoints.torch_files import read_state_dict
from tf_robust_transfer.config import TrainConfig
from tf_robust_transfer.errors import InputError, nearest
from tf_robust_transfer.evaluation.state import State
from tf_robust_transfer.files import locked, replacing, write_text
from tf_robust_transfer.runs import checkpoints
from tf_robust_transfer.runs.events import Events
from tf_robust_transfer.runs.folder import RunFolder, held, read_flags, read_results

# Holds the lock of a file as another process of ours would, until its stdin is closed.
HOLDER = """
import fcntl, sys
file = open(sys.argv[1], "ab")
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


class Holder:
    def __init__(self, path):
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout.readline() == "held\n"

    def kill(self):
        self.process.kill()
        self.process.wait()


# --- files


def test_what_a_killed_writer_left_is_removed_and_a_living_ones_is_kept(tmp_path):
    left, living, other = (tmp_path / name for name in (".a.1.json", ".a.2.json", ".b.1.json"))
    for path in (left, other):
        path.write_text("half")
    holder = Holder(living)
    write_text(tmp_path / "a.json", "whole")
    assert {path.name for path in tmp_path.iterdir()} == {"a.json", living.name, other.name}
    holder.kill()
    write_text(tmp_path / "a.json", "whole")
    assert {path.name for path in tmp_path.iterdir()} == {"a.json", other.name}


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    calls = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(
            os, name, lambda *a, name=name, real=real: (calls.append(name), real(*a))[1]
        )
    write_text(tmp_path / "a.txt", "whole")
    assert calls == ["fsync", "replace", "fsync"]


@pytest.mark.parametrize("folder", ["nowhere", "a file"])
def test_what_cannot_be_written_is_an_input_error(tmp_path, folder):
    (tmp_path / "a file").touch()
    with pytest.raises(InputError, match="^cannot write .*: (No such file|Not a directory)"):
        write_text(tmp_path / folder / "a.txt", "text")


def test_an_error_inside_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(InputError, match="No space left"), replacing(path) as temporary:
        temporary.write_text("half")
        raise OSError(28, "No space left on device")
    assert [*tmp_path.iterdir()] == [path] and path.read_text() == "old"


# --- locks


def test_a_run_folder_that_another_process_trains_in_is_refused_at_once(tmp_path):
    holder = Holder(tmp_path / ".lock")
    start = time.monotonic()
    with pytest.raises(InputError, match="another process is training in the run folder"):
        with held(tmp_path, wait=False):
            pytest.fail("it was not held")
    assert time.monotonic() - start < 2
    holder.kill()
    with held(tmp_path, wait=False):  # the kernel has dropped a killed process's lock
        with held(tmp_path, wait=True):  # a teacher of the same folder: no other process
            assert (tmp_path / ".lock").exists()
    assert not [*tmp_path.iterdir()]


def test_a_teacher_in_training_is_waited_for_with_a_line(tmp_path, caplog):
    holder = Holder(tmp_path / ".lock")
    threading.Timer(0.3, holder.kill).start()
    start = time.monotonic()
    with caplog.at_level(logging.INFO, "tf_robust_transfer"), held(tmp_path, wait=True):
        assert time.monotonic() - start > 0.2
    assert [record.getMessage() for record in caplog.records] == [
        f"waiting for {tmp_path}, which another process is training"
    ]


def test_without_a_folder_to_write_there_is_no_lock(tmp_path):
    with locked(tmp_path / "nowhere", lambda: pytest.fail("taken")):
        pass


# --- a run's checkpoints


def two_checkpoints(folder):
    """A variable, its checkpoint and a manager that has saved it as 1 and as 2."""
    variable = tf.Variable(1.0)
    checkpoint = tf.train.Checkpoint(variable=variable)
    manager = tf.train.CheckpointManager(checkpoint, str(folder), max_to_keep=2)
    for step in (1, 2):
        variable.assign(step)
        checkpoints.save(manager, step)
    return variable, checkpoint, manager


def test_a_damaged_checkpoint_gives_way_to_the_one_before_and_remains_are_removed(tmp_path, caplog):
    variable, checkpoint, manager = two_checkpoints(tmp_path)
    (tmp_path / "ckpt-3_temp").mkdir()
    (tmp_path / "epoch3.pt").touch()  # the user's
    (tmp_path / "ckpt-3.data-00000-of-00001").touch()
    (tmp_path / "ckpt-2.data-00000-of-00001").write_bytes(b"")
    variable.assign(0)
    checkpoints.restore(checkpoint, manager)
    assert variable.numpy() == 1 and "ckpt-2 cannot be read" in caplog.text
    assert not [*tmp_path.glob("ckpt-3*")] and (tmp_path / "epoch3.pt").exists()
    (tmp_path / "ckpt-1.index").write_bytes(b"")
    with pytest.raises(InputError, match="no checkpoint in .* can be read"):
        checkpoints.restore(checkpoint, manager)


def test_a_model_that_no_run_made_is_not_overwritten(tmp_path):
    (tmp_path / "model.keras").write_text("mine")
    with pytest.raises(InputError, match="holds a model.keras and no flags of a run"):
        RunFolder(command_line.parse(TrainConfig, [f"--run_dir={tmp_path}"]), writes=True)
    assert [file.name for file in tmp_path.iterdir()] == ["model.keras"]


def test_checkpoints_of_a_later_clock_are_kept_and_restored(tmp_path, monkeypatch):
    variable, checkpoint, _ = two_checkpoints(tmp_path)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now - 3600)
    again = tf.train.CheckpointManager(checkpoint, str(tmp_path), max_to_keep=2)
    variable.assign(0)
    checkpoints.restore(checkpoint, again)
    assert variable.numpy() == 2
    variable.assign(3)
    checkpoints.save(again, 3)
    variable.assign(0)
    checkpoints.restore(
        checkpoint, tf.train.CheckpointManager(checkpoint, str(tmp_path), max_to_keep=2)
    )
    assert variable.numpy() == 3


def test_a_run_folder_that_tensorflow_takes_for_a_pattern(tmp_path):
    """It writes checkpoints there, and neither reads nor removes them."""
    path = tmp_path / "lr[0.1]"
    for ask in (
        lambda: held(path, wait=False).__enter__(),
        lambda: RunFolder(command_line.parse(TrainConfig, [f"--run_dir={path}"])),
    ):
        with pytest.raises(InputError, match=r"--run_dir: .* for a pattern, got '.*lr\[0.1\]'"):
            ask()
    assert not path.exists()


def test_events_that_cannot_be_written_are_one_line(tmp_path, monkeypatch):
    events = Events(tmp_path / "tensorboard", 0)
    error = tf.errors.ResourceExhaustedError(None, None, "No space left on device")

    def full(*_):
        raise error

    monkeypatch.setattr(events._writer, "flush", full)
    monkeypatch.setattr(events._writer, "close", full)
    with pytest.raises(InputError, match="cannot write TensorBoard's events in .*No space left"):
        events.flush()
    # What ended the training is the news.
    with pytest.raises(KeyError), events:
        raise KeyError
    with pytest.raises(InputError, match="cannot write TensorBoard's events"), events:
        pass


@pytest.mark.parametrize("flag", ["--run_dir={}", "--output={}.json"])
def test_nothing_is_written_to_an_address(flag, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command = train if "run_dir" in flag else evaluate
    (tmp_path / "there.keras").touch()
    further = [] if "run_dir" in flag else ["--model=there.keras"]
    with pytest.raises(SystemExit):
        command.main(["--dataset=digits", *further, flag.format("gs://bucket/run")])
    assert "is a path of this machine, got 'gs://bucket/run" in capsys.readouterr().err
    assert not (tmp_path / "gs:").exists()


def test_a_checkpoint_that_cannot_be_written_is_one_line(tmp_path):
    folder = tmp_path / "checkpoints"
    checkpoint = tf.train.Checkpoint(variable=tf.Variable(1.0))
    manager = tf.train.CheckpointManager(checkpoint, str(folder), max_to_keep=2)
    folder.touch()
    with pytest.raises(InputError, match="cannot write a checkpoint .*start the same") as caught:
        checkpoints.save(manager, 1)
    assert "\n" not in str(caught.value) and "{{" not in str(caught.value)


# --- damaged files


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    path = tmp_path_factory.mktemp("good") / "model.keras"
    rt.save_model(rt.build_model("small_cnn", (8, 8, 1), 3), path)
    return path


def named(damages_of, name):
    return next(damage for damage in damages_of if damage.__name__ == name)


@pytest.mark.parametrize("name, message", [
    ("further member ../../evil.py", "a member outside the archive"),
    ("two_configs", "4 members, of 3 names"),
    ("config nested deeply", "is damaged: RecursionError"),
    ("a class of another module", "holds the class Layer .canary_module., which is neither"),
    ("a function of os", "holds the class function .system., which is neither"),
])  # fmt: skip
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_keras_file_that_keras_did_not_write(good, tmp_path, name, message):
    path = tmp_path / "model.keras"
    shutil.copy(good, path)
    named(damages.KERAS, name)(path, random.Random(0))
    with pytest.raises(InputError, match=message):
        rt.load_model(str(path))


def test_what_grows_on_unpacking_is_not_unpacked(tmp_path):
    """A hundred megabytes of zeros in a hundred kilobytes, in each kind of zip file."""
    with zipfile.ZipFile(tmp_path / "a.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", bytes(10**8))
    shutil.copy(tmp_path / "a.keras", tmp_path / "a.npz")
    with pytest.raises(InputError, match="0.093 GiB, unpacked"):
        rt.load_model(str(tmp_path / "a.keras"))
    with pytest.raises(InputError, match="0.093 GiB, unpacked"):
        State(tmp_path / "a.npz", {})


def test_a_tensor_of_which_little_is_stored(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"conv1.weight": torch.zeros(1).expand(10**6, 10**6)}, tmp_path / "a.pt")
    with pytest.raises(InputError, match="of which not all are stored"):
        read_state_dict(str(tmp_path / "a.pt"))


@pytest.mark.parametrize("header", [
    [1], {"identity": [], "values": {}}, {"identity": {}, "values": 7},
    {"identity": {}, "values": {"finished": {"clean": {}}}},
    {"identity": {}, "values": {"finished": {"a": dict(seconds=1, components={}, warnings=[])}}},
])  # fmt: skip
def test_a_state_that_is_none(tmp_path, header):
    np.savez(tmp_path / "a.npz", header=np.array(json.dumps(header)))
    with pytest.raises(InputError, match="is no state of an evaluation"):
        State(tmp_path / "a.npz", {})


RESULT = {"dataset": "digits", "split": "test", "num_examples": 3, "accuracy": {"clean": 0.5},
          "threat_model": {"norm": "linf", "eps": 0.1}}  # fmt: skip


@pytest.mark.parametrize("change", [
    {"accuracy": [0.5]}, {"accuracy": {"clean": "half"}}, {"accuracy": {"clean": float("nan")}},
    {"accuracy": {"clean": 7}}, {"threat_model": "linf"}, {"threat_model": {"norm": "linf"}},
    {"num_examples": -1}, {"confidence_interval_95": {"clean": [0.1]}}, {"dataset": "\x1b[2J"},
])  # fmt: skip
def test_results_that_are_none(tmp_path, change):
    path = tmp_path / "results.json"
    path.write_text(json.dumps(RESULT))
    assert read_results(path) == RESULT
    path.write_text(json.dumps(RESULT | change))
    with pytest.raises(InputError, match="is no results file"):
        read_results(path)


def test_flags_that_are_no_text(tmp_path):
    (tmp_path / "flags.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="flags.txt' cannot be read"):
        read_flags(tmp_path)


def test_the_nearest_name_of_a_very_long_one_is_found_at_once():
    start = time.monotonic()
    nearest("x" * 5_000_000, ["digits", "mnist"])
    assert time.monotonic() - start < 1


# --- models


def test_a_classifier_around_a_saved_model_is_not_saved(tmp_path):
    network = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten(),
                                keras.layers.Dense(2)])  # fmt: skip
    network.export(tmp_path / "saved", verbose=False)
    wrapped = rt.as_classifier(tmp_path / "saved", input_shape=(4, 4, 1))
    with pytest.raises(InputError, match="around a SavedModel is not saved"):
        rt.save_model(wrapped, tmp_path / "a.keras")
    assert not (tmp_path / "a.keras").exists()


def test_a_network_that_casts_its_images_to_whole_numbers():
    """In [0, 1] they would be 0 or 1, and no gradient passes."""
    network = keras.Sequential([keras.Input((4, 4, 1), dtype="uint8"), keras.layers.Flatten(),
                                keras.layers.Dense(2)])  # fmt: skip
    images, labels = np.full((2, 4, 4, 1), 0.5, np.float32), np.array([0, 1])
    for use in (
        lambda: rt.as_classifier(network, bounds=(0, 255)),
        lambda: rt.evaluate_robustness(network, images, labels, threat_model=rt.ThreatModel()),
    ):
        with pytest.raises(InputError, match="casts its images to uint8"):
            use()


def test_bounds_of_a_classifier_and_of_the_threat_model_that_contradict():
    network = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten(),
                                keras.layers.Dense(2)])  # fmt: skip
    model = rt.as_classifier(network, bounds=(0, 255))
    images, labels = np.full((2, 4, 4, 1), 100.0, np.float32), np.array([0, 1])
    with pytest.raises(InputError, match="takes images in .0.0, 255.0., .* bounds .0.0, 1.0."):
        rt.evaluate_robustness(
            model, images, labels, threat_model=rt.ThreatModel(eps=0.1), attacks=()
        )
    rt.evaluate_robustness(
        model, images, labels, threat_model=rt.ThreatModel(eps=1, bounds=(0, 255)), attacks=()
    )


def test_a_spec_wherever_a_model_is(good, tmp_path):
    from tf_robust_transfer.plots.channel_maps import plot_channel_maps
    from tf_robust_transfer.plots.input_gradients import plot_input_gradients
    from tf_robust_transfer.plots.loss_landscape import loss_landscapes

    images = np.random.default_rng(0).random((2, 8, 8, 1), np.float32)
    labels = np.array([0, 1])
    spec, model = str(good), rt.load_model(str(good))
    adapted = rt.adapters.adapt(spec, "resize:8x8", (4, 4, 1))
    assert adapted.input_shape == (None, 4, 4, 1)
    plot_input_gradients({"one": spec}, images, labels, tmp_path / "a.png")
    plot_channel_maps({"one": spec}, images, tmp_path / "b.png")
    assert {path.name for path in tmp_path.iterdir()} == {"a.png", "b.png"}
    one, other = (loss_landscapes(m, images[:1], labels[:1], extent=0.1, points=3)
                  for m in (spec, model))  # fmt: skip
    np.testing.assert_array_equal(one[0].cross_entropy, other[0].cross_entropy)


@pytest.mark.slow
def test_a_spec_in_theorem_41(good):
    from tf_robust_transfer.analysis import theorem41

    images = np.random.default_rng(0).random((2, 8, 8, 1), np.float32)
    spec, model = str(good), rt.load_model(str(good))
    pair = (images, np.array([0, 1])), (images, np.array([0, 1]))
    assert theorem41.measure(spec, spec, *pair, eps=0.1) == theorem41.measure(
        model, model, *pair, eps=0.1
    )


def test_the_curve_over_the_radii(tmp_path, monkeypatch):
    from tf_robust_transfer import visualize
    from tf_robust_transfer.reports import radii as reported

    names, plot = [], reported.plot_sweep

    def seen(outcomes, *arguments, **options):
        names.append({str(one.values["results"]) for one in outcomes})
        plot(outcomes, *arguments, **options)

    monkeypatch.setattr(reported, "plot_sweep", seen)

    at = {"confidence_interval_95": {"clean": [0.4, 0.6], "fgsm": [0.1, 0.6]}}
    radii = [at | {"eps": eps, "accuracy": {"clean": 0.5, "fgsm": 0.5 - eps}}
             for eps in (0.1, 0.2, 0.3)]  # fmt: skip
    for name in ("a", "b"):
        (tmp_path / f"{name}.json").write_text(json.dumps(RESULT | {"radii": radii}))
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "a.json").write_text((tmp_path / "a.json").read_text())
    both = f"{tmp_path}/a.json,{tmp_path}/c/a.json"
    for results in (f"{tmp_path}/a.json", both):
        picture = pathlib.Path(tmp_path / "curve.png")
        visualize.main(["--kind=radii", f"--results={results}", f"--output={picture}"])
        assert picture.stat().st_size > 5000
    assert names == [{"a"}, {f"{tmp_path.name}/a", "c/a"}]  # two networks are no line of one
    (tmp_path / "one.json").write_text(json.dumps(RESULT))
    with pytest.raises(SystemExit) as stop:
        visualize.main(["--kind=radii", f"--results={tmp_path}/one.json", f"--output={picture}"])
    assert stop.value.code == 2
