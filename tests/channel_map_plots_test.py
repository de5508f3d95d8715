"""Figure 5: the averaged maps against NumPy, the figure, and the command."""

import keras
import numpy as np
import pytest
from matplotlib import image as mpimage
from matplotlib.figure import Figure

from tf_robust_transfer import visualize
from tf_robust_transfer.checkpoints import save_model
from tf_robust_transfer.command_line import parse
from tf_robust_transfer.errors import InputError
from tf_robust_transfer.plots.channel_maps import mean_channel_maps, plot_channel_maps
from tf_robust_transfer.visualize import VisualizeConfig

SHAPE = (8, 8, 1)


def network(seed, channels=(3, 4)):
    """Two convolutions of kernel 1, block1 and block2, whose outputs NumPy finds too."""
    images = keras.Input(SHAPE)
    x = keras.layers.Conv2D(channels[0], 1, use_bias=False, name="block1")(images)
    x = keras.layers.Conv2D(channels[1], 1, use_bias=False, activation="relu", name="block2")(x)
    model = keras.Model(images, keras.layers.Dense(10)(keras.layers.Flatten()(x)))
    rng = np.random.default_rng(seed)
    model.set_weights([rng.standard_normal(w.shape) for w in model.get_weights()])
    return model


@pytest.fixture(scope="module")
def images():
    found = (
        np.random.default_rng(0).uniform(size=(130, *SHAPE)).astype(np.float32)
    )  # more than one batch
    found[3] = 0.0  # whose maps are zero
    return found


def test_mean_maps_are_the_mean_of_unit_maps(images):
    model = network(1)
    k1, k2 = (w.astype(np.float64)[0, 0] for w in model.get_weights()[:2])
    first = images.astype(np.float64) @ k1
    found = mean_channel_maps(model, images)
    assert list(found) == ["block1", "block2"]
    for block, values in (("block1", first), ("block2", np.maximum(first @ k2, 0))):
        maps = values.max(axis=(1, 2))
        lengths = np.linalg.norm(maps, axis=1, keepdims=True)
        units = np.where(lengths > 0, maps / np.where(lengths > 0, lengths, 1), 0)
        np.testing.assert_allclose(found[block], units.mean(axis=0), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("channels", [(3, 4), (5, 4)])
def test_the_curves_are_the_sorted_maps(images, tmp_path, monkeypatch, channels):
    """What is drawn, read from the figure: a panel for each block, a curve for each model,
    ascending.
    """
    drawn, write = [], Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *a, **k: (drawn.append(self), write(self, *a, **k))
    )
    models = {"natural": network(1), "teacher": network(2, channels), "student": network(3)}
    path = tmp_path / "figure.png"
    plot_channel_maps(models, images, path)
    assert [p.name for p in tmp_path.iterdir()] == ["figure.png"]
    assert mpimage.imread(path)[..., :3].std() > 0.05
    panels = drawn[0].axes
    assert [panel.get_title() for panel in panels] == ["block1", "block2"]
    for panel in panels:
        assert [line.get_label() for line in panel.lines] == list(models)
        for line, model in zip(panel.lines, models.values()):
            expected = mean_channel_maps(model, images)[panel.get_title()]
            np.testing.assert_allclose(line.get_ydata(), sorted(expected))
            last = (
                1.0 if channels == (5, 4) and panel.get_title() == "block1" else len(expected) - 1
            )
            assert line.get_xdata()[-1] == last


def test_only_blocks_that_all_models_have(images, tmp_path):
    small = keras.Sequential(
        [
            keras.Input(SHAPE),
            keras.layers.Conv2D(2, 1, name="block7"),
            keras.layers.Flatten(),
            keras.layers.Dense(10),
        ]
    )
    with pytest.raises(
        InputError, match=r"no block in common: a has \['block1', 'block2'\], b has \['block7'\]"
    ):
        plot_channel_maps({"a": network(1), "b": small}, images, tmp_path / "x.png")
    with pytest.raises(InputError, match="at least one model"):
        plot_channel_maps({}, images, tmp_path / "x.png")
    with pytest.raises(InputError, match=r"takes images \(None, 8, 8, 1\), got \[130, 8, 8\]"):
        plot_channel_maps({"a": network(1)}, images[..., 0], tmp_path / "x.png")
    with pytest.raises(InputError, match=r"takes images \(None, 8, 8, 1\), got \[\]"):
        plot_channel_maps({"a": network(1)}, 0.5, tmp_path / "x.png")
    with pytest.raises(InputError, match=r"end the name in .png"):
        plot_channel_maps({"a": network(1)}, images, tmp_path / "x.xyz")
    assert not list(tmp_path.iterdir())


def test_the_command_draws_500_test_images_unless_told_otherwise(tmp_path, monkeypatch):
    paths = []
    for name in ("natural", "teacher"):
        save_model(network(len(name)), tmp_path / f"{name}.keras")
        paths.append(str(tmp_path / f"{name}.keras"))
    seen = []
    monkeypatch.setattr(
        visualize,
        "plot_channel_maps",
        lambda models, shown, path: seen.append((list(models), len(shown))),
    )
    for arguments in ((), ("--num_images=20",)):
        visualize.run(
            parse(
                VisualizeConfig,
                [
                    "--kind=channel_maps",
                    f"--models={','.join(paths)}",
                    "--dataset=digits",
                    f"--output={tmp_path}/maps.png",
                    *arguments,
                ],
            )
        )
    assert seen == [(["natural", "teacher"], 500), (["natural", "teacher"], 20)]
