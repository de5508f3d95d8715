"""What every training method shares: the step, the terms it logs, L2 weight decay, clean accuracy."""

import keras
import tensorflow as tf

from tf_robust_transfer.errors import InputError
from tf_robust_transfer.losses import classification
from tf_robust_transfer.methods.directions import Directions
from tf_robust_transfer.ops import replicas


class Method(keras.Model):
    """A Keras model that trains its student. `compile(optimizer=...)` it and `fit` it on (images, integer labels).

    A subclass defines `loss_terms`; everything else is here. Calling a method calls its student.

    Args (keyword-only):
        student: keras.Model, images float32 [batch, height, width, channels] in [0, 1] -> logits [batch, classes].
        weight_decay: L2 weight decay: adds weight_decay / 2 times the sum of the squared kernels to the loss, as the
            papers' PyTorch and TF1 code does. (Keras optimizers' own `weight_decay` is the decoupled form.) Biases and
            batch-norm parameters are left out, as in MadryLab's code.
        terms: for subclasses: names of the values that loss_terms may return.
        seed: of every random number that the steps draw, together with the step's number; so a resumed run draws what
            an uninterrupted one would have.
    """

    def __init__(self, *, student, terms=("cross_entropy",), weight_decay=0.0, seed=0, name=None):
        super().__init__(name=name)
        if weight_decay < 0:
            raise InputError(f"weight_decay must be at least 0, got {weight_decay}")
        self.student = student
        self.weight_decay = weight_decay
        self.seed = seed
        names = ("loss", *terms, *(("weight_decay",) if weight_decay else ()), "accuracy")
        self._trackers = {name: keras.metrics.Mean(name=name) for name in names}
        self.built = True

    def call(self, images, training=False):
        return self.student(images, training=training)

    def compile(self, optimizer="rmsprop", **kwargs):
        """As keras.Model.compile, without loss and metrics: a method brings its own."""
        if kwargs.get("loss") is not None or kwargs.get("metrics") is not None:
            raise InputError(f"{type(self).__name__} has its own loss; compile it with optimizer=... alone")
        super().compile(optimizer=optimizer, **kwargs)
        # Keras would build the optimizer for teacher and discriminator as well.
        with self.distribute_strategy.scope():
            self.optimizer.build(self.student.trainable_variables)

    @property
    def metrics(self):
        trackers = list(self._trackers.values())
        return [*trackers, Directions(trackers)]

    @property
    def steps_done(self) -> int:
        """Number of training steps so far."""
        # int() fails on a mirrored variable.
        return int(keras.ops.convert_to_numpy(self.optimizer.iterations))

    def state(self) -> dict:
        """Everything that a resumed run needs, for `tf.train.Checkpoint(**method.state())`."""
        return {"student": self.student, "optimizer": self.optimizer}

    def step_seed(self):
        """int32 [2], a function of the seed and of the number of the step."""
        return tf.stack([tf.constant(self.seed, tf.int32), tf.cast(self.optimizer.iterations, tf.int32)])

    def loss_terms(self, images, labels):
        """The terms of one step.

        Returns:
            (logits float [batch, classes] with the labels that they belong to, for the accuracy that is shown,
            {term name: (weight, this replica's share of the term)}).
        """
        raise NotImplementedError(f"{type(self).__name__} must define loss_terms")

    def train_step(self, data):
        images, labels = unpack(data)
        with tf.GradientTape() as tape:
            logits, terms = self.loss_terms(images, labels)
            loss = self._total(terms)
            scaled = self.optimizer.scale_loss(loss)
        variables = self.student.trainable_variables
        self.optimizer.apply(tape.gradient(scaled, variables), variables)
        return self._log(loss, terms, logits, labels)

    def test_step(self, data):
        """Clean accuracy and cross-entropy of the student."""
        images, labels = unpack(data)
        logits = self.student(images, training=False)
        self._trackers["accuracy"].update_state(classification.is_correct(logits, labels))
        cross_entropy = classification.cross_entropy(logits, labels)
        self._trackers["loss"].update_state(cross_entropy)
        return {"loss": self._trackers["loss"].result(), "accuracy": self._trackers["accuracy"].result()}

    def _total(self, terms):
        if self.weight_decay:
            kernels = [v for v in self.student.trainable_variables if len(v.shape) > 1]
            squares = tf.add_n([tf.reduce_sum(tf.square(tf.convert_to_tensor(kernel))) for kernel in kernels])
            terms["weight_decay"] = self.weight_decay, replicas.once(0.5 * squares)
        return tf.add_n([weight * value for weight, value in terms.values()])

    def _log(self, loss, terms, logits, labels):
        shown = {"loss": loss, **{name: value for name, (_, value) in terms.items()}}
        for name, value in shown.items():
            self._trackers[name].update_state(replicas.whole(value))
        self._trackers["accuracy"].update_state(classification.is_correct(logits, labels))
        # A term that this step does not have (IGAM's during its warm start) is not shown as 0.
        return {name: self._trackers[name].result() for name in (*shown, "accuracy")}


def unpack(data):
    """(images, labels) of a batch, or an InputError."""
    images, labels, weights = keras.utils.unpack_x_y_sample_weight(data)
    if labels is None or weights is not None or not labels.dtype.is_integer or len(labels.shape) != 1:
        raise InputError("a method is fitted on batches (images, integer labels of shape [batch]), without weights")
    return images, labels


def check_pair(student, teacher):
    """Raises an InputError unless teacher and student read the same images and tell the same classes apart."""
    if teacher.input_shape[1:] != student.input_shape[1:]:
        raise InputError(
            f"the teacher takes images of shape {teacher.input_shape[1:]}, the student {student.input_shape[1:]}; "
            "put an input transform before the teacher or train a teacher of that shape"
        )
    if teacher.output_shape[-1] != student.output_shape[-1]:
        raise InputError(
            f"the teacher has {teacher.output_shape[-1]} classes, the student {student.output_shape[-1]}; "
            "fine-tune a new logit layer on the teacher first (method finetune)"
        )
