"""ops/random.py: one seed gives the same numbers with and without XLA, of the right distribution;
nobody else draws.

scripts/test.sh -m "slow or not slow" -n 0 tests/random_test.py      every method and attack
"""

import ast
from pathlib import Path

import keras
import numpy as np
import pytest
import scipy.stats
import tensorflow as tf

from tests.method_by_flags import method_by_flags
from tf_robust_transfer import attacks, data
from tf_robust_transfer.attacks import PGD, ThreatModel
from tf_robust_transfer.attacks.noise import BatchNoise, ExampleNoise
from tf_robust_transfer.methods import IGAM, METHODS
from tf_robust_transfer.models import build_discriminator, build_model
from tf_robust_transfer.ops import random

PACKAGE = Path(random.__file__).resolve().parents[1]
THREAT = ThreatModel(norm="linf", eps=0.1)
DRAWS = {
    "uniform": lambda seed: random.uniform([64, 7], seed),
    "normal": lambda seed: random.normal([64, 7], seed),
    "integers": lambda seed: random.integers([64, 7], seed, 0, 9),
    "fold_seed": lambda seed: random.fold_seed(seed, 3, 4),
    "fold_seed of a number": lambda seed: random.fold_seed(5, seed[0]),
    "batch noise": lambda seed: BatchNoise(seed, 8).uniform([5], 1),
    "example noise": lambda seed: ExampleNoise(tf.stack([seed, seed + 1])).uniform([5], 1),
    "mixup": lambda seed: data.mixup_weights(8, alpha=0.4, per_example=True, seed=seed),
}


@pytest.mark.parametrize("name", DRAWS)
def test_with_and_without_xla(name):
    draw, seed = DRAWS[name], tf.constant([1, 2])
    plain, compiled = (tf.function(draw, jit_compile=jit)(seed).numpy() for jit in (False, True))
    if name in ("normal", "mixup"):  # of logarithms and the like, which round as they do
        np.testing.assert_allclose(compiled, plain, rtol=1e-5, atol=2e-5)
    else:
        np.testing.assert_array_equal(compiled, plain)
    assert not np.array_equal(plain, tf.function(draw)(seed + 1).numpy())


def test_distributions():
    """Kolmogorov and Smirnov's test on 100,000 numbers; a shift by 1% would be far beyond its
    limit.
    """
    uniform, normal = (draw([100_000], [3, 4]).numpy() for draw in (random.uniform, random.normal))
    assert uniform.min() >= 0 and uniform.max() < 1 and np.isfinite(normal).all()
    assert scipy.stats.kstest(uniform, "uniform").pvalue > 0.01
    assert scipy.stats.kstest(normal, "norm").pvalue > 0.01
    np.testing.assert_array_equal(uniform * 2**23 % 1, 0)
    opened = random.open_uniform([100_000], [3, 4]).numpy()
    assert opened.min() > 0 and opened.max() < 1
    counts = np.bincount(random.integers([90_000], [3, 4], 0, 9).numpy(), minlength=9)
    assert scipy.stats.chisquare(counts).pvalue > 0.01


def test_no_other_module_draws():
    """Each name of TensorFlow's or Keras's generators stands in ops/random.py alone.

    rand_augment.py hands Keras's layer its seeds by a SeedGenerator; NumPy's generators are of the
    host alone."""
    drawing = {
        "stateless_uniform",
        "stateless_normal",
        "stateless_fold_in",
        "stateless_shuffle",
        "stateless_gamma",
        "stateless_truncated_normal",
        "stateless_binomial",
        "stateless_categorical",
    }
    stateful = {
        f"tf.random.{name}"
        for name in ("uniform", "normal", "shuffle", "gamma", "truncated_normal")
    }
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute):
                dotted = ast.unparse(node)
                assert node.attr not in drawing or path.name == "random.py", (path, dotted)
                assert dotted not in stateful and not dotted.startswith("keras.random.uniform"), (
                    path,
                    dotted,
                )


def batches(steps=3, count=16):
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 1, (steps * count, 8, 8, 1)).astype(np.float32)
    return images, rng.integers(0, 4, steps * count).astype(np.int32)


def network(seed, **options):
    keras.utils.set_random_seed(seed)
    return build_model("small_cnn", (8, 8, 1), 4, width=1, **options)


def igam(**options):
    def build(student, teacher):
        discriminator = build_discriminator((8, 8, 1), channels=(4, 8))
        return IGAM(student=student, teacher=teacher, discriminator=discriminator, **options)

    return build


def other(name, **options):
    return lambda student, teacher: METHODS[name](student=student, teacher=teacher, **options)


def by_flags(name):
    return lambda student, teacher: method_by_flags(name, student, teacher)


# Beside the defaults of their flags, or where these are not for small networks.
CASES = {
    "adversarial_training": lambda student, teacher: METHODS["adversarial_training"](
        student=student, threat_model=THREAT, attack=PGD(steps=3)
    ),
    "finetune": lambda student, teacher: METHODS["finetune"](
        teacher=teacher, num_classes=4, adapter="random_pad_per_example:8x8", input_shape=(6, 6, 1)
    ),
    "ard": other("ard", threat_model=THREAT, attack=PGD(steps=3)),
    "igam": igam(
        noise=0.4, lambda_diff=1.0, discriminator_every=2
    ),  # with and without an update of the discriminator
    "igam, warm start": igam(noise=0.4, warm_start_steps=3),
    "igam, l2 alone": igam(noise=0.4, lambda_adv=0.0, lambda_diff=1.0),
    "mixacm": other("mixacm", blocks=("block1", "block2"), acm_weight=5.0),
    "mixacm, weights of examples": other(
        "mixacm", blocks=("block1",), acm_weight=5.0, mixup_per_example=True
    ),
    "igam_mixacm": other(
        "igam_mixacm",
        lambda_adv=0.0,
        lambda_diff=1.0,
        noise=0.4,
        mixacm_options={"blocks": ("block1",)},
    ),
}
# Every other method as its flags make it.
CASES |= {name: by_flags(name) for name in METHODS if name not in CASES}


# The others' draws are among these; XLA compiles for seconds.
QUICK = ("adversarial_training", "igam, warm start", "PGD", "Square")


def marked(name, *more):
    return pytest.param(name, *more, marks=[] if name in QUICK else [pytest.mark.slow])


@pytest.mark.parametrize("name", map(marked, CASES))
def test_a_step_under_xla_is_the_step_without(name):
    """Weights after three steps of plain SGD. Other draws would be 0.02 to 0.4 apart."""
    images, labels = batches()
    images = images[:, :6, :6] if name == "finetune" else images
    found = []
    for jit in (False, True):
        method = CASES[name](network(1, batch_norm=True), network(2, batch_norm=True))
        method.compile(optimizer=keras.optimizers.SGD(0.01), jit_compile=jit)
        # Where operations are deterministic, as after a run in this process, Keras turns XLA off.
        method._jit_compile = jit
        method.fit(images, labels, batch_size=16, shuffle=False, verbose=0)
        assert method.jit_compile is jit
        found.append(method.student.get_weights())
    for plain, compiled in zip(*found, strict=True):
        np.testing.assert_allclose(compiled, plain, rtol=0, atol=1e-5)


# Short forms: two steps of each kind that differ.
ATTACKS = {
    "FGSM": lambda: attacks.FGSM(random_start=True),
    "BIM": lambda: attacks.BIM(steps=3),
    "MIM": lambda: attacks.MIM(steps=3),
    "PGD": lambda: attacks.PGD(steps=3),
    "APGD": lambda: attacks.APGD(steps=3),
    "APGDTargeted": lambda: attacks.APGDTargeted(steps=3),
    "FAB": lambda: attacks.FAB(steps=3),
    "FABTargeted": lambda: attacks.FABTargeted(steps=3),
    "SPSA": lambda: attacks.SPSA(steps=3, samples=8),
    "CarliniWagnerL2": lambda: attacks.CarliniWagnerL2(steps=20, constants=1, first_constant=10.0),
    "Square": lambda: attacks.Square(queries=20),
}
ONE_NORM = {"SPSA": "linf", "CarliniWagnerL2": "l2"}


def test_every_attack_has_a_case():
    # An AutoAttack is made of others and has no steps of its own; CleverHans's forms draw nothing.
    made = {made.__name__ for made in attacks.ATTACKS.values()}
    assert set(ATTACKS) == made - {"AutoAttack", "CleverHans"}


@pytest.mark.parametrize(
    ("name", "norm"),
    [
        marked(name, norm)
        for name in ATTACKS
        for norm in ("linf", "l2")
        if ONE_NORM.get(name, norm) == norm
    ],
)
def test_an_attack_under_xla_is_the_attack_without(name, norm):
    """Inside a graph, as in a training step. Where rounding flips a sign or a choice an example
    goes another way: two of sixteen may. With other draws all would."""
    threat = ThreatModel(norm=norm, eps=0.1 if norm == "linf" else 0.5)
    images, labels = (tf.constant(part[:16]) for part in batches())
    model, attack = network(1), ATTACKS[name]()

    def perturb(images, labels, seed):
        return attack.perturb(lambda x: model(x, training=False), images, labels, threat, seed)

    runs = [
        tf.function(perturb, jit_compile=jit)(images, labels, tf.constant([7, 8])).numpy()
        for jit in (False, True)
    ]
    assert (np.abs(runs[0] - images).max(axis=(1, 2, 3)) > 1e-3).sum() >= 4
    assert (np.abs(runs[1] - runs[0]).max(axis=(1, 2, 3)) > 1e-4).sum() <= 2


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 9])
def test_seeds_of_many_are_those_of_numpy(count):
    """Bit for bit, as an array and inside a graph."""
    words = list(np.random.default_rng(count).integers(0, 2**32, (count, 7), np.uint32))
    words[0] = 3
    expected = [
        np.random.SeedSequence([3, *(int(word[i]) for word in words[1:])]).generate_state(5)
        for i in range(7 if count > 1 else 1)
    ]
    np.testing.assert_array_equal(random.seed_sequence(words, 5), expected)
    tensors = [tf.constant(word.view(np.int32)) for word in words[1:]]
    np.testing.assert_array_equal(random.seed_sequence([tf.constant([3]), *tensors], 5), expected)
