"""A new logit layer on a teacher, frozen (Eqs. 5 and 6 of the IGAM paper; the FT baselines of its
tables) or not.
"""

import dataclasses

import keras
import tensorflow as tf

from tf_robust_transfer.adapters import adapt, check_adapter, random_positions
from tf_robust_transfer.errors import InputError, look_up
from tf_robust_transfer.methods.base import Method
from tf_robust_transfer.models.batch_statistics import BATCH_NORMS, on_batch_statistics
from tf_robust_transfer.models.copies import copy_of
from tf_robust_transfer.ops.random import fold_seed
from tf_robust_transfer.options import from_keywords, keywords_of, option
from tf_robust_transfer.terms import CrossEntropy

TRAINED_LAYERS = ("logits", "all")


class FineTune(Method):
    """Trains a fresh logit layer on the features that a teacher computes before its own, everything
    else frozen or not.

    The trained model is `student`: a copy of the teacher's layers, by default frozen, batch
    statistics included, and the new layer. The teacher itself stays as it was.

    With an adapter, `student` takes the new task's images and has the adapter inside (section 4.3),
    so that it is the teacher of IGAM as it stands. "transposed_conv" and "bounded_transposed_conv"
    are trained along with the new layer; whoever takes the result as a teacher freezes both.
    "random_pad" draws its places in each step.

    The reference code of IGAM: Adam 1e-3, 4,700 steps, batch statistics, and no noise on the images
    unless its finetune_img_random_pert is set. Its loss has weight decay 2e-4, but the sum is over
    the kernels that exist before the new logits are made: where these alone are trained, it changes
    nothing (weight_decay=0 here; `Method`'s own would reach them). The paper says how many epochs,
    and no more.

    Args (keyword-only), beside those of `Method`:
        teacher: functional keras.Model whose last layer is the logit layer, a `keras.layers.Dense`.
        num_classes: logits of the new layer.
        adapter: "", or the map from the new task's images to the teacher's input, such as
            "channel_mean+crop:28x28"; see `adapters.build_adapter`.
        input_shape: (height, width, channels) of the new task's images; needed with an adapter.
        trained_layers: "logits" (the paper), or "all": every weight of the copy trains, and its
            batch norm and dropout run in training mode (an option of the reference code,
            finetune_whole_model).
        teacher_batch_norm: of the frozen layers: "moving", their moving averages, or "batch", the
            statistics of the current batch (the reference code), for a teacher that IGAM then
            matches on batch statistics: else its logits would belong to other features. The moving
            averages stay as they are (there they follow). With trained_layers "all" it is batch
            statistics in any case, and the moving averages follow.
    """

    @dataclasses.dataclass(frozen=True)
    class Options(Method.Options):
        adapter: str = option(
            "",
            "map to the teacher's input, such as resize:64x64 or channel_mean+crop:28x28",
            check_adapter,
        )
        trained_layers: str = option(
            "logits",
            "what is trained: logits or all layers",
            flag="finetune_layers",
            choices=TRAINED_LAYERS,
        )
        teacher_batch_norm: str = option(
            "moving",
            "the teacher's moving averages, or batch: those of the current batch",
            choices=BATCH_NORMS,
        )

    takes_teacher = makes_its_student = True

    @classmethod
    def from_flags(cls, flags, context):
        taken = tuple(context.teacher.input_shape[1:])
        if not flags.adapter and taken != context.input_shape:
            raise InputError(
                f"the teacher takes images of shape {taken}, the data has {context.input_shape}; "
                "map them (--adapter), resize them (--image_size), or give a teacher of that shape"
            )
        of_data = {"num_classes": context.num_classes, "input_shape": context.input_shape}
        return cls(
            teacher=context.teacher, seed=context.seed, **of_data, **cls.keywords(flags, context)
        )

    def __init__(self, *, teacher, num_classes, input_shape=None, seed=0, name=None, **options):
        options = from_keywords(self.Options, options)
        student = replace_logits(
            teacher, num_classes, options.adapter, input_shape, options.trained_layers
        )
        super().__init__(student=student, seed=seed, name=name, **keywords_of(options))
        self.trained_layers = options.trained_layers
        # Calls the student's own layers, but for batch norm.
        self.trained_form = student
        if options.teacher_batch_norm == "batch" and options.trained_layers == "logits":
            self.trained_form = on_batch_statistics(student)
        self.terms = [CrossEntropy(of=self.placed)]

    def placed(self, images, labels, seed):
        """The pass of the images where the adapter places them."""
        with random_positions(fold_seed(seed, 4), tf.shape(images)[0]):
            logits = self.trained_form(images, training=self.trained_layers == "all")
        return {"labels": labels, "logits": logits}


def replace_logits(teacher, num_classes, adapter=None, input_shape=None, trained_layers="logits"):
    """The teacher's body under a fresh dense layer "logits" of num_classes; frozen unless
    trained_layers is "all".

    The body is a copy, so that freezing it changes nothing for the caller's teacher. adapter,
    input_shape: see `FineTune`. Returns a keras.Model."""
    look_up("trained_layers", trained_layers, dict.fromkeys(TRAINED_LAYERS))
    copy = copy_of(teacher)
    _below_logits(copy)
    copy.trainable = False
    if trained_layers == "all":
        # After False, not instead of it: a copy of a frozen teacher calls itself trainable while
        # its layers are frozen, and setting what is set already changes nothing.
        copy.trainable = True
    if adapter:
        if input_shape is None:
            raise InputError(
                f"the adapter {adapter!r} needs input_shape, (height, width, channels) of the new "
                "images"
            )
        copy = adapt(copy, adapter, input_shape, trainable=True)
    logits = keras.layers.Dense(num_classes, name="logits")(_below_logits(copy))
    return keras.Model(copy.inputs[0], logits, name=f"{teacher.name}_finetuned")


def _below_logits(network):
    """The symbolic tensor that the last Dense layer of a functional model takes."""
    operation, index, _ = network.outputs[0]._keras_history
    # A cast of half-precision logits to float32.
    while getattr(operation, "activation", None) is keras.activations.linear and isinstance(
        operation, keras.layers.Activation
    ):
        operation, index, _ = operation._inbound_nodes[index].input_tensors[0]._keras_history
    if not isinstance(operation, keras.layers.Dense):
        raise InputError(
            "the teacher must end in a Dense logit layer to be fine-tuned, got "
            f"{type(operation).__name__}"
        )
    return operation._inbound_nodes[index].input_tensors[0]
