"""What Keras users do with a method beside one `fit`: recompile, freeze, regularise, accumulate
gradients, evaluate, on one device and on two.
"""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_robust_transfer as rt
from tests import fresh_process
from tf_robust_transfer.errors import InputError

IMAGES = np.random.default_rng(0).uniform(size=(12, 4, 4, 1)).astype(np.float32)
LABELS = np.arange(12) % 3


def network(**of_the_kernel):
    keras.utils.set_random_seed(0)
    layers = [
        keras.Input((4, 4, 1)),
        keras.layers.Conv2D(2, 3, name="conv", **of_the_kernel),
        keras.layers.Flatten(),
        keras.layers.Dense(3, name="dense"),
    ]
    return keras.Sequential(layers)


def natural(student, **options):
    method = rt.Natural(student=student, **options)
    method.compile(keras.optimizers.SGD(0.1))
    return method


def test_a_regularizer_is_a_term_as_in_keras():
    student = network(kernel_regularizer=keras.regularizers.L2(0.5))
    expected = 0.5 * float(np.sum(student.get_layer("conv").kernel.numpy() ** 2))
    method = natural(student)
    logs = method.train_on_batch(IMAGES, LABELS, return_dict=True)
    assert logs["regularization"] == pytest.approx(expected, rel=1e-5)
    plain = network(kernel_regularizer=keras.regularizers.L2(0.5))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    plain.compile(keras.optimizers.SGD(0.1), loss)
    assert plain.train_on_batch(IMAGES, LABELS) == pytest.approx(logs["loss"], rel=1e-5)
    for ours, theirs in zip(student.weights, plain.weights, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)


def test_other_losses_of_a_student_are_refused():
    class Adds(keras.layers.Layer):
        def __init__(self, always, **kwargs):
            super().__init__(**kwargs)
            self.always = always

        def call(self, x, training=False):
            if self.always or training:
                self.add_loss(tf.reduce_sum(x))
            return x

    def of(layer):
        inputs = keras.Input((4, 4, 1))
        return keras.Model(inputs, network()(layer(inputs)))

    adding = of(Adds(True, name="adding"))
    for student, name in (
        (of(Adds(False, name="auxiliary")), "auxiliary"),
        (network(activity_regularizer=keras.regularizers.L2(0.5)), "conv"),
        (adding, "adding"),
    ):
        with pytest.raises(InputError, match=f"the student's '{name}' adds a loss of its own"):
            natural(student).fit(IMAGES, LABELS, verbose=0)


def test_a_recompiled_method_takes_what_was_changed():
    method = natural(network())
    method.fit(IMAGES, LABELS, verbose=0)
    method.weight_decay = 5e-4
    method.compile(keras.optimizers.SGD(0.1))
    assert method.fit(IMAGES, LABELS, verbose=0).history["weight_decay"][0] > 0


@pytest.mark.parametrize("name", ["weighted_metrics", "loss_weights", "metrics"])
def test_what_compile_would_ignore_is_refused(name):
    method = rt.Natural(student=network())
    with pytest.raises(InputError, match="has its own loss; compile it with optimizer"):
        method.compile(keras.optimizers.SGD(0.1), **{name: ["accuracy"]})


def test_a_frozen_student_is_refused():
    student = network()
    student.trainable = False
    frozen = keras.models.clone_model(student)  # its layers are
    for model in (student, frozen):
        with pytest.raises(InputError, match="the student has no weights to train"):
            natural(model)


def test_an_average_keeps_to_its_layers():
    """It took the trained variables as they came: one layer's for another's of its shape."""
    student = network()
    method = natural(student, weight_averaging=0.5)
    student.get_layer("conv").trainable = False
    method.compile(keras.optimizers.SGD(0.1))
    before = student.get_layer("conv").kernel.numpy()
    method.fit(IMAGES, LABELS, verbose=0)
    averaged = method.averaged_student([IMAGES])
    np.testing.assert_array_equal(averaged.get_layer("conv").kernel, before)
    dense = [m.get_layer("dense").kernel.numpy() for m in (student, averaged)]
    assert dense[0].shape == dense[1].shape and not np.array_equal(*dense)

    student = network()
    student.get_layer("conv").trainable = False
    method = natural(student, weight_averaging=0.5)
    student.get_layer("conv").trainable = True
    with pytest.raises(InputError, match="make the method anew"):
        method.compile(keras.optimizers.SGD(0.1))


def test_a_second_compile_goes_on_counting_steps():
    """A warm start was begun again, which undid what had been matched, and an average anew."""
    method = rt.Natural(student=network())
    counts = []
    for rate in (0.1, 0.01):
        optimizer = keras.optimizers.SGD(keras.optimizers.schedules.CosineDecay(rate, 100))
        method.compile(optimizer)
        assert float(optimizer.learning_rate) == pytest.approx(rate), "its schedule begins"
        for _ in range(3):
            counts.append(int(method.step_seed()[1]))
            method.train_on_batch(IMAGES, LABELS)
    assert counts == [0, 1, 2, 3, 4, 5] and method.steps_done == 6
    method.compile(optimizer)
    assert method.steps_done == 6, "the optimizer that had counted goes on"

    kinds = []
    igam = rt.IGAM(student=network(), teacher=network(), warm_start_steps=2, lambda_adv=0)
    for _ in range(2):
        igam.compile(keras.optimizers.SGD(0.1))
        for _ in range(3):
            logs = igam.fit(IMAGES, LABELS, batch_size=12, verbose=0).history
            kinds.append("difference" in logs)
    assert kinds == [False, False, True, True, True, True]


def test_the_steps_before_a_second_compile_are_saved(tmp_path):
    def made(times):
        method = rt.Natural(student=network())
        for _ in range(times):
            method.compile(keras.optimizers.SGD(0.1))
        return method

    method = made(1)
    for _ in range(3):
        method.train_on_batch(IMAGES, LABELS)
    method.save_weights(tmp_path / "first.weights.h5")
    method.compile(keras.optimizers.SGD(0.01))
    method.train_on_batch(IMAGES, LABELS)
    method.save_weights(tmp_path / "second.weights.h5")
    saved = tf.train.Checkpoint(**method.state()).save(tmp_path / "checkpoint")

    for times in (1, 2):
        again = made(times)
        again.load_weights(tmp_path / "second.weights.h5")
        assert again.steps_done == 4
    again = made(2)
    tf.train.Checkpoint(**again.state()).restore(saved).assert_consumed()
    assert again.steps_done == 4 and int(again.step_seed()[1]) == 4
    method.load_weights(tmp_path / "first.weights.h5")
    assert method.steps_done == 3


def test_before_compile_it_is_told():
    method = rt.Natural(student=network())
    for call in (method.fit, method.evaluate, method.train_on_batch):
        with pytest.raises(InputError, match="compile the Natural first"):
            call(IMAGES, LABELS)


def test_arguments_by_their_place_as_keras_takes_them():
    method, plain = natural(network()), network()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    plain.compile(keras.optimizers.SGD(0.1), loss, metrics=["accuracy"])
    for model in (method, plain):
        history = model.fit(IMAGES, LABELS, 4, 1, 0, None, 0.25)
        assert "val_accuracy" in history.history
        assert len(model.evaluate(IMAGES, LABELS, 5, 0)) == 2
        assert len(model.train_on_batch(IMAGES, LABELS, None)) >= 2
    with pytest.raises(TypeError, match="unexpected keyword argument 'batchsize'"):
        method.fit(IMAGES, LABELS, batchsize=3)


@pytest.mark.parametrize("soft", [False, True])
def test_the_logged_accuracy_is_of_the_passes_own_labels(soft):
    """Of the batch's: 0 for ever, as of two tensors of other lengths `==` is False."""

    class Both(rt.methods.Method):
        def __init__(self, *, student, soft, **kwargs):
            super().__init__(student=student, **kwargs)
            self.soft = soft
            self.terms = [rt.terms.CrossEntropy(of=self.both)]

        def both(self, images, labels, seed):
            twice = tf.concat([images, 1.0 - images], axis=0)
            logits = self.student(twice, training=True)
            labels = tf.concat([labels, labels], axis=0)
            if self.soft:
                labels = 0.8 * tf.one_hot(labels, 3) + 0.1
            return {"labels": labels, "logits": logits}

    method = Both(student=network(), soft=soft)
    method.compile(keras.optimizers.SGD(0.0))
    logs = method.train_on_batch(IMAGES, LABELS, return_dict=True)
    logits = method.student(np.concatenate([IMAGES, 1.0 - IMAGES])).numpy()
    right = logits.argmax(axis=1) == np.concatenate([LABELS, LABELS])
    assert logs["accuracy"] == pytest.approx(right.mean()) and 0 < right.mean() < 1


def test_gathered_gradients_are_of_batches_that_draw_their_own():
    method = rt.Natural(student=network())
    method.compile(keras.optimizers.SGD(0.1, gradient_accumulation_steps=4))
    seeds = []
    for _ in range(5):
        seeds.append(tuple(method.step_seed().numpy()))
        method.train_on_batch(IMAGES, LABELS)
    assert seeds == [(0, step) for step in range(5)] and method.steps_done == 5
    assert int(method.optimizer.iterations) == 1


@pytest.mark.parametrize("kind", ["uint8", "0 to 255"])
def test_images_of_a_validation_are_checked(kind):
    method = natural(network())
    wrong = 255 * IMAGES if kind == "0 to 255" else (255 * IMAGES).astype(np.uint8)
    for call in (
        lambda: method.fit(IMAGES, LABELS, validation_data=(wrong, LABELS), verbose=0),
        lambda: method.evaluate(wrong, LABELS, verbose=0),
    ):
        with pytest.raises(InputError, match="divide by 255"):
            call()
    assert method.steps_done == 0


def test_a_loss_that_no_step_survives_is_told_under_float16():
    """Scaling skips such a step, and the number of steps stays 0."""
    inputs = keras.Input((4, 4, 1))
    overflows = keras.layers.Rescaling(1e6, dtype="mixed_float16")(inputs)
    logits = keras.layers.Dense(3, dtype="float32")(keras.layers.Flatten()(overflows))
    method = rt.Natural(student=keras.Model(inputs, logits))
    method.compile(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1)))
    with pytest.raises(InputError, match="the loss is not finite at step 1: cross_entropy"):
        method.fit(IMAGES, LABELS, verbose=0)
    assert method.steps_done == 0


_TWO = """
import json
import keras, numpy as np, tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2)
import tf_robust_transfer as rt

images = np.random.default_rng(0).uniform(size=(13, 4, 4, 1)).astype(np.float32)
labels = np.arange(13) % 3
found = {}
for name, strategy in {"one": tf.distribute.get_strategy(),
                       "two": tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])}.items():
    with strategy.scope():
        keras.utils.set_random_seed(1)
        method = rt.Natural(student=rt.build_model("small_cnn", (4, 4, 1), 3))
        method.compile(keras.optimizers.SGD(0.1))
    found[name] = [method.evaluate(images, labels, batch_size=size, verbose=0, return_dict=True)
                   for size in (5, 11, 16)]
    found["refused by " + name] = []
    calls = [lambda: method.fit(images, labels, batch_size=12, verbose=0),
             lambda: method.evaluate(images, labels, batch_size=12, verbose=0),
             # 13 are 8 to train on and 5; then 10 and 3.
             lambda: method.fit(images, labels, batch_size=12, verbose=0, validation_split=0.35),
             lambda: method.fit(images, labels, batch_size=9, verbose=0, validation_split=0.2)]
    for call in calls:
        try:
            call()
            found["refused by " + name].append("")
        except rt.InputError as error:
            found["refused by " + name].append(str(error))
print(json.dumps(found))
"""


def test_two_replicas_evaluate_as_one_device():
    """Keras gives each replica's mean the same weight."""
    done = fresh_process.run(_TWO)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    for one, two in zip(found["one"], found["two"], strict=True):
        assert 0 < one["accuracy"] < 1
        assert two == pytest.approx(one, rel=1e-5)
    assert found["refused by one"] == ["", "", "", ""]
    whole, evaluated, split, left = found["refused by two"]
    for message in (whole, evaluated):
        assert "1 of 13 images, which 2 replicas cannot" in message
    assert split == "" and "1 of 10 images, which 2 replicas cannot" in left
