"""A saved model loads in a fresh process, under each Keras backend, with nothing but plain Keras
and this package.

The oracle of each model's logits is this process, under TensorFlow. One process for each backend
reads all the models."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

import tf_robust_transfer as rt
from tf_robust_transfer.models import MODELS
from tf_robust_transfer.models.preprocessing import PREPROCESSINGS, preprocessing_layer

ROOT = pathlib.Path(__file__).resolve().parents[1]

# Of each entry of MODELS a small member. Odd sizes meet the strides where padding may differ
# between backends.
NETWORKS = {
    "igam_student": ("igam_student", (11, 10, 3), {"depth": 8, "width": 2}),
    "madry_mnist": ("madry_mnist", (11, 10, 1), {}),
    "madry_wrn_{depth}_{width}": ("madry_wrn_8_2", (11, 10, 3), {}),
    "mobilenet_v2": ("mobilenet_v2", (11, 10, 3), {"width": 0.25}),
    "preact_resnet_18": ("preact_resnet_18", (11, 10, 3), {"base_channels": 8}),
    "resnet_18": ("resnet_18", (39, 34, 3), {"base_channels": 8}),
    "small_cnn": ("small_cnn", (11, 10, 1), {"batch_norm": True}),
    "wrn_{depth}_{width}": ("wrn_10_1", (11, 10, 3), {}),
}
# Made of the layers of resnet_18 and of Wide-ResNets; 50 of them take long to load.
LEFT_OUT = {
    "cifar_resnet_18",
    "cifar_resnet_50",
    "resnet_50",
    "resnet_50_keras",
    "wide_resnet_50_2",
    "wrn_by_group",
}
CASES = NETWORKS | {
    "cosine_logits": ("wrn_10_1", (10, 11, 3), {"cosine_logits": True}),
    "swish_same": (
        "wrn_10_1",
        (10, 11, 3),
        {"activation": "swish", "padding": "same", "stem_stride": 2},
    ),
    "leaky_relu_symmetric": (
        "wrn_10_1",
        (10, 11, 3),
        {"activation": "leaky_relu", "stem_stride": 2},
    ),
}

READ = """
import json, sys
import numpy as np
import keras
import tf_robust_transfer
folder = sys.argv[1]
logits = {}
for name in json.loads(sys.argv[2]):
    model = keras.saving.load_model(f"{folder}/{name}.keras")
    found = model(np.load(f"{folder}/{name}.npy"), training=False)
    logits[name] = keras.ops.convert_to_numpy(found)
np.savez(sys.argv[3], backend=keras.backend.backend(), **logits)
"""


def logits_under(backend, folder, names, path):
    """{name: logits} of NAME.keras on the images NAME.npy in the folder, in a process under this
    backend, which writes them to the path."""
    if not importlib.util.find_spec(backend):
        pytest.skip(f"{backend} is not installed")
    process = subprocess.run(
        [sys.executable, "-c", READ, str(folder), json.dumps(names), str(path)],
        cwd=ROOT,
        env={**os.environ, "KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    found = np.load(path)
    assert found["backend"] == backend
    return found


def preprocessing_alone(kind):
    """A linear classifier behind a preprocessing layer."""
    images = keras.Input((6, 5, 3))
    x = preprocessing_layer(kind, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))(images)
    return keras.Model(images, keras.layers.Dense(10)(keras.layers.Flatten()(x)))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """(folder with a .keras file and images of every case, its logits here)."""
    folder, logits = tmp_path_factory.mktemp("saved"), {}
    makers = {
        name: lambda case=case: rt.build_model(case[0], case[1], 10, **case[2])
        for name, case in CASES.items()
    }
    makers |= {
        f"preprocessing_{kind}": lambda kind=kind: preprocessing_alone(kind)
        for kind in PREPROCESSINGS
    }
    for number, (name, make) in enumerate(makers.items()):
        keras.utils.set_random_seed(number)
        model, rng = make(), np.random.default_rng(number)
        for variable in model.weights:
            if variable.name in ("gamma", "moving_variance"):
                variable.assign(rng.uniform(0.4, 0.9, variable.shape))
            elif variable.name in ("beta", "moving_mean", "bias"):
                variable.assign(rng.uniform(-0.3, 0.3, variable.shape))
        images = rng.uniform(size=(3, *model.input_shape[1:])).astype(np.float32)
        file = "".join(letter if letter.isalnum() else "_" for letter in name)
        rt.save_model(model, folder / f"{file}.keras")
        np.save(folder / f"{file}.npy", images)
        logits[file] = model(images, training=False).numpy()
    return folder, logits


def test_every_network_is_here():
    assert set(NETWORKS) | LEFT_OUT == set(MODELS)


@pytest.mark.parametrize(
    "backend",
    [*(pytest.param(name, marks=pytest.mark.slow) for name in ("tensorflow", "torch")), "jax"],
)
def test_logits_of_a_fresh_process(saved, backend, tmp_path):
    folder, expected = saved
    found = logits_under(backend, folder, list(expected), tmp_path / "logits.npz")
    for name, logits in expected.items():
        assert 0.05 < logits.std() < 20, f"{name}: logits of this size would show nothing at 1e-4"
        np.testing.assert_allclose(found[name], logits, rtol=0, atol=1e-4, err_msg=name)
