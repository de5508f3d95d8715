"""Pictures of input gradients: pixels against the gradient of a linear model, and files."""

import keras
import numpy as np
import pytest
from keras import layers
from matplotlib import image as mpimage

from tf_robust_transfer.errors import InputError
from tf_robust_transfer.plots import input_gradient_image, plot_input_gradients

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
    picture = input_gradient_image(linear_model(kernel), images, np.array([0, 1]))
    scaled = np.clip(kernel / np.percentile(np.abs(kernel), 99), -1, 1)
    assert picture.dtype == np.uint8 and picture.shape == images.shape
    for got, sign in zip(picture.astype(int), (1, -1), strict=True):
        assert np.abs(got - 255 * (0.5 + 0.5 * sign * scaled)).max() <= 0.5 + 1e-2
    assert picture.min() == 0 and picture.max() == 255


def test_a_gradient_of_zero_is_mid_grey(images):
    assert np.all(input_gradient_image(linear_model(np.zeros(SHAPE)), images, [0, 1]) == 128)


def test_a_gradient_of_one_pixel_is_seen(images):
    kernel = np.zeros(SHAPE)  # its 99th percentile is zero
    kernel[3, 4, 1] = 1e-4
    picture = input_gradient_image(linear_model(kernel), images, [0, 1])
    assert picture[0, 3, 4, 1] == 255 and picture[1, 3, 4, 1] == 0
    assert np.sum(picture != 128) == 2


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
        input_gradient_image(model, images, [0, 7])
    assert not list(tmp_path.iterdir())
