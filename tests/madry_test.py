"""MadryLab's networks and checkpoints against TensorFlow 1 graphs, and every kind of checkpoint
that cannot be read.
"""

import pathlib
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests import tf1_networks
from tf_robust_transfer.checkpoints import tf1
from tf_robust_transfer.checkpoints.madry import load_madry_cifar10, load_madry_mnist
from tf_robust_transfer.errors import InputError
from tf_robust_transfer.models import build_model, endpoints
from tf_robust_transfer.models.preprocessing import preprocessing_layer

BATCH = 3


def pixels(shape, batch=BATCH, seed=1):
    """Images in 0-255 whose contrast differs; the last is all of one grey."""
    images = np.random.default_rng(seed).integers(0, 256, (batch, *shape)).astype(np.float32)
    images[0] = np.round(images[0] / 8)
    images[-1] = 77
    return images


def assert_relatively_close(found, expected, tolerance):
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.abs(expected).max())


@pytest.fixture(scope="module")
def mnist(tmp_path_factory):
    """(prefix, images in [0, 1], logits) of TensorFlow 1."""
    images = pixels((28, 28, 1)) / 255
    with tf1_networks.session_with_random_weights(tf1_networks.mnist) as ((x, logits), session):
        expected = session.run(logits, {x: images.reshape(BATCH, 784)})
        return tf1_networks.save(session, tmp_path_factory.mktemp("mnist")), images, expected


def save_wide(folder, images, **options):
    """(prefix, {endpoint: value}) of TensorFlow 1."""

    def build():
        x, ends = tf1_networks.wide(**options)
        tf1_networks.train_with_momentum(ends["logit"])
        return x, ends

    with tf1_networks.session_with_random_weights(build) as ((x, ends), session):
        return tf1_networks.save(session, folder), session.run(ends, {x: images})


@pytest.fixture(scope="module")
def narrow(tmp_path_factory):
    """(prefix, images, {endpoint: value}) of a w14-2 with 7 classes: two blocks a group."""
    images = pixels((32, 32, 3))
    options = {"blocks": 2, "width": 2, "logits": (("logit", 7),)}
    prefix, expected = save_wide(tmp_path_factory.mktemp("narrow"), images, **options)
    return prefix, images / 255, expected


class TestAgainstTensorFlow1:
    def test_mnist(self, mnist):
        prefix, images, expected = mnist
        names = set(tf.train.load_checkpoint(prefix).get_variable_to_shape_map())
        assert {
            "Variable",
            "Variable_7",
            "Variable/Adam",
            "Variable_7/Adam_1",
            "beta1_power",
            "global_step",
        } < names
        model = load_madry_mnist(prefix)
        assert model.input_shape == (None, 28, 28, 1)
        np.testing.assert_allclose(model(images, training=False), expected, rtol=0, atol=1e-4)

    def test_narrow_wide_resnet_with_every_endpoint(self, narrow):
        prefix, images, expected = narrow
        names = set(tf.train.load_checkpoint(prefix).get_variable_to_shape_map())
        assert {
            "unit_2_1/sub2/BatchNorm/gamma/Momentum",
            "global_step",
            "logit/DW/Momentum",
        } < names
        model = load_madry_cifar10(prefix)
        assert model.name == "madry_wrn_14_2"
        found = endpoints(model)(images, training=False)
        assert_relatively_close(found["logits"], expected["logit"], 1e-4)
        for name in ("block1", "block2", "block3", "block4"):
            assert_relatively_close(found[name], expected[name], 1e-4)

    def test_width_1_whose_first_block_keeps_its_channels(self, tmp_path):
        images = pixels((32, 32, 3))
        prefix, expected = save_wide(tmp_path, images, blocks=1, width=1)
        model = load_madry_cifar10(prefix)
        assert model.name == "madry_wrn_8_1"
        assert_relatively_close(model(images / 255, training=False), expected["logit"], 1e-4)

    @pytest.mark.slow
    def test_w32_10(self, tmp_path):
        images = pixels((32, 32, 3), batch=2)
        prefix, expected = save_wide(tmp_path, images)
        model = load_madry_cifar10(prefix)
        assert model.name == "madry_wrn_32_10"
        assert model.count_params() == 45_924_346
        assert_relatively_close(model(images / 255, training=False), expected["logit"], 1e-3)

    def test_saved_and_reloaded_it_gives_equal_logits(self, narrow, tmp_path):
        model = load_madry_cifar10(narrow[0])
        model.save(tmp_path / "model.keras")
        again = keras.saving.load_model(tmp_path / "model.keras")
        np.testing.assert_array_equal(
            again(narrow[1], training=False), model(narrow[1], training=False)
        )


class TestNetworks:
    @pytest.mark.parametrize("size", [(8, 8, 1), (9, 7, 3)], ids=str)
    @pytest.mark.parametrize("name", ["madry_wrn_14_2", "igam_student"])
    def test_endpoints_are_what_the_docstring_says(self, name, size):
        options = {"depth": 14, "width": 2} if name == "igam_student" else {}
        h, w = size[:2]
        found = {
            key: value.shape
            for key, value in endpoints(build_model(name, size, 5, **options)).output.items()
        }
        assert found == {
            "block1": (None, h, w, 16),
            "block2": (None, h, w, 32),
            "block3": (None, -(-h // 2), -(-w // 2), 64),
            "block4": (None, -(-h // 4), -(-w // 4), 128),
            "logits": (None, 5),
        }

    @staticmethod
    def trainable_count(depth, width, classes):
        """Two 3x3 convolutions a block, two numbers for each channel of a batch norm, the dense
        layer.
        """
        total, channels = 27 * 16, 16
        for target in (16 * width, 32 * width, 64 * width):
            for _ in range((depth - 2) // 6):
                total += 2 * channels + 9 * channels * target + 2 * target + 9 * target * target
                channels = target
        return total + 2 * channels + (channels + 1) * classes

    def test_parameter_counts(self):
        model = build_model("madry_wrn_14_2", (8, 8, 3), 10)
        assert sum(np.prod(v.shape) for v in model.trainable_variables) == self.trainable_count(
            14, 2, 10
        )
        assert self.trainable_count(32, 10, 10) == 45_901_914

    def test_the_students_input_is_its_own(self):
        student = build_model("igam_student", (8, 8, 3), 4, depth=8, width=1)
        assert student.get_layer("preprocessing").zero_mean
        student = build_model("igam_student", (8, 8, 3), 4, depth=8, width=1, zero_mean=False)
        assert not student.get_layer("preprocessing").zero_mean

    @pytest.mark.parametrize("name", ["madry_wrn_33_10", "madry_wrn_2_1"])
    def test_impossible_sizes(self, name):
        with pytest.raises(InputError, match=r"6 n \+ 2 .*got " + name.split("_")[2]):
            build_model(name, (8, 8, 3), 4)
        with pytest.raises(InputError, match="at least 1, got 0"):
            build_model("madry_wrn_8_0", (8, 8, 3), 4)

    @pytest.mark.parametrize("kind", ["zero_mean_l2", "l2"])
    def test_l2_normalisation_is_the_reference_codes_on_0_255(self, kind):
        images = pixels((5, 6, 3), batch=4)
        expected = getattr(tf1_networks, kind)(images).numpy()
        found = preprocessing_layer(kind)(images / 255).numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)
        norms = np.sqrt(np.square(found).sum((1, 2, 3)))
        np.testing.assert_allclose(norms, [1, 1, 1, 0 if kind == "zero_mean_l2" else 1], atol=1e-6)

    def test_a_grey_image_has_a_finite_gradient(self):
        images = tf.fill([1, 4, 4, 3], 77 / 255)
        with tf.GradientTape() as tape:
            tape.watch(images)
            total = tf.reduce_sum(preprocessing_layer("zero_mean_l2")(images) ** 2)
        assert np.isfinite(tape.gradient(total, images)).all()

    def test_l2_normalisation_survives_saving(self, tmp_path):
        for kind in ("zero_mean_l2", "l2"):
            model = build_model("wrn_10_1", (8, 8, 3), 4, preprocessing=kind)
            model.save(tmp_path / "model.keras")
            again = keras.saving.load_model(tmp_path / "model.keras")
            images = pixels((8, 8, 3)) / 255
            np.testing.assert_array_equal(
                again(images, training=False), model(images, training=False)
            )


class TestPaths:
    @pytest.fixture
    def copy(self, narrow, tmp_path):
        shutil.copytree(pathlib.Path(narrow[0]).parent, tmp_path / "models" / "secret")
        return tmp_path / "models" / "secret"

    def assert_reads(self, narrow, path):
        found = load_madry_cifar10(str(path))(narrow[1], training=False)
        assert_relatively_close(found, narrow[2]["logit"], 1e-4)

    def test_every_way_to_name_a_checkpoint(self, copy):
        expected = str(copy / "checkpoint-100")
        names = (
            "",
            "checkpoint",
            "checkpoint-100",
            "checkpoint-100.index",
            "checkpoint-100.data-00000-of-00001",
        )
        for name in (*names, "checkpoint-100.meta"):
            assert tf1.find_prefix(str(copy / name)) == expected
        (copy / "checkpoint").unlink()
        assert tf1.find_prefix(str(copy)) == expected
        assert [file.name for file in tf1.files(str(copy))] == [
            "checkpoint-100.data-00000-of-00001",
            "checkpoint-100.index",
        ]

    def test_a_state_file_from_another_machine(self, narrow, copy):
        (copy / "checkpoint").write_text(
            'model_checkpoint_path: "/data/theirs/models/secret/checkpoint-100"\n'
        )
        self.assert_reads(narrow, copy)

    def test_the_state_file_decides_and_its_own_folder_comes_first(self, narrow, copy):
        """A copied folder reads its own files, even where the original still is."""
        for file in copy.glob("checkpoint-100.*"):
            shutil.copy(file, copy / file.name.replace("-100", "-200"))
        original = pathlib.Path(narrow[0]).parent
        (copy / "checkpoint").write_text(f'model_checkpoint_path: "{original}/checkpoint-100"\n')
        assert tf1.find_prefix(str(copy)) == str(copy / "checkpoint-100")

    def test_without_a_state_file_the_last_step_counts(self, copy):
        for file in copy.glob("checkpoint-100.*"):
            shutil.copy(file, copy / file.name.replace("-100", "-90"))
        (copy / "checkpoint").unlink()
        assert tf1.find_prefix(str(copy)) == str(copy / "checkpoint-100")

    def test_format_v1(self, narrow, tmp_path):
        arrays = tf1_networks.read_arrays(narrow[0])
        with tf.Graph().as_default(), tf.compat.v1.Session() as session:
            for name, value in arrays.items():
                tf.compat.v1.get_variable(name, initializer=tf.constant(value))
            session.run(tf.compat.v1.global_variables_initializer())
            saver = tf.compat.v1.train.Saver(write_version=tf.compat.v1.train.SaverDef.V1)
            saver.save(session, str(tmp_path / "old"))
        assert not list(tmp_path.glob("*.index"))
        self.assert_reads(narrow, tmp_path)
        assert tf1.files(str(tmp_path / "old")) == [tmp_path / "old"]


def assert_one_line(function, path, *parts):
    with pytest.raises(InputError) as caught:
        function(str(path))
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message
    return message


LOADERS = [load_madry_mnist, load_madry_cifar10]


class TestBadInput:
    @pytest.fixture(scope="class")
    def arrays(self, mnist, narrow):
        return {
            load_madry_mnist: tf1_networks.read_arrays(mnist[0], tf1_networks.SLOTS),
            load_madry_cifar10: tf1_networks.read_arrays(narrow[0], tf1_networks.SLOTS),
        }

    # A variable of each network: (name, its shape, another shape).
    VARIABLES = {
        load_madry_mnist: ("Variable_3", (64,), (65,)),
        load_madry_cifar10: ("unit_2_0/sub1/conv1/DW", (3, 3, 32, 64), (3, 3, 64, 32)),
    }

    @pytest.mark.parametrize("load", LOADERS)
    def test_missing_variable(self, load, arrays, tmp_path):
        name = self.VARIABLES[load][0]
        left = {key: value for key, value in arrays[load].items() if key != name}
        prefix = tf1_networks.save_arrays(tmp_path / "model", left)
        message = assert_one_line(load, prefix, f"1 missing ({name})", str(prefix))
        assert "not expected" not in message

    @pytest.mark.parametrize("load", LOADERS)
    def test_extra_variable(self, load, arrays, tmp_path):
        extra = {"ema/decay": np.float32(0.9), "lost/Momentum": np.zeros(2, np.float32)}
        prefix = tf1_networks.save_arrays(tmp_path / "model", arrays[load] | extra)
        # A slot of no variable is no slot.
        message = assert_one_line(load, prefix, "2 not expected (ema/decay, lost/Momentum)")
        assert "missing" not in message

    @pytest.mark.parametrize("load", LOADERS)
    def test_wrong_shape(self, load, arrays, tmp_path):
        name, shape, other = self.VARIABLES[load]
        changed = arrays[load] | {name: np.zeros(other, np.float32)}
        prefix = tf1_networks.save_arrays(tmp_path / "model", changed)
        assert_one_line(
            load, prefix, f"1 of another shape or type ({name} {other} float32 instead of {shape})"
        )

    @pytest.mark.parametrize("load", LOADERS)
    def test_wrong_type(self, load, arrays, tmp_path):
        name, shape, _ = self.VARIABLES[load]
        prefix = tf1_networks.save_arrays(
            tmp_path / "model", arrays[load] | {name: np.zeros(shape, np.int32)}
        )
        assert_one_line(load, prefix, f"{name} {shape} int32")

    def test_each_is_no_checkpoint_of_the_other(self, mnist, narrow):
        message = assert_one_line(
            load_madry_cifar10, mnist[0], "w32-10", "missing", "8 not expected (Variable,"
        )
        assert len(message) < 600
        assert_one_line(
            load_madry_mnist, narrow[0], "8 missing (Variable, Variable_1, Variable_2, ...)"
        )

    @pytest.mark.parametrize("load", LOADERS)
    @pytest.mark.parametrize(
        "damage", ["truncated", "empty", "flipped", "absent", "no index", "bad index"]
    )
    def test_damaged_files(self, load, damage, arrays, tmp_path):
        prefix = tf1_networks.save_arrays(tmp_path / "model", arrays[load])
        data, index = (pathlib.Path(f"{prefix}.{end}") for end in ("data-00000-of-00001", "index"))
        content = data.read_bytes()
        if damage == "truncated":
            data.write_bytes(content[: len(content) // 2])
        elif damage == "empty":
            data.write_bytes(b"")
        elif damage == "flipped":
            data.write_bytes(content[:999] + bytes([content[999] ^ 255]) + content[1000:])
        elif damage == "absent":
            data.unlink()
        elif damage == "no index":
            index.unlink()
        else:
            index.write_bytes(b"<!DOCTYPE html>" * 100)
        assert_one_line(load, prefix, str(prefix))

    @pytest.mark.parametrize("load", LOADERS)
    def test_nothing_there(self, load, tmp_path):
        (tmp_path / "empty").mkdir()
        assert_one_line(load, tmp_path / "empty", "no checkpoint in the folder", "empty")
        assert_one_line(load, tmp_path / "absent", "no checkpoint at", "absent")
        assert_one_line(load, "", "no checkpoint given")
        (tmp_path / "model.pt").write_bytes(b"<html>" * 100)
        assert_one_line(load, tmp_path / "model.pt", "model.pt", "cannot be read")

    def test_a_state_file_that_leads_nowhere(self, tmp_path):
        (tmp_path / "checkpoint").write_text('model_checkpoint_path: "/theirs/checkpoint-7"\n')
        assert_one_line(load_madry_mnist, tmp_path, "/theirs/checkpoint-7", "not there")
        (tmp_path / "checkpoint").write_bytes(b"\xff\xfe nothing")
        assert_one_line(load_madry_mnist, tmp_path, "no checkpoint in the folder")
