"""Command-line flags and the frozen dataclasses that the rest of the package reads.

Each field of a dataclass below is a flag of the same name: type, default, help and check stand in
one place."""

import dataclasses
import itertools

from tf_robust_transfer import flag_files
from tf_robust_transfer.attacks.base import ThreatModel
from tf_robust_transfer.attacks.names import parse_attack
from tf_robust_transfer.checkpoints import check_spec
from tf_robust_transfer.data import check_split, known_splits
from tf_robust_transfer.data.augmentation import find_augmentation
from tf_robust_transfer.data.datasets import checked_dir
from tf_robust_transfer.data.training import STREAM
from tf_robust_transfer.errors import InputError, of_flag
from tf_robust_transfer.files import check_readable, check_writable
from tf_robust_transfer.flag_types import (
    boolean,
    fraction,
    names,
    options,
    size,
    split_outside_brackets,
)
from tf_robust_transfer.methods import METHODS, find_method
from tf_robust_transfer.options import Options, above, at_least, between, flags_of, one_of, option

SPEC = (
    "a saved model or run folder, or SCHEME:..., such as madry_mnist:DIR or robustbench:ID:FILE.pt"
)
KEEP = ("last", "best", "both")
STRATEGIES = ("auto", "one_device", "mirrored", "multi_worker_mirrored")


def check_outputs(config, *flags: str) -> None:
    """Raises an InputError unless the files that these flags name can be written."""
    for flag in flags:
        with of_flag(flag):
            check_writable(getattr(config, flag))


def check_inputs(config, *flags: str) -> None:
    """Raises an InputError unless the files that these flags name are there."""
    for flag in flags:
        if getattr(config, flag):
            with of_flag(flag):
                check_readable(getattr(config, flag))


def check_specs(flag: str, *texts: str) -> None:
    """Raises an InputError unless the files of each SPEC are there."""
    for text in texts:
        with of_flag(flag):
            check_spec(text)


def shares(text) -> tuple[str, ...]:
    """A comma-separated list of rising numbers or fractions in (0, 1), as they are written."""
    parts = names(text)
    values = [0.0, *map(fraction, parts), 1.0]
    if not parts or any(low >= high for low, high in itertools.pairwise(values)):
        raise InputError(f"expected rising shares between 0 and 1 such as 1/2,3/4, got {text!r}")
    return parts


def method_name(text) -> str:
    """A name that `find_method` knows."""
    find_method(text)
    return text


def attack_name(text) -> str:
    """A name that `parse_attack` knows."""
    parse_attack(text)
    return text


def attack_names(text) -> tuple[str, ...]:
    """A comma-separated list of attacks."""
    return tuple(attack_name(name) for name in split_outside_brackets(text))


def augmentations(text) -> tuple[str, ...]:
    """A comma-separated list of augmentations."""
    for name in names(text):
        find_augmentation(name)
    return names(text)


@dataclasses.dataclass(frozen=True)
class SharedConfig(Options):
    """Flags of every command."""

    # Values of --distribution_strategy that have an effect on the command, or are the default.
    strategies = ("auto", "one_device")
    # Whether --run_dir has an effect.
    writes_run_folders = False

    dataset: str = option(
        "digits",
        "digits (built in), folder:PATH, a TFDS name such as mnist, or package.module:NAME",
    )
    data_dir: str = option("", "TFDS directory; data prepared there is used offline")
    image_size: tuple | None = option(
        "", "resize images to HEIGHTxWIDTH, such as 28x28; empty: as they are", size
    )
    batch_size: int = option("128", "examples in a (global) batch", int, **at_least(1))
    seed: int = option(
        "0", "of weights, data order, augmentation, noise and attacks", int, **at_least(0)
    )
    run_dir: str = option("", "of train: run folder; by default runs/ and the flag file's name")
    distribution_strategy: str = option(
        "auto", "where the work runs: " + ", ".join(STRATEGIES), **one_of(*STRATEGIES)
    )

    def verify(self) -> None:
        """Raises an InputError for names that can be told to be wrong before anything is read."""
        with of_flag("data_dir"):
            directory = checked_dir(self.data_dir or None)
        if self.dataset:
            with of_flag("dataset"):
                known_splits(self.dataset, directory)

    def check_split(self, split: str) -> None:
        """Raises an InputError where the data set of the flags is known not to have --split."""
        if self.dataset:
            with of_flag("split"):
                check_split(self.dataset, split, self.data_dir or None)


@dataclasses.dataclass(frozen=True)
class AttackConfig(Options):
    """Flags of the threat model and of the evaluation."""

    norm: str = option("linf", "norm of the threat model: linf or l2", **one_of("linf", "l2"))
    eps: float = option(
        "8/255", "radius of the threat model, a fraction of the pixel range", fraction
    )
    attacks: tuple = option(
        "fgsm,pgd20",
        "attacks of the evaluation, such as pgd[steps=50], or package.module:NAME; clean accuracy "
        "is always measured",
        attack_names,
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

    def check_attacks(self) -> None:
        """Raises an InputError for a radius that does not fit the norm, or an attack that is of
        another.
        """
        norm = self.threat_model.norm
        for flag in ("attacks", "watch_attack"):
            found = getattr(self, flag, ())
            for name in (found,) if isinstance(found, str) else found:
                attack = parse_attack(name)
                if attack is not None:
                    with of_flag(flag):
                        attack.check_norm(norm)


@dataclasses.dataclass(frozen=True)
class TrainConfig(AttackConfig, SharedConfig):
    """Flags of `train`."""

    strategies = STRATEGIES
    writes_run_folders = True

    method: str = option(
        "natural",
        f"{', '.join(METHODS)}, or package.module:Class; `--method=NAME --help` shows its flags",
        method_name,
    )
    model: str = option(
        "small_cnn", "network to train: small_cnn, wrn_{depth}_{width}, ..., or package.module:NAME"
    )
    model_options: dict = option(
        "", "of the network: stem_stride=2,activation=swish,mean=[0.5,0.5,0.5]", options
    )
    teacher: str = option("", f"{SPEC}; or flagfile:PATH, trained now if it is not there")
    initial_model: str = option("", f"start from this network in place of a fresh --model: {SPEC}")
    epochs: float = option("10", "passes over the training images", fraction, **above(0))
    train_steps: int = option("0", "steps instead of epochs", int, **at_least(0))
    train_fraction: float = option("1", "stratified share of the training images", fraction)
    validation_fraction: float = option(
        "0",
        "stratified share of the training images that is held out, for --keep",
        fraction,
        check=lambda value: 0 <= value < 1,
        expected="0, or a share below 1",
    )
    keep: str = option(
        "last",
        "which epoch's network becomes model.keras: last, or best by robust accuracy on held-out "
        "training images (--watch_attack); both: best beside it as model_best.keras",
        **one_of(*KEEP),
    )
    stream: str = option(
        "auto",
        "read training images as they are needed: auto (those that do not fit into memory), on, "
        "off",
        choices=STREAM,
    )
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
    momentum: float = option("0.9", "of sgd", fraction, **between(0, 1))
    nesterov: bool = option("false", "Nesterov momentum (MixACM)", boolean)
    schedule: str = option(
        "cosine",
        "constant, cosine, piecewise or one_cycle",
        **one_of("constant", "cosine", "piecewise", "one_cycle"),
    )
    schedule_peak: float = option(
        "1/2",
        "one_cycle: the rate grows linearly from 0 for this share of the training, then falls to 0",
        fraction,
        check=lambda value: 0 < value < 1,
        expected="a share between 0 and 1",
    )
    schedule_boundaries: tuple = option(
        "1/2,3/4", "piecewise: shares of the training after which the rate falls", shares
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
        "none",
        "bfloat16 or float16 inside the student; auto: none, until it is measured",
        **one_of("none", "auto", "bfloat16", "float16"),
    )
    jit: str = option(
        "auto",
        "steps compiled by XLA; auto: on where one GPU trains",
        **one_of("auto", "on", "off"),
    )
    deterministic: str = option(
        "auto",
        "operations that give the same bits each time; auto: on, but on a GPU, where they are slow",
        **one_of("auto", "on", "off"),
    )
    # What is watched and kept
    watch_attack: str = option("pgd10", "attack of the robust accuracy by epoch", attack_name)
    watch_examples: int = option(
        "500", "test examples of the accuracies by epoch; 0: none", int, **at_least(0)
    )
    log_every: int = option(
        "100", "steps between TensorBoard's scalars, beside each epoch's", int, **at_least(1)
    )
    checkpoint_minutes: float = option(
        "5", "a checkpoint at least so often, beside each epoch's", fraction, **at_least(0)
    )
    # The method's own flags, an instance of its `Flags`. Those are read as though they were this
    # config's.
    of_method: Options = dataclasses.field(default_factory=METHODS["natural"].Flags)
    # Flags that were given and that the method does not look at.
    ignored: tuple = dataclasses.field(default=(), compare=False, repr=False)

    def verify(self) -> None:
        if not self.smoke:  # which takes made-up images, and networks without their weights
            super().verify()
            check_specs("initial_model", *filter(None, [self.initial_model]))
            if self.dataset:
                with of_flag("dataset"):
                    check_split(self.dataset, "test", self.data_dir or None)
        if (self.keep != "last") != bool(self.validation_fraction):
            raise InputError(
                f"--keep={self.keep} --validation_fraction={self.validation_fraction:g}: the best "
                "epoch is chosen on held-out images; give both, such as --keep=best "
                "--validation_fraction=0.02, or neither"
            )
        kind, _, path = self.teacher.partition(":")
        if self.teacher and find_method(self.method).takes_teacher:
            with of_flag("teacher"):
                if kind == "flagfile":
                    check_readable(flag_files.find(path))
                elif not self.smoke:
                    check_spec(self.teacher)

    def __getattr__(self, name):
        if not name.startswith("_") and name != "of_method":
            for flag in flags_of(type(self.of_method)):
                if flag.name == name:
                    return flag.value(self.of_method)
        raise AttributeError(
            f"neither `train` nor method {self.__dict__.get('method')} has a flag {name!r}"
        )
