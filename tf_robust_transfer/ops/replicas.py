"""What changes when a step runs on several replicas: means over the global batch, and random
numbers.

The only module that knows how many replicas there are. Keras sums the gradients over replicas, so
that a loss which is a sum over the replica's examples divided by the size of the global batch gives
the gradient of one device."""

import tensorflow as tf

from tf_robust_transfer.ops import random, workers


def _context():
    return tf.distribute.get_replica_context()


def _num_replicas() -> int:
    context = _context()
    return context.num_replicas_in_sync if context is not None else 1


def global_mean(per_example):
    """This replica's share of the mean over the global batch. per_example: float [replica batch].
    Returns a scalar.

    Summed over the replicas, the shares are the mean, also where the last batch splits unevenly or
    leaves a replica without examples."""
    local = tf.cast(tf.shape(per_example)[0], per_example.dtype)
    return tf.reduce_sum(per_example) / _in_all_replicas(local)


def _in_all_replicas(count):
    """The sum of the replicas' counts of examples, a scalar."""
    if _num_replicas() == 1:
        return count
    if workers.several(_context().strategy):
        # `fit` takes even shares alone (`workers.check_even`), and a reduction is slow.
        return count * _num_replicas()
    return _context().all_reduce(tf.distribute.ReduceOp.SUM, count)


def global_sum(per_example):
    """This replica's share of the sum over the global batch. per_example: float [replica batch].
    Returns a scalar.
    """
    return tf.reduce_sum(per_example)


def once(value):
    """This replica's share of a term that does not depend on the examples, such as weight decay.
    value: scalar.
    """
    return value / _num_replicas()


def whole(shares: dict) -> dict:
    """The sums of all replicas' shares: the values that belong in the log.

    shares: {name: scalar}. Returns the same names, equal on every replica, after one all-reduce: a
    small one costs as much as a large one, where machines wait for each other."""
    if _num_replicas() == 1:
        return shares
    stacked = tf.stack([tf.cast(share, tf.float32) for share in shares.values()])
    summed = _context().all_reduce(tf.distribute.ReduceOp.SUM, stacked)
    return dict(zip(shares, tf.unstack(summed), strict=True))


def moments(x, axes, whole_batch: bool = True):
    """Mean and (biased) variance along the axes; the first is the batch's.

    Second gradients are right, which those of `tf.nn.moments` are not: it takes the mean inside the
    variance for a constant, which changes no first gradient, but the gradient of one.

    Args:
        x: float [replica batch, ...].
        axes: ints.
        whole_batch: of the batch of all replicas together, else of this replica's share.

    Returns:
        two tensors of the axes that are left; of the whole batch equal on every replica.
    """

    several = whole_batch and _num_replicas() > 1

    def over_replicas(values):
        return _context().all_reduce(tf.distribute.ReduceOp.SUM, values) if several else values

    total = tf.reduce_sum(x, axes, keepdims=True)
    count = tf.cast(tf.size(x) / tf.size(total), x.dtype)
    total, count = over_replicas([total, count])
    count = tf.stop_gradient(count)
    mean = total / count
    squares = tf.reduce_sum(tf.math.squared_difference(x, mean), axes, keepdims=True)
    variance = over_replicas(squares) / count
    return tf.squeeze(mean, axes), tf.squeeze(variance, axes)


def summed_norm(gradients):
    """l2 norm of all gradients together, each summed over the replicas. gradients: list of tensors
    or None.

    Returns a scalar, equal on every replica.
    """
    present = [gradient for gradient in gradients if gradient is not None]
    if _num_replicas() > 1:
        present = _context().all_reduce(tf.distribute.ReduceOp.SUM, present)
    return tf.linalg.global_norm(present)


def finite_or_nan(gradients):
    """The gradients, with NaN in place of every number where one of them is not finite on any
    replica. gradients: list of tensors or None.

    A Keras LossScaleOptimizer looks for what overflowed among its own replica's gradients alone,
    and skips the step there."""
    present = [gradient for gradient in gradients if gradient is not None]
    if _num_replicas() == 1 or not present:
        return gradients
    finite = [tf.reduce_all(tf.math.is_finite(gradient)) for gradient in present]
    bad = tf.cast(~tf.reduce_all(finite), tf.float32)
    bad = _context().all_reduce(tf.distribute.ReduceOp.SUM, bad)
    return [None if g is None else tf.where(bad > 0, float("nan"), g) for g in gradients]


def update(change, variables, others, value) -> None:
    """Changes variables of every replica by others of the same replica, without a reduction.

    change: (tf.Variable, tf.Variable, tensor) -> None; variables, others: lists of Keras variables
    of one length; value: a tensor that is equal on every replica.
    """

    def on_all(strategy, value):
        for variable, other in zip(variables, others, strict=True):
            strategy.extended.update(variable.value, change, args=(other.value, value), group=False)

    tf.__internal__.distribute.interim.maybe_merge_call(on_all, tf.distribute.get_strategy(), value)


def own_rows(draw, rows):
    """This replica's part of numbers that are drawn for the global batch.

    Every replica draws all of them and takes its own rows, so that the examples meet the same
    numbers on one device as on several (an even split is assumed, as MirroredStrategy makes of a
    full batch).

    draw: number of rows -> tensor [rows, ...]; rows: examples of this replica. Returns a tensor
    [rows, ...]."""
    if _num_replicas() == 1:
        return draw(rows)
    start = tf.cast(_context().replica_id_in_sync_group, tf.int32) * rows
    return draw(rows * _num_replicas())[start : start + rows]


def random_uniform(shape, seed):
    """Uniform numbers in [0, 1) for this replica's examples; see own_rows. shape: [replica batch,
    ...]; seed: int [2].
    """
    return own_rows(
        lambda rows: random.uniform(tf.concat([[rows], shape[1:]], axis=0), seed), shape[0]
    )


def random_normal(shape, seed):
    """Standard normal numbers for this replica's examples; see random_uniform."""
    return own_rows(
        lambda rows: random.normal(tf.concat([[rows], shape[1:]], axis=0), seed), shape[0]
    )
