"""rt.endpoints inside nested models: against the pieces run one after another by hand, and one step
of MixACM.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_robust_transfer as rt
from tf_robust_transfer.errors import InputError

SHAPE = (32, 32, 3)
NAMES = ("block_3_expand_relu", "block_6_expand_relu")


def images_of(shape=SHAPE, batch=2, seed=0):
    return np.random.default_rng(seed).uniform(0, 1, (batch, *shape)).astype(np.float32)


def seeded(model, seed=0):
    """Weights and batch statistics that make every layer count, in training mode or not."""
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        if variable.name in ("gamma", "moving_variance"):
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
        elif variable.dtype == "float32":
            variable.assign(
                rng.standard_normal(variable.shape) / np.sqrt(max(1, np.prod(variable.shape[:-1])))
            )
    return model


def mobile_net():
    return keras.applications.MobileNetV2(
        weights=None, include_top=False, input_shape=SHAPE, alpha=0.35
    )


def under_a_head(base, *, sequential=False, training=None):
    """(model of [Rescaling, base, pooling, Dense], its own layers before and after the base)"""
    layers = keras.layers
    scale, pool = (
        layers.Rescaling(2.0, -1.0, name="scale"),
        layers.GlobalAveragePooling2D(name="pool"),
    )
    head = layers.Dense(4, name="head")
    if sequential:
        model = keras.Sequential([keras.Input(SHAPE), scale, base, pool, head], name="whole")
    else:
        images = keras.Input(SHAPE)
        options = {} if training is None else {"training": training}
        model = keras.Model(images, head(pool(base(scale(images), **options))), name="whole")
    return seeded(model), scale, pool, head


def by_hand(base, scale, pool, head, images, training):
    """The pieces, one after another. The base's part runs in a model of its own."""
    inside = keras.Model(
        base.inputs, [*(base.get_layer(name).output for name in NAMES), base.outputs[0]]
    )
    *found, last = inside(scale(images), training=training)
    return [*found, head(pool(last))]


def statistics(model):
    return [w.numpy() for w in model.non_trainable_weights]


def restore(model, values):
    for weight, value in zip(model.non_trainable_weights, values, strict=True):
        weight.assign(value)


class TestAKerasApplicationUnderAHead:
    @pytest.mark.parametrize("sequential", [False, True], ids=["functional", "sequential"])
    @pytest.mark.parametrize("training", [False, True])
    def test_values_and_batch_statistics(self, sequential, training):
        base = mobile_net()
        model, *pieces = under_a_head(base, sequential=sequential)
        found = rt.endpoints(model, {"block1": NAMES[0], "block2": f"{base.name}/{NAMES[1]}"})
        before = statistics(model)
        expected = by_hand(base, *pieces, images_of(), training)
        after = statistics(model)
        restore(model, before)
        got = found(images_of(), training=training)
        assert list(got) == ["block1", "block2", "logits"]
        for mine, theirs in zip(got.values(), expected, strict=True):
            assert np.std(theirs) > 1e-4
            np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)
        # In training mode the statistics move, once.
        assert any((a != b).any() for a, b in zip(before, after, strict=True)) == training
        for mine, theirs in zip(statistics(model), after, strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-6)
        restore(model, before)
        np.testing.assert_allclose(
            got["logits"], model(images_of(), training=training), rtol=1e-4, atol=1e-5
        )

    def test_weights_are_shared_and_nothing_is_added_to_the_model(self):
        base = mobile_net()
        model, *_ = under_a_head(base)
        names = [w.path for w in model.weights]
        found = rt.endpoints(model, {"block1": NAMES[0]})
        assert {id(w) for w in found.weights} == {id(w) for w in model.weights}
        assert [w.path for w in model.weights] == names

    @pytest.mark.parametrize("training", [None, True])
    def test_a_base_called_at_inference_does_what_it_does_in_the_model(self, training):
        """base(x, training=False): Keras 3 lets an explicit training=True of the whole model win
        over it.
        """
        base = mobile_net()
        model, *pieces = under_a_head(base, training=False)
        before = statistics(model)
        model(images_of(), training=training)
        after = statistics(model)
        restore(model, before)
        got = rt.endpoints(model, {"block1": NAMES[0]})(images_of(), training=training)
        for mine, theirs in zip(statistics(model), after, strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-6)
        restore(model, before)
        expected = by_hand(base, *pieces, images_of(), bool(training))[0]
        np.testing.assert_allclose(got["block1"], expected, rtol=1e-4, atol=1e-5)

    def test_a_frozen_base_stays_at_inference(self):
        """The usual form of transfer learning: base.trainable = False."""
        base = mobile_net()
        base.trainable = False
        model, *pieces = under_a_head(base)
        before = statistics(model)
        submodel = rt.endpoints(model, {"block1": NAMES[0]})
        got = submodel(images_of(), training=True)
        np.testing.assert_allclose(
            got["block1"], by_hand(base, *pieces, images_of(), False)[0], rtol=1e-4, atol=1e-5
        )
        assert [w.path for w in submodel.trainable_weights] == ["head/kernel", "head/bias"]
        for a, b in zip(before, statistics(model), strict=True):
            np.testing.assert_array_equal(a, b)

    def test_gradients(self):
        base = mobile_net()
        model, *pieces = under_a_head(base)
        found, images = rt.endpoints(model, {"block1": NAMES[0]}), tf.constant(images_of())
        stem = base.get_layer("Conv1").kernel.value
        gradients = []
        for run in (lambda: found(images, training=False)["block1"],
                    lambda: by_hand(base, *pieces, images, False)[0]):  # fmt: skip
            with tf.GradientTape() as tape:
                tape.watch(images)
                loss = tf.reduce_sum(run() ** 2)
            gradients.append(tape.gradient(loss, [images, stem]))
        for mine, theirs in zip(*gradients, strict=True):
            assert np.abs(theirs).max() > 0
            np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-4)

    def test_one_pass(self):
        """A layer computes once for all endpoints: the stem's batch statistics move one step."""
        base = mobile_net()
        model, scale, *_ = under_a_head(base)
        norm, images = base.get_layer("bn_Conv1"), images_of()
        values = base.get_layer("Conv1")(scale(images)).numpy().astype(np.float64)
        start = norm.moving_mean.numpy()
        rt.endpoints(model, {"block1": NAMES[0], "block2": NAMES[1]})(images, training=True)
        expected = start * norm.momentum + values.mean(axis=(0, 1, 2)) * (1 - norm.momentum)
        np.testing.assert_allclose(norm.moving_mean, expected, rtol=1e-4, atol=1e-6)

    def test_saved_and_loaded(self, tmp_path):
        model, *_ = under_a_head(mobile_net())
        expected = rt.endpoints(model, {"block1": NAMES[0]})(images_of())
        model.save(tmp_path / "model.keras")
        got = rt.endpoints(keras.models.load_model(tmp_path / "model.keras"), {"block1": NAMES[0]})(
            images_of()
        )
        np.testing.assert_allclose(got["block1"], expected["block1"], rtol=1e-5, atol=1e-6)

    def test_mixacm(self):
        """One step with nested networks is that with their pieces in one flat graph."""
        trained = []
        for nested in (True, False):
            networks = [small(seed, nested=nested) for seed in (1, 2)]
            layer = {"block1": "inner/first"} if nested else {"block1": "first"}
            student, teacher = networks
            method = rt.MixACM(
                student=student,
                teacher=teacher,
                blocks=("block1",),
                acm_weight=5.0,
                mixup_alpha=0.0,
                student_endpoints=rt.endpoints(student, layer),
                teacher_endpoints=rt.endpoints(teacher, layer),
            )
            method.compile(optimizer=keras.optimizers.SGD(0.5))
            before = student.get_weights()
            history = method.fit(images_of((6, 6, 1), 4), np.array([0, 1, 2, 0]), verbose=0).history
            assert history["acm"][0] > 0 and (student.get_weights()[0] != before[0]).any()
            trained.append(student.get_weights())
        for a, b in zip(*trained, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def small(seed, *, nested):
    layers = keras.layers
    images = keras.Input((6, 6, 1))
    parts = [layers.Conv2D(3, 3, name="first"), layers.ReLU(), layers.Conv2D(2, 3, name="second")]
    if nested:
        inputs = keras.Input((6, 6, 1))
        x = inputs
        for part in parts:
            x = part(x)
        x = keras.Model(inputs, x, name="inner")(images)
    else:
        x = images
        for part in parts:
            x = part(x)
    return seeded(keras.Model(images, layers.Dense(3, name="head")(layers.Flatten()(x))), seed)


def double(value, name):
    return keras.layers.Rescaling(value, name=name)


def tree_of_models():
    """outer: [a (times 2), left: [a (3), deep: [block1 (5)], b (7)], right: [a (11)], block2 (13),
    sum]; all Sequential.
    """
    deep = keras.Sequential([keras.Input((2, 2, 1)), double(5.0, "block1")], name="deep")
    left = keras.Sequential(
        [keras.Input((2, 2, 1)), double(3.0, "a"), deep, double(7.0, "b")], name="left"
    )
    right = keras.Sequential([keras.Input((2, 2, 1)), double(11.0, "a")], name="right")
    last = [double(13.0, "block2"), keras.layers.Flatten(name="out")]
    return keras.Sequential(
        [keras.Input((2, 2, 1)), double(2.0, "c"), left, right, *last], name="outer"
    )


class TestNames:
    # The product of the factors up to the layer.
    FACTORS = {
        "c": 2,
        "left/a": 6,
        "block1": 30,
        "left/deep/block1": 30,
        "deep": 30,
        "left/deep": 30,
        "b": 210,
        "left": 210,
        "right/a": 2310,
        "right": 2310,
        "block2": 30030,
    }

    def test_several_levels_in_one_submodel(self):
        names = {f"e{number}": name for number, name in enumerate(self.FACTORS)}
        images = images_of((2, 2, 1))
        found = rt.endpoints(tree_of_models(), names)(images)
        for endpoint, name in names.items():
            np.testing.assert_allclose(
                found[endpoint], self.FACTORS[name] * images, rtol=1e-5, err_msg=name
            )
        np.testing.assert_allclose(found["logits"], 30030 * images.reshape(2, 4), rtol=1e-5)

    @pytest.mark.parametrize("name", FACTORS)
    def test_each_alone(self, name):
        images = images_of((2, 2, 1))
        found = rt.endpoints(tree_of_models(), {"block9": name})(images)
        np.testing.assert_allclose(found["block9"], self.FACTORS[name] * images, rtol=1e-5)

    def test_blocks_are_found_by_default(self):
        images = images_of((2, 2, 1))
        found = rt.endpoints(tree_of_models())(images)
        assert set(found) == {"block1", "block2", "logits"}
        np.testing.assert_allclose(found["block1"], 30 * images, rtol=1e-5)

    def test_an_outer_layer_hides_inner_ones_of_its_name(self):
        inner = keras.Sequential(
            [keras.Input((2, 2, 1)), double(3.0, "block1"), double(5.0, "logits")], name="inner"
        )
        layers = [inner, double(7.0, "block1"), keras.layers.Flatten()]
        model = keras.Sequential([keras.Input((2, 2, 1)), *layers])
        images = images_of((2, 2, 1))
        found = rt.endpoints(model)(images)
        np.testing.assert_allclose(found["block1"], 105 * images, rtol=1e-5)
        # Nor is an inner layer of that name what the model returns.
        np.testing.assert_allclose(found["logits"], 105 * images.reshape(2, 4), rtol=1e-5)

    def test_a_name_in_two_models(self):
        with pytest.raises(
            InputError, match="'outer' has 2 layers 'a' for 'block1'; give one of left/a, right/a"
        ):
            rt.endpoints(tree_of_models(), {"block1": "a"})

    @pytest.mark.parametrize(
        "name, near",
        [("lef/a", "left/a"), ("left/deep/blok1", "left/deep/block1"), ("blok2", "block2")],
    )
    def test_a_missing_layer_is_named_with_the_nearest(self, name, near):
        with pytest.raises(
            InputError, match=f"no layer '{name}' for 'block1'; nearest valid names: .*{near}"
        ):
            rt.endpoints(tree_of_models(), {"block1": name})

    def test_a_base_that_is_called_twice(self):
        images = keras.Input((2, 2, 1))
        base = keras.Sequential([keras.Input((2, 2, 1)), double(3.0, "a")], name="base")
        model = keras.Model(images, keras.layers.Flatten()(base(base(images))), name="twice")
        with pytest.raises(
            InputError, match="'twice' calls 'base' 2 times, so that it has no one output 'base/a'"
        ):
            rt.endpoints(model, {"block1": "a"})
        with pytest.raises(InputError, match="'twice' calls 'base' 2 times"):
            rt.endpoints(model, {"block1": "base"})
        assert set(rt.endpoints(model).output) == {"logits"}

    def test_calls_from_elsewhere_do_not_count(self):
        base = keras.Sequential([keras.Input((2, 2, 1)), double(3.0, "a")], name="base")
        images = keras.Input((2, 2, 1))
        first = keras.Model(images, keras.layers.Flatten()(base(double(5.0, "five")(images))))
        second = keras.Model(images, keras.layers.Flatten()(base(double(7.0, "seven")(images))))
        for factor, model in ((15, first), (21, second), (15, first)):
            found = rt.endpoints(model, {"block1": "a"})(images_of((2, 2, 1)))
            np.testing.assert_allclose(found["block1"], factor * images_of((2, 2, 1)), rtol=1e-5)

    def test_a_nested_model_with_a_call_of_its_own_is_one_layer(self):
        class Doubled(keras.Model):
            def call(self, x, training=None):
                return 2 * super().call(x)

        inputs = keras.Input((2, 2, 1))
        base = Doubled(inputs, double(3.0, "a")(inputs), name="base")
        model = keras.Sequential(
            [keras.Input((2, 2, 1)), base, keras.layers.Flatten()], name="mine"
        )
        with pytest.raises(InputError, match="'mine' has no layer 'a'"):
            rt.endpoints(model, {"block1": "a"})
