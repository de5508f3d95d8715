"""Runs and the device: XLA, determinism, what the host reads, what the user is told."""

import inspect
import json
import logging
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework import ops

import tf_robust_transfer as rt
from tests import fresh_process
from tf_robust_transfer.command import run_command
from tf_robust_transfer.command_line import parse
from tf_robust_transfer.config import SharedConfig, TrainConfig
from tf_robust_transfer.runs import callbacks, device, host, run_training, trainer, watching
from tf_robust_transfer.runs.folder import RunFolder
from tf_robust_transfer.runs.method import compiled_method

TINY = (
    "--dataset=digits",
    "--batch_size=16",
    "--train_fraction=0.2",
    "--train_steps=12",
    "--model_options=width=1",
    "--attacks=clean",
    "--max_examples=20",
    "--watch_examples=0",
    "--learning_rate=0.01",
    "--jit=on",
    "--deterministic=on",
)


def igam_arguments(folder):
    # Four steps without its terms; then the discriminator learns in every third step.
    return [
        *TINY,
        "--method=igam",
        f"--teacher={folder.parent}/teacher.keras",
        "--warm_start_epochs=4/17",
        "--discriminator_every=3",
        "--discriminator_channels=2",
        "--noise=0.1",
        f"--run_dir={folder}",
    ]


@pytest.fixture
def teacher(tmp_path):
    rt.save_model(rt.build_model("small_cnn", (8, 8, 1), 10, width=1), tmp_path / "teacher.keras")


def steps_of(function):
    """The tf.functions that Keras made of steps: name of what they are in -> tf.function."""
    found = inspect.getclosurevars(function).nonlocals
    return found["multi_step_on_iterator"]


def compiled_by_xla(step) -> bool:
    """Whether a step's only trace calls a function that XLA must compile."""
    (concrete,) = step._list_all_concrete_functions()
    library = concrete.graph.as_graph_def().library.function
    return any(function.attr["_XlaMustCompile"].b for function in library)


def trained(monkeypatch, arguments):
    """Runs `train`; returns its method."""
    made = []
    monkeypatch.setattr(
        trainer,
        "compiled_method",
        lambda *a, **k: made.append(compiled_method(*a, **k)) or made[-1],
    )
    run_training(parse(TrainConfig, arguments))
    return made[-1]


@pytest.mark.slow
def test_train_compiles_each_of_igams_three_steps_once(teacher, tmp_path, monkeypatch):
    method = trained(monkeypatch, igam_arguments(tmp_path / "run"))
    assert method.jit_compile is True
    kinds = inspect.getclosurevars(method.train_function).nonlocals["functions"]
    # (matching, the discriminator learns too)
    assert set(kinds) == {(False, False), (True, False), (True, True)}
    for kind, function in kinds.items():
        step = steps_of(function)
        assert step.experimental_get_tracing_count() == 1, f"{kind} was traced again"
        assert compiled_by_xla(step), f"{kind} is not compiled by XLA"
    training = json.loads((tmp_path / "run" / "results.json").read_text())["training"]
    assert training["jit"] is training["deterministic"] is True
    assert training["precision"] == "float32" and training["device"].startswith("CPU")


_KILLED = """
import os, signal, sys
from tf_robust_transfer.command_line import parse
from tf_robust_transfer.config import TrainConfig
from tf_robust_transfer.runs import callbacks, run_training

def die(self, batch, logs=None, count=[0]):
    count[0] += 1
    if count[0] == 7:
        os.kill(os.getpid(), signal.SIGKILL)

callbacks.Progress.on_train_batch_end = die
run_training(parse(TrainConfig, sys.argv[1:]))
"""


@pytest.mark.slow
def test_under_xla_a_killed_run_ends_with_the_same_weights_bit_for_bit(teacher, tmp_path):
    run_training(parse(TrainConfig, igam_arguments(tmp_path / "alone")))
    often = [*igam_arguments(tmp_path / "killed"), "--checkpoint_minutes=0.00001"]
    process = fresh_process.run(_KILLED, *often)
    assert process.returncode == -signal.SIGKILL, process.stderr[-2000:]
    run_training(parse(TrainConfig, often))
    alone, killed = (
        rt.load_model(str(tmp_path / name)).get_weights() for name in ("alone", "killed")
    )
    for one, other in zip(alone, killed, strict=True):
        np.testing.assert_array_equal(one, other)


class Uncompiled(keras.layers.Layer):
    def __init__(self):
        super().__init__(name="uncompiled")
        self.supports_jit = False

    def call(self, x):
        return x


def test_xla_that_cannot_be_had_is_an_error_where_it_was_asked_for(recwarn):
    inputs = keras.Input((4, 4, 1))
    logits = keras.layers.Dense(3)(keras.layers.Flatten()(Uncompiled()(inputs)))
    method = rt.Natural(student=keras.Model(inputs, logits))
    method.compile("sgd")
    assert method.jit_compile is False
    with pytest.raises(rt.InputError, match="XLA cannot compile the layers uncompiled"):
        method.compile("sgd", jit_compile=True)
    assert not [w for w in recwarn if "jit" in str(w.message)]


@pytest.fixture
def one_gpu(monkeypatch):
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: ["GPU:0"])


def choices(*arguments):
    config = device.resolved(parse(TrainConfig, arguments))
    return config.jit, config.deterministic, config.mixed_precision


def test_auto_on_a_cpu():
    assert choices() == ("off", "on", "none")
    assert choices("--jit=on", "--deterministic=off", "--mixed_precision=bfloat16") == (
        "on",
        "off",
        "bfloat16",
    )


def test_auto_on_a_gpu(one_gpu):
    assert choices("--mixed_precision=auto") == ("on", "off", "none")
    assert choices("--distribution_strategy=mirrored")[0] == "off"
    assert choices("--jit=off", "--deterministic=on") == ("off", "on", "none")


def test_a_resume_that_resolves_otherwise_is_refused(tmp_path, one_gpu, monkeypatch):
    arguments = [f"--run_dir={tmp_path}/run"]
    folder = RunFolder(device.resolved(parse(TrainConfig, arguments)))
    assert {"--jit=on", "--deterministic=off"} < set(folder.flags.read_text().split())
    folder.checkpoints.mkdir()
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: [])
    on_a_cpu = device.resolved(parse(TrainConfig, arguments))
    with pytest.raises(rt.InputError, match="was made with --jit=on, not --jit=off"):
        RunFolder(on_a_cpu)
    folder.model.touch()
    folder.results.touch()
    assert RunFolder(on_a_cpu).finished, "what a GPU trained serves on a CPU"


def test_a_teachers_run_inherits_both(tmp_path):
    from tf_robust_transfer.runs.teachers import teacher_flags

    (tmp_path / "t.flags").write_text("--deterministic=off\n")
    config = parse(TrainConfig, ["--jit=on", "--deterministic=on", f"--run_dir={tmp_path}/s"])
    found = teacher_flags(config, f"{tmp_path}/t.flags")
    assert (found.jit, found.deterministic) == ("on", "off")


def test_the_host_reads_nothing_of_a_step(tmp_path, monkeypatch):
    """But Keras's own question whether the data has ended, which is answered on the host."""
    reads, seen = [0], []
    read = ops._EagerTensorBase._numpy

    def counting(tensor):
        reads[0] += 1
        return read(tensor)

    # The first of the callbacks after a step, and the last before the next.
    monkeypatch.setattr(watching.StopOnNonFinite, "SECONDS", 1e9)
    ends = callbacks.Checkpoint.on_train_batch_end
    monkeypatch.setattr(
        callbacks.Checkpoint,
        "on_train_batch_end",
        lambda self, *rest: (ends(self, *rest), seen.append(reads[0])),
    )
    monkeypatch.setattr(ops._EagerTensorBase, "_numpy", counting)
    arguments = [*TINY, "--jit=off", "--method=trades", f"--run_dir={tmp_path}/run"]
    run_training(parse(TrainConfig, arguments))
    assert len(seen) == 12
    # Step 1 and 10 are looked at for weights that are thrown out.
    assert max(np.diff(seen)[1:8]) <= 1, np.diff(seen)


def test_a_loss_that_is_not_finite_is_named_whenever_it_is_asked_for(monkeypatch):
    """The images of step 3 of 6 give an infinite loss; asked at the end of the epoch."""
    student = rt.build_model("small_cnn", (8, 8, 1), 3, width=1)
    method = rt.TRADES(student=student, threat_model=rt.ThreatModel(eps=0.1))
    method.compile(keras.optimizers.SGD(0.0))
    images = np.random.default_rng(0).random((24, 8, 8, 1)).astype(np.float32)
    labels = np.arange(24) % 3
    poison = keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda batch, logs=None: student.trainable_variables[-1].assign(
            [np.inf if batch == 2 else 0.0, 0.0, 0.0]
        )
    )
    with pytest.raises(rt.InputError, match="the loss is not finite at step 3: cross_entropy"):
        method.fit(images, labels, batch_size=4, shuffle=False, verbose=0, callbacks=[poison])
    assert method.steps_done == 6


def test_watching_takes_a_tenth_of_a_long_run(monkeypatch):
    """Epochs of 100 seconds, after each of which 30 would be spent."""
    now = [0.0]
    monkeypatch.setattr(host.time, "monotonic", lambda: now[0])
    watched = []

    class Watching(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            watched.append(epoch)
            now[0] += 30

    callback, allowance = Watching(), host.Allowance()
    allowance.limit(callback)
    for epoch in range(100):
        now[0] += 100
        callback.on_epoch_end(epoch, {})
    assert watched[:2] == [0, 1], "a first minute is free"
    assert 0.08 <= 30 * len(watched) / now[0] <= 0.1


def test_out_of_memory_is_one_line(capsys):
    def run(config):
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating")

    with pytest.raises(SystemExit) as ended:
        run_command(run, SharedConfig, ["--batch_size=128"])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said == "error: out of memory at --batch_size=128: give a smaller --batch_size=64\n"

    def full(config):
        raise tf.errors.ResourceExhaustedError(None, None, "run/x; No space left on device")

    with pytest.raises(tf.errors.ResourceExhaustedError):
        run_command(full, SharedConfig, [])


def test_a_gpu_that_tensorflow_does_not_see_is_told(monkeypatch, caplog):
    monkeypatch.setattr(device.startup, "has_nvidia_driver", lambda: True)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with caplog.at_level(logging.WARNING, "tf_robust_transfer"):
        device.prepare()
    assert "TensorFlow finds no GPU" in caplog.text
    caplog.clear()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")  # hidden on purpose
    device.prepare()
    assert not caplog.text


def test_a_gpus_memory_grows_and_what_xla_compiles_is_kept(tmp_path, one_gpu, monkeypatch):
    grown = []
    monkeypatch.setattr(tf.config.experimental, "set_memory_growth", lambda *a: grown.append(a))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("TF_XLA_FLAGS", "--tf_xla_max_cluster_size=9")
    device.prepare()
    assert grown == [("GPU:0", True)]
    folder = tmp_path / "tf_robust_transfer" / f"xla-{tf.__version__}"
    assert folder.is_dir()
    flags = device.os.environ["TF_XLA_FLAGS"]
    assert flags.startswith("--tf_xla_max_cluster_size=9 ") and f"directory={folder} " in flags
    device.prepare()
    assert device.os.environ["TF_XLA_FLAGS"] == flags


@pytest.mark.gpu
def test_train_on_a_gpu_runs_there_and_under_xla(tmp_path, monkeypatch):
    arguments = [argument for argument in TINY if not argument.startswith(("--jit", "--det"))]
    method = trained(monkeypatch, [*arguments, f"--run_dir={tmp_path}/run"])
    assert method.jit_compile is True and compiled_by_xla(steps_of(method.train_function))
    training = json.loads((tmp_path / "run" / "results.json").read_text())["training"]
    assert not training["device"].startswith("CPU") and training["jit"] is True


_TWO_OF_ONE_GPU = """
import sys
import tensorflow as tf

gpu = tf.config.list_physical_devices("GPU")[0]
halves = [tf.config.LogicalDeviceConfiguration(memory_limit=4096)] * 2
tf.config.set_logical_device_configuration(gpu, halves)
from tf_robust_transfer.command_line import parse
from tf_robust_transfer.config import TrainConfig
from tf_robust_transfer.runs import run_training
from tf_robust_transfer.runs.strategy import distribution_strategy

assert distribution_strategy("mirrored").num_replicas_in_sync == 2
run_training(parse(TrainConfig, [*sys.argv[1:], "--distribution_strategy=mirrored"]))
"""


@pytest.mark.gpu
def test_two_virtual_devices_of_one_gpu_give_the_weights_of_one(tmp_path):
    arguments = [*TINY, "--jit=off"]
    run_training(parse(TrainConfig, [*arguments, f"--run_dir={tmp_path}/one"]))
    command = [sys.executable, "-c", _TWO_OF_ONE_GPU, *arguments, f"--run_dir={tmp_path}/two"]
    subprocess.run(command, check=True)
    one, two = (rt.load_model(str(tmp_path / name)).get_weights() for name in ("one", "two"))
    for first, second in zip(one, two, strict=True):
        np.testing.assert_allclose(first, second, atol=1e-4)
