"""From flags to objects: data, strategy, student, teacher's place, optimizer, method."""

import functools

import keras
import tensorflow as tf

from tf_robust_transfer import data, methods
from tf_robust_transfer.adapters import adapt
from tf_robust_transfer.attacks import FGSM, PGD
from tf_robust_transfer.errors import InputError, look_up
from tf_robust_transfer.flag_types import fraction
from tf_robust_transfer.models import build_model

_HALF = ("bfloat16", "float16")


@functools.cache  # TensorFlow's collectives of two MirroredStrategy objects in one process get into each other's way.
def distribution_strategy(name: str) -> tf.distribute.Strategy:
    """The strategy of --distribution_strategy. "auto" mirrors over the GPUs where there is more than one.

    On a machine without GPUs, "mirrored" mirrors over its logical CPU devices.

    Raises:
        InputError: "multi_worker_mirrored", which Keras's fit does not run under.
    """
    if name == "multi_worker_mirrored":
        raise InputError(
            "multi_worker_mirrored is not supported: Keras 3's fit fails under MultiWorkerMirroredStrategy; use mirrored"
        )
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    if name == "mirrored" or (name == "auto" and len(devices) > 1 and devices[0].device_type == "GPU"):
        return tf.distribute.MirroredStrategy([device.name for device in devices])
    return tf.distribute.get_strategy()


def load_split(config, split: str) -> data.ImageData:
    """A split of the data set, or for a smoke run synthetic images of its shape where it is absent."""
    fraction = getattr(config, "train_fraction", 1.0) if split == "train" else 1.0
    # In `train`, --max_examples is of the evaluation; a command that names its split means that one.
    limit = getattr(config, "max_examples", 0) if split != "train" or hasattr(config, "split") else 0
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
    """The network, not yet trained, for the images and classes of the data: that of --model, or what finetune makes of
    its teacher."""
    if config.method == "finetune":
        return _fine_tuning(config, images, teacher).student
    return build_model(config.model, images.input_shape, images.num_classes, **config.model_options)


def with_precision(network: keras.Model, precision: str) -> keras.Model:
    """The network with Keras's own layers computing in "bfloat16" or "float16", weights float32 and of the same values.

    Preprocessing stays float32, and so does the last layer: logits, and with them every loss, are float32.
    """

    def dtype(layer):
        whole = layer is network.layers[-1] or layer.name == "preprocessing"
        changed = not whole and type(layer).__module__.startswith("keras.")
        return f"mixed_{precision}" if changed else None

    return _recast(network, dtype)


def in_float32(network: keras.Model) -> keras.Model:
    """The network itself where all of it computes in float32, else a copy that does, with weights of the same values.

    What `with_precision` made is trained and nothing else: its copy is what is measured, saved and attacked. Layers inside
    of nested models too, such as those of a teacher that was fine-tuned.
    """
    if not any(layer.compute_dtype in _HALF for layer in _layers(network)):
        return network
    return _recast(network, lambda layer: "float32" if layer.compute_dtype in _HALF else None)


def take_weights(copy: keras.Model, network: keras.Model) -> None:
    """Gives what `in_float32` made of a network the weights that the network has by now."""
    if copy is not network:
        copy.set_weights(network.get_weights())


def _recast(network, dtype):
    """A copy with the same weights. dtype: from a layer to its policy's name, or None where the layer keeps its own."""

    def clone(layer):
        # Between nested models Keras puts operations that are no layers.
        settings, chosen = layer.get_config(), dtype(layer) if isinstance(layer, keras.Layer) else None
        return type(layer).from_config(settings | {"dtype": chosen} if chosen else settings)

    result = keras.models.clone_model(network, clone_function=clone, recursive=True)
    result.set_weights(network.get_weights())
    return result


def _layers(model):
    for layer in model.layers:
        yield from _layers(layer) if isinstance(layer, keras.Model) else (layer,)


def learning_rate(config, total_steps: int, warm_up_steps: int = 0):
    """The schedule of --schedule over the whole run, as a Keras schedule or a number.

    With a warm-up the rate grows linearly from --warm_up_learning_rate, and the cosine takes the steps that are left.
    """
    schedules = keras.optimizers.schedules
    if warm_up_steps and (config.schedule != "cosine" or warm_up_steps >= total_steps):
        raise InputError(
            f"--warm_up_epochs needs --schedule=cosine and a longer training, got schedule {config.schedule} and "
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
        rates = [config.learning_rate * config.schedule_factor**i for i in range(len(boundaries) + 1)]
        return schedules.PiecewiseConstantDecay(boundaries, rates)
    return config.learning_rate


def optimizer(config, total_steps: int, warm_up_steps: int = 0) -> keras.optimizers.Optimizer:
    """The optimizer of --optimizer with its schedule. Weight decay is the method's (L2), not the optimizer's.

    Under --mixed_precision=float16 it scales the loss, without which small gradients would be zero.
    """
    rate = learning_rate(config, total_steps, warm_up_steps)
    if config.optimizer == "adam":
        result = keras.optimizers.Adam(rate)
    else:
        result = keras.optimizers.SGD(rate, momentum=config.momentum, nesterov=config.nesterov)
    return keras.optimizers.LossScaleOptimizer(result) if config.mixed_precision == "float16" else result


def method(config, *, student, teacher, steps_per_epoch: int) -> methods.Method:
    """The method of --method around a student, with its flags, not yet compiled. teacher: None where there is none."""
    method_class = look_up("method", config.method, methods.METHODS)
    shared = {"student": student, "seed": config.seed, **_of_the_step(config)}
    if issubclass(method_class, methods.AdversarialTraining):
        eps, size = config.train_eps or config.eps, config.train_attack_step_size or None
        if config.train_attack_steps == 1:
            attack = FGSM(size or 1.25 * eps, random_start=True)
        else:
            attack = PGD(config.train_attack_steps, size)
        if method_class is methods.AdversarialDistillation:
            shared |= {"teacher": teacher, "kld_weight": config.alpha_kld, "temperature": config.gamma}
        return method_class(
            threat_model=type(config.threat_model)(norm=config.norm, eps=eps),
            attack=attack,
            warm_up_steps=round(config.eps_warm_up_epochs * steps_per_epoch),
            **shared,
        )
    if issubclass(method_class, methods.IGAM):
        if config.adapter:
            teacher = adapt(teacher, config.adapter, student.input_shape[1:])
        if method_class is methods.IGAMMixACM:
            shared["mixacm_options"] = _mixacm_options(config)
        return method_class(
            teacher=teacher,
            lambda_adv=config.lambda_adv,
            lambda_diff=config.lambda_diff,
            gradient_of=config.gradient_of,
            pixel_range=config.pixel_range,
            difference_reduction=config.difference_reduction,
            difference_region=config.difference_region,
            discriminator_input=config.discriminator_input,
            discriminator_input_epsilon=config.discriminator_input_epsilon,
            adversarial_form=config.adversarial_form,
            teacher_batch_norm=config.teacher_batch_norm,
            teacher_precision=config.teacher_precision,
            discriminator_channels=config.discriminator_channels,
            discriminator_batch_norm=config.discriminator_batch_norm,
            discriminator_batch_norm_epsilon=config.discriminator_batch_norm_epsilon,
            discriminator_initializer=config.discriminator_initializer,
            discriminator_loss=config.discriminator_loss,
            discriminator_weight_decay=config.discriminator_weight_decay,
            discriminator_update=config.discriminator_update,
            discriminator_every=config.discriminator_every,
            # Two smoke steps are to see the whole step, not its warm start.
            warm_start_steps=0 if config.smoke else round(config.warm_start_epochs * steps_per_epoch),
            noise=config.noise,
            **shared,
        )
    if method_class is methods.MixACM:
        return method_class(teacher=teacher, **_mixacm_options(config), **shared)
    if method_class is methods.Distillation:
        return method_class(teacher=teacher, kld_weight=config.alpha_kld, temperature=config.gamma, **shared)
    return method_class(**shared)


def _of_the_step(config) -> dict:
    return {
        "weight_decay": config.weight_decay,
        "weight_decay_of": config.weight_decay_of,
        "gradient_clip_norm": config.gradient_clip_norm or None,
    }


def _mixacm_options(config) -> dict:
    return {
        "acm_weight": config.alpha_acm,
        "kld_weight": config.alpha_kld,
        "temperature": config.gamma,
        "blocks": config.blocks,
        "acm_reduction": config.acm_reduction,
        "acm_mapping": config.acm_mapping,
        "acm_normalized": config.acm_normalized,
        "acm_transform": config.acm_transform,
        "acm_transform_of": config.acm_transform_of,
        "mixup_alpha": config.mixup_alpha,
        "mixup_per_example": config.mixup_per_example,
    }


def compiled_method(config, *, images: data.ImageData, teacher, steps_per_epoch: int, total_steps: int):
    """The compiled method around its freshly initialised student."""
    if config.adapter and config.method not in ("finetune", "igam"):
        raise InputError(
            f"--adapter={config.adapter} is for methods finetune and igam; for {config.method}, give a --teacher that was "
            "fine-tuned with it"
        )
    if config.preset != "none" and config.method not in ("igam", "igam_mixacm"):
        raise InputError(f"--preset={config.preset} is for methods igam and igam_mixacm, got {config.method}")
    if config.mixed_precision != "none" and config.method == "finetune":
        raise InputError(
            f"--mixed_precision={config.mixed_precision} is for students; finetune trains the teacher's logits in float32: "
            "leave it out"
        )
    if config.method == "finetune":
        built = _fine_tuning(config, images, teacher)
    else:
        student = student_network(config, images)
        if config.mixed_precision != "none":
            student = with_precision(student, config.mixed_precision)
        built = method(config, student=student, teacher=teacher, steps_per_epoch=steps_per_epoch)
    if config.mixed_precision == "float16" and isinstance(built, methods.IGAM):
        raise InputError("--mixed_precision=float16 scales one loss, and igam has two; use bfloat16")
    # Two smoke steps leave no room for a warm-up.
    warm_up_steps = 0 if config.smoke else round(config.warm_up_epochs * steps_per_epoch)
    extra = {}
    if isinstance(built, methods.IGAM) and config.discriminator_optimizer == "adam":
        extra["discriminator_optimizer"] = keras.optimizers.Adam(config.discriminator_learning_rate)
    built.compile(optimizer=optimizer(config, total_steps, warm_up_steps), **extra)
    return built


def _fine_tuning(config, images, teacher):
    if not config.adapter and tuple(teacher.input_shape[1:]) != images.input_shape:
        raise InputError(
            f"the teacher takes images of shape {teacher.input_shape[1:]}, {config.dataset} has {images.input_shape}; "
            "map them (--adapter), resize them (--image_size), or give a teacher of that shape"
        )
    return methods.FineTune(
        teacher=teacher,
        num_classes=images.num_classes,
        adapter=config.adapter or None,
        input_shape=images.input_shape,
        trained_layers=config.finetune_layers,
        teacher_batch_norm=config.teacher_batch_norm,
        seed=config.seed,
        **_of_the_step(config),
    )
