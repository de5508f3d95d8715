"""Several processes that train one model, on loopback: against two devices of one process, against
one device, and against themselves after a signal.

    pytest tests/several_workers_test.py -m "slow or not slow"

Weights are compared by position: names repeat from run to run of one process."""

import concurrent.futures
import inspect
import json
import re
import signal
import socket

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.src.backend.tensorflow.trainer import TensorFlowTrainer

import tf_robust_transfer as rt
from tests import fresh_process
from tests.portability_test import logits_under
from tests.streaming_test import write_set
from tf_robust_transfer.errors import InputError
from tf_robust_transfer.ops import workers
from tf_robust_transfer.runs.strategy import cluster, host_names

SLOW = pytest.mark.slow
SHARED = (
    "--dataset=digits",
    "--batch_size=64",
    "--train_fraction=0.45",  # 9 batches an epoch
    "--model_options=batch_norm=True",
    # At 0.02 with momentum IGAM was 1e-3 apart: rounding that grows, we think.
    "--learning_rate=0.005",
    "--momentum=0",
    "--eps=0.1",
    "--attacks=fgsm",
    "--max_examples=20",
    "--watch_examples=0",
)
TWENTY = ("--train_steps=20", *SHARED)
_WORKER = """
import os, sys

os.environ["TF_CONFIG"] = sys.argv.pop(1)
exec(sys.argv.pop(1))
from tf_robust_transfer.train import main

main(sys.argv[1:])
"""
_MIRRORED = """
import sys
import tensorflow as tf

cpu = tf.config.list_physical_devices("CPU")[0]
devices = [tf.config.LogicalDeviceConfiguration()] * int(sys.argv.pop(1))
tf.config.set_logical_device_configuration(cpu, devices)
from tf_robust_transfer.runs.strategy import distribution_strategy
from tf_robust_transfer.train import main

assert distribution_strategy("mirrored").num_replicas_in_sync == len(devices)
main([*sys.argv[1:], "--distribution_strategy=mirrored"])
"""


def free_ports(count):
    sockets = [socket.create_server(("localhost", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def two_workers(*arguments, first=("", ""), hosts=("localhost", "localhost")):
    """What two workers did, each `subprocess.CompletedProcess`, of `train` with the arguments.

    first: (of the chief, of the other): code that runs before `train` does, or a flag more.
    """
    names = [f"{host}:{port}" for host, port in zip(hosts, free_ports(2), strict=True)]

    def worker(index):
        task = {"type": "worker", "index": index}
        config = json.dumps({"cluster": {"worker": names}, "task": task})
        flag = [first[index]] if first[index].startswith("--") else []
        code = "" if flag else first[index]
        strategy = "--distribution_strategy=multi_worker_mirrored"
        return fresh_process.run(_WORKER, config, code, strategy, *arguments, *flag)

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        return list(pool.map(worker, range(2)))


def weights(folder):
    return rt.load_model(str(folder)).get_weights()


def apart(one, other):
    """The largest difference of two runs' students, which are not the same as at the start."""
    return max(np.abs(a - b).max() for a, b in zip(weights(one), weights(other), strict=True))


def done(processes, code=0):
    for process in processes:
        assert process.returncode == code, process.stderr[-3000:]


SHORT = ("--train_steps=3", *SHARED)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """(run folder of two workers, what the chief did, what the other did)."""
    folder = tmp_path_factory.mktemp("runs") / "two"
    processes = two_workers(*SHORT, f"--run_dir={folder}")
    done(processes)
    return folder, *processes


def test_two_workers_train_as_one_process_and_the_chief_alone_writes(two, tmp_path):
    folder, chief, other = two
    assert "digits test" in chief.stdout and other.stdout == ""
    assert "epoch 1" in chief.stderr and "epoch" not in other.stderr
    done(
        [fresh_process.run_module("tf_robust_transfer.train", *SHORT, f"--run_dir={tmp_path}/one")]
    )
    assert apart(tmp_path / "one", folder) <= 1e-5


@SLOW
def test_what_was_trained_with_the_statistics_of_all_workers_loads_under_pytorch(two, tmp_path):
    """Keras's own synchronised batch norm is saved as such, which loads under TensorFlow alone."""
    (tmp_path / "model.keras").write_bytes((two[0] / "model.keras").read_bytes())
    images = np.random.default_rng(0).uniform(size=(5, 8, 8, 1)).astype(np.float32)
    np.save(tmp_path / "model.npy", images)
    model = rt.load_model(str(two[0]))
    assert any(isinstance(layer, keras.layers.BatchNormalization) for layer in model.layers)
    found = logits_under("torch", tmp_path, ["model"], tmp_path / "logits.npz")
    np.testing.assert_allclose(found["model"], model(images, training=False), rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "teacher"
    arguments = "--train_steps=60", *SHARED, "--learning_rate=0.1", f"--run_dir={folder}"
    done([fresh_process.run_module("tf_robust_transfer.train", *arguments)])
    return folder


IGAM = ("--method=igam", "--lambda_diff=1", "--discriminator_every=2", "--noise=0.05")
METHODS = {
    "adversarial_training": ("--method=adversarial_training", "--train_attack_steps=2"),
    "mixacm": ("--method=mixacm", "--blocks=block1,block2"),
    "igam": IGAM,
    "igam_without_game": (*IGAM, "--lambda_adv=0"),
    "igam_reference_code": (
        "--method=igam", "--preset=reference_code", "--lambda_diff=100", "--noise=0.05"),
}  # fmt: skip


@SLOW
@pytest.mark.parametrize("method", METHODS)
def test_twenty_steps_of_two_workers(method, teacher, tmp_path):
    arguments = [*TWENTY, *METHODS[method], "--augmentation=crop:1,flip"]
    arguments += [] if method == "adversarial_training" else [f"--teacher={teacher}"]
    done(two_workers(*arguments, f"--run_dir={tmp_path}/workers"))
    done([fresh_process.run(_MIRRORED, 2, *arguments, f"--run_dir={tmp_path}/devices")])
    done(
        [
            fresh_process.run_module(
                "tf_robust_transfer.train", *arguments, f"--run_dir={tmp_path}/one"
            )
        ]
    )
    assert apart(tmp_path / "workers", tmp_path / "devices") == 0
    assert apart(tmp_path / "workers", tmp_path / "one") <= 1e-5


# TensorFlow takes one CPU device of each worker.
_TWO_DEVICES = """
import tensorflow as tf
from tensorflow.python.distribute.collective_all_reduce_strategy import CollectiveAllReduceExtended

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
assert hasattr(CollectiveAllReduceExtended, "_initialize_local_devices"), "renamed by TensorFlow"
CollectiveAllReduceExtended._initialize_local_devices = lambda self, resolver, worker: (
    tuple(f"{worker}/device:CPU:{i}" for i in range(2)), "CPU")
from tf_robust_transfer.methods import Method

build = Method.compile


def compile(self, *arguments, **keywords):
    assert self.distribute_strategy.num_replicas_in_sync == 4
    build(self, *arguments, **keywords)


Method.compile = compile
"""


# The discriminator's leaky ReLU without its kink.
_SMOOTH = """
import keras

keras.layers.LeakyReLU.call = lambda self, x: 0.1 * x + 0.9 * keras.ops.softplus(x)
"""


@SLOW
@pytest.mark.parametrize(
    ("seed", "first"), [(1, ""), (0, _SMOOTH)], ids=["default_parts", "smooth_discriminator"]
)
def test_two_workers_of_two_devices_each(seed, first, teacher, tmp_path):
    """Rounding may put a unit of the discriminator on the other side of its kink: with seed 0 one
    step, the third, took the kernels 9e-5 apart, and 2e-7 after twenty steps without the kink.
    """
    arguments = [*TWENTY, *METHODS["igam"], f"--teacher={teacher}", f"--seed={seed}"]
    code = first + _TWO_DEVICES
    done(two_workers(*arguments, f"--run_dir={tmp_path}/workers", first=(code, code)))
    alone = first + "import sys\nfrom tf_robust_transfer.train import main\nmain(sys.argv[1:])"
    done([fresh_process.run(alone, *arguments, f"--run_dir={tmp_path}/one")])
    assert apart(tmp_path / "workers", tmp_path / "one") <= 1e-5


_SIGNAL = """
import os, signal
import keras
from tf_robust_transfer.runs import watching


def after_a_step(self, batch, logs=None):
    if self.model.steps_done == {}:
        os.kill(os.getpid(), signal.{})


watching.StopOnNonFinite.on_train_batch_end = after_a_step
"""
OFTEN = ("--checkpoint_minutes=0.00001",)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "uninterrupted"
    done(two_workers(*TWENTY, f"--run_dir={folder}"))
    return folder


@SLOW
@pytest.mark.parametrize("killed", [0, 1])
def test_after_kill_9_of_one_worker_the_other_ends_and_both_go_on(killed, uninterrupted, tmp_path):
    code = ["", ""]
    code[killed] = _SIGNAL.format(13, "SIGKILL")
    found = two_workers(*TWENTY, *OFTEN, f"--run_dir={tmp_path}/run", first=code)
    assert found[killed].returncode == -signal.SIGKILL
    assert found[1 - killed].returncode == 1, found[1 - killed].stderr[-3000:]
    assert "another worker is gone" in found[1 - killed].stderr
    assert not (tmp_path / "run/model.keras").exists()
    done(two_workers(*TWENTY, *OFTEN, f"--run_dir={tmp_path}/run"))
    assert apart(tmp_path / "run", uninterrupted) == 0


@SLOW
@pytest.mark.parametrize("asked", [0, 1])
def test_sigterm_to_one_worker_saves_and_ends_both(asked, uninterrupted, tmp_path):
    code = ["", ""]
    code[asked] = _SIGNAL.format(13, "SIGTERM")
    found = two_workers(*TWENTY, f"--run_dir={tmp_path}/run", first=code)
    done(found, code=143)
    steps = [re.search(r"terminated after step (\d+)", p.stderr)[1] for p in found]
    assert steps[0] == steps[1] and int(steps[0]) in (13, 14)
    if asked:
        done(two_workers(*TWENTY, f"--run_dir={tmp_path}/run"))
        assert apart(tmp_path / "run", uninterrupted) == 0
    else:  # gone on with by one
        again = *TWENTY, f"--run_dir={tmp_path}/run"
        done([fresh_process.run_module("tf_robust_transfer.train", *again)])
        assert apart(tmp_path / "run", uninterrupted) <= 1e-5


def test_sigterm_to_one_process_saves_and_ends_it(tmp_path):
    arguments = "--train_steps=20", *SHARED, f"--run_dir={tmp_path}/run"
    code = _SIGNAL.format(13, "SIGTERM") + "from tf_robust_transfer.train import main\nmain()"
    found = fresh_process.run(code, *arguments)
    assert found.returncode == 143, found.stderr[-3000:]
    assert "terminated after step 13" in found.stderr
    checkpoint = (tmp_path / "run/checkpoints/checkpoint").read_text()
    assert 'model_checkpoint_path: "ckpt-13"' in checkpoint


@SLOW
def test_streamed_files_are_shared_out_and_gone_on_with_by_as_many_workers(tmp_path):
    data = write_set(tmp_path / "tfds", num_classes=5)
    arguments = ["--dataset=imagenet2012", f"--data_dir={data}", "--image_size=8x8",
                 "--batch_size=4", "--train_steps=8", "--max_examples=6", "--attacks=fgsm",
                 "--watch_examples=0", "--model_options=batch_norm=True"]  # fmt: skip
    done(two_workers(*arguments, f"--run_dir={tmp_path}/whole"))
    code = _SIGNAL.format(3, "SIGTERM")
    done(two_workers(*arguments, f"--run_dir={tmp_path}/run", first=(code, "")), code=143)
    alone = *arguments, f"--run_dir={tmp_path}/run"
    refused = fresh_process.run_module("tf_robust_transfer.train", *alone)
    done([refused], code=2)
    assert "was begun by 2 workers" in refused.stderr
    done(two_workers(*arguments, f"--run_dir={tmp_path}/run"))
    assert apart(tmp_path / "run", tmp_path / "whole") == 0


@SLOW
@pytest.mark.parametrize(
    "flag, line",
    [
        ("--seed=1", "worker 1 has other flags or versions than the chief: --seed=1, not 0"),
        ("--seed=none", "--seed"),
        ("--data_dir=/no/such", "/no/such"),
        ("--batch_size=63", "--batch_size=63, not 64"),
    ],
)
def test_other_flags_or_bad_input_on_one_worker_ends_both_with_its_line(flag, line, tmp_path):
    found = two_workers(*TWENTY, f"--run_dir={tmp_path}/run", first=("", flag))
    done(found, code=2)
    for process in found:
        assert re.search("^error: .*" + re.escape(line), process.stderr, re.MULTILINE)


@SLOW
def test_a_batch_that_cannot_be_shared_out_is_refused(tmp_path):
    found = two_workers(*TWENTY, "--batch_size=63", f"--run_dir={tmp_path}/run")
    done(found, code=2)
    assert "a batch of 63 cannot be shared out evenly among 2 devices" in found[1].stderr


_FITTED = """
import json, os, sys

os.environ["TF_CONFIG"] = sys.argv[1]
import numpy as np, tensorflow as tf

strategy = tf.distribute.MultiWorkerMirroredStrategy()
import keras
import tf_robust_transfer as rt

rng = np.random.default_rng(0)
images, labels = rng.uniform(size=(24, 4, 4, 1)).astype(np.float32), np.arange(24) % 3
batches = tf.data.Dataset.from_tensor_slices((images, labels)).batch(8, drop_remainder=True)
with strategy.scope():
    keras.utils.set_random_seed(0)
    method = rt.Natural(student=rt.build_model("small_cnn", (4, 4, 1), 3))
    method.compile("sgd")
fitted = method.fit(batches, validation_data=batches, epochs=2, verbose=0)
found = method.evaluate(batches, verbose=0, return_dict=True)
alone = method.student(images).numpy()
print(json.dumps([found, fitted.history["val_loss"], float(np.mean(alone.argmax(1) == labels))]))
"""


@SLOW
def test_held_out_data_and_evaluate_in_python():
    """Keras's own test function reduces each entry of the logs over an axis that it has not."""
    names = [f"localhost:{port}" for port in free_ports(2)]

    def worker(index):
        config = {"cluster": {"worker": names}, "task": {"type": "worker", "index": index}}
        return fresh_process.run(_FITTED, json.dumps(config))

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        processes = list(pool.map(worker, range(2)))
    done(processes)
    for process in processes:
        found, held_out, accuracy = json.loads(process.stdout.splitlines()[-1])
        assert found["accuracy"] == pytest.approx(accuracy)
        assert found["loss"] == pytest.approx(held_out[-1], rel=1e-5) and len(held_out) == 2


@SLOW
def test_a_teacher_that_one_worker_cannot_save_ends_both(tmp_path):
    """Its training lies within the loading of the student's parts, at whose end all are asked."""
    (tmp_path / "teacher.flags").write_text("--method=natural\n--train_steps=400\n")
    flags = "--method=mixacm", f"--teacher=flagfile:{tmp_path / 'teacher.flags'}", *SHARED
    broken = """
from tf_robust_transfer.errors import InputError
from tf_robust_transfer.runs import callbacks


def full(*_, **__):
    raise InputError("the disk is full")


callbacks.Checkpoint.save = full
"""
    chief, other = two_workers(
        *flags, "--train_steps=20", f"--run_dir={tmp_path / 'run'}", first=(broken, "")
    )
    assert chief.returncode == 2 and "the disk is full" in chief.stderr
    assert other.returncode == 1 and "another worker is gone" in other.stderr


def test_what_is_overridden_is_called_by_keras():
    """Keras's `fit` draws a batch in vain, and fails under several workers, unless the method's own
    `_maybe_symbolic_build` stands in for its own; batch norm has to take its moments by name."""
    assert "self._maybe_symbolic_build(" in inspect.getsource(TensorFlowTrainer.fit), (
        "Keras has renamed _maybe_symbolic_build, which methods/replicated.py overrides"
    )
    assert "self.make_train_function(" in inspect.getsource(TensorFlowTrainer.fit)
    assert "self._moments(" in inspect.getsource(keras.layers.BatchNormalization.call), (
        "Keras has renamed BatchNormalization._moments, which ops/batch_norm.py sets"
    )
    assert "_reduction_axes" in inspect.getsource(keras.layers.BatchNormalization)


def test_slurms_variables():
    assert host_names("gpu[1-3,08-10],login") == [
        "gpu1", "gpu2", "gpu3", "gpu08", "gpu09", "gpu10", "login"]  # fmt: skip
    assert host_names("r[1-2]n[9-10]") == ["r1n9", "r1n10", "r2n9", "r2n10"]
    found = cluster(
        {
            "SLURM_PROCID": "2",
            "SLURM_STEP_NODELIST": "n[9-11]",
            "SLURM_STEP_TASKS_PER_NODE": "2(x2),1",
            "SLURM_JOB_ID": "301",
        }
    )
    assert found["task"] == {"type": "worker", "index": 2}
    names = ["n9:12064", "n9:12065", "n10:12064", "n10:12065", "n11:12064"]
    assert found["cluster"]["worker"] == names


@pytest.mark.parametrize("text", [None, "{", '{"cluster": {}}', '{"cluster": {"ps": ["a:1"]}}'])
def test_a_cluster_that_is_none(text):
    with pytest.raises(InputError, match="expected TF_CONFIG such as"):
        cluster({} if text is None else {"TF_CONFIG": text})


def test_several_workers_refuse_arrays(monkeypatch):
    """Keras would deal them out by rows of its own, the last of them unevenly."""
    monkeypatch.setattr(workers, "several", lambda strategy: True)
    method = rt.Natural(student=rt.build_model("small_cnn", (8, 8, 1), 10, width=1))
    method.compile("sgd")
    with pytest.raises(InputError, match="several workers take a tf.data.Dataset.*got ndarray"):
        method.fit(np.zeros((4, 8, 8, 1), np.float32), np.zeros(4, int))


def test_several_workers_refuse_shares_that_may_differ():
    data = tf.data.Dataset.from_tensor_slices((np.zeros((10, 8, 8, 1)), np.zeros(10, int)))
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    workers.check_even(strategy.experimental_distribute_dataset(data.batch(4, drop_remainder=True)))
    with pytest.raises(InputError, match="batches of one size: give the dataset drop_remainder"):
        workers.check_even(strategy.experimental_distribute_dataset(data.batch(4)))


def test_a_batch_for_the_devices():
    workers.check_divides(64, 4)
    with pytest.raises(InputError, match="a multiple of 3"):
        workers.check_divides(64, 3)
