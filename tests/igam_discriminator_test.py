"""IGAM's discriminator: its learning rate, the reference code's choices against NumPy, a run that
stock callbacks resume.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.methods_test import (
    NumpyIGAM,
    assert_step,
    batch,
    cross_entropy,
    fit,
    linear_discriminator,
    linear_model,
    numeric_gradients,
    weights64,
)
from tf_robust_transfer.errors import InputError
from tf_robust_transfer.losses import input_gradient as losses
from tf_robust_transfer.methods import IGAM
from tf_robust_transfer.models import build_discriminator, build_model

RATES = keras.optimizers.schedules.PiecewiseConstantDecay


def method(seed=0, **options):
    options = {"lambda_adv": 1.0, "lambda_diff": 1.0, "discriminator_input": "raw"} | options
    return IGAM(
        student=linear_model(1),
        teacher=linear_model(2),
        discriminator=linear_discriminator(),
        seed=seed,
        **options,
    )


class TestLearningRate:
    """The discriminator's is the student's at that step. It moves at steps 2, 4, 6, ..., the rates
    fall after 3 and 5.
    """

    OPTIONS = {"discriminator_every": 2, "warm_start_steps": 2}
    STEPS = 8

    def steps(self, method, before_step=lambda number: None):
        """The discriminator's weights after each step."""
        x, y = batch()
        found = []
        for number in range(self.STEPS):
            before_step(number)
            method.train_on_batch(x, y)
            found.append(np.concatenate([w.ravel() for w in method.discriminator.get_weights()]))
        return np.array(found)

    @pytest.mark.parametrize("update", ["simultaneous", "after_student"])
    def test_it_follows_a_schedule(self, update):
        """The twin's discriminator has an optimizer of its own, whose rate is set by hand before
        each step.

        After the student the global step, and with it the rate, is one on (train_igam.py: the step
        is counted between)."""
        schedule, options = (
            RATES([3, 5], [0.5, 0.05, 0.005]),
            self.OPTIONS | {"discriminator_update": update},
        )
        followed = method(**options)
        followed.compile(keras.optimizers.SGD(schedule, momentum=0.9))
        twin, own = method(**options), keras.optimizers.SGD(0.0, momentum=0.9)
        twin.compile(keras.optimizers.SGD(schedule, momentum=0.9), discriminator_optimizer=own)

        def set_rate(number):
            own.learning_rate = float(schedule(number + (update == "after_student")))

        np.testing.assert_allclose(
            self.steps(followed), self.steps(twin, set_rate), rtol=1e-6, atol=1e-7
        )

    @pytest.mark.parametrize("callback", ["ReduceLROnPlateau", "LearningRateScheduler"])
    def test_it_follows_callbacks(self, callback):
        made = {
            "ReduceLROnPlateau": lambda: keras.callbacks.ReduceLROnPlateau(
                "loss", 0.5, patience=1, min_delta=1e9, mode="min"
            ),
            "LearningRateScheduler": lambda: keras.callbacks.LearningRateScheduler(
                lambda epoch: 0.4 / (1 + epoch)
            ),
        }[callback]()
        followed, seen = method(discriminator_every=1), []
        followed.compile(keras.optimizers.SGD(0.4))
        x, y = batch()

        def note(*_, **__):
            rates = followed.discriminator_optimizer.learning_rate, followed.optimizer.learning_rate
            seen.append([float(keras.ops.convert_to_numpy(rate)) for rate in rates])

        watch = keras.callbacks.LambdaCallback(on_train_batch_begin=note)
        fit(followed, x, y, epochs=4, callbacks=[made, watch])
        assert len({rate for rate, _ in seen}) > 1 and all(one == other for one, other in seen)

    def test_an_optimizer_that_is_given_keeps_its_own(self):
        schedule = RATES([3, 5], [0.5, 0.05, 0.005])
        runs = []
        for student in (schedule, 0.5):
            given = method(**self.OPTIONS, lambda_diff=0.0)
            given.compile(
                keras.optimizers.SGD(student), discriminator_optimizer=keras.optimizers.SGD(0.25)
            )
            self.steps(given)
            runs.append(float(given.discriminator_optimizer.learning_rate))
        assert runs == [0.25, 0.25]


class TestStepOfTheReferenceCode:
    """A linear discriminator by central differences in float64; plain SGD, so that a step shows the
    gradient.
    """

    def run(self, **options):
        """(discriminator's gradient, its weights, the student's before and after, the oracle)"""
        x, y = batch()
        built = method(lambda_adv=2.0, lambda_diff=0.7, **options)
        before, fooled = weights64(built.student), weights64(built.discriminator)
        built.compile(keras.optimizers.SGD(0.5), discriminator_optimizer=keras.optimizers.SGD(0.25))
        fit(built, x, y)
        after, moved = weights64(built.student), weights64(built.discriminator)
        oracle = NumpyIGAM(x, y, weights64(built.teacher))

        def loss(w, b):
            return (
                cross_entropy(w, b, x, y)
                + 2.0 * oracle.adversarial(w, b, *fooled)
                + 0.7 * oracle.difference(w, b)
            )

        # Whatever the discriminator does, the student descends Eq. 14.
        assert_step(before, after, numeric_gradients(loss, before), learning_rate=0.5, rtol=3e-4)
        return fooled, moved, before, after, oracle

    def climb(self, oracle, student, at):
        return numeric_gradients(lambda v, c: oracle.adversarial(*student, v, c), at)

    def test_the_mean_of_both_halves(self):
        fooled, moved, before, _, oracle = self.run(discriminator_loss="mean")
        assert_step(
            fooled, moved, [-0.5 * g for g in self.climb(oracle, before, fooled)], 0.25, rtol=3e-4
        )

    def test_weight_decay_of_its_kernels(self):
        fooled, moved, before, _, oracle = self.run(discriminator_weight_decay=0.3)
        kernel, bias = self.climb(oracle, before, fooled)
        assert_step(fooled, moved, [-kernel + 0.3 * fooled[0], -bias], 0.25, rtol=3e-4)

    def test_after_the_student(self):
        """It sees the gradients of the student's new weights."""
        fooled, moved, before, after, oracle = self.run(discriminator_update="after_student")
        new, old = self.climb(oracle, after, fooled), self.climb(oracle, before, fooled)
        assert max(np.abs(n - o).max() for n, o in zip(new, old, strict=True)) > 0.05
        assert_step(fooled, moved, [-g for g in new], 0.25, rtol=3e-4)

    def test_least_norm_that_is_divided_by(self):
        """tf.math.l2_normalize's epsilon is of the squared norm."""
        gradient = tf.constant(
            np.random.default_rng(0).standard_normal((3, 2, 2, 1)).astype(np.float32)
        )
        gradient *= tf.constant([1e-8, 1e-3, 1.0])[:, None, None, None]
        expected = tf.math.l2_normalize(gradient, axis=[1, 2, 3], epsilon=1e-12)
        found = losses.discriminator_input(gradient, "l2", 1e-12)
        np.testing.assert_allclose(found, expected, rtol=1e-6)
        assert (
            np.abs(found[0]).max()
            < 0.05
            < np.abs(losses.discriminator_input(gradient, "l2")[0]).max()
        )

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"discriminator_loss": "half"}, "discriminator_loss"),
            ({"discriminator_update": "before"}, "discriminator_update"),
            (
                {"discriminator_weight_decay": -1.0},
                "discriminator_weight_decay: expected a number of at least 0, got -1.0",
            ),
            (
                {"gradient_clip_norm": -1.0},
                "gradient_clip_norm: expected a number of at least 0, got -1.0",
            ),
        ],
    )
    def test_bad_values(self, options, message):
        with pytest.raises(InputError, match=message):
            method(**options)


def test_vanished_gradients_are_counted():
    """Two of six examples are classified beyond doubt: logits 40 apart, whose softmax is one-hot in
    float32.
    """
    x, y = batch()
    built = method()
    # Two different images alone: four pixels and a bias are enough for any logits of theirs.
    x[2:], y[2:] = x[2], y[2]
    x[1], y[1] = x[0], y[0]
    ones = np.c_[x.reshape(6, -1), np.ones(6)]
    solution = np.linalg.lstsq(
        ones, np.eye(3)[y] * np.array([40, 40, 0, 0, 0, 0])[:, None], rcond=None
    )[0]
    built.student.set_weights([solution[:-1], solution[-1]])
    built.compile(keras.optimizers.SGD(0.0))
    history = fit(built, x, y)
    np.testing.assert_allclose(history["vanished_gradients"], 2 / 6, rtol=1e-6)


class TestNetwork:
    def test_initial_kernels(self):
        """N(0, 2 / (4 * 4 * out)) and uniform in +-sqrt(3 / in)."""
        keras.utils.set_random_seed(0)
        network = build_discriminator(
            (32, 32, 3), channels=(16, 32, 64), initializer="reference_code"
        )
        for name, filters in (("conv2", 32), ("conv3", 64)):
            kernel = network.get_layer(name).kernel.numpy()
            np.testing.assert_allclose(kernel.std(), np.sqrt(2 / (16 * filters)), rtol=0.03)
            # No truncation: of 8,192 normal numbers or more some are beyond 3 standard deviations.
            assert (
                np.abs(kernel).max() > 3 * kernel.std() and abs(kernel.mean()) < 0.1 * kernel.std()
            )
        dense = network.get_layer("dense").kernel.numpy()
        bound = np.sqrt(3 / len(dense))
        assert 0.98 * bound < np.abs(dense).max() <= bound
        np.testing.assert_allclose(dense.std(), bound / np.sqrt(3), rtol=0.05)
        first, second = (
            build_discriminator((8, 8, 1), channels=(4, 4, 4)).get_layer(f"conv{i}").kernel
            for i in (2, 3)
        )
        assert np.abs(first.numpy() - second.numpy()).max() > 0.01  # each layer draws its own

    @pytest.mark.parametrize("epsilon", [1e-5, 1e-3])
    def test_the_first_layer_by_hand(self, epsilon):
        """4x4 convolution with stride 2, batch statistics, leaky ReLU 0.1, dense, in float64, on
        gradients of unit norm.
        """
        network = build_discriminator((4, 4, 1), channels=(3,), batch_norm_epsilon=epsilon)
        rng = np.random.default_rng(0)
        x = rng.standard_normal((6, 4, 4, 1))
        x = (0.05 * x / np.linalg.norm(x.reshape(6, -1), axis=1)[:, None, None, None]).astype(
            np.float32
        )
        kernel, bias, gamma, beta, _, _, dense, score = weights64(network)
        padded = np.pad(x.astype(np.float64), [(0, 0), (1, 1), (1, 1), (0, 0)])
        windows = np.stack(
            [[padded[:, 2 * i : 2 * i + 4, 2 * j : 2 * j + 4] for j in (0, 1)] for i in (0, 1)]
        )
        z = np.einsum("ijnabc,abcd->nijd", windows, kernel) + bias
        z = gamma * (z - z.mean(axis=(0, 1, 2))) / np.sqrt(z.var(axis=(0, 1, 2)) + epsilon) + beta
        z = np.where(z > 0, z, 0.1 * z)
        expected = (z.reshape(6, -1) @ dense + score)[:, 0]
        np.testing.assert_allclose(network(x, training=True), expected, rtol=1e-4, atol=1e-5)

    def test_the_options_reach_the_default_discriminator(self):
        options = {"discriminator_channels": (4, 8), "discriminator_batch_norm_epsilon": 1e-3}
        student, teacher = (build_model("small_cnn", (8, 8, 1), 3, width=1) for _ in range(2))
        built = IGAM(
            student=student, teacher=teacher, discriminator_initializer="reference_code", **options
        )
        assert built.discriminator.get_layer("conv2").kernel.shape == (4, 4, 4, 8)
        assert built.discriminator.get_layer("batch_norm1").epsilon == 1e-3
        assert (
            abs(built.discriminator.get_layer("conv2").kernel.numpy().std() / np.sqrt(2 / 128) - 1)
            < 0.1
        )


def test_a_run_that_backup_and_restore_resumes_is_the_uninterrupted_one(tmp_path):
    """Four epochs of two steps, the warm start five of them; killed in the third epoch; bit for
    bit, discriminator too.
    """
    x, y = batch(8)

    def made():
        keras.utils.set_random_seed(3)
        result = method(seed=3, warm_start_steps=5, discriminator_every=2, noise=0.1)
        result.compile(keras.optimizers.Adam(RATES([3, 6], [0.1, 0.05, 0.01])))
        return result

    def backup():
        return keras.callbacks.BackupAndRestore(str(tmp_path / "backup"), delete_checkpoint=False)

    class Kill(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 3:
                raise KeyboardInterrupt

    whole = made()
    fit(whole, x, y, batch_size=4, epochs=4)
    assert whole.discriminator_optimizer.iterations == 2  # steps 5 and 7
    killed = made()
    with pytest.raises(KeyboardInterrupt):
        fit(killed, x, y, batch_size=4, epochs=4, callbacks=[backup(), Kill()])
    resumed = made()
    history = fit(resumed, x, y, batch_size=4, epochs=4, callbacks=[backup()])
    assert len(history["loss"]) == 1
    assert resumed.steps_done == 8 and resumed.discriminator_optimizer.iterations == 2
    for one, other in (
        (whole.student, resumed.student),
        (whole.discriminator, resumed.discriminator),
    ):
        for expected, found in zip(one.get_weights(), other.get_weights(), strict=True):
            np.testing.assert_array_equal(found, expected)


class Judge(keras.Model):
    """Not built before it is called."""

    def __init__(self):
        super().__init__()
        self.flatten, self.dense = keras.layers.Flatten(), keras.layers.Dense(1)

    def call(self, gradients):
        return self.dense(self.flatten(gradients))


@pytest.mark.parametrize(
    "lazy", [Judge, lambda: keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(1)])]
)
def test_a_discriminator_that_is_not_built_is_trained(lazy):
    """Its first step, perhaps after a long warm start, ended in a traceback of the optimizer's."""
    method = IGAM(student=linear_model(1), teacher=linear_model(2), discriminator=lazy(),
                  discriminator_every=1)  # fmt: skip
    method.compile(keras.optimizers.SGD(0.1))
    before = method.discriminator.get_weights()
    method.train_on_batch(*batch())
    assert not np.array_equal(before[0], method.discriminator.get_weights()[0])


@pytest.mark.parametrize(
    ("units", "activation", "says"),
    [
        (1, "sigmoid", "this one ends in 'last': leave it out"),
        (2, None, r"one score an example, .* this one gives \(2,\)"),
    ],
)
def test_a_discriminator_of_other_scores_is_refused(units, activation, says):
    """Of a sigmoid's its loss took the sigmoid again; two outputs were two games."""
    gradients = keras.Input(batch()[0].shape[1:])
    last = keras.layers.Dense(units, activation=activation, name="last")
    discriminator = keras.Model(gradients, last(keras.layers.Flatten()(gradients)))
    with pytest.raises(InputError, match=says):
        IGAM(student=linear_model(1), teacher=linear_model(2), discriminator=discriminator)
