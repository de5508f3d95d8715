"""terms/: a loop of one's own against the methods, passes that are called once, terms of one's own.

What each term computes is tested through the methods (methods_test.py, mixacm_test.py,
igam_options_test.py) and in losses_test.py."""

import keras
import numpy as np
import pytest
import scipy.special
import scipy.stats
import tensorflow as tf

from examples import terms_in_a_loop as example
from tf_robust_transfer import terms
from tf_robust_transfer.errors import InputError
from tf_robust_transfer.methods import IGAM, IGAMMixACM, Method, MixACM
from tf_robust_transfer.models import build_discriminator, build_model

SHAPE, CLASSES, STEPS, ROWS = (8, 8, 1), 4, 7, 8
GAME = {"lambda_adv": example.LAMBDA_ADV, "lambda_diff": example.LAMBDA_DIFF}
GAME |= {"discriminator_every": example.EVERY}
MAPS = {
    "acm_weight": example.ACM_WEIGHT,
    "kld_weight": example.KLD_WEIGHT,
    "blocks": example.BLOCKS,
}


def networks():
    """(student, teacher, discriminator), the same each time."""
    keras.utils.set_random_seed(3)
    student, teacher = (
        build_model("small_cnn", SHAPE, CLASSES, width=1, batch_norm=True) for _ in range(2)
    )
    return student, teacher, build_discriminator(SHAPE, channels=(4, 8))


def batch(rows=ROWS):
    rng = np.random.default_rng(0)
    return rng.uniform(0, 1, (rows, *SHAPE)).astype(np.float32), rng.integers(0, CLASSES, rows)


def sgd():
    return keras.optimizers.SGD(0.01, momentum=0.9)


# The third has the terms of the two others but for IGAM's cross-entropy.
@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(IGAM, marks=pytest.mark.slow),
        pytest.param(MixACM, marks=pytest.mark.slow),
        pytest.param(IGAMMixACM, marks=pytest.mark.slow),
    ],
)
def test_a_plain_loop_over_terms_gives_the_methods_weights(kind):
    """Bit for bit, with two updates of the discriminator in seven steps."""
    images, labels = batch(STEPS * ROWS)
    student, teacher, discriminator = networks()
    options = (GAME if kind is not MixACM else {}) | (MAPS if kind is not IGAM else {})
    roles = {"discriminator": discriminator} if kind is not MixACM else {}
    method = kind(student=student, teacher=teacher, seed=example.SEED, **roles, **options)
    start = student.get_weights()
    method.compile(sgd())
    method.fit(images, labels, batch_size=ROWS, shuffle=False, verbose=0)
    expected = [*student.get_weights(), *discriminator.get_weights()]
    assert all((old != new).any() for old, new in zip(start, student.get_weights(), strict=True))

    student, teacher, discriminator = networks()
    roles = () if kind is MixACM else (discriminator,)
    listed = {IGAM: example.igam, MixACM: example.mixacm, IGAMMixACM: example.both}[kind]
    loss_terms = listed(student, teacher, *roles)
    game = {term.names[0]: term for term in loss_terms}.get("adversarial")
    assert [type(term) for term in loss_terms] == [type(term) for term in method.terms]
    batches = tf.data.Dataset.from_tensor_slices((images, labels)).batch(ROWS)
    example.train(student, loss_terms, batches, sgd(), game=game, game_optimizer=sgd())
    found = [*student.get_weights(), *discriminator.get_weights()]
    for number, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        np.testing.assert_array_equal(ours, theirs, err_msg=str(number))


class Counted(terms.Logits):
    """Counts its calls."""

    calls = 0

    def __call__(self, images, labels, seed):
        self.calls += 1
        return super().__call__(images, labels, seed)


def test_terms_of_one_pass_share_its_call_and_the_total_is_their_weighted_sum():
    student, teacher, _ = networks()
    images, labels = map(tf.constant, batch())
    first, second = Counted(student, teacher), Counted(student)
    listed = [
        terms.CrossEntropy(0.25, of=first),
        terms.SoftLabels(of=first, kld_weight=0.5, temperature=2.0),
        terms.Term("squares", 3.0, lambda seen: tf.reduce_sum(seen["logits"] ** 2, 1), of=second),
    ]
    shares, seen = terms.evaluate(listed, images, labels, tf.constant([0, 0]))
    assert (first.calls, second.calls) == (1, 1) and list(seen) == [first, second]
    assert {name: weight for name, (weight, _) in shares.items()} == {
        "cross_entropy": 0.25,
        "kld": 0.5,
        "squares": 3.0,
    }
    # Neither network's batch statistics move its own logits in training mode.
    z, t = student(images, training=True).numpy(), teacher(images, training=False).numpy()
    z, t = z.astype(np.float64), t.astype(np.float64)
    log_p = scipy.special.log_softmax(z, axis=1)
    p_t, p_s = (scipy.special.softmax(logits / 2, axis=1) for logits in (t, z))
    expected = 0.25 * -log_p[np.arange(ROWS), labels].mean()
    expected += 0.5 * 4 * scipy.stats.entropy(p_t, p_s, axis=1).mean()
    expected += 3.0 * (z**2).sum(axis=1).mean()
    np.testing.assert_allclose(float(terms.total(shares)), expected, rtol=1e-5)


def test_a_method_is_the_terms_that_it_is_given():
    """One step of gradient descent on 2 mean ||z||^2 of a linear network, by hand."""
    images, labels = batch()
    inputs = keras.Input(SHAPE)
    dense = keras.layers.Dense(CLASSES, use_bias=False)
    student = keras.Model(inputs, dense(keras.layers.Flatten()(inputs)))
    before, flat = dense.kernel.numpy().astype(np.float64), images.reshape(ROWS, -1)
    method = Method(student=student)
    of = terms.Logits(student)
    method.terms = [
        terms.Term("squares", 2.0, lambda seen: tf.reduce_sum(seen["logits"] ** 2, 1), of=of)
    ]
    method.compile(keras.optimizers.SGD(0.1))
    logs = method.fit(images, labels, batch_size=ROWS, verbose=0).history
    assert set(logs) == {"loss", "squares", "accuracy"}
    gradient = 4 * flat.T @ (flat @ before) / ROWS
    np.testing.assert_allclose(dense.kernel.numpy(), before - 0.1 * gradient, rtol=1e-4, atol=1e-6)


def test_trained_variables_and_state_are_the_terms():
    student, teacher, _ = networks()
    mixed = terms.MixedExamples(student, teacher)
    maps = terms.ChannelMaps(of=mixed, blocks=("block1:block2",), acm_transform="affine")
    (layer,) = maps.affine.values()
    assert layer.name == "affine_block1_block2" and maps.state() == {layer.name: layer}
    assert maps.variables == [layer.kernel, layer.bias]
    game = terms.GradientGame(of=terms.InputGradients(student, teacher))
    assert game.state() == {"discriminator": game.discriminator} and not game.variables
    assert game.discriminator.input_shape == (None, *SHAPE)


def test_a_terms_keywords_are_checked_as_the_methods_are():
    student, teacher, _ = networks()
    mixed = terms.MixedExamples(student, teacher)
    for wrong, text in (
        ({"acm_weight": -1}, "acm_weight: expected a number of at least 0, got -1"),
        ({"weight": 1.0}, "unknown argument 'weight'"),
        ({"blocks": ("block9",)}, "the student has no endpoint 'block9'"),
    ):
        with pytest.raises(InputError, match=text):
            terms.ChannelMaps(of=mixed, **wrong)


def test_a_term_says_what_is_wrong_with_it():
    with pytest.raises(InputError, match="expected a function of what the pass has seen, got None"):
        terms.Term("mine", 1.0, None, of=None)
    scalar = terms.Term("mine", 1.0, lambda seen: tf.constant(1.0), of=None)
    with pytest.raises(InputError, match="expected one value an example"):
        scalar({})
