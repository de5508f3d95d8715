"""Random texts for the parsers, and random cases for every attack.

Right is: a parser returns, or raises an InputError of one line; an adversarial example lies in ball
and bounds, whatever the network gives."""

import collections
import functools
import json
import pathlib
import random

import hypothesis
import numpy as np
from hypothesis import strategies

from scripts.torture import processes
from tf_robust_transfer import attacks, errors
from tf_robust_transfer.attacks.cleverhans import ATTACKS as CLEVERHANS
from tf_robust_transfer.attacks.names import ATTACKS, parse_attack
from tf_robust_transfer.checkpoints import check_spec
from tf_robust_transfer.checkpoints.specs import SCHEMES
from tf_robust_transfer.command_line import all_flags, parse
from tf_robust_transfer.config import TrainConfig
from tf_robust_transfer.evaluate import EvaluateConfig
from tf_robust_transfer.runs.folder import read_results

CASES, TEXTS = 100_000, 20_000
BATCH, SHAPE, CLASSES = 250, (6, 6, 1), 4
_BOUNDS = ((0.0, 1.0), (0.0, 255.0), (-1.0, 1.0), (-0.5, 0.5))
_LONGEST = 3000
_RESULTS = {
    "dataset": "digits", "split": "test", "num_examples": 20,
    "threat_model": {"norm": "linf", "eps": 0.1}, "accuracy": {"clean": 0.9, "pgd20": 0.5},
    "confidence_interval_95": {"clean": [0.7, 1.0], "pgd20": [0.3, 0.7]},
}  # fmt: skip
# Options that say how long an attack goes on.
_LONG = {"steps": 4, "queries": 20, "iterations": 4, "binary_search_steps": 2, "restarts": 1,
         "samples": 4, "max_iterations": 4, "targets": 2}  # fmt: skip


def run(record, folder: pathlib.Path, seed: int, quick: bool) -> None:
    """quick: 100 texts a parser, and the fast gradient sign attack alone."""
    folder.mkdir(parents=True)
    for function, arguments in (
        (_parsers, (seed, 100 if quick else TEXTS)),
        (_attacks, (seed, 2 * BATCH if quick else CASES, quick)),
    ):
        found = folder / f"{function.__name__}.json"
        process = processes.start(
            functools.partial(_written, found, function, folder, *arguments), folder=folder / "log"
        )
        if process.wait(_LONGEST) != 0 or not found.exists():
            record.add(function.__name__.strip("_"), f"ended: {process.lines()[-3:]}")
            continue
        for what, (tried, problems, refused) in json.loads(found.read_text()).items():
            counts = record.counts.setdefault(what, {"tried": 0, "right": 0})
            counts["tried"] += tried
            counts["right"] += tried - len(problems)
            if refused:
                counts["refused"] = refused
            record.failures += [f"{what}: {problem}" for problem in problems]


def _written(path, function, *arguments):
    path.write_text(json.dumps(function(*arguments)))


# --- parsers ---


def _parsers(folder, seed, count):
    """What -> (tried, problems, refused)."""
    words = sorted({*all_flags(TrainConfig), *all_flags(EvaluateConfig)})
    names = [*ATTACKS, *(f"cleverhans:{name}" for name in CLEVERHANS), "pgd20", "pgd100x5"]
    punctuation = strategies.sampled_from(
        [*"[];=:,+-/#@.\"' ", "\n", "\0", "inf", "nan", "-1", "é"]
    )
    pieces = strategies.lists(
        strategies.one_of(
            strategies.sampled_from([*words, *names, "madry_mnist", "robustbench", "igam", "hf://",
                                     "https://127.0.0.1:1/", "folder", "digits", "8/255", "true"]),
            punctuation,
            strategies.text(max_size=5),
            strategies.integers().map(str),
            strategies.floats().map(str),
        ),
        max_size=8,
    ).map("".join)  # fmt: skip
    flags = strategies.lists(
        strategies.tuples(strategies.sampled_from(words), pieces).map(lambda p: f"--{p[0]}={p[1]}")
        | pieces,
        max_size=4,
    )
    # Small, since drawing values of any size took most of the section's time.
    text = strategies.text(max_size=5)
    values = strategies.recursive(
        strategies.none() | strategies.booleans() | strategies.floats() | text,
        lambda part: (
            strategies.lists(part, max_size=3) | strategies.dictionaries(text, part, max_size=3)
        ),
        max_leaves=6,
    )
    part = strategies.dictionaries(strategies.sampled_from(("clean", "norm", "eps")), values)
    results = strategies.builds(_changed, strategies.sampled_from([*_RESULTS, "more"]),
                                values | part)  # fmt: skip
    file = folder / "results.json"

    numbers = strategies.integers(-1, 50).map(str) | strategies.floats(-1, 2).map(str)
    named = strategies.sampled_from(names).flatmap(
        lambda name: strategies.builds(
            "{}[{}={}]".format, strategies.just(name),
            strategies.sampled_from(sorted(vars(parse_attack(name)))) | pieces, numbers | pieces,
        )
    )  # fmt: skip
    for name in ("model.keras", "x.pt", "m.data-00000-of-00001", "m.index"):
        (folder / name).touch()
    spec = strategies.builds(
        "{}{}{}".format,
        strategies.sampled_from(["", *(f"{name}:" for name in SCHEMES), "igam:teacher:"]) | pieces,
        strategies.sampled_from([str(folder / name) for name in ("model.keras", "x.pt", "m", "")]),
        strategies.just("") | pieces,
    )

    def reads(result):
        file.write_text(json.dumps(result))
        read_results(file)

    return {
        f"parser of {what}": _fuzzed(function, strategy, seed, count)
        for what, function, strategy in (
            ("the flags of train", functools.partial(parse, TrainConfig), flags),
            ("the flags of evaluate", functools.partial(parse, EvaluateConfig), flags),
            ("SPECs", check_spec, (spec | pieces).filter(lambda text: "://" not in text)),
            ("attack names", parse_attack, named | pieces),
            ("results", reads, results),
        )
    }  # fmt: skip


def _changed(key, value):
    """Good results of which one entry, or what the value names of it, is another."""
    old = _RESULTS.get(key)
    both = isinstance(old, dict) and isinstance(value, dict)
    return {**_RESULTS, key: {**old, **value} if both else value}


def _fuzzed(function, strategy, seed, count):
    counts = collections.Counter()
    problems = []

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=count, database=None, deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.generate],
    )  # fmt: skip
    @hypothesis.given(strategy)
    def tried(value):
        counts["tried"] += 1
        try:
            function(value)
        except errors.InputError as error:
            counts["refused"] += 1
            if "\n" in str(error) and "\n" not in str(value):
                problems.append(f"{str(value)[:100]!r}: several lines")
        except SystemExit:  # --help
            pass
        except Exception as error:
            problems.append(f"{str(value)[:100]!r}: {type(error).__name__}: {str(error)[:100]}")

    tried()
    return counts["tried"], problems[:20], counts["refused"]


# --- attacks ---


def _attacks(folder, seed, cases, quick):
    """What -> (examples tried, problems, calls refused)."""
    import keras

    draw = random.Random(f"{seed} attacks")
    rng = np.random.default_rng(seed)
    keras.utils.set_random_seed(seed)
    # One graph for all networks: a kernel and a bias that are set anew.
    model = keras.Sequential(
        [keras.Input(SHAPE), keras.layers.Flatten(), keras.layers.Dense(8, "relu"),
         keras.layers.Dense(CLASSES)]
    )  # fmt: skip
    whole = model.get_weights()
    networks = {
        "trained": whole,
        "steep": [1e6 * weight for weight in whole],
        "overflowing": [np.full_like(weight, 3e38) for weight in whole],
        "constant": [np.zeros_like(weight) for weight in whole],
        "NaN-giving": [np.full_like(weight, np.nan) for weight in whole],
        "sometimes NaN-giving": [*whole[:2], whole[2] * 1e38, whole[3] * np.inf],
    }
    names = ["fgsm"] if quick else [
        name for name in ATTACKS if name != "cleverhans"
    ] + [f"cleverhans:{name}" for name in CLEVERHANS]  # fmt: skip
    made = {name: _short(name) for name in names}
    settings = [
        (name, norm, bounds)
        for name in made
        for norm in ("linf", "l2")
        for bounds in (_BOUNDS[0], draw.choice(_BOUNDS[1:]))
    ]
    found, done = {}, 0
    while done < cases:
        for name, norm, bounds in settings:
            if done >= cases:
                break
            low, high = bounds
            kind = draw.choice(sorted(networks))
            most = (high - low) * (1.0 if norm == "linf" else 6.0)
            eps = draw.choice((0.0, 1e-6 * most, draw.uniform(0, most), most))
            images = rng.uniform(low, high, (BATCH, *SHAPE))
            images[: BATCH // 5] = np.where(images[: BATCH // 5] > (low + high) / 2, high, low)
            images = np.clip(images.astype(np.float32), low, high)
            labels = rng.integers(0, CLASSES, BATCH).astype(np.int32)
            model.set_weights(networks[kind])
            number = draw.randrange(2**31)
            tried, problems, refused = found.setdefault(f"attack {name}", [0, [], 0])
            threat = attacks.ThreatModel(norm=norm, eps=eps, bounds=bounds)
            case = f"{norm}, eps {eps!r}, bounds {bounds}, seed {number}, {kind} network"
            try:
                adversarial = made[name](model, images, labels, threat_model=threat, seed=number)
                outside = _outside(np.asarray(adversarial, np.float64), images, threat)
                problems += [f"{count} examples {why} ({case})" for why, count in outside.items()]
            except errors.InputError:
                refused += 1
            except Exception as error:
                problems.append(f"{type(error).__name__}: {str(error)[:100]} ({case})")
            found[f"attack {name}"] = [tried + BATCH, problems, refused]
            done += BATCH
    return found


def _short(name):
    """The attack with few steps."""
    attack = parse_attack(name)
    options = {key for key in vars(attack)} & {*_LONG}
    for option in options:
        setattr(attack, option, min(getattr(attack, option) or 0, _LONG[option]) or _LONG[option])
    return attack


def _outside(adversarial, images, threat):
    """Why -> how many examples lie outside ball or bounds."""
    moved = (adversarial - images).reshape(len(images), -1)
    size = np.abs(moved).max(1) if threat.norm == "linf" else np.linalg.norm(moved, axis=1)
    low, high = threat.bounds
    flat = adversarial.reshape(len(images), -1)
    most = threat.eps * (1 + 1e-5) + 1e-6 * threat.range
    return {
        why: int(bad.sum())
        for why, bad in (
            ("not finite", ~np.isfinite(flat).all(1)),
            ("outside the bounds", (flat < low).any(1) | (flat > high).any(1)),
            ("outside the ball", size > most),
        )
        if bad.any()
    }
