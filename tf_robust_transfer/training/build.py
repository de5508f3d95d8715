"""From flags to objects: data, strategy, student, teacher's place, optimizer, method."""

import functools

import keras
import tensorflow as tf

from tf_robust_transfer import data, methods
from tf_robust_transfer.errors import InputError
from tf_robust_transfer.flag_types import fraction
from tf_robust_transfer.models import build_model

_HALF = ("bfloat16", "float16")


# TensorFlow's collectives of two MirroredStrategy objects in one process get into each other's way.
@functools.cache
def distribution_strategy(name: str) -> tf.distribute.Strategy:
    """The strategy of --distribution_strategy. "auto" mirrors over the GPUs where there is more
    than one.

    On a machine without GPUs, "mirrored" mirrors over its logical CPU devices.

    Raises:
        InputError: "multi_worker_mirrored", which Keras's fit does not run under.
    """
    if name == "multi_worker_mirrored":
        raise InputError(
            "multi_worker_mirrored is not supported: Keras 3's fit fails under "
            "MultiWorkerMirroredStrategy; use mirrored"
        )
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    if name == "mirrored" or (
        name == "auto" and len(devices) > 1 and devices[0].device_type == "GPU"
    ):
        return tf.distribute.MirroredStrategy([device.name for device in devices])
    return tf.distribute.get_strategy()


def load_split(config, split: str) -> data.ImageData:
    """A split of the data set; for a smoke run synthetic images where it is absent."""
    fraction = getattr(config, "train_fraction", 1.0) if split == "train" else 1.0
    # In `train`, --max_examples is of the evaluation; a command that names its split means that
    # one.
    limit = (
        getattr(config, "max_examples", 0) if split != "train" or hasattr(config, "split") else 0
    )
    try:
        return data.load_data(
            config.dataset,
            split,
            data_dir=config.data_dir or None,
            image_size=config.image_size,
            train_fraction=fraction,
            max_examples=limit or None,
            seed=config.seed,
            # A smoke run is to end in seconds, with or without a network.
            download=not getattr(config, "smoke", False),
            # A command that names its split evaluates on it.
            original_order=hasattr(config, "split") or None,
        )
    except InputError:
        if not getattr(config, "smoke", False) or config.dataset not in data.SHAPES:
            raise
        shape, num_classes = data.SHAPES[config.dataset]
        shape = (*(config.image_size or shape[:2]), shape[2])
        return data.synthetic_data(shape, num_classes, 16, config.seed)


def load_train(config) -> data.ImageData | data.StreamedData:
    """The train split for a training: as `load_split`'s, but streamed where it is large."""
    try:
        return data.load_training_data(
            config.dataset,
            data_dir=config.data_dir or None,
            image_size=config.image_size,
            train_fraction=config.train_fraction,
            seed=config.seed,
            download=not config.smoke,
        )
    except InputError:
        if not config.smoke:
            raise
        return load_split(config, "train")  # which has synthetic images


def student_network(config, images: data.ImageData, teacher=None) -> keras.Model:
    """The network, not yet trained, for the images and classes of the data: that of --model, or
    what the method makes of its teacher."""
    if methods.METHODS[config.method].makes_its_student:
        return _method(config, images, None, teacher, steps_per_epoch=1).student
    return build_model(config.model, images.input_shape, images.num_classes, **config.model_options)


def with_precision(network: keras.Model, precision: str) -> keras.Model:
    """The network with Keras's own layers computing in "bfloat16" or "float16", weights float32 and
    of the same values.

    Preprocessing stays float32, and so does the last layer: logits, and with them every loss, are
    float32."""

    def dtype(layer):
        whole = layer is network.layers[-1] or layer.name == "preprocessing"
        changed = not whole and type(layer).__module__.startswith("keras.")
        return f"mixed_{precision}" if changed else None

    return _recast(network, dtype)


def in_float32(network: keras.Model) -> keras.Model:
    """The network itself where all of it computes in float32, else a copy that does, with weights
    of the same values.

    What `with_precision` made is trained and nothing else: its copy is what is measured, saved and
    attacked. Layers inside of nested models too, such as those of a teacher that was fine-tuned.
    """
    if not any(layer.compute_dtype in _HALF for layer in _layers(network)):
        return network
    return _recast(network, lambda layer: "float32" if layer.compute_dtype in _HALF else None)


def take_weights(copy: keras.Model, network: keras.Model) -> None:
    """Gives what `in_float32` made of a network the weights that the network has by now."""
    if copy is not network:
        copy.set_weights(network.get_weights())


def _recast(network, dtype):
    """A copy with the same weights. dtype: from a layer to its policy's name, or None where the
    layer keeps its own.
    """

    def clone(layer):
        # Between nested models Keras puts operations that are no layers.
        settings, chosen = (
            layer.get_config(),
            dtype(layer) if isinstance(layer, keras.Layer) else None,
        )
        return type(layer).from_config(settings | {"dtype": chosen} if chosen else settings)

    result = keras.models.clone_model(network, clone_function=clone, recursive=True)
    result.set_weights(network.get_weights())
    return result


def _layers(model):
    for layer in model.layers:
        yield from _layers(layer) if isinstance(layer, keras.Model) else (layer,)


def learning_rate(config, total_steps: int, warm_up_steps: int = 0):
    """The schedule of --schedule over the whole run, as a Keras schedule or a number.

    With a warm-up the rate grows linearly from --warm_up_learning_rate, and the cosine takes the
    steps that are left."""
    schedules = keras.optimizers.schedules
    if warm_up_steps and (config.schedule != "cosine" or warm_up_steps >= total_steps):
        raise InputError(
            "--warm_up_epochs needs --schedule=cosine and a longer training, got schedule "
            f"{config.schedule} and "
            f"{warm_up_steps} of {total_steps} steps"
        )
    if warm_up_steps:
        return schedules.CosineDecay(
            config.warm_up_learning_rate,
            total_steps - warm_up_steps,
            warmup_target=config.learning_rate,
            warmup_steps=warm_up_steps,
        )
    if config.schedule == "cosine":
        return schedules.CosineDecay(config.learning_rate, total_steps)
    if config.schedule == "piecewise":
        boundaries = [round(fraction(share) * total_steps) for share in config.schedule_boundaries]
        rates = [
            config.learning_rate * config.schedule_factor**i for i in range(len(boundaries) + 1)
        ]
        return schedules.PiecewiseConstantDecay(boundaries, rates)
    return config.learning_rate


def optimizer(config, total_steps: int, warm_up_steps: int = 0) -> keras.optimizers.Optimizer:
    """The optimizer of --optimizer with its schedule. Weight decay is the method's (L2), not the
    optimizer's.

    Under --mixed_precision=float16 it scales the loss, without which small gradients would be zero.
    """
    rate = learning_rate(config, total_steps, warm_up_steps)
    if config.optimizer == "adam":
        result = keras.optimizers.Adam(rate)
    else:
        result = keras.optimizers.SGD(rate, momentum=config.momentum, nesterov=config.nesterov)
    return (
        keras.optimizers.LossScaleOptimizer(result)
        if config.mixed_precision == "float16"
        else result
    )


def compiled_method(
    config, *, images: data.ImageData, teacher, steps_per_epoch: int, total_steps: int
):
    """The compiled method around its freshly initialised student."""
    method_class = methods.METHODS[config.method]
    if config.mixed_precision != "none" and method_class.makes_its_student:
        raise InputError(
            f"--mixed_precision={config.mixed_precision} is for students; {config.method} trains "
            "the teacher's logits in "
            "float32: leave it out"
        )
    if config.mixed_precision == "float16" and method_class.several_losses:
        raise InputError(
            f"--mixed_precision=float16 scales one loss, and {config.method} has two; use bfloat16"
        )
    # Two smoke steps leave no room for a warm-up.
    warm_up_steps = 0 if config.smoke else round(config.warm_up_epochs * steps_per_epoch)
    step = optimizer(config, total_steps, warm_up_steps)
    student = None if method_class.makes_its_student else student_network(config, images)
    if config.mixed_precision != "none":
        student = with_precision(student, config.mixed_precision)
    built = _method(config, images, student, teacher, steps_per_epoch)
    built.compile(optimizer=step, **built.compile_arguments(config.of_method))
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
    return methods.METHODS[config.method].from_flags(config.of_method, context)
