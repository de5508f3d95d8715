"""How robust is a Keras model of your own? It needs no part of this library in it.

    python examples/attack_my_model.py

The model here is one as people have it: trained by plain Keras on pixels of 0 to 255, with its mean
and standard deviation taken off outside, and a softmax at its end. `rt.as_classifier` puts that
right, and `rt.evaluate_robustness` attacks it. About a minute on two cores."""

import keras

import tf_robust_transfer as rt


def my_model(images, labels, epochs=15):
    """(the model, the mean and the standard deviation that its images need), by Keras alone."""
    mean, std = images.mean(), images.std()
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input(images.shape[1:]),
            keras.layers.Conv2D(32, 3, padding="same", activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Conv2D(64, 3, padding="same", activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit((images - mean) / std, labels, epochs=epochs, verbose=0)
    return model, mean, std


def main(max_examples=200, attacks=("fgsm", "pgd20", "autoattack")):
    train, test = rt.data.load_data("digits", "train"), rt.data.load_data("digits", "test")
    model, mean, std = my_model(train.images.astype("float32"), train.labels)

    # Takes images in [0, 1] and returns logits, with the layers of the model itself.
    classifier = rt.as_classifier(model, mean=mean / 255, std=std / 255, probabilities=True)

    images, labels = test.images[:max_examples].astype("float32") / 255, test.labels[:max_examples]
    result = rt.evaluate_robustness(
        classifier,
        images,
        labels,
        threat_model=rt.ThreatModel(norm="linf", eps=0.1),
        attacks=attacks,
        seed=0,
    )
    for attack, accuracy in result.accuracy.items():
        low, high = result.confidence_interval_95[attack]
        print(f"{attack:<11} {accuracy:6.1%}  [{low:.1%}, {high:.1%}]")
    for line in result.warnings:
        print("doubtful:", line)
    return classifier, result


if __name__ == "__main__":
    main()
