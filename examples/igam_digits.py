"""IGAM on scikit-learn's digits, from a robust teacher to a student that sees no attack.

    python examples/igam_digits.py [epochs]

A natural network, an adversarially trained teacher and IGAM's student of it; prints the accuracy of
all three, and writes their input gradients to input_gradients.png. About two minutes on two cores;
the quickstart does the same by flag files, with run folders."""

import sys

import keras

import tf_robust_transfer as rt
from tf_robust_transfer.plots import plot_input_gradients

SHAPE, CLASSES, EPS = (8, 8, 1), 10, 0.15


def network():
    return rt.build_model("small_cnn", input_shape=SHAPE, num_classes=CLASSES, width=3)


def main(epochs=40, figure="input_gradients.png"):
    keras.utils.set_random_seed(0)
    digits, test = rt.data.load_data("digits", "train"), rt.data.load_data("digits", "test")
    steps = rt.data.steps_per_epoch(digits, 64)
    batches = rt.data.train_batches(digits, batch_size=64, seed=0)
    threat_model = rt.ThreatModel(norm="linf", eps=EPS)

    def train(method, epochs=epochs):
        method.compile(optimizer=keras.optimizers.Adam(2e-3))
        method.fit(batches, steps_per_epoch=steps, epochs=epochs, shuffle=False, verbose=0)
        return method.student

    # The teacher is the only one that is trained on adversarial examples.
    attack = rt.attacks.PGD(steps=3)
    teaching = rt.AdversarialTraining(student=network(), threat_model=threat_model, attack=attack)
    models = {"natural": train(rt.Natural(student=network()), 10), "teacher": train(teaching)}
    igam = rt.IGAM(
        student=network(),
        teacher=models["teacher"],
        discriminator=rt.build_discriminator(SHAPE, channels=(8, 16, 32)),
        lambda_adv=0.1,
        lambda_diff=30.0,
        noise=0.5,
        warm_start_steps=5 * steps,  # natural training first
        discriminator_every=10,
    )
    models["student"] = train(igam)

    images, accuracies = test.images.astype("float32") / 255, {}
    for name, model in models.items():
        result = rt.evaluate_robustness(
            model, images, test.labels, threat_model=threat_model, attacks=("fgsm", "pgd20")
        )
        accuracies[name] = result.accuracy
        shown = "  ".join(f"{attack} {value:.1%}" for attack, value in result.accuracy.items())
        print(f"{name:<8} {shown}", flush=True)
    plot_input_gradients(models, images[:6], test.labels[:6], figure)
    return accuracies


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
