"""The search over many examples: every schedule of the lanes has to give what each example alone
gives.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_robust_transfer.attacks import BIM, MIM, PGD, Attack, ThreatModel
from tf_robust_transfer.attacks import search as search_module
from tf_robust_transfer.attacks.search import Search

SHAPE, CLASSES = (4, 3, 1), 3
THREAT = ThreatModel("linf", 0.12)


def smooth_model(seed=0):
    images = keras.Input(SHAPE)
    x = keras.layers.Dense(8, activation="tanh")(keras.layers.Flatten()(images))
    model = keras.Model(images, keras.layers.Dense(CLASSES)(x))
    rng = np.random.default_rng(seed)
    model.set_weights(
        [2 * rng.standard_normal(w.shape).astype(np.float32) for w in model.get_weights()]
    )
    return model


@pytest.fixture(scope="module")
def model():
    return smooth_model()


@pytest.fixture(scope="module")
def examples(model):
    """(images, labels) of 50 images that the model gets right."""
    images = np.random.default_rng(1).uniform(size=(50, *SHAPE)).astype(np.float32)
    return images, np.argmax(model(images), axis=1).astype(np.int32)


def collect(run, count):
    """(fooled, margins, images, steps taken) of a whole run, by example; every example is decided
    exactly once.
    """
    fooled, margins, taken = np.zeros(count, bool), np.full(count, np.nan), np.zeros(count, int)
    images = np.full((count, *SHAPE), np.nan, np.float32)
    times = np.zeros(count, int)
    for decided in run:
        fooled[decided.examples], margins[decided.examples] = decided.fooled, decided.margins
        taken[decided.examples] = decided.taken
        times[decided.examples] += 1
        if decided.images is not None:
            images[decided.examples] = decided.images
    return fooled, margins, images, taken, times


def searched(attack, model, examples, batch_size, seed=0, **options):
    images, labels = examples
    search = Search(attack, model, THREAT, batch_size=batch_size, keep_images=True, **options)
    todo = np.arange(len(labels))
    return collect(search.run(images, labels, todo, eps=THREAT.eps, seed=seed), len(labels))


@pytest.fixture(scope="module")
def wrong_iterates(model, examples):
    """Which of PGD-12's iterates from the image the model gets wrong, bool [13, 50]: a plain loop,
    clipped by NumPy.
    """
    images, labels = examples
    current, wrong = images, []
    for _ in range(13):
        with tf.GradientTape() as tape:
            x = tf.constant(current)
            tape.watch(x)
            logits = model(x)
            loss = keras.losses.sparse_categorical_crossentropy(
                tf.constant(labels), logits, from_logits=True
            )
        wrong.append(np.argmax(logits, axis=1) != labels)
        current = current + np.float32(2.5 * THREAT.eps / 12) * np.sign(tape.gradient(loss, x))
        current = np.clip(
            np.clip(current, images - np.float32(THREAT.eps), images + np.float32(THREAT.eps)), 0, 1
        )
    return np.array(wrong)


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_fooled_is_what_an_iterate_fools(model, examples, wrong_iterates, batch_size):
    """Brute force over all iterates; the first one that fools counts, and its number is the steps
    taken.
    """
    fooled, _, handed, taken, times = searched(
        PGD(12, random_start=False), model, examples, batch_size
    )
    assert (times == 1).all() and 5 < fooled.sum() < 45
    np.testing.assert_array_equal(fooled, wrong_iterates.any(axis=0))
    # An iterate is looked at in the step after the one that made it; the last one when all steps
    # are over.
    first = np.where(fooled, wrong_iterates.argmax(axis=0), 12)
    np.testing.assert_array_equal(taken, np.minimum(first + 1, 12))
    np.testing.assert_array_equal(np.argmax(model(handed), axis=1) != examples[1], fooled)
    assert np.abs(handed - examples[0]).max() <= THREAT.eps + 1e-6


STEP = 2.5 * THREAT.eps / 12


@pytest.mark.parametrize(
    "attack",
    [
        PGD(12, STEP, random_start=False, stop_when_fooled=True),
        BIM(12, STEP, stop_when_fooled=True),
        MIM(12, STEP, decay=0.0, stop_when_fooled=True),
    ],
    ids=lambda attack: type(attack).__name__,
)
def test_a_view_that_is_fooled_stops_no_example(model, examples, attack):
    """Brute force over all iterates of a view that is wrong on every one: the model decides which
    of them counts.
    """
    label = np.bincount(examples[1]).argmax()
    images, labels = (part[examples[1] == label] for part in examples)

    def view(x):
        return model(x) - 100.0 * tf.one_hot(label, CLASSES)

    current, wrong = images, np.zeros(len(labels), bool)
    for _ in range(13):
        with tf.GradientTape() as tape:
            x = tf.constant(current)
            tape.watch(x)
            loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, view(x))
        wrong |= np.argmax(model(current), axis=1) != labels
        current = current + np.float32(STEP) * np.sign(tape.gradient(loss, x))
        current = np.clip(
            np.clip(current, images - np.float32(THREAT.eps), images + np.float32(THREAT.eps)), 0, 1
        )
    fooled, _, handed, _, _ = searched(attack, model, (images, labels), 16, logits_of=view)
    assert 3 < wrong.sum() < len(labels) - 3
    np.testing.assert_array_equal(fooled, wrong)
    np.testing.assert_array_equal(np.argmax(model(handed), axis=1) != labels, fooled)


def test_neither_batch_size_nor_company_changes_what_an_example_meets(model, examples):
    attack = PGD(5, restarts=4)
    alone = searched(attack, model, examples, 1)
    for batch_size in (3, 16, 50, 200):
        together = searched(attack, model, examples, batch_size)
        for one, other in zip(alone, together, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)
    others = searched(attack, model, examples, 16, seed=1)
    assert (others[2] != alone[2]).any()


def test_what_is_kept_is_the_closest_of_all_rounds(model, examples):
    """Without a step the visited points are the random starts: their best margin is the maximum
    over the rounds.
    """
    images, labels = examples

    class Start(Attack):
        restarts = 6

        def start(self, problem, images, labels, round, noise):
            return {"x": problem.project(images + 0.3 * noise.uniform(SHAPE, 1) - 0.15, images)}

        def step(self, problem, images, labels, state, iteration, drawn):
            return state, state["x"], problem.logits_of(state["x"])

        def result(self, state):
            return state["x"]

    fooled, margins, handed, _, _ = searched(Start(), model, examples, 20)
    logits = model(handed).numpy()
    own = logits[np.arange(50), labels]
    logits[np.arange(50), labels] = -np.inf
    np.testing.assert_allclose(margins, logits.max(axis=1) - own, atol=1e-5)
    assert (fooled == (margins > 0)).all() and 0 < fooled.sum() < 50
    one_round = type("One", (Start,), {"restarts": 1})()
    # The same start may be computed in a batch of another size: 1e-5, as above.
    assert (margins >= searched(one_round, model, examples, 20)[1] - 1e-5).all()


@pytest.mark.parametrize("batch_size", [8, 50])
def test_an_interrupted_search_goes_on(model, examples, batch_size, monkeypatch):
    monkeypatch.setattr(search_module, "STEPS_AT_ONCE", 2)
    images, labels = examples
    attack = PGD(9, restarts=3)
    whole = searched(attack, model, examples, batch_size)

    def pieces():
        search, restored = (
            Search(attack, model, THREAT, batch_size=batch_size, keep_images=True),
            None,
        )
        while True:
            run = search.run(
                images, labels, np.arange(50), eps=THREAT.eps, seed=0, restored=restored
            )
            for number, decided in enumerate(run):
                yield decided
                if number == 4:
                    break
            else:
                return
            restored = search.snapshot()
            # A new process has nothing but the snapshot.
            search = Search(attack, model, THREAT, batch_size=batch_size, keep_images=True)

    for one, other in zip(whole, collect(pieces(), 50), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_model_itself_has_the_last_word(model, examples):
    """A copy that errs on everything fools nobody; one that never errs costs what only its iterates
    would have found.
    """
    honest = searched(PGD(10, random_start=False), model, examples, 16)

    def hysterical(x):
        return -model(x)

    fooled, _, handed, taken, times = searched(
        PGD(10, random_start=False), model, examples, 16, logits_of=hysterical
    )
    assert (times == 1).all() and not (fooled & ~honest[0]).any()
    assert (taken[~fooled] == 10).all()
    predicted = np.argmax(model(handed), axis=1)
    np.testing.assert_array_equal(predicted != examples[1], fooled)


@pytest.mark.parametrize("steps, sizes", [(20, {16}), (600, {16, 4})])
def test_a_gpu_compiles_for_few_numbers_of_lanes(steps, sizes, model, examples, monkeypatch):
    expected = searched(PGD(steps), model, examples, 16)
    monkeypatch.setattr(search_module, "on_gpu", lambda: True)
    met, compiled = set(), Search._compiled

    def spy(self, method, *arguments):
        if method.__name__ in ("advance", "begin"):  # which see the copy of the model
            lanes = arguments[0]
            met.add(len(lanes["labels"] if isinstance(lanes, dict) else lanes))
        return compiled(self, method, *arguments)

    monkeypatch.setattr(Search, "_compiled", spy)
    found = searched(PGD(steps), model, examples, 16)
    assert met == sizes
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_array_equal(one, other)


def test_judged_in_full_float32(model, examples, monkeypatch):
    """On a GPU from Ampere on the attack may use TF32; what it found is judged without."""
    allowed = {}
    compiled = Search._compiled

    def spy(self, method, *arguments, **options):
        allowed.setdefault(method.__name__, set()).add(
            tf.config.experimental.tensor_float_32_execution_enabled()
        )
        return compiled(self, method, *arguments, **options)

    monkeypatch.setattr(Search, "_compiled", spy)
    for before in (True, False):
        allowed.clear()
        tf.config.experimental.enable_tensor_float_32_execution(before)
        searched(PGD(steps=3), model, examples, batch_size=16)
        Search(PGD(steps=3), model, THREAT, batch_size=16).judge(*examples)
        assert allowed["judge"] == allowed["judge_images"] == {False}
        assert allowed["advance"] == {before}
        assert tf.config.experimental.tensor_float_32_execution_enabled() == before


def test_an_image_outside_the_ball_does_not_count(model, examples):
    class Far(Attack):
        def start(self, problem, images, labels, round, noise):
            return {"images": images}

        def step(self, problem, images, labels, state, iteration, drawn):
            far = 1 - images
            return state, far, -problem.logits_of(images)

        def result(self, state):
            return state["images"]

    assert not searched(Far(), model, examples, 16)[0].any()


def test_traced_once_for_every_number_of_lanes_and_every_search(examples):
    model, traced = smooth_model(), []

    def logits_of(x):
        traced.append(tuple(x.shape))
        return tf.cast(model(x), tf.float32)

    images, labels = (np.concatenate([part] * 4) for part in examples)
    for seed, batch_size in ((0, 64), (1, 64), (0, 27)):
        search = Search(
            PGD(10, restarts=3), model, THREAT, batch_size=batch_size, logits_of=logits_of
        )
        sizes = set()
        for _ in search.run(images, labels, np.arange(200), eps=0.05, seed=seed):
            sizes.add(len(search.example))
        assert len(sizes) > 2 and max(sizes) == batch_size
    assert traced == [(None, *SHAPE)]


def test_idle_lanes_are_given_up(model, examples):
    """Every lane works until its example is decided, but for the steps to the next look."""
    images, labels = examples
    search = Search(PGD(12, restarts=3), model, THREAT, batch_size=50)
    taken = np.zeros(50, int)
    for decided in search.run(images, labels, np.arange(50), eps=THREAT.eps, seed=0):
        taken[decided.examples] = decided.taken
        assert len(search.example) <= max(1.07 * (search.example >= 0).sum(), 50) + 1
    assert search.used == taken.sum() and 0.9 * search.computed < search.used < search.computed


def test_nothing_to_attack(model, examples):
    search = Search(PGD(3), model, THREAT, batch_size=4)
    assert list(search.run(*examples, np.zeros(0, int), eps=0.1, seed=0)) == []


def test_a_lane_that_is_done_sees_no_step_past_the_end(model, examples):
    """The numbers of a step may be looked up by its number."""

    class Counted(PGD):
        def step(self, problem, images, labels, state, iteration, drawn):
            tf.debugging.assert_less(iteration, self.iterations)
            return super().step(problem, images, labels, state, iteration, drawn)

        def draw(self, noise, iteration, count):  # so that the host looks every ten steps alone
            return tf.zeros([tf.shape(iteration)[0], count])

    fooled = searched(Counted(12), model, examples, 16)[0]
    assert 5 < fooled.sum() < 45
