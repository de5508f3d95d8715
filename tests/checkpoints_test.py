"""checkpoints/specs.py: which loader a SPEC goes to, which files it means, and the SHA-256 that is
checked first.

What the loaders make of the files is tested in madry_test, igam_reference_test and
robustbench_test."""

import hashlib
import pathlib
import shutil
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_robust_transfer as rt
from tests import tf1_networks
from tf_robust_transfer.checkpoints import specs
from tf_robust_transfer.errors import InputError


def sha256_of(path):
    return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()


def error_of(*arguments, **options):
    with pytest.raises(InputError) as caught:
        rt.load_model(*arguments, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.fixture
def saved(tmp_path):
    """A small .keras file."""
    model = rt.build_model("small_cnn", (8, 8, 1), 3)
    rt.save_model(model, tmp_path / "model.keras")
    return tmp_path / "model.keras"


@pytest.fixture(scope="module")
def narrow(tmp_path_factory):
    """Prefix of a cifar10_challenge checkpoint of a w8-1."""

    def build():
        tf.compat.v1.set_random_seed(
            0
        )  # asked for where a training run has made TensorFlow deterministic
        return tf1_networks.wide(blocks=1, width=1, logits=(("logit", 4),))

    with tf1_networks.session_with_random_weights(build) as (_, session):
        return tf1_networks.save(session, tmp_path_factory.mktemp("narrow"))


@pytest.fixture
def recorded(monkeypatch):
    """The locations that loaders are called with, in place of loading."""
    calls = []
    model = keras.Sequential([keras.Input((2, 2, 1)), keras.layers.Flatten()])
    for name, scheme in specs.SCHEMES.items():
        fake = specs.Scheme(
            scheme.location,
            scheme.files,
            lambda location, name=name: calls.append((name, location)) or model,
        )
        monkeypatch.setitem(specs.SCHEMES, name, fake)
    return calls


class TestSpecs:
    def test_a_keras_file_and_a_run_folder(self, saved):
        images = np.zeros((1, 8, 8, 1), np.float32)
        expected = keras.saving.load_model(saved)(images)
        for spec in (saved, str(saved), str(saved.parent)):
            np.testing.assert_array_equal(rt.load_model(spec)(images), expected)
            assert specs.source_files(spec) == [saved]

    def test_the_home_folder_is_written_as_a_tilde(self, saved, monkeypatch):
        monkeypatch.setenv("HOME", str(saved.parent))
        for spec in ("~", "~/model.keras"):
            assert specs.source_files(spec) == [saved]
        assert rt.load_model("~/model.keras").name == "small_cnn"
        assert rt.as_classifier("~/model.keras").name == "small_cnn"
        rt.save_model(rt.load_model("~"), "~/other.keras")
        assert (saved.parent / "other.keras").exists()
        pt = specs.source_files("robustbench:Wong2020Fast:~/a.pt")
        assert pt == [saved.parent / "a.pt"]
        assert "no model at '~of_nobody/a.keras'" in error_of("~of_nobody/a.keras")

    def test_a_path_that_exists_is_a_path_whatever_its_colons(self, saved, monkeypatch):
        monkeypatch.chdir(saved.parent)
        for name in ("madry_mnist:model.keras", "a:b.keras"):
            shutil.copy(saved, name)
            assert rt.load_model(name).name == "small_cnn"
        pathlib.Path("run:1").mkdir()
        shutil.copy(saved, "run:1/model.keras")
        assert rt.load_model("run:1").name == "small_cnn"

    def test_a_scheme_loads(self, narrow):
        model = rt.load_model(f"madry_cifar10:{narrow}")
        assert model.name == "madry_wrn_8_1" and model.output_shape == (None, 4)
        rest = f"{narrow}.data-00000-of-00001", f"{narrow}.index"
        folder = pathlib.Path(narrow).parent
        for location in (narrow, folder):
            assert [str(file) for file in specs.source_files(f"madry_cifar10:{location}")] == [
                *rest
            ]

    @pytest.mark.parametrize("name", specs.SCHEMES)
    def test_every_scheme_gets_what_follows_its_colon(self, name, recorded):
        rt.load_model(f"{name}:some/where:else")
        assert recorded == [(name, "some/where:else")]

    def test_the_files_of_each_scheme(self, narrow):
        expected = [pathlib.Path(f"{narrow}.data-00000-of-00001"), pathlib.Path(f"{narrow}.index")]
        for spec in (f"madry_mnist:{narrow}", f"igam:{narrow}", f"igam:teacher:{narrow}"):
            assert specs.source_files(spec) == expected
        assert specs.source_files("robustbench:Wong2020Fast:a:b.pt") == [pathlib.Path("a:b.pt")]

    def test_robustbenchs_id_and_file(self):
        """The nearest ids are named; a known one without its file is told how to go on."""
        for spec in ("robustbench:Wong2020", "robustbench:Wong2020:x.pt"):
            assert (
                "unknown RobustBench model 'Wong2020'; nearest valid names: Wong2020Fast"
                in error_of(spec)
            )
        for spec in ("robustbench:Wong2020Fast", "robustbench:Wong2020Fast:"):
            assert error_of(spec).endswith("names no file; write robustbench:MODEL_ID:FILE.pt")

    @pytest.mark.parametrize(
        ("spec", "says"),
        [
            ("", "no model given"),
            ("nowhere.keras", "no model at 'nowhere.keras'"),
            ("runs/a:b", "no model at 'runs/a:b'"),
            (
                "madry_minst:x",
                "unknown kind of model 'madry_minst'; nearest valid names: madry_mnist",
            ),
            (
                "ftp://x.org/a.pt",
                "unknown kind of model 'ftp'; valid names: igam, madry_cifar10, madry_mnist, "
                "robustb",
            ),
            ("madry_mnist:", "'madry_mnist:' names no file; write madry_mnist:DIR_OR_PREFIX"),
            ("robustbench:", "'robustbench:' names no file; write robustbench:MODEL_ID:FILE.pt"),
        ],
    )
    def test_what_cannot_be_read_is_said(self, spec, says, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert says in error_of(spec)


class TestSha256:
    def test_of_a_keras_file_and_a_run_folder(self, saved):
        digest = sha256_of(saved)
        for spec in (saved, saved.parent):
            assert (
                rt.load_model(spec, sha256=digest).name
                == rt.load_model(spec, sha256=digest.upper()).name
            )
            message = error_of(spec, sha256="0" * 64)
            assert digest in message and "0" * 64 in message and str(saved) in message

    def test_of_a_tf1_checkpoint_is_that_of_its_data_file(self, narrow):
        digest = sha256_of(f"{narrow}.data-00000-of-00001")
        for location in (narrow, pathlib.Path(narrow).parent):
            assert rt.load_model(f"madry_cifar10:{location}", sha256=digest).name == "madry_wrn_8_1"
        assert f"SHA-256 is {digest}, expected " in error_of(
            f"madry_cifar10:{narrow}", sha256=sha256_of(f"{narrow}.index")
        )

    def test_of_a_pt_file(self, tmp_path, recorded):
        (tmp_path / "x.pt").write_bytes(b"anything")
        spec = f"robustbench:Wong2020Fast:{tmp_path}/x.pt"
        digest = "eec89088ee408b80387155272b113256"  # md5
        assert "64 hexadecimal digits, got 'eec8" in error_of(spec, sha256=digest)
        rt.load_model(spec, sha256=hashlib.sha256(b"anything").hexdigest())
        assert recorded == [("robustbench", f"Wong2020Fast:{tmp_path}/x.pt")]

    def test_nothing_is_read_where_it_is_wrong(self, tmp_path, recorded, narrow):
        (tmp_path / "x.pt").write_bytes(b"anything")
        error_of(f"robustbench:Wong2020Fast:{tmp_path}/x.pt", sha256="0" * 64)
        for name in ("madry_mnist", "madry_cifar10", "igam"):
            error_of(f"{name}:{narrow}", sha256="0" * 64)
        assert not recorded

    @pytest.mark.parametrize(
        "digest", ["", "0" * 63, "g" * 64, "0x" + "0" * 62, "sha256:" + "0" * 64]
    )
    def test_a_malformed_one(self, saved, digest):
        assert "has 64 hexadecimal digits" in error_of(saved, sha256=digest)

    def test_no_file_to_check(self, tmp_path):
        assert "there is no file" in error_of(
            f"robustbench:Wong2020Fast:{tmp_path}/x.pt", sha256="0" * 64
        )

    def test_weights_in_several_files(self, narrow, tmp_path):
        for number in (0, 1):
            shutil.copy(
                f"{narrow}.data-00000-of-00001", tmp_path / f"model.data-0000{number}-of-00002"
            )
        shutil.copy(f"{narrow}.index", tmp_path / "model.index")
        assert "in several files" in error_of(f"madry_cifar10:{tmp_path}/model", sha256="0" * 64)


class TestKerasFiles:
    def test_a_lambda_layer_does_not_run(self, tmp_path):
        """A .keras file may carry marshalled code, which Keras refuses in its safe mode."""
        victim = tmp_path / "victim"
        images = keras.Input((2, 2, 1))
        code = eval(f"lambda x: __import__('os').mkdir({str(victim)!r}) or x")
        flat = keras.layers.Lambda(code, output_shape=(4,))(keras.layers.Flatten()(images))
        keras.Model(images, flat).save(tmp_path / "model.keras")
        assert "Lambda layer, whose code is not run" in error_of(tmp_path / "model.keras")
        assert not victim.exists()
        # The file is what it is said to be.
        keras.saving.load_model(tmp_path / "model.keras", safe_mode=False)(np.zeros((1, 2, 2, 1)))
        assert victim.is_dir()

    def test_another_zip_archive(self, tmp_path):
        with zipfile.ZipFile(tmp_path / "model.keras", "w") as archive:
            archive.writestr("config.json", "{}")
        assert "cannot be loaded" in error_of(tmp_path / "model.keras")
