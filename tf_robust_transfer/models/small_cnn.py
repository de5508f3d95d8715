"""A small strided network for small images, cheap enough for two CPU cores."""

import keras
from keras import layers


def small_cnn(input_shape, num_classes, *, width=1, batch_norm=False) -> keras.Model:
    """Two 4x4 convolutions with stride 2 (16 and 32 channels, times width), dense 100 times width.

    The MNIST network of Wong & Kolter (2018) without their padding. 166,406 parameters on 28x28x1
    and 10 classes.

    Args:
        width: multiplies every layer's size.
        batch_norm: batch norm after each convolution.

    Endpoints: block1 [batch, h/2, w/2, 16 width], block2 [batch, h/4, w/4, 32 width] (rounded up),
    logits."""
    images = keras.Input(input_shape, name="images")
    x = images
    for block, filters in enumerate((16, 32), start=1):
        x = layers.Conv2D(
            filters * width,
            4,
            strides=2,
            padding="same",
            kernel_initializer="he_normal",
            name=f"conv{block}",
        )(x)
        if batch_norm:
            x = layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=f"batch_norm{block}")(x)
        x = layers.ReLU(name=f"block{block}")(x)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(100 * width, activation="relu", kernel_initializer="he_normal", name="dense")(
        x
    )
    return keras.Model(images, layers.Dense(num_classes, name="logits")(x), name="small_cnn")
