"""Keras's global settings and other backends: results stay as they are, or a line says why not."""

import importlib.util
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_robust_transfer as rt
from tf_robust_transfer.models.settings import check_settings

ROOT = pathlib.Path(__file__).resolve().parents[1]
SHAPE = (8, 8, 1)
THREAT = rt.ThreatModel("linf", 0.1)
IMAGES = np.random.default_rng(0).uniform(size=(32, *SHAPE)).astype(np.float32)
SETTINGS = {
    "policy": (keras.config.dtype_policy, keras.config.set_dtype_policy, "mixed_bfloat16"),
    "mixed_precision": (
        keras.mixed_precision.global_policy,
        keras.mixed_precision.set_global_policy,
        "mixed_float16",
    ),
    "float64": (keras.config.floatx, keras.config.set_floatx, "float64"),
    "float16": (keras.config.floatx, keras.config.set_floatx, "float16"),
    "channels": (
        keras.config.image_data_format,
        keras.config.set_image_data_format,
        "channels_first",
    ),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """(a .keras file of a network with every kind of layer that depends on a setting, labels)."""
    keras.utils.set_random_seed(0)
    model = rt.build_model("small_cnn", SHAPE, 10, batch_norm=True)
    path = str(tmp_path_factory.mktemp("saved") / "model.keras")
    rt.save_model(model, path)
    return path, np.asarray(model(IMAGES)).argmax(axis=1)


@pytest.fixture
def change():
    """Changes a setting; puts it back at the test's end."""
    before = [(set_to, get()) for get, set_to, _ in SETTINGS.values()]
    yield lambda name: SETTINGS[name][1](SETTINGS[name][2])
    for set_to, value in before:
        set_to(value)
    check_settings()


@pytest.mark.parametrize("setting", SETTINGS)
def test_an_evaluation_is_unchanged(setting, saved, change):
    path, labels = saved
    options = {"threat_model": THREAT, "attacks": ("pgd5",), "check_model": False}
    wanted = rt.evaluate_robustness(path, IMAGES, labels, keep_adversarial=True, **options)
    change(setting)
    found = rt.evaluate_robustness(path, IMAGES, labels, keep_adversarial=True, **options)
    np.testing.assert_array_equal(found.adversarial["pgd5"], wanted.adversarial["pgd5"])
    np.testing.assert_array_equal(found.correct["pgd5"], wanted.correct["pgd5"])


@pytest.mark.parametrize("setting", SETTINGS)
def test_nothing_is_built(setting, saved, change):
    student = rt.load_model(saved[0])
    change(setting)
    for build in (
        lambda: rt.build_model("small_cnn", SHAPE, 10),
        lambda: rt.build_discriminator(SHAPE),
        lambda: rt.Natural(student=student),
        lambda: rt.as_classifier(student, mean=(0.5,), std=(0.2,)),
    ):
        with pytest.raises(rt.InputError, match="Keras's global .* call keras.config.set_"):
            build()


@pytest.mark.parametrize(
    "dtype, dataset",
    [
        pytest.param("float16", True, marks=pytest.mark.slow),
        pytest.param("float64", True, marks=pytest.mark.slow),
        pytest.param("float16", False, marks=pytest.mark.slow),
    ],
)
def test_images_of_another_float_type(dtype, dataset, saved):
    """They count as the float32 images of their values."""
    path, labels = saved
    images = IMAGES.astype(dtype)
    options = {"threat_model": THREAT, "attacks": ("pgd5",), "check_model": False}
    evaluations, students = [], []
    for given in (images, images.astype(np.float32)):
        evaluations.append(rt.evaluate_robustness(path, given, labels, **options).correct["pgd5"])
        method = rt.AdversarialTraining(
            student=path, threat_model=THREAT, attack=rt.attacks.PGD(steps=2)
        )
        method.compile(optimizer=keras.optimizers.SGD(0.1))
        data = {"x": given, "y": labels, "batch_size": 16, "shuffle": False}
        if dataset:
            data = {"x": tf.data.Dataset.from_tensor_slices((given, labels)).batch(16)}
        method.fit(**data, verbose=0)
        students.append(method.student.get_weights())
    np.testing.assert_array_equal(*evaluations)
    for found, wanted in zip(*students, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-7)


class DropoutLeftOn(keras.layers.Dropout):
    """Keras's own follows the mode of the model around it, whatever it is called with."""

    def call(self, inputs, training=None):
        return super().call(inputs, training=True)


def noisy_network():
    images = keras.Input(SHAPE)
    x = DropoutLeftOn(0.5)(keras.layers.Flatten()(images))
    return keras.Model(images, keras.layers.Dense(10)(x))


def test_dropout_left_on(saved):
    with pytest.warns(UserWarning, match="the model is random"):
        rt.evaluate_robustness(
            noisy_network(), IMAGES, saved[1], threat_model=THREAT, attacks=("fgsm",)
        )
    method = rt.Distillation(student=saved[0], teacher=noisy_network())
    method.compile(optimizer="sgd")
    with pytest.raises(rt.InputError, match="the teacher is random"):
        method.fit(IMAGES, saved[1], verbose=0)


ELSEWHERE = """
import runpy, sys
import numpy as np
import tf_robust_transfer as rt

path, images = sys.argv[1], np.full((2, 8, 8, 1), 0.5, "float32")
model = rt.load_model(path)
same = rt.as_classifier(model, bounds=(0, 255), std=255.0)
rt.endpoints(model), rt.build_model("small_cnn", (8, 8, 1), 10)
found = [np.asarray(rt.models.settings.keras.ops.convert_to_numpy(m(x)))
         for m, x in ((model, images), (same, 255 * images))]
np.testing.assert_allclose(*found, rtol=1e-4, atol=1e-5)
for use in (
    lambda: rt.Natural(student=model),
    lambda: rt.evaluate_robustness(model, images, [0, 1], threat_model=rt.ThreatModel(eps=0.1)),
):
    try:
        use()
        raise SystemExit("not refused")
    except rt.InputError as error:
        print(error)
sys.argv = ["evaluate", f"--model={path}", "--attacks=fgsm", "--eps=0.1"]
runpy.run_module("tf_robust_transfer.evaluate", run_name="__main__")
"""


def run(backend, *arguments):
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_under_another_backend(backend, saved):
    """What is portable works; the rest says in one line what to do, the command with code 2."""
    if not importlib.util.find_spec(backend):
        pytest.skip(f"{backend} is not installed")
    done = run(backend, "-c", ELSEWHERE, saved[0])
    assert done.returncode == 2, done.stderr[-2000:]
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    for line in (*done.stdout.splitlines(), last):
        assert f"Keras runs on {backend}" in line and "KERAS_BACKEND=tensorflow" in line


def test_a_backend_that_is_not_there(saved):
    missing = "jax" if not importlib.util.find_spec("jax") else "no_such_backend"
    done = run(missing, "-m", "tf_robust_transfer.evaluate", f"--model={saved[0]}")
    assert done.returncode == 2 and done.stdout == ""
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: Keras cannot start") and "KERAS_BACKEND=tensorflow" in line
    done = run(missing, "-c", "import tf_robust_transfer")
    assert done.returncode == 1 and "ImportError: Keras cannot start" in done.stderr
