"""Keras's callbacks on a method: each finds by itself which way a logged value improves, and acts
on it.
"""

import functools
import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.method_by_flags import method_by_flags
from tests.methods_test import batch, fit, linear_model
from tf_robust_transfer.methods import METHODS, Natural

# Of four validation images so many are right after each epoch.
RIGHT = [1, 2, 4, 4, 3, 1]
EPOCHS = len(RIGHT)
START_RATE = 1.0


class Script(keras.callbacks.Callback):
    """Gives the student weights before each validation, whose accuracy is RIGHT / 4; the loss falls
    as it rises.
    """

    def on_train_batch_end(self, batch, logs=None):
        kernel, bias = self.model.student.trainable_variables
        right = RIGHT[self.epoch]
        # Image i has the value i / 4 in every pixel: class 0 has the logit 2 (right - 1/2 - i), the
        # others 0.
        values = np.zeros(kernel.shape)
        values[:, 0] = -8.0 / kernel.shape[0]
        kernel.assign(values)
        bias.assign([2.0 * (right - 0.5), *np.zeros(bias.shape[0] - 1)])

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch


class Rates(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.rates = []

    def on_epoch_end(self, epoch, logs=None):
        self.rates.append(float(self.model.optimizer.learning_rate))


VALIDATION = (
    np.tile(np.arange(4, dtype=np.float32)[:, None, None, None] / 4, (1, 2, 2, 1)),
    np.zeros(4, np.int64),
)


def scripted_fit(*callbacks):
    """(method, history) of a fit whose validation accuracies are RIGHT / 4."""
    method = Natural(student=linear_model())
    method.compile(optimizer=keras.optimizers.SGD(START_RATE))
    history = fit(
        method,
        *batch(4),
        epochs=EPOCHS,
        validation_data=VALIDATION,
        callbacks=[Script(), *callbacks],
    )
    return method, history


def accuracy_of(model):
    return np.mean(np.argmax(model(VALIDATION[0]), axis=1) == 0)


class TestOnValidationAccuracy:
    def test_the_script(self):
        method, history = scripted_fit()
        assert history["val_accuracy"] == [right / 4 for right in RIGHT]
        assert accuracy_of(method.student) == RIGHT[-1] / 4

    def test_early_stopping_keeps_the_best_weights(self):
        stopping = keras.callbacks.EarlyStopping(
            "val_accuracy", patience=2, restore_best_weights=True
        )
        method, history = scripted_fit(stopping)
        # The first epoch with 4 of 4 is the third; two more without a better one are the fifth.
        assert len(history["val_accuracy"]) == 5 and stopping.best_epoch == 2
        assert stopping.best == 1.0 and accuracy_of(method.student) == 1.0

    def test_early_stopping_min_delta(self):
        stopping = keras.callbacks.EarlyStopping("val_accuracy", patience=1, min_delta=0.3)
        _, history = scripted_fit(stopping)
        assert (
            len(history["val_accuracy"]) == 2
        )  # 0.5 is better than 0.25, but not by more than 0.3

    def test_reduce_lr_on_plateau_lowers_the_rate_only_when_the_accuracy_stops_rising(self):
        plateau = keras.callbacks.ReduceLROnPlateau(
            "val_accuracy", factor=0.5, patience=1, min_delta=0.01
        )
        rates = Rates()
        scripted_fit(plateau, rates)
        assert rates.rates == [1.0, 1.0, 1.0, 0.5, 0.25, 0.125]

    def test_model_checkpoint_saves_at_every_better_accuracy(self, tmp_path):
        path = str(tmp_path / "{epoch}.weights.h5")
        checkpoint = keras.callbacks.ModelCheckpoint(
            path, "val_accuracy", save_best_only=True, save_weights_only=True
        )
        scripted_fit(checkpoint)
        assert sorted(p.name for p in tmp_path.iterdir()) == [
            f"{epoch}.weights.h5" for epoch in (1, 2, 3)
        ]

    def test_model_checkpoint_leaves_the_best_weights(self, tmp_path):
        path = str(tmp_path / "best.weights.h5")
        checkpoint = keras.callbacks.ModelCheckpoint(
            path, "val_accuracy", save_best_only=True, save_weights_only=True
        )
        method, _ = scripted_fit(checkpoint)
        assert accuracy_of(method.student) == 0.25
        method.load_weights(path)
        assert accuracy_of(method.student) == 1.0

    @pytest.mark.parametrize("suffix", [".keras", ".h5"])
    def test_model_checkpoint_holds_the_best_student_as_plain_keras_reads_it(
        self, suffix, tmp_path
    ):
        path = str(tmp_path / f"best{suffix}")
        method, _ = scripted_fit(
            keras.callbacks.ModelCheckpoint(path, "val_accuracy", save_best_only=True)
        )
        assert accuracy_of(method.student) == 0.25
        best = keras.models.load_model(path, compile=False)
        assert type(best) is type(method.student) and accuracy_of(best) == 1.0


class TestOnValidationLoss:
    def test_early_stopping(self):
        stopping = keras.callbacks.EarlyStopping("val_loss", patience=1)
        _, history = scripted_fit(stopping)
        losses = history["val_loss"]
        # Falls until it rises for the first time.
        assert len(losses) == stopping.stopped_epoch + 1
        assert np.all(np.diff(losses[:-1]) < 0) and losses[-1] >= losses[-2]


def methods(teacher_channels=2):
    """{name: what makes a tiny method of this kind}"""

    def model(seed, channels=2):
        images = keras.Input((4, 4, 1))
        x = keras.layers.Conv2D(channels, 3, padding="same", activation="relu", name="block1")(
            images
        )
        return keras.Model(images, keras.layers.Dense(3, name="logits")(keras.layers.Flatten()(x)))

    blocks = {"blocks": "block1", "alpha_acm": "1"}
    own = {
        "mixacm": blocks,
        "igam_mixacm": {**blocks, "lambda_diff": "1"},
        "igam": {"adversarial_form": "non_saturating"},
    }

    def make(name, student=None, teacher=None, **texts):
        texts = {"weight_decay": "1e-4"} | own.get(name, {}) | texts
        return method_by_flags(
            name, student or model(1), teacher or model(2, teacher_channels), **texts
        )

    return {name: functools.partial(make, name) for name in METHODS}


@pytest.mark.parametrize("kind", METHODS)
def test_every_logged_value_has_its_direction(kind):
    method = methods()[kind]()
    method.compile(optimizer=keras.optimizers.SGD(0.01))
    images, labels = batch(4, shape=(4, 4, 1))
    names = list(fit(method, images, labels, validation_data=(images, labels)))
    assert {"loss", "accuracy", "val_loss", "val_accuracy", "weight_decay"} <= set(names)
    for name in set(names) - {"discriminator_accuracy"}:
        callback = keras.callbacks.EarlyStopping(name)
        callback.set_model(method)
        callback._set_monitor_op()
        up = name.endswith("accuracy")
        assert (
            bool(callback.monitor_op(2.0, 1.0)) == up and bool(callback.monitor_op(1.0, 2.0)) != up
        )


def test_a_discriminators_accuracy_has_no_better_side():
    method = methods()["igam"]()
    method.compile(optimizer=keras.optimizers.SGD(0.01))
    callback = keras.callbacks.EarlyStopping("discriminator_accuracy")
    with pytest.raises(ValueError, match="maximized or minimized"):
        fit(method, *batch(4, shape=(4, 4, 1)), callbacks=[callback])


def test_what_keras_reports_is_unchanged():
    method = Natural(student=linear_model(), weight_decay=0.1)
    method.compile(optimizer=keras.optimizers.SGD(0.0))
    images, labels = batch(6)
    result = method.evaluate(images, labels, verbose=0)
    named = method.evaluate(images, labels, verbose=0, return_dict=True)
    assert list(named) == ["accuracy", "loss"] and sorted(result) == sorted(named.values())
    # Two epochs: the metrics are reset between them, once.
    history = fit(method, images, labels, epochs=2)
    np.testing.assert_allclose(history["loss"][0], history["loss"][1], rtol=1e-6)
    assert history["accuracy"] == [named["accuracy"]] * 2


# Every callback of Keras, as its users make it. Orbax is another package; RemoteMonitor needs a
# server.
CALLBACKS = {
    "BackupAndRestore": lambda folder: keras.callbacks.BackupAndRestore(
        f"{folder}/backup", delete_checkpoint=False
    ),
    "CSVLogger": lambda folder: keras.callbacks.CSVLogger(f"{folder}/log.csv"),
    "Callback": lambda folder: keras.callbacks.Callback(),
    "EarlyStopping": lambda folder: keras.callbacks.EarlyStopping(
        "loss", restore_best_weights=True
    ),
    "History": lambda folder: keras.callbacks.History(),
    "LambdaCallback": lambda folder: keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: None
    ),
    "LearningRateScheduler": lambda folder: keras.callbacks.LearningRateScheduler(
        lambda epoch, rate: rate / 2
    ),
    "ModelCheckpoint": lambda folder: keras.callbacks.ModelCheckpoint(f"{folder}/each.keras"),
    "ProgbarLogger": lambda folder: keras.callbacks.ProgbarLogger(),
    "ReduceLROnPlateau": lambda folder: keras.callbacks.ReduceLROnPlateau("loss"),
    "SwapEMAWeights": lambda folder: keras.callbacks.SwapEMAWeights(swap_on_epoch=True),
    "TensorBoard": lambda folder: keras.callbacks.TensorBoard(
        f"{folder}/tensorboard", histogram_freq=1, write_images=True, update_freq=1
    ),
    "TerminateOnNaN": lambda folder: keras.callbacks.TerminateOnNaN(),
}
EXCEPTED = {"CallbackList", "MonitorCallback", "OrbaxCheckpoint", "RemoteMonitor"}


def test_the_callbacks_are_kerass():
    found = {
        name
        for name, value in vars(keras.callbacks).items()
        if inspect.isclass(value) and not name.startswith("_")
    }
    assert found - EXCEPTED == set(CALLBACKS)


@pytest.mark.parametrize(
    "kind",
    ["natural", *(pytest.param(name, marks=pytest.mark.slow) for name in ("igam", "mixacm"))],
)
def test_every_callback_of_keras(kind, tmp_path):
    """All of them together, in one fit; so also that none gets into another's way."""
    method = methods()[kind]()
    method.compile(optimizer=keras.optimizers.SGD(0.01, use_ema=True))
    used = [make(tmp_path) for make in CALLBACKS.values()]
    images, labels = batch(4, shape=(4, 4, 1))
    fit(method, images, labels, epochs=2, validation_data=(images, labels), callbacks=used)
    for left in ("backup", "log.csv", "tensorboard", "each.keras"):
        assert (tmp_path / left).exists()
    assert used[list(CALLBACKS).index("History")].epoch == [0, 1]
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 3


def test_a_callback_list():
    method = Natural(student=linear_model())
    method.compile(optimizer=keras.optimizers.SGD(0.1))
    history = keras.callbacks.History()
    used = keras.callbacks.CallbackList([history], model=method, epochs=2)
    method.fit(*batch(4), epochs=2, verbose=0, callbacks=used)
    assert history.epoch == [0, 1]


MOVING = {
    "natural": {},
    "mixacm": {"acm_transform": "affine"},
    "igam": {"discriminator_every": "2", "noise": "0.1", "discriminator_channels": "2"},
}


@pytest.mark.parametrize(
    "kind",
    ["mixacm", *(pytest.param(name, marks=pytest.mark.slow) for name in ("igam", "natural"))],
)
def test_saved_weights_are_all_that_a_training_resumes_from(kind, tmp_path):
    """Optimizers, discriminator and affine transformations: three epochs, and one with two more in
    another method.
    """
    images, labels = batch(8, shape=(4, 4, 1))
    path = str(tmp_path / "all.weights.h5")

    def made():
        keras.utils.set_random_seed(0)
        method = methods(teacher_channels=3)[kind](**MOVING[kind])
        method.compile(optimizer=keras.optimizers.Adam(0.05))
        assert len(method.layers_of_terms) == (kind != "natural")
        return method

    def trained(method, epochs):
        options = {"epochs": epochs, "batch_size": 4, "shuffle": False, "verbose": 0}
        method.fit(images, labels, **options)
        return method

    whole = trained(made(), 3)
    trained(made(), 1).save_weights(path)
    resumed = made()
    resumed.student.set_weights([0.5 * w for w in resumed.student.get_weights()])
    resumed.load_weights(path)
    trained(resumed, 2)
    assert resumed.steps_done == whole.steps_done == 6
    for ours, theirs in zip(resumed.variables, whole.variables, strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-5, atol=1e-7)


def test_what_keras_models_do_goes_on_working(tmp_path):
    method = Natural(student=linear_model())
    method.compile(optimizer=keras.optimizers.SGD(0.1))
    images, labels = batch(4)
    own = np.asarray(method.student(images))
    np.testing.assert_allclose(method.predict(images, verbose=0), own, rtol=1e-6)
    method.save(tmp_path / "method.keras")
    loaded = keras.models.load_model(tmp_path / "method.keras")
    np.testing.assert_array_equal(np.asarray(loaded(images)), own)
    before = method.evaluate(images, labels, verbose=0, return_dict=True)["loss"]
    named = method.train_on_batch(images, labels, return_dict=True)
    assert named["loss"] == pytest.approx(before, rel=1e-5)
    assert method.evaluate(images, labels, verbose=0, return_dict=True)["loss"] < before


class TestDropout:
    """Keras counts its draws in variables that are no weights."""

    def made(self, seed=0):
        keras.utils.set_random_seed(0)
        images = keras.Input((4, 4, 1))
        x = keras.layers.Dropout(0.5)(keras.layers.Flatten()(images))
        x = keras.layers.Dropout(0.5)(keras.layers.Dense(16, name="hidden")(x))
        method = Natural(student=keras.Model(images, keras.layers.Dense(3)(x)), seed=seed)
        method.compile(optimizer=keras.optimizers.SGD(0.1))
        return method

    def weights_after(self, method, steps):
        """Of `hidden` after so many steps of the same batch."""
        images, labels = batch(4, shape=(4, 4, 1))
        fit(method, images, labels, epochs=steps)
        return method.student.get_layer("hidden").kernel.numpy()

    @pytest.mark.parametrize("kept_by", ["save_weights", "checkpoint"])
    def test_a_resumed_training_is_the_uninterrupted_one(self, kept_by, tmp_path):
        whole = self.weights_after(self.made(), 4)
        method, path = self.made(), str(tmp_path / "all.weights.h5")
        self.weights_after(method, 2)
        again = self.made()
        if kept_by == "save_weights":
            method.save_weights(path)
            again.load_weights(path)
        else:
            written = tf.train.Checkpoint(**method.state()).save(path)
            tf.train.Checkpoint(**again.state()).restore(written).assert_consumed()
        np.testing.assert_array_equal(self.weights_after(again, 2), whole)

    def test_each_step_layer_and_seed_has_masks_of_its_own(self):
        """A kernel's gradient of one image is zero where a mask is: its rows by the layer before,
        its columns by the one behind.
        """
        images, labels = batch(1, shape=(4, 4, 1))
        seen = []
        for seed in (0, 1):
            method = self.made(seed)
            kernel = method.student.get_layer("hidden").kernel
            for _ in range(3):
                before = kernel.numpy()
                fit(method, images, labels)
                moved = kernel.numpy() != before
                seen += [moved.any(axis=1), moved.any(axis=0)]
        assert len({mask.tobytes() for mask in seen}) == len(seen)
        assert 0.3 < np.mean(seen) < 0.7
