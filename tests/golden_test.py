"""The golden files are whole and fit the Keras networks (tests/golden/README.md); the attacks' own
tests build on them.
"""

import numpy as np
import pytest

from tests import golden_networks

COMPONENTS = ("apgd-ce", "apgd-dlr", "apgd-t", "fab", "fab-t", "square")


@pytest.mark.parametrize("name", golden_networks.NAMES)
def test_clean_flags_are_the_official_ones(name):
    model, images, labels, threat_model, golden = golden_networks.load(name)
    logits = model(images, training=False).numpy()
    np.testing.assert_array_equal(logits.argmax(1) == labels, golden["clean"])
    assert images.min() >= 0 and images.max() <= 1 and threat_model.norm == golden["about"]["norm"]


@pytest.mark.parametrize("name", golden_networks.NAMES)
def test_clean_losses_are_the_official_ones(name):
    """The trajectories start at the image: their first row is the loss of the clean image."""
    model, images, labels, _, golden = golden_networks.load(name)
    expected = golden["fixed/apgd-ce/trajectory"][0]
    logits = model(images[: len(expected)], training=False).numpy().astype(np.float64)
    logits -= logits.max(1, keepdims=True)
    found = (
        np.log(np.exp(logits).sum(1)) - logits[np.arange(len(expected)), labels[: len(expected)]]
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", golden_networks.NAMES)
def test_flags_are_informative_and_consistent(name):
    *_, threat_model, golden = golden_networks.load(name)
    robust = {
        key.split("/")[0]: golden[key]
        for key in golden
        if key.endswith("/robust") and "fixed" not in key
    }
    assert set(robust) & set(COMPONENTS) >= {"apgd-ce", "fab", "fab-t", "square"}
    for flags in robust.values():
        assert not (flags & ~golden["clean"]).any() and 0.1 < flags.mean() < 0.9
    for fab in ("fab", "fab-t"):
        within = golden[f"{fab}/distance"] <= threat_model.eps
        np.testing.assert_array_equal(golden["clean"] & ~within, robust[fab])


def test_golden_projections_reach_the_hyperplane_inside_the_box():
    golden = golden_networks.load_projections()
    points, normals = golden["points"].astype(np.float64), golden["normals"].astype(np.float64)
    reachable = np.r_[0:40, 48:56]
    for norm in ("linf", "l2"):
        moved = points + golden[norm]
        assert moved.min() > -1e-5 and moved.max() < 1 + 1e-5
        gap = np.abs((normals * moved).sum(1) - golden["offsets"]) / np.abs(normals).sum(1)
        assert gap[reachable].max() < 1e-4
