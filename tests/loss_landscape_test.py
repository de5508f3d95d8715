"""Figure 7: the values on the plane against NumPy, its directions and ball, the figure, and the
command.
"""

import keras
import numpy as np
import pytest
from keras import layers
from matplotlib import image as mpimage
from matplotlib.figure import Figure

from tf_robust_transfer import visualize
from tf_robust_transfer.attacks import ThreatModel
from tf_robust_transfer.checkpoints import save_model
from tf_robust_transfer.command_line import parse
from tf_robust_transfer.errors import InputError
from tf_robust_transfer.plots.loss_landscape import loss_landscapes, plot_loss_landscapes
from tf_robust_transfer.visualize import VisualizeConfig

SHAPE, CLASSES = (8, 8, 1), 10
LABELS = np.array([3, 7])


def network(seed):
    """Dense, tanh, dense: NumPy finds its logits and its gradient in float64."""
    model = keras.Sequential(
        [
            keras.Input(SHAPE),
            layers.Flatten(),
            layers.Dense(9, activation="tanh"),
            layers.Dense(CLASSES),
        ]
    )
    rng = np.random.default_rng(seed)
    model.set_weights([rng.normal(size=weight.shape, scale=0.5) for weight in model.get_weights()])
    return model


def logits_of(model, points):
    kernel, bias, last_kernel, last_bias = (
        weight.astype(np.float64) for weight in model.get_weights()
    )
    return np.tanh(points.reshape(len(points), -1) @ kernel + bias) @ last_kernel + last_bias


def losses_of(model, points, label):
    logits = logits_of(model, points)
    return np.log(np.exp(logits).sum(axis=1)) - logits[:, label]


def gradient_of(model, image, label):
    """Central differences, [height, width, channels]."""
    moves = 1e-5 * np.eye(image.size).reshape(-1, *SHAPE)
    return (
        (losses_of(model, image + moves, label) - losses_of(model, image - moves, label)) / 2e-5
    ).reshape(SHAPE)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).uniform(size=(2, *SHAPE)).astype(np.float32)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("points", [5, 13])  # 25 points fit in a batch; 169 leave a part of one
def test_values_are_the_models_at_the_points_of_the_plane(images, norm, points):
    model = network(1)
    found = loss_landscapes(model, images, LABELS, extent=0.4, norm=norm, points=points, seed=5)
    assert len(found) == 2
    for image, label, landscape in zip(images.astype(np.float64), LABELS, found):
        np.testing.assert_allclose(landscape.coordinates, np.linspace(-0.4, 0.4, points))
        for i, b in enumerate(landscape.coordinates):
            for j, a in enumerate(landscape.coordinates):
                point = (image + a * landscape.adversarial + b * landscape.random)[None]
                expected = losses_of(model, point, label)[0]
                np.testing.assert_allclose(
                    landscape.cross_entropy[i, j], expected, rtol=1e-4, atol=1e-5
                )
                assert landscape.predicted[i, j] == logits_of(model, point).argmax()
        middle = points // 2
        np.testing.assert_allclose(
            landscape.cross_entropy[middle, middle],
            losses_of(model, image[None], label)[0],
            rtol=1e-4,
            atol=1e-5,
        )


def test_the_adversarial_direction_is_that_of_the_gradient(images):
    model = network(1)
    boxes = loss_landscapes(model, images, LABELS, extent=0.1, points=3)
    balls = loss_landscapes(model, images, LABELS, extent=0.1, points=3, norm="l2")
    for image, label, box, ball in zip(images.astype(np.float64), LABELS, boxes, balls):
        gradient = gradient_of(model, image, label)
        np.testing.assert_array_equal(box.adversarial, np.sign(gradient))
        np.testing.assert_allclose(
            ball.adversarial, gradient / np.linalg.norm(gradient), rtol=1e-3, atol=1e-5
        )
        assert set(np.unique(box.random)) == {-1, 1}
        np.testing.assert_allclose(np.linalg.norm(ball.random), 1, rtol=1e-5)
        np.testing.assert_allclose(np.vdot(ball.random, ball.adversarial), 0, atol=1e-6)
        assert box.cross_entropy[1, 2] > box.cross_entropy[1, 1] > box.cross_entropy[1, 0]


def test_the_random_direction_is_the_seeds_alone(images):
    first, second = (
        loss_landscapes(network(n), images, LABELS, extent=0.1, points=3) for n in (1, 2)
    )
    for one, other in zip(first, second):
        np.testing.assert_array_equal(one.random, other.random)
    assert np.any(first[0].random != first[1].random), "each image has its own"
    again = loss_landscapes(network(1), images, LABELS, extent=0.1, points=3, seed=1)
    assert np.any(again[0].random != first[0].random)


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are written."""
    figures, write = [], Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *a, **k: (figures.append(self), write(self, *a, **k))
    )
    return figures


@pytest.mark.parametrize("norm", ["linf", pytest.param("l2", marks=pytest.mark.slow)])
def test_the_figure(images, tmp_path, drawn, norm):
    models, path = (
        {"natural": network(1), "igam": network(2), "c": network(3)},
        tmp_path / "new" / "figure.png",
    )
    plot_loss_landscapes(models, images, LABELS, path, threat_model=ThreatModel(norm, 0.2))
    assert [p.name for p in path.parent.iterdir()] == ["figure.png"], "no temporary file may stay"
    assert mpimage.imread(path)[..., :3].std() > 0.1
    (figure,) = drawn
    panels = np.array(figure.axes[:12]).reshape(
        3, 4
    )  # a row for each model, two panels for each image
    limits = set()
    for row, (title, model) in zip(panels, models.items()):
        assert row[0].get_ylabel().startswith(title)
        landscapes = loss_landscapes(model, images, LABELS, extent=0.6, norm=norm)
        for number, landscape in enumerate(landscapes):
            regions, losses = row[2 * number], row[2 * number + 1]
            assert losses.get_xlim() == pytest.approx((-0.6, 0.6)), "3 eps"
            limits.add(losses.collections[0].get_clim())
            # Panels of one class are of one colour, others differ.
            colours = np.unique(regions.images[0].get_array().reshape(-1, 4), axis=0)
            assert len(colours) == len(np.unique(landscape.predicted))
            for axis in (regions, losses):
                a, b = axis.lines[0].get_data()
                edge = (
                    a[:, None] * landscape.adversarial.ravel()
                    + b[:, None] * landscape.random.ravel()
                )
                lengths = np.linalg.norm(edge, np.inf if norm == "linf" else 2, axis=1)
                np.testing.assert_allclose(lengths, 0.2, rtol=1e-5)
                if norm == "linf":  # the middles of the edges too: the ball is a diamond
                    middles = np.abs((edge[1:] + edge[:-1]) / 2).max(axis=1)
                    np.testing.assert_allclose(middles, 0.2, rtol=1e-5)
    assert len(limits) == 1, "one scale for all"
    assert (
        "correct class #3" in panels[0, 0].get_title()
        and "correct class #7" in panels[0, 2].get_title()
    )
    shown = {text.get_text() for text in figure.legends[0].get_texts()}
    everything = [
        loss_landscapes(m, images, LABELS, extent=0.6, norm=norm) for m in models.values()
    ]
    assert shown == {
        f"#{name}"
        for name in np.unique([[part.predicted for part in found] for found in everything])
    }


def test_bad_input_says_what_was_expected(images, tmp_path):
    model, ball = network(1), ThreatModel("linf", 0.1)
    with pytest.raises(InputError, match="at least one model"):
        plot_loss_landscapes({}, images, LABELS, tmp_path / "a.png", threat_model=ball)
    with pytest.raises(InputError, match=r"end the name in .png"):
        plot_loss_landscapes(
            {"model": model}, images, LABELS, tmp_path / "a.xyz", threat_model=ball
        )
    with pytest.raises(InputError, match="an extent above 0 and at least 2 points, got 0.0"):
        plot_loss_landscapes(
            {"model": model},
            images,
            LABELS,
            tmp_path / "a.png",
            threat_model=ThreatModel("linf", 0.0),
        )
    with pytest.raises(InputError, match="images must have shape"):
        plot_loss_landscapes(
            {"model": model}, images[:, 1:], LABELS, tmp_path / "a.png", threat_model=ball
        )
    broken = network(1)
    broken.set_weights([np.full_like(weight, np.nan) for weight in broken.get_weights()])
    with pytest.raises(InputError, match="NaN or infinite logits"):
        plot_loss_landscapes(
            {"model": broken}, images, LABELS, tmp_path / "a.png", threat_model=ball
        )
    assert not list(tmp_path.iterdir())


def test_the_command(tmp_path, drawn):
    for seed, name in enumerate(("natural", "student")):
        save_model(network(seed), tmp_path / f"{name}.keras")
    shared = [
        "--kind=loss_landscape",
        f"--models={tmp_path}/natural.keras,{tmp_path}/student.keras",
        "--dataset=digits",
        "--eps=0.1",
        f"--output={tmp_path}/figure.png",
    ]
    visualize.run(parse(VisualizeConfig, shared))
    visualize.run(
        parse(VisualizeConfig, [*shared, "--num_images=1", "--landscape_extent=0.25", "--norm=l2"])
    )
    assert [len(figure.axes) for figure in drawn] == [2 * 4 + 1, 2 * 2 + 1], (
        "two images unless told otherwise"
    )
    assert drawn[1].axes[0].get_xlim() == pytest.approx((-0.25, 0.25), abs=1e-6)
    with pytest.raises(InputError, match="eps is in the units of the pixel range"):
        visualize.run(parse(VisualizeConfig, [*shared, "--eps=8"]))
