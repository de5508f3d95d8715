"""Keras's callbacks on a method: each finds by itself which way a logged value improves, and acts
on it.
"""

import keras
import numpy as np
import pytest

from tests.method_by_flags import method_by_flags
from tests.methods_test import batch, fit, linear_model
from tf_robust_transfer.methods import METHODS, Natural

# Of four validation images so many are right after each epoch. (ModelCheckpoint is tested on
# weights alone: Keras cannot save a method as a whole, for want of its get_config.)
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
        # Image i has the value i in every pixel: class 0 has the logit 2 (right - 1/2 - i), the
        # others 0.
        values = np.zeros(kernel.shape)
        values[:, 0] = -2.0 / kernel.shape[0]
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
    np.tile(np.arange(4, dtype=np.float32)[:, None, None, None], (1, 2, 2, 1)),
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


class TestOnValidationLoss:
    def test_early_stopping(self):
        stopping = keras.callbacks.EarlyStopping("val_loss", patience=1)
        _, history = scripted_fit(stopping)
        losses = history["val_loss"]
        # Falls until it rises for the first time.
        assert len(losses) == stopping.stopped_epoch + 1
        assert np.all(np.diff(losses[:-1]) < 0) and losses[-1] >= losses[-2]


def methods():
    """{name: what makes a tiny method of this kind}"""

    def model(seed):
        images = keras.Input((4, 4, 1))
        x = keras.layers.Conv2D(2, 3, padding="same", activation="relu", name="block1")(images)
        return keras.Model(images, keras.layers.Dense(3, name="logits")(keras.layers.Flatten()(x)))

    blocks = {"blocks": "block1", "alpha_acm": "1"}
    own = {
        "mixacm": blocks,
        "igam_mixacm": {**blocks, "lambda_diff": "1"},
        "igam": {"adversarial_form": "non_saturating"},
    }
    return {
        name: lambda name=name: method_by_flags(
            name, model(1), model(2), weight_decay="1e-4", **own.get(name, {})
        )
        for name in METHODS
    }


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
