"""The networks that come with the package, and the file format in which they come."""

import zipfile

import h5py
import keras
import numpy as np
import pytest

import tf_robust_transfer as rt
from scripts.add_to_zoo import half_precision
from tf_robust_transfer.checkpoints import specs
from tf_robust_transfer.checkpoints.zoo import FOLDER
from tf_robust_transfer.errors import InputError
from tf_robust_transfer.evaluation.model_card import card_path

NAMES = sorted(file.stem for file in FOLDER.glob("*.keras"))


def test_the_zoo_is_small_enough_for_a_repository():
    assert NAMES
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) <= 25 * 2**20


@pytest.mark.parametrize("name", NAMES)
def test_a_network_of_the_zoo(name):
    """It loads by its name, computes in float32, gives gradients, and has a card with figures."""
    model = rt.load_model(f"zoo:{name}")
    assert {variable.dtype for variable in model.variables} == {"float32"}
    rng = np.random.default_rng(0)
    images = rng.uniform(size=(2, *model.input_shape[1:])).astype(np.float32)
    threat = rt.ThreatModel(norm="linf", eps=8 / 255)
    moved = rt.attacks.FGSM()(model, images, np.zeros(2, int), threat_model=threat)
    assert 0 < np.abs(moved - images).max() <= 8 / 255 + 1e-6
    logits = keras.ops.convert_to_numpy(model(images, training=False))
    assert logits.shape == (2, 10) and np.isfinite(logits).all()
    card = card_path(FOLDER / f"{name}.keras").read_text(encoding="utf-8")
    assert f'rt.load_model("zoo:{name}")' in card
    assert "| clean |" in card and "licence: Apache-2.0" in card


@pytest.mark.parametrize("name", NAMES)
def test_hubs_read_its_card(name):
    hub = pytest.importorskip("huggingface_hub", reason="needs the extra [hub]")
    card = hub.ModelCard.load(card_path(FOLDER / f"{name}.keras"))
    assert card.data.library_name == "keras" and card.data.license == "apache-2.0"
    assert {result.metric_value for result in card.data.eval_results}


def test_a_spec_of_the_zoo():
    assert specs.source_files(f"zoo:{NAMES[0]}") == [FOLDER / f"{NAMES[0]}.keras"]
    with pytest.raises(
        InputError, match=f"unknown network of the zoo '{NAMES[0][:-1]}'.*{NAMES[0]}"
    ):
        rt.load_model(f"zoo:{NAMES[0][:-1]}")
    with pytest.raises(InputError, match="names no file; write zoo:NAME"):
        rt.load_model("zoo:")


def test_kernels_become_float16_and_what_is_small_stays(tmp_path):
    keras.utils.set_random_seed(0)
    model = rt.build_model("small_cnn", (8, 8, 1), 10, width=1, batch_norm=True)
    for layer in model.layers:  # a variance that float16 has not
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.moving_variance.assign(layer.moving_variance * 1e-6)
    model.save(tmp_path / "whole.keras")
    half_precision(tmp_path / "whole.keras", tmp_path / "half.keras")
    found = rt.load_model(str(tmp_path / "half.keras"))
    for ours, theirs in zip(found.get_weights(), model.get_weights(), strict=True):
        expected = theirs.astype(np.float16) if theirs.ndim > 1 else theirs
        np.testing.assert_array_equal(ours, expected)
    kinds = set()
    with zipfile.ZipFile(tmp_path / "half.keras") as archive:
        (tmp_path / "w.h5").write_bytes(archive.read("model.weights.h5"))
    with h5py.File(tmp_path / "w.h5", "r") as file:
        file.visititems(
            lambda _, item: (
                kinds.add((item.ndim > 1, str(item.dtype)))
                if isinstance(item, h5py.Dataset)
                else None
            )
        )
    assert kinds == {(True, "float16"), (False, "float32")}
