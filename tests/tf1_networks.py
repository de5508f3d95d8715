"""The reference networks in plain TensorFlow 1 operations, and checkpoints of them with random
weights.

Written from MadryLab's and IGAM's model.py, tf.contrib's batch norm by hand, and from nothing in
this package: the oracle for its importers."""

import contextlib
import pathlib

import numpy as np
import tensorflow as tf

tf1 = tf.compat.v1


@contextlib.contextmanager
def session_with_random_weights(build, seed=0):
    """Calls build() in a new graph, draws every variable, moving statistics and slots too, and
    yields (what build returned, session)."""
    with tf.Graph().as_default(), tf1.Session() as session:
        # A training earlier in the process may have asked for determinism, which wants a seed for
        # the initialisers too.
        tf1.set_random_seed(seed)
        built = build()
        rng = np.random.default_rng(seed)
        for variable in tf1.global_variables():
            shape = variable.shape.as_list()
            if variable.op.name.endswith(("gamma", "moving_variance")):
                value = rng.uniform(0.5, 1.5, shape)
            elif len(shape) > 1:
                value = rng.normal(0, np.sqrt(2 / np.prod(shape[:-1])), shape)
            else:
                value = rng.normal(0, 0.3, shape)
            variable.load(np.asarray(value, variable.dtype.base_dtype.as_numpy_dtype), session)
        yield built, session


def save(session, folder, name="checkpoint", step=100, variables=None):
    """Saves a session as TensorFlow 1 scripts do, and returns the prefix."""
    pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
    return tf1.train.Saver(var_list=variables).save(
        session, str(pathlib.Path(folder, name)), global_step=step
    )


def save_arrays(prefix, arrays):
    """Saves variables of these names and values, without a step in the name, by the operation that
    TensorFlow 1's Saver has in its graph.
    """
    pathlib.Path(prefix).parent.mkdir(parents=True, exist_ok=True)
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=list(arrays),
        shape_and_slices=[""] * len(arrays),
        tensors=[tf.constant(value) for value in arrays.values()],
    )
    return str(prefix)


def read_arrays(prefix, without=()):
    """Name -> array of a checkpoint, without the names that end so."""
    reader = tf.train.load_checkpoint(prefix)
    names = [
        name for name in reader.get_variable_to_shape_map() if not name.endswith(tuple(without))
    ]
    return {name: reader.get_tensor(name) for name in names}


SLOTS = ("/Adam", "/Adam_1", "/Momentum", "beta1_power", "beta2_power", "global_step")


def mnist(classes=10):
    """mnist_challenge/model.py: images [n, 784] in [0, 1] -> logits, with its training step and so
    Adam's slots.
    """
    x = tf1.placeholder(tf.float32, [None, 784])
    labels = tf1.placeholder(tf.int64, [None])

    def weight(*shape):
        return tf1.Variable(tf.zeros(shape))

    def convolution_and_pool(maps, kernel, bias):
        maps = tf.nn.relu(tf.nn.conv2d(maps, kernel, strides=[1, 1, 1, 1], padding="SAME") + bias)
        return tf.nn.max_pool2d(maps, ksize=[1, 2, 2, 1], strides=[1, 2, 2, 1], padding="SAME")

    maps = tf.reshape(x, [-1, 28, 28, 1])
    maps = convolution_and_pool(maps, weight(5, 5, 1, 32), weight(32))
    maps = convolution_and_pool(maps, weight(5, 5, 32, 64), weight(64))
    hidden = tf.nn.relu(
        tf.matmul(tf.reshape(maps, [-1, 7 * 7 * 64]), weight(7 * 7 * 64, 1024)) + weight(1024)
    )
    logits = tf.matmul(hidden, weight(1024, classes)) + weight(classes)
    loss = tf.reduce_sum(
        tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
    )
    step = tf1.train.get_or_create_global_step()
    tf1.train.AdamOptimizer(1e-4).minimize(loss, global_step=step)
    return x, logits


def zero_mean_l2(x):
    """IGAM's model_new.py on pixels in 0-255."""
    return tf.math.l2_normalize(
        x - tf.reduce_mean(x, axis=[1, 2, 3], keepdims=True), axis=[1, 2, 3]
    )


def l2(x):
    """The same with normalize_zero_mean=False."""
    return tf.math.l2_normalize(x, axis=[1, 2, 3])


def per_image(x):
    """cifar10_challenge's model.py on pixels in 0-255."""
    return tf.map_fn(tf.image.per_image_standardization, x)


def wide(blocks=5, width=10, normalise=per_image, logits=(("logit", 10),), size=32):
    """cifar10_challenge/model.py in evaluation mode, images [n, size, size, 3] in 0-255, in the
    variable scope at hand.

    Returns:
        (x, {"block1": ..., "block4": ..., each logit layer's scope: its logits}).
    """
    x = tf1.placeholder(tf.float32, [None, size, size, 3])
    ends = {}

    def dw(scope, *shape):
        with tf1.variable_scope(scope):
            return tf1.get_variable("DW", shape)

    def batch_norm_and_leaky_relu(maps):
        with tf1.variable_scope("BatchNorm"):
            channels = maps.shape[-1]
            beta, gamma = (tf1.get_variable(name, channels) for name in ("beta", "gamma"))
            mean, variance = (
                tf1.get_variable(name, channels, trainable=False)
                for name in ("moving_mean", "moving_variance")
            )
        maps = (maps - mean) / tf.sqrt(variance + 0.001) * gamma + beta
        return tf.where(maps < 0, 0.1 * maps, maps)

    def conv(maps, kernel, stride):
        return tf.nn.conv2d(maps, kernel, [1, stride, stride, 1], padding="SAME")

    with tf1.variable_scope("input"):
        maps = ends["block1"] = conv(normalise(x), dw("init_conv", 3, 3, 3, 16), 1)
    before = 16
    for group, after in enumerate((16 * width, 32 * width, 64 * width), start=1):
        for block in range(blocks):
            with tf1.variable_scope(f"unit_{group}_{block}"):
                stride = 2 if group > 1 and block == 0 else 1
                if (group, block) == (1, 0):
                    with tf1.variable_scope("shared_activation"):
                        maps = batch_norm_and_leaky_relu(maps)
                        shortcut = maps
                else:
                    with tf1.variable_scope("residual_only_activation"):
                        shortcut = maps
                        maps = batch_norm_and_leaky_relu(maps)
                with tf1.variable_scope("sub1"):
                    maps = conv(maps, dw("conv1", 3, 3, before, after), stride)
                with tf1.variable_scope("sub2"):
                    maps = conv(batch_norm_and_leaky_relu(maps), dw("conv2", 3, 3, after, after), 1)
                if before != after:
                    shortcut = tf.nn.avg_pool2d(shortcut, stride, stride, "VALID")
                    shortcut = tf.pad(
                        shortcut, [[0, 0], [0, 0], [0, 0], [(after - before) // 2] * 2]
                    )
                maps, before = maps + shortcut, after
        ends[f"block{group + 1}"] = maps
    with tf1.variable_scope("unit_last"):
        pooled = tf.reduce_mean(batch_norm_and_leaky_relu(maps), [1, 2])
    for scope, classes in logits:
        kernel = dw(scope, before, classes)
        with tf1.variable_scope(scope):
            ends[scope] = tf.matmul(pooled, kernel) + tf1.get_variable("biases", [classes])
    return x, ends


def train_with_momentum(total):
    """A training step as the reference scripts have it: momentum slots and global_step."""
    step = tf1.train.get_or_create_global_step()
    tf1.train.MomentumOptimizer(0.1, 0.9).minimize(tf.reduce_sum(total), global_step=step)
