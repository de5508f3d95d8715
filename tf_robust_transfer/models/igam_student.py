"""The student of the IGAM paper's CIFAR and Tiny-ImageNet experiments."""

import keras

from tf_robust_transfer.models.madry import madry_wide_resnet


def igam_student(input_shape, num_classes, *, depth=32, width=10, zero_mean=True) -> keras.Model:
    """The classifier of IGAM's reference code, `Model` in model_new.py of
    alvinchangw/IGAM_CVPR2020: w32-10 on each image minus its mean, l2-normalised.

    45,924,346 parameters (45,901,914 without the moving statistics) on 10 classes.

    Args:
        depth, width: see `madry_wide_resnet`.
        zero_mean: whether the mean is subtracted before the normalisation, that code's
            --normalize_zero_mean, which is on in all of its commands.

    Endpoints: those of `madry_wide_resnet`.
    """
    preprocessing = "zero_mean_l2" if zero_mean else "l2"
    return madry_wide_resnet(
        input_shape, num_classes, depth=depth, width=width, preprocessing=preprocessing
    )
