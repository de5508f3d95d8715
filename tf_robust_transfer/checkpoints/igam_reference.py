"""Networks of IGAM's reference code, github.com/alvinchangw/IGAM_CVPR2020, from its TensorFlow 1
checkpoints.
"""

import keras

from tf_robust_transfer.checkpoints import tf1
from tf_robust_transfer.checkpoints.madry import classes, depth_and_width, wide_resnet_variables
from tf_robust_transfer.errors import InputError
from tf_robust_transfer.models import build_model

_STUDENT, _DISCRIMINATOR = "classifier/", "discriminator/"
_SOURCE_LOGITS, _TARGET_LOGITS = "logit", "target_task_logit"
_TINY_IMAGENET_CLASSES = 200


def load_igam(path: str) -> keras.Model:
    """Loads the student of a run, or a teacher, from a checkpoint of IGAM's reference code.

    A run (train_igam.py, train_igam_tinyimagenet2cifar_upresize.py) saves all of its networks
    together:

    - the student under `classifier/`;
    - the teacher without a scope: Madry's names, its source logits under `logit/`, those of the
      target task, which were fine-tuned, under `target_task_logit/`;
    - the discriminator under `discriminator/`.

    What is read is the student where there is one, else the teacher, as in checkpoints of the
    teacher alone; its logits are those of the target task where it has them. The network's other
    weights, the source logits and the discriminator are left out, and no variable may be over.

    The code does not save how a network's input is normalised. It follows from the scopes, as its
    commands have it:

    | network | images | preprocessing | |---|---|---| | student | 32x32 | "zero_mean_l2" | |
    teacher with 10 or 100 source classes (CIFAR) | 32x32 | "per_image_standardization" | | teacher
    with 200 source classes (Tiny-ImageNet) | 64x64 | "zero_mean_l2" | | the same with target logits
    | 64x64 | "l2": both scripts that use it leave --normalize_zero_mean out |

    That code upsizes CIFAR images for the last one by TensorFlow 1's bilinear `resize_images`,
    whose pixel centres are not those of TensorFlow 2. It runs every network's batch norm on batch
    statistics; here the saved moving statistics are used, so that figures differ from the published
    ones.

    Args:
        path: a folder or prefix, see `tf1.find_prefix`; "teacher:" before it takes the teacher of a
            run.

    Returns:
        keras.Model: images float32 [batch, size, size, 3] in [0, 1] -> logits float32 [batch,
        classes].

    Raises:
        InputError: no checkpoint, or one whose variables are not these networks'; a checkpoint of
            fine-tuning (`finetuned_source_model_saver`), which lacks the moving statistics.
    """
    teacher, path = role_and_path(path)
    checkpoint = tf1.open_checkpoint(path)
    has_student = any(name.startswith(_STUDENT) for name in checkpoint.shapes)
    scope = _STUDENT if has_student and not teacher else ""
    logits = (
        _TARGET_LOGITS if f"{scope}{_TARGET_LOGITS}/DW" in checkpoint.shapes else _SOURCE_LOGITS
    )
    _check_statistics(checkpoint, scope)
    tiny_imagenet = classes(checkpoint, f"{scope}{_SOURCE_LOGITS}") == _TINY_IMAGENET_CLASSES
    if scope:
        preprocessing = "zero_mean_l2"
    elif tiny_imagenet:
        preprocessing = "l2" if logits == _TARGET_LOGITS else "zero_mean_l2"
    else:
        preprocessing = "per_image_standardization"
    depth, width = depth_and_width(checkpoint, scope)
    size = 64 if tiny_imagenet else 32
    model = build_model(
        f"madry_wrn_{depth}_{width}",
        (size, size, 3),
        classes(checkpoint, f"{scope}{logits}"),
        preprocessing=preprocessing,
    )
    variables = wide_resnet_variables(model, scope, logits)
    what = f"IGAM's {'student' if scope else 'teacher'}, a w{depth}-{width}"
    tf1.assign(
        tf1.without(checkpoint, lambda name: _is_left_out(name, scope, logits)), variables, what
    )
    return model


def role_and_path(path: str) -> tuple[bool, str]:
    """(whether the teacher is asked for, the path of the checkpoint) of what `load_igam` takes."""
    role, colon, rest = path.partition(":")
    return (True, rest) if colon and role == "teacher" else (False, path)


def _is_left_out(name, scope, logits):
    """Whether a variable belongs to a network, or a logit layer, that is not read."""
    if scope:
        others = ("input/", "unit_", f"{_SOURCE_LOGITS}/", f"{_TARGET_LOGITS}/", _DISCRIMINATOR)
    else:
        others = (_STUDENT, _DISCRIMINATOR)
    return name.startswith(others) or (
        logits == _TARGET_LOGITS and name.startswith(f"{scope}{_SOURCE_LOGITS}/")
    )


def _check_statistics(checkpoint, scope):
    """Raises an InputError where a network's batch norm has its trainable variables alone."""
    batch_norms = [
        name for name in checkpoint.shapes if name.startswith(scope) and "/BatchNorm/" in name
    ]
    if batch_norms and not any("/moving_" in name for name in batch_norms):
        raise InputError(
            f"{checkpoint.prefix!r} holds no moving statistics of batch norm: fine-tuning in "
            "IGAM's code saves trainable variables alone; take the teacher from the checkpoint of "
            "a whole run, igam:teacher:PATH, or fine-tune anew"
        )
