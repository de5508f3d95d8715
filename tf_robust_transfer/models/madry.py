"""Networks of the MadryLab challenges."""

import keras
from keras import layers


def madry_mnist(input_shape, num_classes) -> keras.Model:
    """The network of MadryLab's mnist_challenge: two 5x5 convolutions (32, 64) with 2x2 max pooling, dense 1024.

    3,274,634 parameters on 28x28x1 images and 10 classes.

    Endpoints: block1 [batch, h/2, w/2, 32] and block2 [batch, h/4, w/4, 64] after pooling (sizes rounded up), logits.
    """
    images = keras.Input(input_shape, name="images")
    x = images
    for block, filters in enumerate((32, 64), start=1):
        x = layers.Conv2D(filters, 5, padding="same", activation="relu", name=f"conv{block}")(x)
        x = layers.MaxPooling2D(2, padding="same", name=f"block{block}")(x)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(1024, activation="relu", name="dense")(x)
    return keras.Model(images, layers.Dense(num_classes, name="logits")(x), name="madry_mnist")
