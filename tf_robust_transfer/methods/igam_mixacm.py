"""IGAM's terms and MixACM's together: a combination that neither paper has."""

import dataclasses

from tf_robust_transfer.errors import InputError
from tf_robust_transfer.methods.igam import IGAM
from tf_robust_transfer.methods.mixacm import mixacm_terms
from tf_robust_transfer.options import group
from tf_robust_transfer.terms import ChannelMaps, MixedExamples, SoftLabels


class IGAMMixACM(IGAM):
    """(1 - kld_weight) L_mix + kld_weight L_kld + acm_weight L_acm + lambda_adv L_adv + lambda_diff
    L_diff.

    MixACM's three terms are taken on mixup examples (its section 5.4), IGAM's two on the images as
    they come, whose input gradients belong to a true label (its Eq. 14); MixACM's L_mix stands in
    for IGAM's cross-entropy. So a step passes the student twice, once with mixed and once with
    natural images, and its batch statistics move with both. In IGAM's warm start MixACM's terms
    alone are trained on.

    Args (keyword-only), beside those of `Method`:
        teacher: robust keras.Model of the student's input shape and classes, frozen, called with
            training=False; IGAM's teacher_batch_norm is about IGAM's terms alone.
        every other argument is `IGAM`'s, except adapter, or `MixACM`'s; acm_transform "affine" is
        refused. mixacm_options: MixACM's arguments may stand in this dict too.

    The training accuracy in the logs is that on the natural images, in the warm start that on the
    mixed ones."""

    @dataclasses.dataclass(frozen=True)
    class Options(IGAM.Options):
        maps: ChannelMaps.Options = group(ChannelMaps.Options)
        soft_labels: SoftLabels.Options = group(SoftLabels.Options)
        mixup: MixedExamples.Options = group(MixedExamples.Options)

    @dataclasses.dataclass(frozen=True)
    class Flags(IGAM.Flags):
        maps: ChannelMaps.Options = group(ChannelMaps.Options)
        soft_labels: SoftLabels.Options = group(SoftLabels.Options)
        mixup: MixedExamples.Options = group(MixedExamples.Options)

    def __init__(self, *, student, teacher, mixacm_options=None, **kwargs):
        super().__init__(student=student, teacher=teacher, **kwargs, **(mixacm_options or {}))
        options = self.options
        if options.adapter:
            raise InputError(
                "igam_mixacm takes no adapter; give a teacher that was fine-tuned with it (method "
                "finetune)"
            )
        precision = options.gradients.teacher_precision
        mixed = mixacm_terms(
            student,
            teacher,
            options,
            seed=self.seed,
            teacher_precision="bfloat16" if precision == "bfloat16" else "float32",
        )
        if any(term.variables for term in mixed):
            raise InputError(
                "igam_mixacm trains the student alone: acm_transform affine is for method mixacm"
            )
        # L_mix stands in for IGAM's cross-entropy, the first of its terms.
        self.warm_start_terms = mixed
        self.terms = [*mixed, *self.terms[1:]]
