"""The method of a run, compiled around its student."""

import logging

import keras

from tf_robust_transfer import data, methods
from tf_robust_transfer.checkpoints import load_model
from tf_robust_transfer.errors import InputError
from tf_robust_transfer.models import build_model
from tf_robust_transfer.models.bounds import check_unit_pixels
from tf_robust_transfer.models.precision import with_precision
from tf_robust_transfer.runs.optimizers import optimizer

_LOG = logging.getLogger("tf_robust_transfer")


def student_network(config, images: data.ImageData, teacher=None) -> keras.Model:
    """The network, not yet trained, for the images and classes of the data: that of --model, or
    what the method makes of its teacher."""
    if methods.find_method(config.method).makes_its_student:
        return _method(config, images, None, teacher, steps_per_epoch=1).student
    if config.initial_model:
        student = load_model(config.initial_model)
        wanted = (tuple(images.input_shape), images.num_classes)
        found = (tuple(student.input_shape[1:]), student.output_shape[-1])
        if found != wanted:
            raise InputError(
                f"--initial_model takes images {found[0]} to {found[1]} classes, the data set has "
                f"images {wanted[0]} and {wanted[1]} classes; give a network of these, or none"
            )
        check_unit_pixels(student, "--initial_model")
        # A network of `finetune` comes with its features frozen.
        student.trainable = False
        student.trainable = True
        return student
    return build_model(config.model, images.input_shape, images.num_classes, **config.model_options)


def compiled_method(
    config, *, images: data.ImageData, teacher, steps_per_epoch: int, total_steps: int
):
    """The compiled method around its freshly initialised student."""
    method_class = methods.find_method(config.method)
    if config.mixed_precision != "none" and method_class.makes_its_student:
        raise InputError(
            f"--mixed_precision={config.mixed_precision} is for students; {config.method} trains "
            "the teacher's logits in float32: leave it out"
        )
    if config.mixed_precision == "float16" and method_class.several_losses:
        raise InputError(
            f"--mixed_precision=float16 scales one loss, and {config.method} has two; use bfloat16"
        )
    if config.initial_model and method_class.makes_its_student:
        raise InputError(
            f"--initial_model: {config.method} makes its student of its teacher: leave it out"
        )
    # Two smoke steps leave no room for a warm-up.
    warm_up_steps = 0 if config.smoke else round(config.warm_up_epochs * steps_per_epoch)
    step = optimizer(config, total_steps, warm_up_steps)
    student = None if method_class.makes_its_student else student_network(config, images)
    if config.mixed_precision != "none":
        student = with_precision(student, config.mixed_precision)
    built = _method(config, images, student, teacher, steps_per_epoch)
    for name, flag, what in (
        ("warm_start_steps", "warm_start_epochs", "nothing is matched"),
        ("warm_up_steps", "eps_warm_up_epochs", "the radius is never reached"),
    ):
        steps = getattr(built, name, getattr(built.options, name, 0))
        if steps >= total_steps and not config.smoke:
            _LOG.warning(
                "--%s takes all of the %d steps: %s; train longer, or lower it",
                *(flag, total_steps, what),
            )
    built.compile(
        optimizer=step, jit_compile=config.jit == "on", **built.compile_arguments(config.of_method)
    )
    return built


def _method(config, images, student, teacher, steps_per_epoch):
    context = methods.Context(
        student=student,
        teacher=teacher,
        threat_model=config.threat_model,
        input_shape=images.input_shape,
        num_classes=images.num_classes,
        seed=config.seed,
        steps_per_epoch=steps_per_epoch,
        smoke=config.smoke,
    )
    return methods.find_method(config.method).from_flags(config.of_method, context)
