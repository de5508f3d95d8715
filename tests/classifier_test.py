"""Models of every kind that Keras users have, in the parts that take a model.

Oracles: the wrapped model's own output, plain Keras's loading, NumPy.
"""

import re
import warnings

import keras
import numpy as np
import pytest
from keras import layers, ops

import tf_robust_transfer as rt

SHAPE = (8, 7, 1)
THREAT = rt.ThreatModel("linf", 0.1)
RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(size=(6, *SHAPE)).astype(np.float32)
LABELS = np.array([0, 1, 2, 0, 1, 2])


def logits_of(images, width=3):
    x = layers.Conv2D(4, 3, activation="relu", name="block1")(images)
    return layers.Dense(width, name="logits")(layers.Flatten()(x))


@keras.saving.register_keras_serializable("classifier_test")
class Net(keras.Model):
    """Its layers say all that it does."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.conv = layers.Conv2D(4, 3, activation="relu", name="block1")
        self.norm = layers.BatchNormalization()
        self.flatten, self.dropout = layers.Flatten(), layers.Dropout(0.5)
        self.dense = layers.Dense(3)

    def call(self, images, training=False):
        x = self.flatten(self.norm(self.conv(images), training=training))
        return self.dense(self.dropout(x, training=training))


@keras.saving.register_keras_serializable("classifier_test")
class Branching(Net):
    """What it does in training is more than its layers say."""

    def call(self, images, training=False):
        x = self.flatten(self.norm(self.conv(images)))
        return self.dense(2.0 * x if training else x)


@keras.saving.register_keras_serializable("classifier_test")
class OwnWeight(keras.Model):
    """A weight that no layer holds, and an operation of TensorFlow."""

    def build(self, input_shape):
        self.kernel = self.add_weight(shape=(int(np.prod(input_shape[1:])), 3), name="kernel")

    def call(self, images):
        import tensorflow as tf

        return tf.matmul(tf.reshape(images, (-1, self.kernel.shape[0])), self.kernel)


def functional(width=3, last=None):
    images = keras.Input(SHAPE)
    logits = logits_of(images, width)
    return keras.Model(images, logits if last is None else last(logits))


def of_outputs(make):
    images = keras.Input(SHAPE)
    return keras.Model(images, make(images))


def called(model):
    """A subclassed model that was called, and so knows its input shape."""
    model(IMAGES)
    return model


DIRECT = {
    "functional": functional,
    "sequential": lambda: keras.Sequential([keras.Input(SHAPE), layers.Flatten(), layers.Dense(3)]),
    "open sequential": lambda: keras.Sequential([layers.Flatten(), layers.Dense(3)]),
    "subclassed": lambda: called(Net()),
    "subclassed, not called yet": Net,
    "branching": lambda: called(Branching()),
    "own weight": lambda: called(OwnWeight()),
    "method": lambda: rt.Natural(student=functional()),
    "dict of logits": lambda: of_outputs(lambda x: {"logits": logits_of(x)}),
    "dict of logits and features": lambda: of_outputs(
        lambda x: {"features": layers.Flatten()(x), "logits": logits_of(x)}
    ),
    "dict of one": lambda: of_outputs(lambda x: {"scores": logits_of(x)}),
    "nested": lambda: keras.Sequential([keras.Input(SHAPE), functional()]),
}


def own_logits(model):
    found = model(IMAGES, training=False)
    if isinstance(found, dict):
        found = found.get("logits", next(iter(found.values())))
    return np.asarray(found)


@pytest.mark.parametrize("kind", DIRECT)
def test_is_evaluated_as_it_is(kind):
    model = DIRECT[kind]()
    result = rt.evaluate_robustness(
        model, IMAGES, LABELS, threat_model=THREAT, attacks=("fgsm",), check_model=False
    )
    right = own_logits(model).argmax(axis=1) == LABELS
    assert result.correct["clean"].tolist() == right.tolist()


@pytest.mark.parametrize("kind", DIRECT)
def test_every_part_takes_a_classifier(kind, tmp_path):
    """Attack, endpoints, method, file, SPEC; its logits are the model's, its weights train."""
    model = DIRECT[kind]()
    found = rt.as_classifier(model, input_shape=SHAPE)
    assert found.input_shape == (None, *SHAPE) and found.output_shape == (None, 3)
    np.testing.assert_allclose(np.asarray(found(IMAGES)), own_logits(model), rtol=1e-5, atol=1e-5)
    moved = rt.attacks.FGSM()(found, IMAGES, LABELS, threat_model=THREAT)
    assert moved.shape == IMAGES.shape
    assert list(rt.endpoints(found).output)[-1] == "logits"
    rt.save_model(found, tmp_path / "model.keras")
    loaded = rt.load_model(str(tmp_path / "model.keras"))
    np.testing.assert_allclose(np.asarray(loaded(IMAGES)), own_logits(model), rtol=1e-5, atol=1e-5)
    before = own_logits(model)
    method = rt.Natural(student=found)
    method.compile(optimizer=keras.optimizers.SGD(1.0))
    method.fit(IMAGES, LABELS, verbose=0)
    assert np.abs(own_logits(model) - before).max() > 1e-3, "the wrapped weights train"


def test_layers_of_a_subclassed_model_are_endpoints():
    found = rt.as_classifier(called(Net()))
    assert set(rt.endpoints(found).output) == {"block1", "logits"}


@pytest.mark.parametrize("make", [Net, Branching])
def test_training_mode_is_the_models_own(make):
    """Dropout, batch statistics and what `call` does by itself, as the model called alone."""
    model = called(make())
    model.dropout.rate = 0.0
    found = rt.as_classifier(model)
    own = np.asarray(model(IMAGES, training=True))
    assert np.abs(own - np.asarray(model(IMAGES, training=False))).max() > 1e-3
    np.testing.assert_allclose(np.asarray(found(IMAGES, training=True)), own, rtol=1e-5, atol=1e-5)


def test_an_open_sequential_may_grow():
    model = keras.Sequential([layers.Flatten(), layers.Dense(3)])
    options = {"threat_model": THREAT, "attacks": (), "check_model": False}
    rt.evaluate_robustness(model, IMAGES, LABELS, **options)
    model.add(layers.Rescaling(-1.0))
    result = rt.evaluate_robustness(model, IMAGES, LABELS, **options)
    assert result.correct["clean"].tolist() == (own_logits(model).argmax(1) == LABELS).tolist()


def test_the_wrapper_is_made_once():
    """Else attacks, which are compiled for a model, would be compiled at every call."""
    model = called(Net())
    assert rt.checkpoints.as_model(model) is rt.checkpoints.as_model(model)
    plain = functional()
    assert rt.checkpoints.as_model(plain) is plain


REFUSED = {
    "two outputs": lambda: of_outputs(
        lambda x: [logits_of(x), layers.Dense(2)(layers.Flatten()(x))]
    ),
    "two named outputs": lambda: of_outputs(
        lambda x: {"a": logits_of(x), "b": layers.GlobalAveragePooling2D()(x)}
    ),
    "function": lambda: (lambda net: lambda images, training=False: net(images))(called(Net())),
    "function of TensorFlow": lambda: (
        lambda net: lambda images: net(images + 0.0 * np.float32(1))
    )(called(OwnWeight())),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_the_line_that_a_refusal_advises_works(kind):
    model = REFUSED[kind]()
    with pytest.raises(rt.InputError) as refused:
        rt.evaluate_robustness(model, IMAGES, LABELS, threat_model=THREAT, attacks=("fgsm",))
    line = re.search(r"write (model = .*\))", str(refused.value))[1]
    assert "\n" not in str(refused.value)
    own = model(IMAGES)
    own = next(iter(own.values())) if isinstance(own, dict) else own
    own = np.asarray(own[0] if isinstance(own, (list, tuple)) else own)
    names = {"model": model, "rt": rt}
    exec(line, names)
    result = rt.evaluate_robustness(
        names["model"], IMAGES, LABELS, threat_model=THREAT, attacks=("fgsm",), check_model=False
    )
    assert result.correct["clean"].tolist() == (own.argmax(axis=1) == LABELS).tolist()


@pytest.mark.parametrize("given", ["spec", "layer"])
def test_a_saved_model(given, tmp_path):
    model = functional()
    model.export(str(tmp_path / "saved"), verbose=False)
    if given == "spec":
        with pytest.raises(rt.InputError, match="SavedModel") as refused:
            rt.load_model(str(tmp_path / "saved"))
        line = re.search(r"write (model = .*\)) with", str(refused.value))[1]
        names = {"rt": rt}
        exec(line.replace("(32, 32, 3)", str(SHAPE)), names)
        found = names["model"]
    else:
        found = keras.layers.TFSMLayer(str(tmp_path / "saved"), call_endpoint="serve")
    result = rt.evaluate_robustness(
        found, IMAGES, LABELS, threat_model=THREAT, attacks=("fgsm",), check_model=False
    )
    assert result.correct["clean"].tolist() == (own_logits(model).argmax(1) == LABELS).tolist()


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_a_spec_is_taken_wherever_a_model_is(suffix, tmp_path):
    model, spec = functional(), str(tmp_path / f"model{suffix}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save(spec)
    result = rt.evaluate_robustness(
        spec, IMAGES, LABELS, threat_model=THREAT, attacks=("fgsm",), check_model=False
    )
    assert result.correct["clean"].tolist() == (own_logits(model).argmax(1) == LABELS).tolist()
    assert set(rt.endpoints(spec).output) == {"block1", "logits"}
    ours = rt.gradient_alignment(spec, IMAGES, LABELS, teacher=spec)
    theirs = rt.gradient_alignment(model, IMAGES, LABELS)
    np.testing.assert_allclose(ours.alpha, theirs.alpha, rtol=1e-5)
    method = rt.MixACM(student=spec, teacher=spec, blocks=("block1",))
    np.testing.assert_allclose(np.asarray(method(IMAGES)), own_logits(model), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        np.asarray(rt.as_classifier(spec)(IMAGES)), own_logits(model), rtol=1e-5, atol=1e-6
    )


def softmax(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


TAKEN_OFF = {
    "layer": lambda: functional(last=layers.Softmax()),
    "activation layer": lambda: functional(last=layers.Activation("softmax")),
    "operation": lambda: functional(last=ops.softmax),
    "of the dense layer": lambda: of_outputs(
        lambda x: layers.Dense(3, activation="softmax")(layers.Flatten()(x))
    ),
    "inside a nested model": lambda: keras.Sequential(
        [keras.Input(SHAPE), functional(last=layers.Softmax())]
    ),
}


@pytest.mark.parametrize("kind", TAKEN_OFF)
@pytest.mark.filterwarnings("error::UserWarning")
def test_a_softmax_is_taken_off(kind):
    model = TAKEN_OFF[kind]()
    # At such weights the probabilities are 0 and 1, and tell the logits no more.
    model.set_weights([40.0 * w for w in model.get_weights()])
    found = rt.as_classifier(model, probabilities=True)
    logits = np.asarray(found(IMAGES))
    assert np.abs(logits).max() > 30
    np.testing.assert_allclose(softmax(logits), own_logits(model), atol=1e-5)
    assert {id(v) for v in found.weights} == {id(v) for v in model.weights}, "shared, not copied"


def test_probabilities_that_no_layer_makes():
    model = functional(last=lambda z: ops.exp(z) / ops.sum(ops.exp(z), axis=1, keepdims=True))
    with pytest.warns(UserWarning, match="logarithms"):
        found = rt.as_classifier(model, probabilities=True)
    expected = np.log(own_logits(model))
    np.testing.assert_allclose(np.asarray(found(IMAGES)), expected, rtol=1e-5, atol=1e-5)


def test_what_gives_no_probabilities_is_refused():
    with pytest.raises(rt.InputError, match="gives no probabilities"):
        rt.as_classifier(functional(), probabilities=True)


@pytest.mark.parametrize("probabilities", [False, True])
def test_one_output(probabilities):
    """z, or sigmoid(z), is the logits (0, z)."""
    last = layers.Activation("sigmoid") if probabilities else None
    model = functional(width=1, last=last)
    found = np.asarray(rt.as_classifier(model, probabilities=probabilities, classes=2)(IMAGES))
    assert found.shape == (6, 2) and np.all(found[:, 0] == 0)
    own = own_logits(model)[:, 0]
    given = 1 / (1 + np.exp(-found[:, 1])) if probabilities else found[:, 1]
    np.testing.assert_allclose(given, own, rtol=1e-5, atol=1e-6)


def test_bounds_mean_and_std():
    model = functional()
    images = 255 * IMAGES
    found = rt.as_classifier(model, bounds=(0, 255), mean=(120.0,), std=60.0)
    own = np.asarray(model((images - 120.0) / 60.0))
    np.testing.assert_allclose(np.asarray(found(images)), own, rtol=1e-5, atol=1e-5)
    assert rt.models.bounds.pixel_bounds(found) == (0.0, 255.0)


def test_classes():
    model = functional()
    found = rt.as_classifier(model, classes=[2, 0])
    np.testing.assert_allclose(np.asarray(found(IMAGES)), own_logits(model)[:, [2, 0]], rtol=1e-6)
    with pytest.raises(rt.InputError, match="expected 4 logits"):
        rt.as_classifier(model, classes=4)
    with pytest.raises(rt.InputError, match="3 outputs"):
        rt.as_classifier(model, classes=[3])


def test_output_by_name_and_number():
    model = REFUSED["two outputs"]()
    for output in (0, "logits"):
        found = rt.as_classifier(model, output=output)
        np.testing.assert_allclose(
            np.asarray(found(IMAGES)), np.asarray(model(IMAGES)[0]), rtol=1e-6
        )
    with pytest.raises(rt.InputError, match="no output 'other'"):
        rt.as_classifier(model, output="other")


def test_half_precision_gives_float32_logits():
    images = keras.Input(SHAPE)
    x = layers.Flatten()(images)
    model = keras.Model(images, layers.Dense(3, dtype="mixed_bfloat16")(x))
    assert rt.as_classifier(model)(IMAGES).dtype == "float32"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["MobileNetV2", "EfficientNetB0", "ResNet50V2", "ConvNeXtTiny"])
def test_networks_of_keras_applications(name):
    model = getattr(keras.applications, name)(weights=None, classes=5, input_shape=(32, 32, 3))
    images = RNG.uniform(size=(4, 32, 32, 3)).astype(np.float32)
    found = rt.as_classifier(model, probabilities=True, std=1 / 255)
    own = np.asarray(model(255 * images, training=False))
    np.testing.assert_allclose(softmax(np.asarray(found(images))), own, atol=1e-5)
    rt.evaluate_robustness(
        found, images, [0, 1, 2, 3], threat_model=THREAT, attacks=("fgsm",), check_model=False
    )
