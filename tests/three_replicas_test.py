"""Three replicas of one process: batches that leave one of them out, float16's scaling, and what
`train --check` refuses of them."""

import json

import pytest

from tests import fresh_process
from tf_robust_transfer.methods.batches import leaves_a_replica_out

_THREE = """
import contextlib, io, json, os, sys
import keras, numpy as np, tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 3)
import tf_robust_transfer as rt

images = np.random.default_rng(0).uniform(size=(13, 4, 4, 1)).astype(np.float32)
labels = np.arange(13) % 3
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1", "CPU:2"])


def dataset(size):
    return tf.data.Dataset.from_tensor_slices((images, labels)).batch(size)


def batches(size):
    for start in range(0, 13, size):
        yield images[start : start + size], labels[start : start + size]


class Sequence(keras.utils.PyDataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        return images[9 * index : 9 * index + 9], labels[9 * index : 9 * index + 9]


with strategy.scope():
    keras.utils.set_random_seed(1)
    method = rt.Natural(student=rt.build_model("small_cnn", (4, 4, 1), 3))
    method.compile(keras.optimizers.SGD(0.1))
found = {}
calls = {
    "arrays": lambda: method.fit(images, labels, batch_size=9, verbose=0),
    "whole": lambda: method.fit(images[:8], labels[:8], batch_size=4, verbose=0),
    "dataset": lambda: method.fit(dataset(9), verbose=0),
    "generator": lambda: method.fit(batches(9), verbose=0),
    "sequence": lambda: method.fit(Sequence(), verbose=0),
    "held out": lambda: method.fit(dataset(5), validation_data=dataset(9), verbose=0),
    "evaluate": lambda: method.evaluate(dataset(9), verbose=0),
    "fits": lambda: [f(dataset(5)) for f in (method.fit, method.evaluate)],
}
for name, call in calls.items():
    try:
        call()
        found[name] = ""
    except rt.InputError as error:
        found[name] = str(error)

# What overflows does so on the second and third replica alone: the first has images of zeros.
images = np.zeros((12, 4, 4, 1), np.float32)
images[4:] = 1.0
with strategy.scope():
    inputs = keras.Input((4, 4, 1))
    flat = keras.layers.Rescaling(1e36)(keras.layers.Flatten()(inputs))
    method = rt.Natural(student=keras.Model(inputs, keras.layers.Dense(3, use_bias=False)(flat)))
    method.compile(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(1e-37)))
before = method.student.get_weights()[0]
for name in ("skipped", "taken"):
    method.fit(images, labels[:12], batch_size=12, epochs=1 if name == "skipped" else 20,
               shuffle=False, verbose=0)
    after = method.student.get_weights()[0]
    found[name] = [bool(np.isfinite(after).all()), bool((after != before).any())]

from tf_robust_transfer import train

os.chdir(sys.argv[1])
for name, flags in {"jit": ["--jit=on", "--batch_size=63"],
                    "mixup": ["--method=mixacm", "--teacher=flagfile:teacher.flags",
                              "--batch_size=63"]}.items():
    written = io.StringIO()
    with contextlib.redirect_stderr(written), contextlib.suppress(SystemExit):
        train.main(["--check", "--dataset=digits", "--distribution_strategy=mirrored",
                    "--attacks=", "--run_dir=run", *flags])
    found[name] = written.getvalue()
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("three")
    (folder / "teacher.flags").write_text("--dataset=digits\n--method=natural\n")
    done = fresh_process.run(_THREE, folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("given", ["arrays", "dataset", "generator", "sequence", "held out"])
def test_a_last_batch_of_four_is_refused(given, found):
    """TensorFlow deals out 2, 2 and none."""
    assert "4 of 13 images, which 3 replicas" in found[given] or (
        "a batch of 4 images leaves one of the 3 replicas without any" in found[given]
    )


def test_so_is_one_that_is_evaluated_and_a_batch_size_of_four(found):
    assert "a batch of 4 images leaves one" in found["evaluate"]
    assert "batches of 4 has 4 of 8 images, which 3 replicas cannot share" in found["whole"]


def test_batches_of_five_and_three_are_not(found):
    assert found["fits"] == ""


def test_which_batches_leave_a_replica_out():
    """By hand: 41 images on 8 replicas are shares of 6, of which seven are 42."""
    assert [n for n in range(1, 60) if leaves_a_replica_out(n, 8)] == [
        *range(1, 8), *range(9, 15), *range(17, 22), *range(25, 29), *range(33, 36), 41, 42, 49,
    ]  # fmt: skip
    assert not any(leaves_a_replica_out(n, 1) for n in range(1, 9))


def test_what_overflows_on_one_replica_is_skipped_on_all(found):
    """Keras's LossScaleOptimizer looks at the first replica's gradients alone."""
    assert found["skipped"] == [True, False]  # finite, and not changed
    assert found["taken"] == [True, True]  # when the scale has come down


def test_check_tells_what_several_devices_refuse(found):
    assert "XLA compiles the steps of one device, here are 3" in found["jit"]
    assert (
        "in pairs, for mixup, among 3 devices; give a batch size that is a multiple of 6"
        in (found["mixup"])
    )
