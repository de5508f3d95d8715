"""Pictures of input gradients: pixels against the gradient of a linear model, and files."""

import io

import keras
import numpy as np
import pytest
from keras import layers
from matplotlib import image as mpimage

from tf_robust_transfer.errors import InputError
from tf_robust_transfer.plots import plot_input_gradients, scaled_gradients
from tf_robust_transfer.plots.input_gradients import gradient_picture

SHAPE = (10, 12, 3)


def linear_model(kernel):
    """kernel: [height, width, channels], the second logit's weights; the first logit is zero."""
    model = keras.Sequential(
        [keras.Input(kernel.shape), layers.Flatten(), layers.Dense(2, use_bias=False)]
    )
    model.layers[-1].set_weights([np.stack([np.zeros(kernel.size), kernel.ravel()], axis=1)])
    return model


@pytest.fixture(scope="module")
def kernel():
    return np.random.default_rng(0).normal(size=SHAPE) * 1e-3


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).uniform(size=(2, *SHAPE)).astype(np.float32)


def test_pixels_are_the_scaled_gradient(kernel, images):
    # d cross-entropy / dx is (p - onehot) . kernel: a positive multiple of the kernel for label 0,
    # negative for 1.
    found = scaled_gradients(linear_model(kernel), images, np.array([0, 1]))
    scaled = np.clip(kernel / np.percentile(np.abs(kernel), 99), -1, 1)
    assert found.dtype == np.float32 and found.shape == images.shape
    np.testing.assert_allclose(found, [scaled, -scaled], atol=1e-4)
    assert found.min() == -1 and found.max() == 1


def test_a_run_that_asks_every_epoch_traces_the_model_once(kernel, images, monkeypatch):
    model = linear_model(kernel)
    scaled_gradients(model, images, [0, 1])
    model.layers[-1].set_weights([-model.layers[-1].get_weights()[0]])
    monkeypatch.setattr(model, "call", None)  # a second trace would call it
    other = scaled_gradients(model, images[::-1], [1, 1])
    scaled = np.clip(kernel / np.percentile(np.abs(kernel), 99), -1, 1)
    np.testing.assert_allclose(other, [scaled, scaled], atol=1e-4)


def test_a_gradient_of_zero_stays_zero(images):
    assert np.all(scaled_gradients(linear_model(np.zeros(SHAPE)), images, [0, 1]) == 0)


def test_a_gradient_of_one_pixel_is_seen(images):
    kernel = np.zeros(SHAPE)  # its 99th percentile is zero
    kernel[3, 4, 1] = 1e-4
    found = scaled_gradients(linear_model(kernel), images, [0, 1])
    assert found[0, 3, 4, 1] == 1 and found[1, 3, 4, 1] == -1
    assert np.count_nonzero(found) == 2


@pytest.mark.parametrize("channels", [1, 3])
def test_one_picture_has_a_column_for_each_model_in_the_figures_colours(images, channels):
    images = images[..., :channels]
    gradients = np.zeros_like(images)
    gradients[0, 0, 0], gradients[1, -1, -1] = 1.0, -1.0
    png, size = gradient_picture(images, {"teacher": gradients, "student": -gradients})
    picture = mpimage.imread(io.BytesIO(png))[..., :3]
    assert size == (picture.shape[1], picture.shape[0])
    # 12 pixels of 8 each and a gap of 4, three times; two rows of 10 below 20 for the titles.
    assert size == (3 * (12 * 8 + 4), 2 * (10 * 8 + 4) + 20)
    assert picture[:20].min() < 0.5, "titles"
    row = picture[20 + 4]
    expected = np.broadcast_to(images[0, 0], (12, 3)) if channels == 1 else images[0, 0]
    np.testing.assert_allclose(row[4:96:8], expected, atol=1.01 / 255)
    first, last = row[100 + 4], picture[20 + 84 + 76, 100 + 92]
    if channels == 1:
        assert first[0] > first[2] + 0.2 and last[2] > last[0] + 0.2, "red, blue"
    else:
        assert first.min() == 1 and last.max() == 0
    student = row[200 + 4]
    np.testing.assert_allclose(student, last, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_figure_shows_a_row_for_each_image(kernel, images, tmp_path, channels):
    kernel, images = kernel[..., :channels], images[..., :channels]
    path = tmp_path / "new folder" / "figure.png"
    models = {"teacher": linear_model(kernel), "student": linear_model(-kernel)}
    plot_input_gradients(models, images, [0, 1], path)
    assert [p.name for p in path.parent.iterdir()] == ["figure.png"], "no temporary file may stay"
    small = mpimage.imread(path)
    plot_input_gradients(models, np.concatenate([images] * 2), [0, 1, 0, 1], path)
    large = mpimage.imread(path)
    assert large.shape[0] > 1.5 * small.shape[0] and large.shape[1] == small.shape[1]
    assert small[..., :3].std() > 0.1, "the figure should not be blank"


@pytest.mark.parametrize("suffix, start", [(".pdf", b"%PDF"), (".svg", b"<?xml")])
def test_suffix_sets_the_format(kernel, images, tmp_path, suffix, start):
    path = tmp_path / f"figure{suffix}"
    plot_input_gradients({"model": linear_model(kernel)}, images, [0, 1], str(path))
    assert path.read_bytes().startswith(start)


def test_a_failure_leaves_the_old_figure(kernel, images, tmp_path, monkeypatch):
    path = tmp_path / "figure.png"
    path.write_bytes(b"old")

    def fail(self, file, **options):
        with open(file, "wb") as opened:
            opened.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", fail)
    with pytest.raises(InputError, match="disk full"):
        plot_input_gradients({"model": linear_model(kernel)}, images, [0, 1], path)
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"old"]


def test_bad_input_says_what_was_expected(kernel, images, tmp_path):
    model = linear_model(kernel)
    with pytest.raises(InputError, match="at least one model"):
        plot_input_gradients({}, images, [0, 1], tmp_path / "a.png")
    with pytest.raises(InputError, match="1 or 3"):
        plot_input_gradients({"model": model}, images[..., :2], [0, 1], tmp_path / "a.png")
    with pytest.raises(InputError, match=r"end the name in .png"):
        plot_input_gradients({"model": model}, images, [0, 1], tmp_path / "a.xyz")
    with pytest.raises(InputError, match="labels must lie in 0..1"):
        scaled_gradients(model, images, [0, 7])
    assert not list(tmp_path.iterdir())
