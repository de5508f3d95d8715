"""Mixup-based distillation of activated channel maps (MixACM)."""

import dataclasses

from tf_robust_transfer.errors import InputError
from tf_robust_transfer.methods.base import Method
from tf_robust_transfer.models.pairs import check_pair
from tf_robust_transfer.options import group, keywords_of
from tf_robust_transfer.terms import ChannelMaps, CrossEntropy, MixedExamples, SoftLabels, Term
from tf_robust_transfer.terms.passes import FrozenTeacher


class MixACM(Method):
    """(1 - kld_weight) L_mix + kld_weight L_kld + acm_weight L_acm on mixup examples (section 5.4).

    Args (keyword-only), beside those of `Method`:
        teacher: robust keras.Model, frozen, called once a step with training=False, on the same
            mixed images as the student.
        acm_weight: alpha_acm, weight of the sum of the blocks' ACM terms; 0 leaves them out ("only
            KD" of Table 7). At the paper's 5000 and learning rate 0.1 the first steps throw the
            weights far out (the first kernel of a WRN-16-4 grows 205 times in 50 steps), and little
            robustness is left to transfer. Let the learning rate warm up (1.3 times; the paper has
            a warm-up on ImageNet alone), or clip the gradient (gradient_clip_norm 1: 1.7 times). On
            MNIST at 14x14 a warm-up kept more than clipping did. Its appendix A.1 has 2000 or 5000,
            without saying where. With the mean over channels a block of C channels has acm_weight /
            C on the squared distance of its unit maps: of 16, 160, 320 and 640 channels the first
            counts most.
        kld_weight: alpha_kld in [0, 1]; 0 leaves the soft labels out ("w/o KD"). It has to be 0
            where the tasks differ: a teacher of other classes has no soft labels for the student
            (section 5.3). L_mix then has weight 1; whether it keeps 1 - 0.95 there the paper does
            not say.
        temperature: gamma of the soft labels.
        blocks: endpoints that are matched: names that both networks have, or pairs
            "TEACHERS:STUDENTS" such as "block2:block3" where their depths differ.
        acm_reduction: over channels, "mean" or "sum", which the paper leaves open; this and the
            next two: see `losses.channel_maps.acm_loss`.
        acm_mapping: "maximum", "mean", "mean_of_squares", or "none" for the direct feature loss of
            Table 9.
        acm_normalized: whether maps are divided by their l2 norm.
        acm_transform: where a block's numbers of channels differ: adaptive pooling over channels,
            "max" or "average", or "affine", a dense layer that is trained with the student: same
            optimizer, and weight decay with weight_decay_of="all".
        acm_transform_of: whose maps are transformed, "teacher" or "student" (the rows of Table 10).
        mixup_alpha: mixup weights are drawn from Beta(alpha, alpha); 0 trains on the images as they
            come (the row "w/o mixup").
        mixup_per_example: one weight for each example instead of one for the batch, as the original
            mixup code has it; the paper does not say.
        teacher_precision: "float32", or "bfloat16", in which the teacher's pass costs less than
            half on a processor that has it; neither paper nor reference has it. A copy as
            `FasterCopy` makes it; a subclassed teacher is called as it is.
        student_endpoints, teacher_endpoints: for models of your own, the submodels made by
            `rt.endpoints(model, {...})`.

    Weight decay: the paper names 5e-4 and not what is decayed; the rows have weight_decay_of="all".

    The losses are float32 whatever the networks compute in. The training accuracy in the logs is
    that on the mixed images against their own labels, which a mixed image shows but in part: about
    a half is what to expect. Validation data is not mixed."""

    @dataclasses.dataclass(frozen=True)
    class Options(Method.Options):
        maps: ChannelMaps.Options = group(ChannelMaps.Options)
        soft_labels: SoftLabels.Options = group(SoftLabels.Options)
        mixup: MixedExamples.Options = group(MixedExamples.Options)
        teacher: FrozenTeacher.Options = group(FrozenTeacher.Options)

    takes_teacher = True

    def __init__(
        self, *, student, teacher, student_endpoints=None, teacher_endpoints=None, **kwargs
    ):
        super().__init__(student=student, **kwargs)
        check_tasks(student, teacher, self.options.soft_labels.kld_weight)
        self.teacher = teacher
        teacher.trainable = False
        self.terms = mixacm_terms(
            student,
            teacher,
            self.options,
            seed=self.seed,
            student_endpoints=student_endpoints,
            teacher_endpoints=teacher_endpoints,
            **keywords_of(self.options.teacher),
        )


def mixacm_terms(student, teacher, options, *, seed, **further) -> list:
    """MixACM's terms. options: with the groups of `MixACM.Options`; further: endpoints and
    precision, see `MixedExamples`.
    """
    kld_weight = options.soft_labels.kld_weight
    of = MixedExamples(student, teacher, **further, **keywords_of(options.mixup))
    terms: list[Term] = [CrossEntropy(1.0 - kld_weight, of=of, name="mixup")]
    if kld_weight:
        terms.append(SoftLabels(of=of, **keywords_of(options.soft_labels)))
    if options.maps.acm_weight:
        terms.append(ChannelMaps(of=of, seed=seed, **keywords_of(options.maps)))
    return terms


def check_tasks(student, teacher, kld_weight):
    """As `check_pair`, but other classes are refused only where the student takes soft labels."""
    same_images = teacher.input_shape[1:] == student.input_shape[1:]
    if same_images and teacher.output_shape[-1] != student.output_shape[-1]:
        if kld_weight:
            raise InputError(
                f"the teacher has {teacher.output_shape[-1]} classes, the student "
                f"{student.output_shape[-1]}; give a teacher of the student's task, fine-tune a "
                "new logit layer on this one first (method finetune), or leave its soft labels "
                "out (kld_weight, --alpha_kld: 0)"
            )
        return
    check_pair(student, teacher)
