"""Mixup-based distillation of activated channel maps (MixACM)."""

import dataclasses

import keras
import tensorflow as tf

from tf_robust_transfer.data.mixup import mixup, mixup_weights
from tf_robust_transfer.errors import InputError, nearest
from tf_robust_transfer.flag_types import boolean, fraction, names
from tf_robust_transfer.losses import channel_maps, classification, distillation
from tf_robust_transfer.methods.base import Method, check_pair
from tf_robust_transfer.methods.shared_options import SoftLabels
from tf_robust_transfer.models.endpoints import endpoints
from tf_robust_transfer.ops import replicas
from tf_robust_transfer.options import Options, at_least, group, option

# What makes maps of other numbers of channels comparable (section 5.2), and whose maps are
# transformed (Table 10).
TRANSFORMS = (*channel_maps.POOLINGS, "affine")
SIDES = ("teacher", "student")


@dataclasses.dataclass(frozen=True)
class ChannelMaps(Options):
    """What is matched, and how; see `MixACM`."""

    acm_weight: float = option(
        5000.0,
        "weight of channel maps; a large one needs a warm-up",
        fraction,
        **at_least(0),
        flag="alpha_acm",
    )
    blocks: tuple = option(
        ("block1", "block2", "block3", "block4"),
        "matched endpoints, each NAME or TEACHERS:STUDENTS",
        names,
    )
    acm_reduction: str = option(
        "mean", "mean or sum over channels", choices=channel_maps.REDUCTIONS
    )
    acm_mapping: str = option(
        "maximum",
        "of a channel: maximum, mean, mean_of_squares or none (direct features)",
        choices=channel_maps.MAPPINGS,
    )
    acm_normalized: bool = option(True, "maps are divided by their l2 norm", boolean)
    acm_transform: str = option(
        "max",
        "for other numbers of channels: max or average (pooling), affine (trained)",
        choices=TRANSFORMS,
    )
    acm_transform_of: str = option(
        "teacher", "whose maps are transformed: teacher or student", choices=SIDES
    )


@dataclasses.dataclass(frozen=True)
class Mixup(Options):
    """What the mixed examples are drawn by."""

    mixup_alpha: float = option(1.0, "Beta(alpha, alpha); 0: no mixup", fraction, **at_least(0))
    mixup_per_example: bool = option(False, "a mixup weight for each example", boolean)


class MixACM(Method):
    """(1 - kld_weight) L_mix + kld_weight L_kld + acm_weight L_acm on mixup examples (section 5.4).

    Args (keyword-only), beside those of `Method`:
        teacher: robust keras.Model, frozen, called once a step with training=False, on the same
        mixed images as the student. acm_weight: alpha_acm, weight of the sum of the blocks' ACM
        terms; 0 leaves them out ("only KD" of Table 7). At the
            paper's 5000 and learning rate 0.1 the first steps throw the weights far out (the first
            kernel of a WRN-16-4 grows 205 times in 50 steps), and little robustness is left to
            transfer. Let the learning rate warm up (1.3 times; the paper has a warm-up on ImageNet
            alone), or clip the gradient (gradient_clip_norm 1: 1.7 times). On MNIST at 14x14 a
            warm-up kept more than clipping did. Its appendix A.1 has 2000 or 5000, without saying
            where. With the mean over channels a block of C channels has acm_weight / C on the
            squared distance of its unit maps: of 16, 160, 320 and 640 channels the first counts
            most.
        kld_weight: alpha_kld in [0, 1]; 0 leaves the soft labels out ("w/o KD"). It has to be 0
        where the tasks differ: a
            teacher of other classes has no soft labels for the student (section 5.3). L_mix then
            has weight 1; whether it keeps 1 - 0.95 there the paper does not say.
        temperature: gamma of the soft labels. blocks: endpoints that are matched: names that both
        networks have, or pairs "TEACHERS:STUDENTS" such as
            "block2:block3" where their depths differ.
        acm_reduction: over channels, "mean" or "sum", which the paper leaves open; this and the
            next two: see `losses.channel_maps.acm_loss`.
        acm_mapping: "maximum", "mean", "mean_of_squares", or "none" for the direct feature loss of
        Table 9. acm_normalized: whether maps are divided by their l2 norm. acm_transform: where a
        block's numbers of channels differ: adaptive pooling over channels, "max" or "average", or
            "affine", a dense layer that is trained with the student: same optimizer, and weight
            decay with weight_decay_of="all".
        acm_transform_of: whose maps are transformed, "teacher" or "student" (the rows of Table 10).
        mixup_alpha: mixup weights are drawn from Beta(alpha, alpha); 0 trains on the images as they
        come (the row
            "w/o mixup").
        mixup_per_example: one weight for each example instead of one for the batch, as the original
            mixup code has it; the paper does not say.
        student_endpoints, teacher_endpoints: for models of your own, the submodels made by
        `rt.endpoints(model, {...})`.

    Weight decay: the paper names 5e-4 and not what is decayed; the rows have weight_decay_of="all".

    The losses are float32 whatever the networks compute in. The training accuracy in the logs is
    that on the mixed images against their own labels, which a mixed image shows but in part: about
    a half is what to expect. Validation data is not mixed."""

    @dataclasses.dataclass(frozen=True)
    class Options(Method.Options):
        maps: ChannelMaps = group(ChannelMaps)
        soft_labels: SoftLabels = group(SoftLabels)
        mixup: Mixup = group(Mixup)

    takes_teacher = True

    def __init__(
        self, *, student, teacher, student_endpoints=None, teacher_endpoints=None, **kwargs
    ):
        super().__init__(student=student, **kwargs)
        maps, soft_labels = self.options.maps, self.options.soft_labels
        check_tasks(student, teacher, soft_labels.kld_weight)
        self.teacher = teacher
        teacher.trainable = False
        self.student_endpoints = student_endpoints or endpoints(student)
        self.teacher_endpoints = teacher_endpoints or endpoints(teacher)
        self.acm_weight = maps.acm_weight
        self.kld_weight, self.temperature = soft_labels.kld_weight, soft_labels.temperature
        self.pairs = tuple(_pair(block) for block in maps.blocks) if maps.acm_weight else ()
        self.acm_options = {
            "reduction": maps.acm_reduction,
            "mapping": maps.acm_mapping,
            "normalized": maps.acm_normalized,
            "transform_of": maps.acm_transform_of,
        }
        self.acm_transform = maps.acm_transform
        for role, model, matched in self._sides():
            for name in matched:
                if name not in model.output:
                    raise InputError(
                        f"the {role} has no endpoint {name!r}; {nearest(name, model.output)}; name "
                        f"layers of yours: {role}_endpoints=rt.endpoints({role}, "
                        f"{{{name!r}: 'a layer of shape [batch, height, width, channels]'}})"
                    )
        self.affine = {}
        for number, (theirs, ours) in enumerate(self.pairs):
            self._check_shapes(theirs, ours)
            self._add_affine(number, theirs, ours)
        self.mixup_alpha = self.options.mixup.mixup_alpha
        self.mixup_per_example = self.options.mixup.mixup_per_example

    def term_names(self):
        kld, acm = self.options.soft_labels.kld_weight, self.options.maps.acm_weight
        return ("mixup", *(("kld",) if kld else ()), *(("acm",) if acm else ()))

    def _sides(self):
        return (
            ("student", self.student_endpoints, [ours for _, ours in self.pairs]),
            ("teacher", self.teacher_endpoints, [theirs for theirs, _ in self.pairs]),
        )

    def _check_shapes(self, theirs, ours):
        shapes = (
            self.teacher_endpoints.output[theirs].shape,
            self.student_endpoints.output[ours].shape,
        )
        if any(len(shape) != 4 for shape in shapes):
            raise InputError(
                "only endpoints of shape [batch, height, width, channels] can be matched; "
                f"{theirs!r} is {shapes[0]}, "
                f"{ours!r} {shapes[1]}"
            )
        if self.acm_options["mapping"] == "none" and shapes[0][1:3] != shapes[1][1:3]:
            raise InputError(
                f"acm_mapping none matches features place by place, but {theirs!r} of the teacher "
                f"is {shapes[0][1:3]} and "
                f"{ours!r} of the student {shapes[1][1:3]} high and wide; match other blocks or "
                "use another mapping"
            )

    def _add_affine(self, number, theirs, ours):
        widths = (
            self.teacher_endpoints.output[theirs].shape[-1],
            self.student_endpoints.output[ours].shape[-1],
        )
        if self.acm_transform != "affine" or widths[0] == widths[1]:
            return
        given, wanted = widths if self.acm_options["transform_of"] == "teacher" else widths[::-1]
        initializer = keras.initializers.GlorotUniform(seed=self.seed + number)
        layer = keras.layers.Dense(
            wanted, kernel_initializer=initializer, name=f"affine_{theirs}_{ours}"
        )
        layer.build((None, given))
        self.affine[f"{theirs}:{ours}"] = layer

    @property
    def _trained(self):
        """The variables that a step changes: the student's, and those of the affine
        transformations.
        """
        affine = [
            variable for layer in self.affine.values() for variable in layer.trainable_variables
        ]
        return [*self.student.trainable_variables, *affine]

    def compile(self, optimizer="rmsprop", **kwargs):
        """As `Method.compile`."""
        if self.affine:
            optimizer = keras.optimizers.get(optimizer)
            # Built once, here: the build for the student alone that follows finds it done.
            with self.distribute_strategy.scope():
                optimizer.build(self._trained)
        super().compile(optimizer=optimizer, **kwargs)

    def state(self) -> dict:
        return super().state() | {layer.name: layer for layer in self.affine.values()}

    def loss_terms(self, images, labels):
        soft_labels = tf.one_hot(labels, self.student.output_shape[-1])
        if self.mixup_alpha:
            images, soft_labels = mixup(
                images, soft_labels, lam=self._mixup_weights(tf.shape(images)[0])
            )
        student = _float32(self.student_endpoints(images, training=True))
        teacher = {
            name: tf.stop_gradient(value)
            for name, value in _float32(self.teacher_endpoints(images, training=False)).items()
        }
        mixed = classification.soft_cross_entropy(student["logits"], soft_labels)
        terms = {"mixup": (1.0 - self.kld_weight, replicas.global_mean(mixed))}
        if self.kld_weight:
            kld = distillation.kl_divergence(teacher["logits"], student["logits"], self.temperature)
            terms["kld"] = self.kld_weight, replicas.global_mean(kld)
        if self.acm_weight:
            acm = tf.add_n([self._acm(teacher, student, *pair) for pair in self.pairs])
            terms["acm"] = self.acm_weight, replicas.global_mean(acm)
        return student["logits"], terms

    def _acm(self, teacher, student, theirs, ours):
        transform = self.affine.get(f"{theirs}:{ours}", self.acm_transform)
        return channel_maps.acm_loss(
            teacher[theirs], student[ours], transform=transform, **self.acm_options
        )

    def _mixup_weights(self, rows):
        def draw(count):
            return mixup_weights(
                count,
                alpha=self.mixup_alpha,
                per_example=self.mixup_per_example,
                seed=self.step_seed(),
            )

        return replicas.own_rows(draw, rows) if self.mixup_per_example else draw(rows)


def check_tasks(student, teacher, kld_weight):
    """As `check_pair`, but other classes are refused only where the student takes soft labels."""
    same_images = teacher.input_shape[1:] == student.input_shape[1:]
    if same_images and teacher.output_shape[-1] != student.output_shape[-1]:
        if kld_weight:
            raise InputError(
                f"the teacher has {teacher.output_shape[-1]} classes, the student "
                f"{student.output_shape[-1]}; fine-tune a "
                "new logit layer on the teacher first (method finetune), or leave its soft labels "
                "out (kld_weight, "
                "--alpha_kld: 0)"
            )
        return
    check_pair(student, teacher)


def _pair(block: str) -> tuple[str, str]:
    """(teacher's endpoint, student's endpoint) of "block2:block3", or of "block2" for both."""
    theirs, colon, ours = block.partition(":")
    return theirs, ours if colon else theirs


def _float32(tensors: dict) -> dict:
    return {name: tf.cast(tensor, tf.float32) for name, tensor in tensors.items()}
