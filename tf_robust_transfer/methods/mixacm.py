"""Mixup-based distillation of activated channel maps (MixACM)."""

import tensorflow as tf

from tf_robust_transfer.data.mixup import mixup, mixup_weights
from tf_robust_transfer.errors import InputError, nearest
from tf_robust_transfer.losses import channel_maps, classification, distillation
from tf_robust_transfer.methods.base import Method, check_pair
from tf_robust_transfer.models.endpoints import endpoints
from tf_robust_transfer.ops import replicas


class MixACM(Method):
    """(1 - kld_weight) L_mix + kld_weight L_kld + acm_weight L_acm on mixup examples (section 5.4).

    Args (keyword-only), beside those of `Method`:
        teacher: robust keras.Model, frozen, called with training=False, on the same mixed images as the student.
        acm_weight: alpha_acm, weight of the sum of the blocks' ACM terms.
        kld_weight: alpha_kld in [0, 1]. With 0 the teacher may have other classes.
        temperature: gamma of the soft labels.
        blocks: names of the endpoints that are matched, block by block.
        acm_reduction: over channels, "mean" or "sum"; see `losses.channel_maps.acm_loss`.
        mixup_alpha: mixup weights are drawn from Beta(alpha, alpha); 0 trains on the images as they come (the row
            "w/o mixup").
        mixup_per_example: one weight for each example instead of one for the batch (the original mixup code).
        student_endpoints, teacher_endpoints: for models of your own, the submodels made by `rt.endpoints(model, {...})`.

    The training accuracy in the logs is that on the mixed images against their own labels, which a mixed image shows but
    in part: about a half is what to expect. Validation data is not mixed.
    """

    def __init__(self, *, student, teacher, acm_weight=5000.0, kld_weight=0.95, temperature=10.0,
                 blocks=("block1", "block2", "block3", "block4"), acm_reduction="mean", mixup_alpha=1.0,
                 mixup_per_example=False, student_endpoints=None, teacher_endpoints=None, **kwargs):  # fmt: skip
        terms = ("mixup", *(("kld",) if kld_weight else ()), *(("acm",) if acm_weight else ()))
        super().__init__(student=student, terms=terms, **kwargs)
        if not 0 <= kld_weight <= 1 or acm_weight < 0 or temperature <= 0 or mixup_alpha < 0:
            raise InputError(
                "MixACM needs kld_weight in [0, 1], acm_weight and mixup_alpha of at least 0 and temperature above 0, got "
                f"{kld_weight}, {acm_weight}, {mixup_alpha}, {temperature}"
            )
        if acm_reduction not in channel_maps.REDUCTIONS:
            raise InputError(f"acm_reduction must be one of {channel_maps.REDUCTIONS}, got {acm_reduction!r}")
        if kld_weight:
            check_pair(student, teacher)
        self.teacher = teacher
        teacher.trainable = False
        self.student_endpoints = student_endpoints or endpoints(student)
        self.teacher_endpoints = teacher_endpoints or endpoints(teacher)
        for role, model in (("student", self.student_endpoints), ("teacher", self.teacher_endpoints)):
            for block in blocks if acm_weight else ():
                if block not in model.output:
                    raise InputError(f"the {role} has no endpoint {block!r}; {nearest(block, model.output)}")
        self.acm_weight, self.kld_weight, self.temperature = acm_weight, kld_weight, temperature
        self.blocks, self.acm_reduction = tuple(blocks), acm_reduction
        self.mixup_alpha, self.mixup_per_example = mixup_alpha, mixup_per_example

    def loss_terms(self, images, labels):
        soft_labels = tf.one_hot(labels, self.student.output_shape[-1])
        if self.mixup_alpha:
            images, soft_labels = mixup(images, soft_labels, lam=self._mixup_weights(tf.shape(images)[0]))
        student = self.student_endpoints(images, training=True)
        teacher = {k: tf.stop_gradient(v) for k, v in self.teacher_endpoints(images, training=False).items()}
        mixed = classification.soft_cross_entropy(student["logits"], soft_labels)
        terms = {"mixup": (1.0 - self.kld_weight, replicas.global_mean(mixed))}
        if self.kld_weight:
            kld = distillation.kl_divergence(teacher["logits"], student["logits"], self.temperature)
            terms["kld"] = self.kld_weight, replicas.global_mean(kld)
        if self.acm_weight:
            acm = tf.add_n(
                [channel_maps.acm_loss(teacher[block], student[block], self.acm_reduction) for block in self.blocks]
            )
            terms["acm"] = self.acm_weight, replicas.global_mean(acm)
        return student["logits"], terms

    def _mixup_weights(self, rows):
        def draw(count):
            return mixup_weights(
                count, alpha=self.mixup_alpha, per_example=self.mixup_per_example, seed=self.step_seed()
            )

        return replicas.own_rows(draw, rows) if self.mixup_per_example else draw(rows)
