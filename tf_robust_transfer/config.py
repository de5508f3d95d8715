"""Command-line flags and the frozen dataclasses that the rest of the package reads.

Each field of a dataclass below is a flag of the same name: type, default, help and check stand in
one place. The only module, beside the mains, that knows absl."""

import dataclasses
import logging
import os
import pathlib
import sys
from collections.abc import Sequence

from absl import flags

from tf_robust_transfer import flag_files
from tf_robust_transfer.attacks.base import ThreatModel
from tf_robust_transfer.data.augmentation import find_augmentation
from tf_robust_transfer.errors import look_up
from tf_robust_transfer.evaluation.attack_names import parse_attack
from tf_robust_transfer.flag_types import boolean, fraction, names, options, size, whole_numbers
from tf_robust_transfer.methods import METHODS
from tf_robust_transfer.models import find_model
from tf_robust_transfer.models.batch_statistics import BATCH_NORMS
from tf_robust_transfer.options import (
    Options,
    above,
    at_least,
    flags_of,
    from_texts,
    one_of,
    option,
    to_texts,
)

_LOG = logging.getLogger("tf_robust_transfer")
SPEC = (
    "a saved model or run folder, or SCHEME:..., such as madry_mnist:DIR or robustbench:ID:FILE.pt"
)
_ASKING = ("help", "h")
STRATEGIES = ("auto", "one_device", "mirrored", "multi_worker_mirrored")


def attack_name(text) -> str:
    """A name that `parse_attack` knows."""
    parse_attack(text)
    return text


def attack_names(text) -> tuple[str, ...]:
    """A comma-separated list of attacks."""
    return tuple(attack_name(name) for name in names(text))


def augmentations(text) -> tuple[str, ...]:
    """A comma-separated list of augmentations."""
    for name in names(text):
        find_augmentation(name)
    return names(text)


@dataclasses.dataclass(frozen=True)
class SharedConfig(Options):
    """Flags of every command."""

    dataset: str = option(
        "digits", "digits (built in), folder:PATH, or a TFDS name such as mnist or cifar10"
    )
    data_dir: str = option("", "TFDS directory; data prepared there is used offline")
    image_size: tuple | None = option(
        "", "resize images to HEIGHTxWIDTH, such as 28x28; empty: as they are", size
    )
    batch_size: int = option("128", "examples in a (global) batch", int, **at_least(1))
    seed: int = option(
        "0", "of weights, data order, augmentation, noise and attacks", int, **at_least(0)
    )
    run_dir: str = option("", "run folder; by default runs/ and the flag file's name")
    distribution_strategy: str = option(
        "auto", "where the work runs: " + ", ".join(STRATEGIES), **one_of(*STRATEGIES)
    )


@dataclasses.dataclass(frozen=True)
class AttackConfig(Options):
    """Flags of the threat model and of the evaluation."""

    norm: str = option("linf", "norm of the threat model: linf or l2", **one_of("linf", "l2"))
    eps: float = option(
        "8/255", "radius of the threat model, a fraction of the pixel range", fraction
    )
    attacks: tuple = option(
        "fgsm,pgd20", "attacks of the evaluation; clean accuracy is always measured", attack_names
    )
    attack_step_size: float = option(
        "0", "step size of the evaluation's PGD; 0: 2.5 eps / steps", fraction, **at_least(0)
    )
    max_examples: int = option(
        "0", "evaluate on so many first test examples; 0: all", int, **at_least(0)
    )

    @property
    def threat_model(self):
        return ThreatModel(norm=self.norm, eps=self.eps)


@dataclasses.dataclass(frozen=True)
class TrainConfig(AttackConfig, SharedConfig):
    """Flags of `train`."""

    method: str = option(
        "natural", f"{', '.join(METHODS)}; `--method=NAME --help` shows its flags", choices=METHODS
    )
    model: str = option(
        "small_cnn", "network to train: madry_mnist, small_cnn, wrn_{depth}_{width}"
    )
    model_options: dict = option(
        "", "of the network: stem_stride=2,activation=swish,mean=[0.5,0.5,0.5]", options
    )
    teacher: str = option("", f"{SPEC}; or flagfile:PATH, trained now if it is not there")
    epochs: float = option("10", "passes over the training images", fraction, **above(0))
    train_steps: int = option("0", "steps instead of epochs", int, **at_least(0))
    train_fraction: float = option("1", "stratified share of the training images", fraction)
    augmentation: tuple = option(
        "", "crop (crop:2 pads 2 a side, not 4), flip, randaugment, resized_crop", augmentations
    )
    check: bool = option(
        "false",
        "print the settings of the run and what has no effect, check them, and end",
        boolean,
    )
    smoke: bool = option(
        "false",
        "two steps of the real network at batch 2, synthetic images where data is absent",
        boolean,
    )
    # Optimization
    optimizer: str = option("sgd", "sgd or adam", **one_of("sgd", "adam"))
    learning_rate: float = option("0.1", "at the start", fraction, **above(0))
    momentum: float = option("0.9", "of sgd", fraction, **at_least(0))
    nesterov: bool = option("false", "Nesterov momentum (MixACM)", boolean)
    schedule: str = option(
        "cosine", "constant, cosine or piecewise", **one_of("constant", "cosine", "piecewise")
    )
    schedule_boundaries: tuple = option(
        "1/2,3/4", "piecewise: shares of the training after which the rate falls", names
    )
    warm_up_epochs: float = option(
        "0", "cosine: the rate first grows linearly for so long", fraction, **at_least(0)
    )
    warm_up_learning_rate: float = option(
        "0", "cosine: where the warm-up starts", fraction, **at_least(0)
    )
    schedule_factor: float = option(
        "0.1", "piecewise: what the rate is multiplied by", fraction, **above(0)
    )
    mixed_precision: str = option(
        "none", "bfloat16 or float16 inside the student", **one_of("none", "bfloat16", "float16")
    )
    # What is watched and kept
    watch_attack: str = option("pgd10", "attack of the robust accuracy by epoch", attack_name)
    watch_examples: int = option(
        "500", "test examples of the accuracies by epoch; 0: none", int, **at_least(0)
    )
    checkpoint_minutes: float = option(
        "5", "a checkpoint at least so often, beside each epoch's", fraction, **at_least(0)
    )
    # The method's own flags, an instance of its `Flags`. Those are read as though they were this
    # config's.
    of_method: Options = dataclasses.field(default_factory=METHODS["natural"].Flags)
    # Flags that were given and that the method does not look at.
    ignored: tuple = dataclasses.field(default=(), compare=False, repr=False)

    def __getattr__(self, name):
        if not name.startswith("_") and name != "of_method":
            for flag in flags_of(type(self.of_method)):
                if flag.name == name:
                    return flag.value(self.of_method)
        raise AttributeError(
            f"neither `train` nor method {self.__dict__.get('method')} has a flag {name!r}"
        )


@dataclasses.dataclass(frozen=True)
class EvaluateConfig(AttackConfig, SharedConfig):
    """Flags of `evaluate`."""

    model: str = option("", f"the model to attack: {SPEC}")
    split: str = option("test", "split of the data set")
    output: str = option("", "results as JSON; empty: only printed")
    model_card: bool = option(
        "false", "add the figures to the card FILE.keras.md beside the model", boolean
    )
    precision: str = option(
        "float32", "of what attacks see: float32, mixed (bfloat16 gradients), bfloat16 or auto"
    )
    batch_norm: str = option(
        "moving",
        "moving averages, or batch: the statistics of each --batch_size images, as IGAM's "
        "reference code attacks",
        **one_of(*BATCH_NORMS),
    )
    state: str = option(
        "",
        "file that an interrupted evaluation goes on from; by default the output's name and "
        ".state.npz",
    )
    save_adversarial: str = option("", "adversarial examples of the last attack, .npy")
    adversarial_examples: str = option(
        "", "measure accuracy on these examples, .npy, instead of attacking"
    )
    diagnostics: bool = option(
        "false", "measure alignment and linearised robustness too (IGAM, section 6)", boolean
    )
    teacher: str = option(
        "", "with --diagnostics: compare input gradients with this model's; a SPEC as --model's"
    )


@dataclasses.dataclass(frozen=True)
class ConvertConfig(SharedConfig):
    """Flags of `convert`."""

    list: bool = option(
        "false",
        "print the published robust networks that robustbench: reads, of --dataset if it is given",
        boolean,
    )
    dataset: str = option(
        "", "data set on which the clean accuracy is measured, as in evaluate; empty: none"
    )
    model: str = option("", f"the model to convert: {SPEC}")
    output: str = option(
        "",
        "the .keras file to write, in place of an older one; FILE.keras.json tells where it came "
        "from",
    )
    sha256: str = option(
        "", "expected SHA-256 of the model's file (TF1: its .data file), checked before it is read"
    )
    split: str = option("test", "split of the data set")
    max_examples: int = option("0", "measure on so many first examples; 0: all", int, **at_least(0))


@dataclasses.dataclass(frozen=True)
class FitnessConfig(SharedConfig):
    """Flags of `fitness`."""

    teacher: str = option("", f"the teacher to try: {SPEC}")
    split: str = option("test", "split of the data set")
    max_examples: int = option("256", "so many first examples; 0: all", int, **at_least(0))
    norm: str = option("linf", "of PGD-20: linf or l2", **one_of("linf", "l2"))
    eps: float = option("8/255", "radius of PGD-20's ball", fraction, **at_least(0))


@dataclasses.dataclass(frozen=True)
class VisualizeConfig(SharedConfig):
    """Flags of `visualize`."""

    kind: str = option("input_gradients", "input_gradients, channel_maps, loss_landscape or sweep")
    models: tuple = option("", f"comma-separated, each {SPEC}", names)
    split: str = option("test", "split of the data set")
    num_images: int = option(
        "0", "test images; 0: 8, for channel_maps 500, for loss_landscape 2", int, **at_least(0)
    )
    output: str = option("", "PNG to write")
    norm: str = option(
        "linf", "loss_landscape: norm of the directions: linf or l2", **one_of("linf", "l2")
    )
    eps: float = option(
        "8/255", "loss_landscape: radius of the ball that is marked", fraction, **at_least(0)
    )
    landscape_extent: float = option(
        "0", "loss_landscape: half the plane's width; 0: 3 eps", fraction, **at_least(0)
    )
    runs: tuple = option(
        "runs",
        "sweep: run folders or folders of them, comma-separated; * and ? may stand in names",
        names,
    )
    x: str = option(
        "",
        "sweep: flag on the x axis, such as train_fraction; also depth and width of "
        "--model=wrn_DEPTH_WIDTH",
    )
    series: str = option("", "sweep: flag whose values are lines of their own")
    attacks: tuple = option(
        "", "sweep: attacks that are drawn; empty: clean and all that were run", names
    )
    paper: str = option(
        "",
        "sweep: a paper's figure, drawn from the runs of its flag files: mixacm_figure3, 6a, 6b, "
        "7a, 7b",
    )


@dataclasses.dataclass(frozen=True)
class Theorem41Config(SharedConfig):
    """Flags of `theorem41`."""

    models: tuple = option("", f"the students, comma-separated, each {SPEC}", names)
    teacher: str = option("", f"their teacher: {SPEC}")
    eps: float = option(
        "8/255", "linf radius, a fraction of the pixel range", fraction, **at_least(0)
    )
    max_examples: int = option(
        "1000", "so many first examples of either split; 0: all", int, **at_least(0)
    )
    gamma: float = option("1", "temperature of the softmax in the loss", fraction, **above(0))
    logit_norm: str = option(
        "l2", "norm of the difference of logits: l2 or linf", **one_of("l2", "linf")
    )
    delta: float = option(
        "0.05", "the bound holds with probability 1 - delta", fraction, **above(0)
    )
    output: str = option("", "all numbers as JSON; empty: only printed")


@dataclasses.dataclass(frozen=True)
class Theorem42Config(SharedConfig):
    """Flags of `theorem42`."""

    classes: tuple = option("0,1", "the two classes", whole_numbers)
    num_points: int = option("200", "training images, half of each class", int, **at_least(4))
    alpha: float = option("0.5", "weight of the distillation term", fraction, **above(0))
    mixup_alpha: float = option("1", "mixup weights from Beta(alpha, alpha)", fraction, **above(0))
    hidden_units: tuple = option("64", "widths of the ReLU network", whole_numbers)
    output: str = option("", "all numbers as JSON; empty: only printed")


@dataclasses.dataclass(frozen=True)
class ReportConfig(Options):
    """Flags of `report`."""

    runs: str = option("runs", "a run folder, or a folder of run folders")
    robustbench: bool = option(
        "false", "print RobustBench's JSON entry of each result with AutoAttack instead", boolean
    )
    table: str = option(
        "",
        "print this table of a paper instead, such as igam_table1, our columns beside the paper's",
    )


@dataclasses.dataclass(frozen=True)
class QuickstartConfig(Options):
    """Flags of the quickstart."""

    run_dir: str = option("runs/quickstart", "parent of the run folders")
    seed: int = option("0", "of everything random", int, **at_least(0))


def parse(config_class, arguments: Sequence[str]):
    """Reads the arguments of a command (without the program's name) into its dataclass.

    Every flag is checked here, those of the method among them. Flags that it does not look at are
    in `config.ignored`.

    Raises:
        InputError: unknown flag, missing flag file, unreadable or forbidden value.
        SystemExit: after --help, with code 0.
    """
    known = all_flags(config_class)
    switches = {name for name, flag in known.items() if flag.metadata["parse"] is boolean}
    given = flag_files.read(arguments, {*known, *_ASKING}, {*switches, *_ASKING})
    texts = {flag.name: flag.text for flag in given if flag.name not in _ASKING}
    if any(flag.name in _ASKING for flag in given):
        sys.stdout.write(_help(config_class, texts))
        sys.exit(0)
    config = from_texts(config_class, _through_absl(known, texts))
    if isinstance(config, AttackConfig):
        config.threat_model  # noqa: B018 - raises for an eps that does not fit the norm
    if not isinstance(config, TrainConfig):
        return config
    find_model(config.model, config.model_options)
    used = {flag.name for flag in train_flags(config.method)}
    ignored = tuple(flag for flag in given if flag.name not in used)
    return dataclasses.replace(
        config, of_method=from_texts(METHODS[config.method].Flags, texts), ignored=ignored
    )


def all_flags(config_class) -> dict:
    """Name -> `options.Flag` of a command: its own, and of `train` those of every method."""
    owners = [config_class]
    if issubclass(config_class, TrainConfig):
        owners += [method.Flags for method in METHODS.values()]
    found = {}
    for owner in owners:
        for flag in flags_of(owner):
            first = found.setdefault(flag.name, flag)
            if first.metadata["parse"] is not flag.metadata["parse"]:
                raise TypeError(
                    f"--{flag.name} is read in two ways: each owner of a name has to share its type"
                )
    return found


def train_flags(method: str | None) -> list:
    """The flags, `options.Flag`s, that runs of a method look at; None or an unknown method: those
    of all.
    """
    if method not in METHODS:
        return list(all_flags(TrainConfig).values())
    found = [*flags_of(TrainConfig), *flags_of(METHODS[method].Flags)]
    return [flag for flag in found if flag.name not in _unused(METHODS[method])]


def _unused(method) -> set[str]:
    """Flags of every run that this method's runs do not look at."""
    no_teacher = set() if method.takes_teacher else {"teacher"}
    return no_teacher | ({"model", "model_options"} if method.makes_its_student else set())


def _through_absl(known, texts):
    """The texts as absl's flags have them, which is the system that the commands' flags are of."""
    values = flags.FlagValues()
    for name, flag in known.items():
        flags.DEFINE_string(
            name, flag.shown, flag.metadata["help"], flag_values=values, required=False
        )
    values(["command", *(f"--{name}={text}" for name, text in texts.items())])
    return {name: values[name].value for name in texts}


def tell_ignored(config) -> None:
    """Warns of the flags that have no effect: one by one where they were typed, in one line for
    each file.
    """
    by_file = {}
    for flag in config.ignored:
        by_file.setdefault(flag.file, []).append(f"--{flag.name}")
    for name in by_file.pop("", ()):
        _LOG.warning("%s has no effect on method %s", name, config.method)
    for file, found in by_file.items():
        listed = ", ".join(sorted(set(found)))
        _LOG.warning(
            "%d flags of %s have no effect on method %s: %s",
            len(set(found)),
            file,
            config.method,
            listed,
        )


def effective(config) -> str:
    """What `train --check` prints: the run's settings by owner, and flags without effect."""
    of_method = to_texts(config.of_method)
    shared = {name: text for name, text in to_text(config).items() if name not in of_method}
    lines = ["every run:", *(f"  --{name}={text}" for name, text in shared.items())]
    lines += [
        f"method {config.method}:",
        *(f"  --{name}={text}" for name, text in of_method.items()),
    ]
    if config.ignored:
        lines += [
            "without effect:",
            *(f"  --{flag.name}={flag.text}{flag.place}" for flag in config.ignored),
        ]
    return "\n".join(lines) + "\n"


def _help(config_class, texts) -> str:
    """The flags with their defaults; of `train` with those of the method that is given, or of all
    by their owners.
    """
    lines = [_line(flag, flag.shown) for flag in flags_of(config_class)]
    if issubclass(config_class, TrainConfig) and "method" in texts:
        method = look_up("--method", texts["method"], METHODS)
        lines += [
            f"\nmethod {texts['method']}:",
            *(_line(flag, flag.shown) for flag in flags_of(method.Flags)),
        ]
    elif issubclass(config_class, TrainConfig):
        owners = {}
        for name, method in METHODS.items():
            for flag in flags_of(method.Flags):
                owners.setdefault(flag.name, {})[name] = flag
        lines.append(
            "\nof the methods (--method=NAME --help shows those of one, with its defaults):"
        )
        for by_method in owners.values():
            first = next(iter(by_method.values()))
            own = [
                f"{name} {flag.shown}"
                for name, flag in by_method.items()
                if flag.shown != first.shown
            ]
            listed = "all methods" if len(by_method) == len(METHODS) else ", ".join(by_method)
            lines.append(_line(first, "; ".join([first.shown, *own])) + f" ({listed})")
    return "\n".join(lines) + "\n"


def _line(flag, default):
    return f"  --{flag.name}={default}\n      {flag.metadata['help']}"


def to_text(config) -> dict[str, str]:
    """The flags that give this config, complete, as text: those that the run looks at."""
    texts = to_texts(config)
    if isinstance(config, TrainConfig):
        dropped = {"check"} | _unused(METHODS[config.method])
        texts = {name: text for name, text in texts.items() if name not in dropped} | to_texts(
            config.of_method
        )
    return texts


def default_run_dir(arguments: Sequence[str]) -> str:
    """runs/ and the name of the first flag file, without "flags/" and its ending; "" where there is
    no flag file.
    """
    for argument in arguments:
        name, _, value = argument.lstrip("-").partition("=")
        if name == "flagfile" and value:
            path = pathlib.PurePath(os.path.relpath(value)).with_suffix("")
            parts = (
                path.parts[path.parts.index("flags") + 1 :]
                if "flags" in path.parts
                else path.parts[-1:]
            )
            return str(pathlib.PurePath("runs", *parts))
    return ""
