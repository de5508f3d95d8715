"""The loss terms of both papers in a training loop of one's own.

    python examples/terms_in_a_loop.py [epochs]

Trains a robust teacher on scikit-learn's digits, then a student by IGAM's and MixACM's terms
together, and prints the accuracy of both. tests/terms_test.py compares this loop with the library's
methods."""

import sys

import keras
import tensorflow as tf

import tf_robust_transfer as rt
from tf_robust_transfer import terms

SEED, EPS = 0, 0.15
BLOCKS, ACM_WEIGHT, KLD_WEIGHT = ("block1", "block2"), 10.0, 0.95
LAMBDA_ADV, LAMBDA_DIFF, EVERY = 0.1, 3.0, 5


def mixacm(student, teacher):
    """MixACM's terms, all on the same mixup examples."""
    mixed = terms.MixedExamples(student, teacher)
    return [
        terms.CrossEntropy(1.0 - KLD_WEIGHT, of=mixed, name="mixup"),
        terms.SoftLabels(of=mixed, kld_weight=KLD_WEIGHT),
        terms.ChannelMaps(of=mixed, acm_weight=ACM_WEIGHT, blocks=BLOCKS),
    ]


def igam(student, teacher, discriminator):
    """IGAM's terms, all on the images as they come."""
    natural = terms.InputGradients(student, teacher)
    return [
        terms.CrossEntropy(of=natural),
        terms.GradientGame(of=natural, discriminator=discriminator, lambda_adv=LAMBDA_ADV),
        terms.GradientDifference(of=natural, lambda_diff=LAMBDA_DIFF),
    ]


def both(student, teacher, discriminator):
    """MixACM's terms and IGAM's, but for IGAM's cross-entropy, for which L_mix stands in."""
    return [*mixacm(student, teacher), *igam(student, teacher, discriminator)[1:]]


def train(student, loss_terms, batches, optimizer, *, game=None, game_optimizer=None):
    """Steps of the student, one a batch, and of the discriminator in one of `EVERY`.

    Args:
        student: keras.Model, which the terms' passes call.
        loss_terms: list of `terms.Term`, the loss.
        batches: (images float32 [batch, height, width, channels] in [0, 1], labels int [batch]).
        optimizer: of the student.
        game: the `terms.GradientGame` among the terms. game_optimizer: of its discriminator.
    """
    further = [variable for term in loss_terms for variable in term.variables]
    variables = [*student.trainable_variables, *further]
    optimizer.build(variables)
    rivals = game.discriminator.trainable_variables if game else []
    if game:
        game_optimizer.build(rivals)

    @tf.function
    def step(images, labels, seed, plays):
        with tf.GradientTape(persistent=True) as tape:
            shares, _ = terms.evaluate(loss_terms, images, labels, seed)
            loss = terms.total(shares)
            if plays:
                rivals_loss = game.discriminator_loss(shares)
        gradients = tape.gradient(loss, variables)
        if plays:  # both from the same weights (Algorithm 1 of IGAM)
            game_optimizer.apply(tape.gradient(rivals_loss, rivals), rivals)
        optimizer.apply(gradients, variables)

    for number, (images, labels) in enumerate(batches):
        plays = game is not None and number % EVERY == 0
        step(images, labels, tf.constant([SEED, number]), plays)


def main(epochs=20):
    digits, test = rt.data.load_data("digits", "train"), rt.data.load_data("digits", "test")
    keras.utils.set_random_seed(SEED)
    steps = rt.data.steps_per_epoch(digits, 64)
    batches = rt.data.train_batches(digits, batch_size=64, seed=SEED)
    threat_model = rt.ThreatModel(norm="linf", eps=EPS)

    teacher = rt.build_model("small_cnn", (8, 8, 1), 10, width=2)
    attack = rt.attacks.PGD(steps=3)
    method = rt.AdversarialTraining(student=teacher, threat_model=threat_model, attack=attack)
    method.compile(keras.optimizers.Adam(2e-3))
    method.fit(batches, steps_per_epoch=steps, epochs=epochs, verbose=0)

    student = rt.build_model("small_cnn", (8, 8, 1), 10, batch_norm=True)
    loss_terms = both(student, teacher, rt.build_discriminator((8, 8, 1), channels=(8, 16, 32)))
    game = next(term for term in loss_terms if isinstance(term, terms.GradientGame))
    optimizers = keras.optimizers.Adam(2e-3), keras.optimizers.Adam(2e-3)
    taken = batches.take(epochs * steps)
    train(student, loss_terms, taken, optimizers[0], game=game, game_optimizer=optimizers[1])

    images = test.images.astype("float32") / 255
    for name, model in (("teacher", teacher), ("student", student)):
        result = rt.evaluate_robustness(model, images, test.labels, threat_model=threat_model)
        print(name, result.accuracy)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
