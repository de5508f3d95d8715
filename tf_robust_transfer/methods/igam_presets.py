"""IGAM's choices as its paper and as its reference code make them: arguments of `IGAM`, flags of
the same names.

    IGAM(student=student, teacher=teacher, lambda_adv=1.0, lambda_diff=10.0,
    **PRESETS["reference_code"])

"paper": sections 4.1 and 4.2. The paper is silent on pixel_range, difference_reduction,
discriminator_input, teacher_batch_norm and discriminator_batch_norm; those are our defaults, as are
the epsilon, first weights and weight decay of the discriminator, which are not here. How often the
discriminator is updated is 5 or 10, by experiment (its Appendix A). docs/facts.md has both sides.

"reference_code": train_igam.py, train_igam_tinyimagenet2cifar_upresize.py and model_new.py of
github.com/alvinchangw/IGAM_CVPR2020 at f3dba12. Both of its experiments agree on what is here;
`noise` is theirs to differ in (8/255 from CIFAR-10 to CIFAR-100, 0 from Tiny-ImageNet to CIFAR-10),
and so are the weights: its beta is 2 and 5, its gamma 10, which the paper's Appendix A calls
lambda_adv and lambda_diff. The rows of `flags/igam` have this preset.

- Both of its run scripts update the discriminator every 5 steps, IGAM-CIFAR10's too, for which
  Appendix A says 10; the rows have Appendix A's number.
- Its adversarial term is -beta times the mean cross-entropy of the discriminator over both models'
  gradients. That mean is -1/2 Eq. 10, so that the form is "minimax" and **lambda_adv = beta / 2**;
  lambda_diff = gamma, which goes with the batch of 32 that it is summed over.
- Its discriminator descends that half of Eq. 10, with L2 weight decay 2e-4 on its kernels, which
  start from N(0, 2 / (16 out)), and batch norm of epsilon 1e-3. It is updated after the student,
  with the student's new weights, at the learning rate that the global step gives, by then one on.
- Where a gradient by 0-255 pixels has a norm below 1e-6 it divides by 1e-6
  (discriminator_input_epsilon 1e-12, squared).
- Its teacher's logits are fine-tuned on batch statistics too, as with
  `FineTune(teacher_batch_norm="batch")`, without noise, and without the weight decay, which does
  not reach them (see `FineTune`).
- What is left: a two-way softmax where ours has one logit, whose dense layer moves half as far
  under SGD (see `build_discriminator`); Keras's momentum, which lags behind TensorFlow 1's where
  the rate changes (docs/facts.md); the teacher's moving averages, which follow the batches
  there and are not used; and its attacks, in which the attacked network, student or fine-tuned
  teacher, runs on batch statistics (`evaluate --batch_norm=batch`).
"""

PRESETS = {
    "paper": {
        "gradient_of": "cross_entropy",
        "pixel_range": 1.0,
        "difference_reduction": "mean",
        "difference_region": "whole",
        "discriminator_input": "zero_mean_l2",
        "adversarial_form": "minimax",
        "teacher_batch_norm": "moving",
        "discriminator_batch_norm": "joint",
        "discriminator_loss": "sum",
        "discriminator_update": "simultaneous",
    },
    "reference_code": {
        "gradient_of": "probability",
        "pixel_range": 255.0,
        "difference_reduction": "sum",
        "difference_region": "whole",
        "discriminator_input": "zero_mean_l2",
        "adversarial_form": "minimax",
        "teacher_batch_norm": "batch",
        "discriminator_input_epsilon": 1e-12,
        "discriminator_batch_norm": "joint",
        "discriminator_batch_norm_epsilon": 1e-3,
        "discriminator_initializer": "reference_code",
        "discriminator_loss": "mean",
        "discriminator_weight_decay": 2e-4,
        "discriminator_update": "after_student",
        "discriminator_every": 5,
    },
}
