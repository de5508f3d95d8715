"""Networks: images in [0, 1] -> logits, with their own normalisation inside and named endpoints.

A network is one file and one line in `MODELS`. Keras layers and `keras.ops` only, so that a saved
student loads under any Keras backend."""

import fnmatch
import inspect
import re

import keras

from tf_robust_transfer.errors import InputError, nearest
from tf_robust_transfer.models.discriminator import build_discriminator
from tf_robust_transfer.models.endpoints import endpoints
from tf_robust_transfer.models.igam_student import igam_student
from tf_robust_transfer.models.madry import madry_mnist, madry_wide_resnet
from tf_robust_transfer.models.mobilenet_v2 import mobilenet_v2
from tf_robust_transfer.models.preact_resnet import preact_resnet_18
from tf_robust_transfer.models.resnet import (
    cifar_resnet_18,
    cifar_resnet_50,
    resnet_18,
    resnet_50,
    resnet_50_keras,
    wide_resnet_50_2,
)
from tf_robust_transfer.models.settings import check_settings
from tf_robust_transfer.models.small_cnn import small_cnn
from tf_robust_transfer.models.wide_resnet import wide_resnet, wide_resnet_by_group
from tf_robust_transfer.plugins import is_plugin, load

__all__ = ["MODELS", "build_discriminator", "build_model", "endpoints", "find_model", "list_models"]

MODELS = {
    "cifar_resnet_18": cifar_resnet_18,
    "cifar_resnet_50": cifar_resnet_50,
    "igam_student": igam_student,
    "madry_mnist": madry_mnist,
    "madry_wrn_{depth}_{width}": madry_wide_resnet,
    "mobilenet_v2": mobilenet_v2,
    "preact_resnet_18": preact_resnet_18,
    "resnet_18": resnet_18,
    "resnet_50": resnet_50,
    "resnet_50_keras": resnet_50_keras,
    "small_cnn": small_cnn,
    "wide_resnet_50_2": wide_resnet_50_2,
    "wrn_by_group": wide_resnet_by_group,
    "wrn_{depth}_{width}": wide_resnet,
}


def build_model(name: str, input_shape, num_classes: int, **options) -> keras.Model:
    """Builds a network with fresh weights (seed them with `keras.utils.set_random_seed`).

    Args:
        name: a name of `MODELS`; "wrn_34_10" is the WideResNet of depth 34 and width 10. Or a
            plug-in, `package.module:function`, called as those are: (input_shape, num_classes,
            **options).
        input_shape: (height, width, channels) of the images.
        num_classes: number of logits.
        **options: arguments of the network's own function, such as activation="swish".

    Returns:
        keras.Model: images float32 [batch, height, width, channels] in [0, 1] -> logits float32
        [batch, num_classes].

    Raises:
        InputError: unknown name or option, a shape that the network cannot take, or a global
            setting of Keras that would change it (`settings.check_settings`).
    """
    if len(input_shape) != 3 or num_classes < 2:
        raise InputError(
            "a model takes input_shape (height, width, channels) and at least 2 classes, got "
            f"input_shape {tuple(input_shape)} and num_classes {num_classes}"
        )
    check_settings()
    build, options = find_model(name, options)
    try:
        model = build(tuple(input_shape), num_classes, **options)
        if not isinstance(model, keras.Model):
            raise InputError(
                f"the model {name!r}: expected a keras.Model, got {type(model).__name__}"
            )
        return model
    except InputError:
        raise
    except (TypeError, ValueError) as error:
        if is_plugin(name):  # a fault of its own, with its traceback
            raise
        given = ", ".join(f"{key}={value!r}" for key, value in options.items())
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"model {name!r} cannot be built for images of {tuple(input_shape)} with {given}: "
            f"{reason}"
        ) from error


def find_model(name: str, options: dict):
    """(the function of `MODELS` that builds a network, its options with what the name says),
    without building it.

    name, options: see `build_model`. Raises an InputError for an unknown name or option.
    """
    if is_plugin(name):
        build = load("model", name)
        if not callable(build):
            raise InputError(
                f"the model {name!r}: expected a function (input_shape, num_classes, **options) "
                f"that returns a keras.Model, got {type(build).__name__}"
            )
        parameters = inspect.signature(build).parameters.values()
        if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            return build, options
        return build, _checked(name, options, [parameter.name for parameter in parameters][2:])
    build, given = MODELS.get(name), options
    wide = re.fullmatch(r"(wrn|madry_wrn)_(\d+)_(\d+)", name)
    if wide:
        build = MODELS[f"{wide[1]}_{{depth}}_{{width}}"]
        options = {**options, "depth": int(wide[2]), "width": int(wide[3])}
    if build is None or "{" in name:
        raise InputError(f"unknown model {name!r}; {nearest(name, MODELS)}")
    known = build.__kwdefaults__ or {}
    if wide and {"depth", "width"} & set(given):
        raise InputError(
            f"model {name!r} says its depth and width already; leave these options out"
        )
    return build, _checked(name, options, known)


def _checked(name, options, known):
    """The options, or an InputError for one that the network does not have."""
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise InputError(
            f"model {name!r} has no option {unknown[0]!r}; "
            + (nearest(unknown[0], known) if known else "it has none")
        )
    return options


def list_models(pattern: str = "*") -> list[str]:
    """The names of networks that a pattern such as "wrn*" matches; {depth} stands for a number."""
    return fnmatch.filter(MODELS, pattern)
