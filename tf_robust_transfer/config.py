"""Command-line flags and the frozen dataclasses that the rest of the package reads.

Each field of a dataclass below is a flag of the same name: type, default, help and check stand in one place. The only
module, beside the mains, that knows absl.
"""

import dataclasses
import os
import pathlib
import sys
from collections.abc import Sequence

from absl import flags

from tf_robust_transfer.attacks.base import ThreatModel
from tf_robust_transfer.errors import InputError, nearest
from tf_robust_transfer.flag_types import (
    above,
    at_least,
    boolean,
    flag,
    fraction,
    names,
    one_of,
    options,
    size,
    whole_numbers,
    written,
)
from tf_robust_transfer.methods.igam_presets import PRESETS

SPEC = "a saved model or run folder, or SCHEME:..., such as madry_mnist:DIR or robustbench:ID:FILE.pt"
STRATEGIES = ("auto", "one_device", "mirrored", "multi_worker_mirrored")


@dataclasses.dataclass(frozen=True)
class SharedConfig:
    """Flags of every command."""

    dataset: str = flag("digits", "digits (built in), folder:PATH, or a TFDS name such as mnist or cifar10")
    data_dir: str = flag("", "TFDS directory; data prepared there is used offline")
    image_size: tuple | None = flag("", "resize images to HEIGHTxWIDTH, such as 28x28; empty: as they are", size)
    batch_size: int = flag("128", "examples in a (global) batch", int, **at_least(1))
    seed: int = flag("0", "of weights, data order, augmentation, noise and attacks", int, **at_least(0))
    run_dir: str = flag("", "run folder; by default runs/ and the flag file's name")
    distribution_strategy: str = flag("auto", "where the work runs: " + ", ".join(STRATEGIES), **one_of(*STRATEGIES))


@dataclasses.dataclass(frozen=True)
class AttackConfig:
    """Flags of the threat model and of the evaluation."""

    norm: str = flag("linf", "norm of the threat model: linf or l2", **one_of("linf", "l2"))
    eps: float = flag("8/255", "radius of the threat model, a fraction of the pixel range", fraction)
    attacks: tuple = flag("fgsm,pgd20", "attacks of the evaluation; clean accuracy is always measured", names)
    attack_step_size: float = flag("0", "step size of the evaluation's PGD; 0: 2.5 eps / steps", fraction, **at_least(0))
    max_examples: int = flag("0", "evaluate on so many first test examples; 0: all", int, **at_least(0))

    @property
    def threat_model(self):
        return ThreatModel(norm=self.norm, eps=self.eps)


@dataclasses.dataclass(frozen=True)
class TrainConfig(AttackConfig, SharedConfig):
    """Flags of `train`."""

    method: str = flag("natural", "natural, adversarial_training, finetune, rkd, ard, igam, mixacm or igam_mixacm")
    model: str = flag("small_cnn", "network to train: madry_mnist, small_cnn, wrn_{depth}_{width}")
    model_options: dict = flag("", "of the network: stem_stride=2,activation=swish,mean=[0.5,0.5,0.5]", options)
    teacher: str = flag("", f"{SPEC}; or flagfile:PATH, trained now if it is not there")
    adapter: str = flag("", "finetune, igam: map to the teacher's input, such as resize:64x64 or channel_mean+crop:28x28")
    finetune_layers: str = flag("logits", "finetune: what is trained: logits or all layers", **one_of("logits", "all"))
    epochs: float = flag("10", "passes over the training images", fraction, **above(0))
    train_steps: int = flag("0", "steps instead of epochs", int, **at_least(0))
    train_fraction: float = flag("1", "stratified share of the training images", fraction)
    augmentation: tuple = flag("", "crop (crop:2 pads 2 a side, not 4), flip, randaugment, resized_crop", names)
    smoke: bool = flag("false", "two steps of the real network at batch 2, synthetic images where data is absent", boolean)
    # Optimization
    optimizer: str = flag("sgd", "sgd or adam", **one_of("sgd", "adam"))
    learning_rate: float = flag("0.1", "at the start", fraction, **above(0))
    momentum: float = flag("0.9", "of sgd", fraction, **at_least(0))
    nesterov: bool = flag("false", "Nesterov momentum (MixACM)", boolean)
    schedule: str = flag("cosine", "constant, cosine or piecewise", **one_of("constant", "cosine", "piecewise"))
    schedule_boundaries: tuple = flag("1/2,3/4", "piecewise: shares of the training after which the rate falls", names)
    warm_up_epochs: float = flag("0", "cosine: the rate first grows linearly for so long", fraction, **at_least(0))
    warm_up_learning_rate: float = flag("0", "cosine: where the warm-up starts", fraction, **at_least(0))
    schedule_factor: float = flag("0.1", "piecewise: what the rate is multiplied by", fraction, **above(0))
    weight_decay: float = flag("0", "L2 weight decay", fraction, **at_least(0))
    weight_decay_of: str = flag("kernels", "kernels (MadryLab, IGAM) or all (PyTorch's)", **one_of("kernels", "all"))
    gradient_clip_norm: float = flag("0", "most that the gradient's global l2 norm may be; 0: any", fraction, **at_least(0))
    mixed_precision: str = flag("none", "bfloat16 or float16 inside the student", **one_of("none", "bfloat16", "float16"))
    # Adversarial training and adversarially robust distillation (ard)
    train_eps: float = flag("0", "adversarial_training, ard: radius; 0: eps", fraction, **at_least(0))
    train_attack_steps: int = flag("7", "adversarial_training, ard: PGD steps; 1: FGSM, random start", int, **at_least(1))
    train_attack_step_size: float = flag("0", "adversarial_training, ard: 0: 2.5 eps / steps, FGSM 1.25 eps", fraction)
    eps_warm_up_epochs: float = flag("0", "adversarial_training, ard: radius grows for so long", fraction, **at_least(0))
    # IGAM
    preset: str = flag(
        "none",
        "igam: choices as in paper or reference_code; flags given beside it win; lambda_adv is half the code's beta",
        **one_of("none", *PRESETS),
    )
    lambda_adv: float = flag("1", "igam: weight of the adversarial term", fraction, **at_least(0))
    lambda_diff: float = flag("10", "igam: weight of the l2 term", fraction, **at_least(0))
    gradient_of: str = flag("cross_entropy", "igam: cross_entropy or probability (of the true class)")
    pixel_range: float = flag("1", "igam: gradients with respect to [0, 1] or [0, 255] pixels", fraction, **above(0))
    difference_reduction: str = flag("mean", "igam: l2 term as mean over examples or sum over the batch")
    difference_region: str = flag("whole", "igam: l2 term of the whole image or of what a crop leaves: whole or seen")
    discriminator_input: str = flag("zero_mean_l2", "igam: raw, l2 or zero_mean_l2 input gradients")
    discriminator_input_epsilon: float = flag(
        "1e-24", "igam: least squared norm of a gradient that is divided by", fraction, **at_least(0)
    )
    adversarial_form: str = flag("minimax", "igam: minimax (Eq. 11) or non_saturating: the student's adversarial term")
    teacher_batch_norm: str = flag(
        "moving",
        "igam, finetune: the teacher's moving averages, or batch: those of the current batch",
        **one_of("moving", "batch"),
    )
    teacher_precision: str = flag("float32", "igam: of the teacher's gradients: float32, mixed, bfloat16 or auto")
    discriminator_batch_norm: str = flag("joint", "igam: joint or separate passes over both models' gradients")
    discriminator_batch_norm_epsilon: float = flag(
        "1e-5", "igam: of the discriminator's batch norm", fraction, **above(0)
    )
    discriminator_initializer: str = flag("glorot_uniform", "igam: of its kernels: glorot_uniform or reference_code")
    discriminator_loss: str = flag("sum", "igam: the discriminator's: sum (minus Eq. 10) or mean (half of it)")
    discriminator_weight_decay: float = flag("0", "igam: L2 weight decay of its kernels", fraction, **at_least(0))
    discriminator_update: str = flag("simultaneous", "igam: simultaneous, or after_student: with its new weights")
    discriminator_channels: tuple = flag("16,32,64,128,256", "igam: of the discriminator's layers", whole_numbers)
    discriminator_every: int = flag("5", "igam: steps for one update of the discriminator", int, **at_least(1))
    discriminator_optimizer: str = flag("same", "igam: same (as the student's) or adam", **one_of("same", "adam"))
    discriminator_learning_rate: float = flag("0.001", "igam: of adam", fraction, **above(0))
    warm_start_epochs: float = flag("0", "igam: plain training before the two terms", fraction, **at_least(0))
    noise: float = flag("0", "igam: uniform noise on the training images", fraction, **at_least(0))
    # MixACM and the other distillations
    alpha_acm: float = flag("5000", "mixacm: weight of channel maps; a large one needs a warm-up", fraction, **at_least(0))
    alpha_kld: float = flag("0.95", "mixacm, rkd, ard: weight of the soft labels", fraction, **at_least(0))
    gamma: float = flag("10", "mixacm, rkd, ard: temperature of the soft labels", fraction, **above(0))
    blocks: tuple = flag("block1,block2,block3,block4", "mixacm: matched endpoints, each NAME or TEACHERS:STUDENTS", names)
    acm_reduction: str = flag("mean", "mixacm: mean or sum over channels")
    acm_mapping: str = flag("maximum", "mixacm: of a channel: maximum, mean, mean_of_squares or none (direct features)")
    acm_normalized: bool = flag("true", "mixacm: maps are divided by their l2 norm", boolean)
    acm_transform: str = flag("max", "mixacm: for other numbers of channels: max or average (pooling), affine (trained)")
    acm_transform_of: str = flag("teacher", "mixacm: whose maps are transformed: teacher or student")
    mixup_alpha: float = flag("1", "mixacm: Beta(alpha, alpha); 0: no mixup", fraction, **at_least(0))
    mixup_per_example: bool = flag("false", "mixacm: a mixup weight for each example", boolean)
    # What is watched and kept
    watch_attack: str = flag("pgd10", "attack of the robust accuracy by epoch")
    watch_examples: int = flag("500", "test examples of the accuracies by epoch; 0: none", int, **at_least(0))
    checkpoint_minutes: float = flag("5", "a checkpoint at least so often, beside each epoch's", fraction, **at_least(0))


@dataclasses.dataclass(frozen=True)
class EvaluateConfig(AttackConfig, SharedConfig):
    """Flags of `evaluate`."""

    model: str = flag("", f"the model to attack: {SPEC}")
    split: str = flag("test", "split of the data set")
    output: str = flag("", "results as JSON; empty: only printed")
    precision: str = flag("float32", "of what attacks see: float32, mixed (bfloat16 gradients), bfloat16 or auto")
    batch_norm: str = flag(
        "moving",
        "moving averages, or batch: the statistics of each --batch_size images, as IGAM's reference code attacks",
        **one_of("moving", "batch"),
    )
    state: str = flag("", "file that an interrupted evaluation goes on from; by default the output's name and .state.npz")
    save_adversarial: str = flag("", "adversarial examples of the last attack, .npy")
    adversarial_examples: str = flag("", "measure accuracy on these examples, .npy, instead of attacking")
    diagnostics: bool = flag("false", "measure alignment and linearised robustness too (IGAM, section 6)", boolean)
    teacher: str = flag("", "with --diagnostics: compare input gradients with this model's; a SPEC as --model's")


@dataclasses.dataclass(frozen=True)
class ConvertConfig(SharedConfig):
    """Flags of `convert`."""

    dataset: str = flag("", "data set on which the clean accuracy is measured, as in evaluate; empty: none")
    model: str = flag("", f"the model to convert: {SPEC}")
    output: str = flag("", "the .keras file to write, in place of an older one; FILE.keras.json tells where it came from")
    sha256: str = flag("", "expected SHA-256 of the model's file (TF1: its .data file), checked before it is read")
    split: str = flag("test", "split of the data set")
    max_examples: int = flag("0", "measure on so many first examples; 0: all", int, **at_least(0))


@dataclasses.dataclass(frozen=True)
class VisualizeConfig(SharedConfig):
    """Flags of `visualize`."""

    kind: str = flag("input_gradients", "input_gradients, channel_maps, loss_landscape or sweep")
    models: tuple = flag("", f"comma-separated, each {SPEC}", names)
    split: str = flag("test", "split of the data set")
    num_images: int = flag("0", "test images; 0: 8, for channel_maps 500, for loss_landscape 2", int, **at_least(0))
    output: str = flag("", "PNG to write")
    norm: str = flag("linf", "loss_landscape: norm of the directions: linf or l2", **one_of("linf", "l2"))
    eps: float = flag("8/255", "loss_landscape: radius of the ball that is marked", fraction, **at_least(0))
    landscape_extent: float = flag("0", "loss_landscape: half the plane's width; 0: 3 eps", fraction, **at_least(0))
    runs: tuple = flag("runs", "sweep: run folders or folders of them, comma-separated; * and ? may stand in names", names)
    x: str = flag("", "sweep: flag on the x axis, such as train_fraction; also depth and width of --model=wrn_DEPTH_WIDTH")
    series: str = flag("", "sweep: flag whose values are lines of their own")
    attacks: tuple = flag("", "sweep: attacks that are drawn; empty: clean and all that were run", names)
    paper: str = flag("", "sweep: a paper's figure, drawn from the runs of its flag files: mixacm_figure3, 6a, 6b, 7a, 7b")


@dataclasses.dataclass(frozen=True)
class Theorem41Config(SharedConfig):
    """Flags of `theorem41`."""

    models: tuple = flag("", f"the students, comma-separated, each {SPEC}", names)
    teacher: str = flag("", f"their teacher: {SPEC}")
    eps: float = flag("8/255", "linf radius, a fraction of the pixel range", fraction, **at_least(0))
    max_examples: int = flag("1000", "so many first examples of either split; 0: all", int, **at_least(0))
    gamma: float = flag("1", "temperature of the softmax in the loss", fraction, **above(0))
    logit_norm: str = flag("l2", "norm of the difference of logits: l2 or linf", **one_of("l2", "linf"))
    delta: float = flag("0.05", "the bound holds with probability 1 - delta", fraction, **above(0))
    output: str = flag("", "all numbers as JSON; empty: only printed")


@dataclasses.dataclass(frozen=True)
class Theorem42Config(SharedConfig):
    """Flags of `theorem42`."""

    classes: tuple = flag("0,1", "the two classes", whole_numbers)
    num_points: int = flag("200", "training images, half of each class", int, **at_least(4))
    alpha: float = flag("0.5", "weight of the distillation term", fraction, **above(0))
    mixup_alpha: float = flag("1", "mixup weights from Beta(alpha, alpha)", fraction, **above(0))
    hidden_units: tuple = flag("64", "widths of the ReLU network", whole_numbers)
    output: str = flag("", "all numbers as JSON; empty: only printed")


@dataclasses.dataclass(frozen=True)
class ReportConfig:
    """Flags of `report`."""

    runs: str = flag("runs", "a run folder, or a folder of run folders")
    robustbench: bool = flag("false", "print RobustBench's JSON entry of each result with AutoAttack instead", boolean)
    table: str = flag("", "print this table of a paper instead, such as igam_table1, our columns beside the paper's")


@dataclasses.dataclass(frozen=True)
class QuickstartConfig:
    """Flags of the quickstart."""

    run_dir: str = flag("runs/quickstart", "parent of the run folders")
    seed: int = flag("0", "of everything random", int, **at_least(0))


def parse(config_class, arguments: Sequence[str]):
    """Reads the arguments of a command (without the program's name) into its dataclass.

    Raises:
        InputError: unknown flag, missing flag file, unreadable or forbidden value.
        SystemExit: after --help, with code 0.
    """
    values = flags.FlagValues()
    for field in dataclasses.fields(config_class):
        flags.DEFINE_string(field.name, field.default, field.metadata["help"], flag_values=values, required=False)
    flags.DEFINE_bool("help", False, "show this help", short_name="h", flag_values=values)
    known = {field.name for field in dataclasses.fields(config_class)}
    # A bare --smoke is --smoke=true.
    switches = {f.name for f in dataclasses.fields(config_class) if f.metadata["parse"] is boolean}
    arguments = [f"{a}=true" if a.startswith("--") and a[2:] in switches else a for a in arguments]
    try:
        lines = values.read_flags_from_files(["command", *arguments], force_gnu=True)
        rest = values([f"{a}=true" if a.startswith("--") and a[2:] in switches else a for a in lines])
    except flags.UnrecognizedFlagError as error:
        raise InputError(f"unknown flag --{error.flagname}; {nearest(error.flagname, known)}") from None
    except flags.Error as error:
        raise InputError(" ".join(str(error).split())) from None
    if len(rest) > 1:
        raise InputError(f"unexpected argument {rest[1]!r}; flags are written --name=value")
    if values.help:
        for field in dataclasses.fields(config_class):
            sys.stdout.write(f"  --{field.name}={field.default}\n      {field.metadata['help']}\n")
        sys.exit(0)
    texts = {name: values[name].value for name in known}
    preset = PRESETS.get(texts.get("preset"), {})
    return from_text(config_class, texts | {name: str(v) for name, v in preset.items() if not values[name].present})


def from_text(config_class, texts: dict[str, str]):
    """The dataclass whose fields are read from text, each checked."""
    read = {}
    for field in dataclasses.fields(config_class):
        text, meta = texts.get(field.name, field.default), field.metadata
        try:
            value = meta["parse"](text)
        except InputError as error:
            raise InputError(f"--{field.name}: {error}") from None
        except ValueError:
            raise InputError(f"--{field.name}: expected a whole number, got {text!r}") from None
        if meta["check"] is not None and not meta["check"](value):
            raise InputError(f"--{field.name}: expected {meta['expected']}, got {text!r}")
        read[field.name] = value
    config = config_class(**read)
    if isinstance(config, AttackConfig):
        config.threat_model  # noqa: B018 - raises for an eps that does not fit the norm
    return config


def to_text(config) -> dict[str, str]:
    """The flags that give this config, complete, as text."""
    fields = dataclasses.fields(config)
    return {field.name: written(getattr(config, field.name), field.metadata["parse"]) for field in fields}


def default_run_dir(arguments: Sequence[str]) -> str:
    """runs/ and the name of the first flag file, without "flags/" and its ending; "" where there is no flag file."""
    for argument in arguments:
        name, _, value = argument.lstrip("-").partition("=")
        if name == "flagfile" and value:
            path = pathlib.PurePath(os.path.relpath(value)).with_suffix("")
            parts = path.parts[path.parts.index("flags") + 1 :] if "flags" in path.parts else path.parts[-1:]
            return str(pathlib.PurePath("runs", *parts))
    return ""
