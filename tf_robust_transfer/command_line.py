"""Command lines: read into the dataclasses of `config`, written as text, listed by --help.

The only module that knows absl.
"""

import dataclasses
import logging
import os
import pathlib
import sys
import types
from collections.abc import Mapping, Sequence

from absl import flags

from tf_robust_transfer import flag_files
from tf_robust_transfer.config import AttackConfig, TrainConfig
from tf_robust_transfer.errors import InputError, of_flag
from tf_robust_transfer.flag_types import boolean
from tf_robust_transfer.methods import METHODS, find_method
from tf_robust_transfer.models import find_model
from tf_robust_transfer.options import flags_of, from_texts, read_text, to_texts
from tf_robust_transfer.plugins import is_plugin

_LOG = logging.getLogger("tf_robust_transfer")
_ASKING = ("help", "h")


def parse(config_class, arguments: Sequence[str]):
    """Reads the arguments of a command (without the program's name) into its dataclass.

    Every flag is checked here, those of the method among them. Flags that it does not look at are
    in `config.ignored`.

    Raises:
        InputError: unknown flag, missing flag file, unreadable or forbidden value.
        SystemExit: after --help, with code 0.
    """
    known = all_flags(config_class, _plugins(config_class, arguments))
    switches = {name for name, flag in known.items() if flag.metadata["parse"] is boolean}
    given = flag_files.read(arguments, {*known, *_ASKING}, {*switches, *_ASKING})
    texts = {flag.name: flag.text for flag in given if flag.name not in _ASKING}
    if any(flag.name in _ASKING for flag in given):
        sys.stdout.write(_help(config_class, texts))
        sys.exit(0)
    config = from_texts(config_class, _through_absl(known, texts))
    if isinstance(config, AttackConfig):
        config.check_attacks()
    if not isinstance(config, TrainConfig):
        return config
    with of_flag("model"):
        find_model(config.model, {})
    with of_flag("model_options"):
        find_model(config.model, config.model_options)
    method = find_method(config.method)
    used = {flag.name for flag in _flags_with(method)} - _unused(method, config.initial_model)
    ignored = tuple(flag for flag in given if flag.name not in used and flag.name not in _ASKING)
    for flag in ignored:
        read_text(known[flag.name], flag.text)
    return dataclasses.replace(config, of_method=from_texts(method.Flags, texts), ignored=ignored)


def _plugins(config_class, arguments) -> dict:
    """{name: method} of the method from outside the package that the arguments name, if any."""
    if not issubclass(config_class, TrainConfig):
        return {}
    name = flag_files.last_value(arguments, "method") or ""
    return {name: find_method(name)} if is_plugin(name) else {}


def all_flags(config_class, plugins: Mapping = types.MappingProxyType({})) -> dict:
    """Name -> `options.Flag` of a command: its own, and of `train` those of every method.

    plugins: further methods. Raises an InputError where two owners read one flag in two ways.
    """
    owners = {"every run": config_class}
    if issubclass(config_class, TrainConfig):
        owners |= {name: method.Flags for name, method in (METHODS | dict(plugins)).items()}
    found = {}
    for name, owner in owners.items():
        for flag in flags_of(owner):
            first, other = found.setdefault(flag.name, (flag, name))
            if other == "every run" != name:
                raise InputError(
                    f"--{flag.name} of {name} is a flag of every run, which has another meaning; "
                    "give the option another name there (flag=...)"
                )
            if first.metadata["parse"] is not flag.metadata["parse"]:
                raise InputError(
                    f"--{flag.name} of {name} and of {other} are read in two ways: owners of one "
                    "flag share its type; give it another name (flag=...)"
                )
    return {name: flag for name, (flag, _) in found.items()}


def train_flags(method: str | None) -> list:
    """The flags, `options.Flag`s, that runs of a method look at; None or an unknown method: those
    of all.
    """
    if method not in METHODS:
        return list(all_flags(TrainConfig).values())
    return _flags_with(METHODS[method])


def _flags_with(method) -> list:
    """Those of runs of a method, given as its class."""
    found = [*flags_of(TrainConfig), *flags_of(method.Flags)]
    return [flag for flag in found if flag.name not in _unused(method)]


def _unused(method, initial_model="") -> set[str]:
    """Flags of every run that this method's runs, from an initial model or not, do not look at."""
    no_teacher = set() if method.takes_teacher else {"teacher"}
    given = method.makes_its_student or initial_model
    return no_teacher | ({"model", "model_options"} if given else set())


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
        method = find_method(texts["method"])
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
        dropped = {"check"} | _unused(find_method(config.method), config.initial_model)
        texts = {name: text for name, text in texts.items() if name not in dropped} | to_texts(
            config.of_method
        )
    return texts


def default_run_dir(arguments: Sequence[str]) -> str:
    """runs/ and the name of the first flag file, without "flags/" and its ending; "" where there is
    no flag file.
    """
    name = flag_files.first_file(arguments)
    if not name:
        return ""
    path = flag_files.find(name).with_suffix("")
    if path.is_relative_to(flag_files.PACKAGED):
        return str("runs" / path.relative_to(flag_files.PACKAGED))
    path = pathlib.PurePath(os.path.relpath(path))
    parts = (
        path.parts[path.parts.index("flags") + 1 :] if "flags" in path.parts else path.parts[-1:]
    )
    return str(pathlib.PurePath("runs", *parts))
