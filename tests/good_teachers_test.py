"""What good teachers need: N-FGSM, one-cycle rates, averages, the best epoch, a network to start
from.
"""

import dataclasses
import json
import re
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_robust_transfer as rt
from tf_robust_transfer.analysis.alignment import gradient_alignment
from tf_robust_transfer.command_line import parse
from tf_robust_transfer.config import TrainConfig
from tf_robust_transfer.errors import InputError
from tf_robust_transfer.methods.averaging import copied
from tf_robust_transfer.methods.n_fgsm import NFGSM
from tf_robust_transfer.runs import callbacks, fitting, run_training
from tf_robust_transfer.runs.diagnostics import GradientDiagnostics
from tf_robust_transfer.runs.measured import KeepBest, Measured
from tf_robust_transfer.runs.optimizers import OneCycle

EPS = 0.1


@pytest.fixture(scope="module")
def linear():
    """Weights [4, 3] and images [500, 2, 2, 1] of a linear model, whose gradient NumPy knows."""
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(4, 3)).astype("float32")
    images = rng.uniform(size=(500, 2, 2, 1)).astype("float32")
    return weights, images, rng.integers(0, 3, 500)


def moved(linear, attack, **keywords):
    weights, images, labels = linear
    return attack.perturb(
        lambda x: tf.reshape(x, [-1, 4]) @ weights,
        tf.constant(images),
        tf.constant(labels),
        rt.ThreatModel(eps=EPS),
        tf.constant([1, 2]),
        **keywords,
    ).numpy()


def test_n_fgsm_without_noise_is_a_step_along_numpys_sign(linear):
    weights, images, labels = linear
    logits = images.reshape(-1, 4) @ weights
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    gradient = (probabilities - np.eye(3)[labels]) @ weights.T
    for step in (None, 0.03):
        expected = np.clip(images + (step or EPS) * np.sign(gradient).reshape(images.shape), 0, 1)
        found = moved(linear, NFGSM(noise=0.0, step_size=step))
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_n_fgsm_starts_from_twice_the_ball_and_is_not_projected(linear):
    images = linear[1]
    found = moved(linear, NFGSM())
    assert found.min() >= 0 and found.max() <= 1
    distance = np.abs(found - images)
    assert 2 * EPS < distance.max() <= 3 * EPS + 1e-6
    # Where no bound is near, the noise is uniform in [-2 eps, 2 eps], on either side of which lies
    # the step: 1/4 of the pixels end beyond 2 eps.
    inner = (images > 3 * EPS) & (images < 1 - 3 * EPS)
    assert abs((distance[inner] > 2 * EPS).mean() - 0.25) < 0.05
    assert np.abs(moved(linear, NFGSM(), eps=0.01) - images).max() <= 0.03 + 1e-6


def test_n_fgsm_is_for_linf_and_the_cross_entropy(linear):
    with pytest.raises(InputError, match="n-fgsm is for linf"):
        NFGSM().perturb(None, None, None, rt.ThreatModel(norm="l2", eps=1.0), [0, 0])
    with pytest.raises(InputError, match="noise of at least 0"):
        NFGSM(noise=-1)


def test_one_cycle_rises_and_falls():
    rate = OneCycle(0.2, 100, peak=0.4)
    found = [float(rate(step)) for step in (0, 20, 40, 70, 100, 110)]
    np.testing.assert_allclose(found, [0, 0.1, 0.2, 0.1, 0, 0], atol=1e-7)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(rate))
    assert float(again(20)) == found[1]


class TestWeightAverage:
    """Against the recursion in NumPy, over the student's weights after each step."""

    DECAY = 0.9

    def method(self, decay=DECAY, batch_norm=False):
        keras.utils.set_random_seed(1)
        student = rt.build_model(
            "small_cnn", input_shape=(8, 8, 1), num_classes=10, batch_norm=batch_norm
        )
        method = rt.Natural(student=student, weight_averaging=decay)
        method.compile(optimizer=keras.optimizers.SGD(0.05))
        return method

    def batch(self):
        rng = np.random.default_rng(3)
        return rng.uniform(size=(16, 8, 8, 1)).astype("float32"), rng.integers(0, 10, 16)

    def train(self, method, steps):
        images, labels = self.batch()
        for _ in range(steps):
            method.train_on_batch(images, labels)
            yield [variable.numpy() for variable in method.student.trainable_variables]

    def test_it_is_numpys_recursion_and_changes_no_training(self):
        method, plain = self.method(), self.method(decay=0.0)
        expected = [variable.numpy() for variable in method.student.trainable_variables]
        for step, (weights, same) in enumerate(
            zip(self.train(method, 30), self.train(plain, 30), strict=True), start=1
        ):
            for one, other in zip(weights, same, strict=True):
                np.testing.assert_array_equal(one, other)
            decay = min(self.DECAY, (1 + step) / (10 + step))
            expected = [decay * e + (1 - decay) * w for e, w in zip(expected, weights, strict=True)]
        averaged = method.averaged_student([])
        for variable, value in zip(averaged.trainable_variables, expected, strict=True):
            np.testing.assert_allclose(variable.numpy(), value, atol=1e-6)
        assert averaged is not method.student and method.student.count_params() == sum(
            np.prod(variable.shape) for variable in averaged.trainable_variables
        )

    def test_its_batch_statistics_are_those_of_its_own_activations(self):
        method = self.method(batch_norm=True)
        for _ in self.train(method, 5):
            pass
        images, _ = self.batch()
        averaged = method.averaged_student([images[:8], images[8:]])
        first = next(
            layer for layer in averaged.layers if isinstance(layer, keras.layers.BatchNormalization)
        )
        below = keras.Model(averaged.inputs[0], first.input)(images).numpy()
        halves = [below[:8], below[8:]]
        np.testing.assert_allclose(
            first.moving_mean.numpy(), np.mean([h.mean((0, 1, 2)) for h in halves], 0), atol=1e-5
        )
        np.testing.assert_allclose(
            first.moving_variance.numpy(), np.mean([h.var((0, 1, 2)) for h in halves], 0), atol=1e-5
        )
        assert first.momentum == 0.9

    def test_dropout_before_a_batch_norm_draws_the_same_each_time(self):
        """The statistics depended on how often they had been estimated, in an interrupted run
        less often.
        """
        layers = keras.layers
        student = keras.Sequential(
            [
                keras.Input((8, 8, 1)),
                layers.Flatten(),
                layers.Dropout(0.5),
                layers.BatchNormalization(),
                layers.Dense(10),
            ]
        )
        method = rt.Natural(student=student, weight_averaging=0.5)
        images = self.batch()[0]
        one, again = (method.averaged_student([images, images]).get_weights() for _ in range(2))
        for first, second in zip(one, again, strict=True):
            np.testing.assert_array_equal(first, second)

    def test_it_goes_on_from_its_checkpoint_bit_for_bit(self, tmp_path):
        whole, begun = self.method(), self.method()
        for _ in self.train(whole, 6):
            pass
        for _ in self.train(begun, 3):
            pass
        path = tf.train.Checkpoint(**begun.state()).write(str(tmp_path / "state"))
        resumed = self.method()
        tf.train.Checkpoint(**resumed.state()).read(path).assert_consumed()
        for _ in self.train(resumed, 3):
            pass
        for one, other in zip(whole.average.averages, resumed.average.averages, strict=True):
            np.testing.assert_array_equal(one.numpy(), other.numpy())

    def test_two_devices_have_the_average_of_one(self):
        images, labels = self.batch()
        averages = []
        for devices in (1, 2):
            # Collectives of two strategies in one process would wait for one another.
            strategy = tf.distribute.MirroredStrategy(
                [f"CPU:{index}" for index in range(devices)],
                cross_device_ops=tf.distribute.ReductionToOneDevice(),
            )
            with strategy.scope():
                method = self.method()
            batches = tf.data.Dataset.from_tensors((images, labels)).repeat()
            method.fit(batches, steps_per_epoch=4, verbose=0)
            averages.append([weight.numpy() for weight in method.average.averages])
        for one, other in zip(*averages, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-6)

    def test_the_epochs_diagnostics_are_the_averages(self):
        method, images = self.method(), self.batch()[0]
        for _ in self.train(method, 3):
            pass
        found, labels = {}, self.batch()[1]
        events = types.SimpleNamespace(scalar=lambda tag, value, step: found.update({tag: value}))
        measured = Measured(method, lambda: tf.data.Dataset.from_tensors((images, labels)))
        callback = GradientDiagnostics(
            events, measured, images, labels, callbacks.BatchCount(method, None)
        )
        callback.set_model(method)
        callback.on_epoch_end(0, {})
        average = method.averaged_student([images])
        own, last = (
            np.nanmean(gradient_alignment(model, images, labels).alpha)
            for model in (average, method.student)
        )
        np.testing.assert_allclose(found["diagnostics/alpha"], own, rtol=1e-5)
        assert abs(own - last) > 1e-4

    def test_a_network_that_cannot_be_cloned_is_refused_in_a_line(self):
        class Own(keras.Model):
            def __init__(self):
                super().__init__()
                self.dense = keras.layers.Dense(3)

            def call(self, images):
                return self.dense(keras.ops.reshape(images, (-1, 64)))

        own = Own()
        own(np.zeros((1, 8, 8, 1), np.float32))
        with pytest.raises(InputError, match="Keras cannot clone Own: give a functional"):
            copied(own)

    def test_a_method_without_it_says_how_to_have_it(self):
        with pytest.raises(InputError, match="make it with weight_averaging=0.999"):
            self.method(decay=0.0).averaged_student([])


@pytest.mark.slow
class TestRuns:
    """`train` with an average and the best epoch: a whole run, and one that goes on after each
    epoch.
    """

    FLAGS = (
        "--dataset=digits",
        "--model=small_cnn",
        "--model_options=batch_norm=True",
        "--method=adversarial_training",
        "--train_attack=n-fgsm",
        "--schedule=one_cycle",
        "--eps=0.1",
        "--epochs=3",
        "--attacks=fgsm",
        "--watch_attack=fgsm",
        "--watch_examples=20",
        "--max_examples=60",
        "--weight_averaging=0.9",
        "--validation_fraction=0.1",
        "--keep=both",
    )

    @pytest.fixture(scope="class")
    def whole(self, tmp_path_factory):
        folder = tmp_path_factory.mktemp("whole")
        run_training(parse(TrainConfig, [*self.FLAGS, f"--run_dir={folder}"]))
        return folder

    def test_the_folder_holds_last_and_best_with_their_figures(self, whole):
        best = json.loads((whole / "model_best.json").read_text())
        assert best["epoch"] in (1, 2, 3) and 110 <= best["num_examples"] <= 140
        for name in ("results.json", "results_best.json"):
            found = json.loads((whole / name).read_text())
            assert found["num_examples"] == 60 and found["training"]["steps"] > 0
        assert not (whole / "evaluation_best.state.npz").exists()

    def test_what_is_saved_is_the_average_and_is_attacked(self, whole):
        saved = rt.load_model(str(whole / "model.keras"))
        checkpoint = tf.train.load_checkpoint(str(whole / "checkpoints"))
        names = [name for name, _ in tf.train.list_variables(str(whole / "checkpoints"))]
        averages = {
            re.search(r"average(\d+)", name)[1]: checkpoint.get_tensor(name)
            for name in names
            if re.search(r"average/average\d+/.*VALUE", name)
        }
        assert len(averages) == len(saved.trainable_variables)
        for index, variable in enumerate(saved.trainable_variables):
            np.testing.assert_array_equal(variable.numpy(), averages[str(index)])
        result = json.loads((whole / "results.json").read_text())
        test = rt.data.load_data("digits", "test", max_examples=60)
        again = rt.evaluate_robustness(
            saved, test.images / 255.0, test.labels, threat_model=rt.ThreatModel(eps=0.1),
            attacks=("fgsm",), check_model=False,
        )  # fmt: skip
        assert again.accuracy["fgsm"] == result["accuracy"]["fgsm"]

    @pytest.mark.slow
    def test_a_run_that_goes_on_ends_with_the_same_networks(self, whole, tmp_path, monkeypatch):
        stopped = []

        def stop(self, epoch, logs=None):
            self.save()
            if len(stopped) < 2:
                stopped.append(epoch)
                raise KeyboardInterrupt

        monkeypatch.setattr(callbacks.Checkpoint, "on_epoch_end", stop)
        config = parse(TrainConfig, [*self.FLAGS, f"--run_dir={tmp_path}"])
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                run_training(config)
        run_training(config)
        assert stopped == [0, 1]
        for name in ("model.keras", "model_best.keras"):
            one, other = (rt.load_model(str(folder / name)) for folder in (whole, tmp_path))
            for mine, theirs in zip(one.weights, other.weights, strict=True):
                np.testing.assert_array_equal(mine.numpy(), theirs.numpy())

    def test_a_signal_in_the_last_step_of_an_epoch(self, tmp_path, monkeypatch):
        """The epoch is still judged, so that the one that is kept is there."""
        judged = []

        class Judge(KeepBest):
            def on_epoch_end(self, epoch, logs=None):
                judged.append(epoch)
                super().on_epoch_end(epoch, logs)

        monkeypatch.setattr(fitting, "KeepBest", Judge)
        begin = callbacks.StopWhenTerminated.on_train_batch_begin

        def in_the_last_step(self, batch, logs=None):
            self._asked |= not judged and batch + 1 == self.params["steps"]
            begin(self, batch, logs)

        monkeypatch.setattr(callbacks.StopWhenTerminated, "on_train_batch_begin", in_the_last_step)
        flags = ["--epochs=2", "--train_fraction=0.2", f"--run_dir={tmp_path}"]
        config = parse(TrainConfig, [*self.FLAGS, *flags])
        with pytest.raises(SystemExit) as ended:
            run_training(config)
        assert ended.value.code == callbacks.TERMINATED and judged == [0]
        run_training(config)
        assert judged == [0, 1]

    @pytest.mark.slow
    def test_another_run_starts_from_it(self, whole, tmp_path):
        flags = [
            flag for flag in self.FLAGS if not flag.startswith(("--weight", "--val", "--keep"))
        ]
        run_training(
            parse(
                TrainConfig,
                [*flags, f"--initial_model={whole}", "--train_steps=1", "--learning_rate=1e-6",
                 f"--run_dir={tmp_path}"],
            )
        )  # fmt: skip
        before, after = (rt.load_model(str(folder)) for folder in (whole, tmp_path))
        for one, other in zip(before.trainable_variables, after.trainable_variables, strict=True):
            np.testing.assert_allclose(one.numpy(), other.numpy(), atol=1e-4)


def test_the_best_epoch_needs_held_out_images(tmp_path):
    for flags in (["--keep=best"], ["--validation_fraction=0.1"]):
        with pytest.raises(InputError, match="give both, such as --keep=best"):
            parse(TrainConfig, [*flags, f"--run_dir={tmp_path}"]).verify()


def test_the_last_image_of_a_class_is_not_held_out():
    images = np.arange(7, dtype=np.uint8).reshape(7, 1, 1, 1)
    labels = np.array([0, 1, 1, 1, 1, 1, 2], np.int32)
    few = rt.data.ImageData(
        images=images, labels=labels, num_classes=3, class_names=("a", "b", "c"), name="few",
        split="train",
    )  # fmt: skip
    kept, held = rt.data.hold_out(few, 0.2, seed=0)
    assert set(kept.labels) == {0, 1, 2} and list(held.labels) == [1]
    kept, held = rt.data.hold_out(few, 0.99, seed=0)
    assert sorted(kept.labels) == [0, 1, 2]
    alone = dataclasses.replace(few, images=images[[0, 1, 6]], labels=labels[[0, 1, 6]])
    with pytest.raises(InputError, match="holds out no image"):
        rt.data.hold_out(alone, 0.2, seed=0)


def test_held_out_images_are_a_stratified_share():
    digits = rt.data.load_data("digits", "train")
    kept, held = rt.data.hold_out(digits, 0.2, seed=3)
    assert len(kept) + len(held) == len(digits)
    counts = np.bincount(held.labels) / np.bincount(digits.labels)
    assert abs(counts - 0.2).max() < 0.01
    rows = {image.tobytes() for image in kept.images}
    assert sum(image.tobytes() in rows for image in held.images) <= 5  # digits that are there twice
