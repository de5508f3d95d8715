"""What net_test.py compares: weights after 20 steps of every method, settings of every flag file.

tests/golden/README.md says what is stored; benchmarks/make_net_golden.py writes it. Each case runs
in a process of its own, on one thread of the CPU, so that neither other cases nor the environment
reach its numbers.
"""

import hashlib
import json
import os
import pathlib
import platform
import re
import tempfile

import keras
import numpy as np
import tensorflow as tf

from tests import fresh_process
from tf_robust_transfer import data
from tf_robust_transfer.checkpoints import load_model, save_model
from tf_robust_transfer.command_line import parse, to_text
from tf_robust_transfer.config import TrainConfig
from tf_robust_transfer.files import replacing, write_text
from tf_robust_transfer.methods import METHODS
from tf_robust_transfer.models import build_model
from tf_robust_transfer.runs import run_training
from tf_robust_transfer.runs.images import load_train
from tf_robust_transfer.runs.method import compiled_method
from tf_robust_transfer.runs.strategy import distribution_strategy

ROOT = pathlib.Path(__file__).resolve().parents[1]
STEPS_FILE = ROOT / "tests" / "golden" / "steps.npz"
SETTINGS_FILE = ROOT / "tests" / "golden" / "settings.json"

# --- 20 steps of every method ---

# Two epochs of ten batches, float32, seed 0.
SHARED = ("--dataset=digits", "--train_fraction=0.125", "--batch_size=16", "--train_steps=20",
          "--seed=0", "--eps=0.1", "--learning_rate=0.05",
          "--model_options=batch_norm=True")  # fmt: skip
SHAPE, CLASSES = (8, 8, 1), 10
# Batch norm makes the gradients of an untrained student large; at the rate of the others the l2
# term throws it out.
_MATCHING = ("--learning_rate=0.01", "--lambda_diff=0.5")
_GAME = (*_MATCHING, "--discriminator_channels=4,8")
_IGAM = ("--method=igam", *_GAME)
_WARM = "--warm_start_epochs=0.5"
_DECAY = "--weight_decay=0.001"
_OF_ALL = ("--weight_decay=0.01", "--weight_decay_of=all")
# At the paper's alpha_acm of 5000 the first steps throw the weights out.
_ACM = ("--alpha_acm=10", "--gamma=4", "--blocks=block1,block2", "--nesterov")
_MIXACM = ("--method=mixacm", *_ACM)
_ATTACK = ("--train_attack_steps=2", _DECAY)

# Name -> flags beside SHARED. "_two_replicas" at the end of a name makes it two. Each kind of
# IGAM's steps takes seconds to trace, so that only one case has all three of them.
CASES = {
    "natural": ("--method=natural", "--model_options=batch_norm=False"),
    "natural_decay_of_all_clipped": (
        "--method=natural", *_OF_ALL, "--gradient_clip_norm=0.5", "--nesterov",
        "--schedule=piecewise", "--augmentation=crop:1,flip"),
    "natural_adam_warm_up": (
        "--method=natural", "--optimizer=adam", "--learning_rate=0.002", "--warm_up_epochs=0.5",
        "--warm_up_learning_rate=0.0001"),
    "adversarial_training": (
        "--method=adversarial_training", "--eps_warm_up_epochs=0.5", *_ATTACK),
    "adversarial_training_fgsm": (
        "--method=adversarial_training", "--train_attack_steps=1", "--schedule=constant"),
    "adversarial_training_l2": (
        "--method=adversarial_training", "--norm=l2", "--eps=1", "--train_eps=0.5",
        "--train_attack_step_size=0.2", "--train_attack_steps=2"),
    "ard": ("--method=ard", *_ATTACK),
    "ard_soft_labels_only": ("--method=ard", "--alpha_kld=1", "--gamma=30", *_ATTACK),
    "distillation": (
        "--method=distillation", "--alpha_kld=0.5", "--gamma=4", "--gradient_clip_norm=0.3"),
    "rkd": ("--method=rkd", _DECAY),
    "finetune": ("--method=finetune", "--optimizer=adam", "--learning_rate=0.01"),
    "finetune_resize": (
        "--method=finetune", "--adapter=resize:12x12", "--finetune_layers=all",
        "--weight_decay=0.01"),
    "finetune_random_pad_per_example": (
        "--method=finetune", "--adapter=random_pad_per_example:12x12",
        "--teacher_batch_norm=batch"),
    "finetune_transposed_conv": ("--method=finetune", "--adapter=transposed_conv:16x16"),
    "igam": (*_IGAM, "--discriminator_every=3"),
    "igam_noise_warm_start": (*_IGAM, _WARM, "--noise=0.05", _DECAY, "--discriminator_every=3"),
    "igam_without_game": (
        "--method=igam", *_MATCHING, "--lambda_adv=0", "--model_options=batch_norm=False"),
    "igam_resize": (*_IGAM, "--adapter=resize:12x12", "--discriminator_optimizer=adam"),
    "igam_random_pad_per_example": (
        *_IGAM, "--adapter=random_pad_per_example:12x12", "--discriminator_every=1",
        "--discriminator_input=l2", "--discriminator_batch_norm=separate"),
    "igam_crop_seen": (
        *_IGAM, "--adapter=crop:6x6", "--difference_region=seen", "--optimizer=adam",
        "--learning_rate=0.002", "--gradient_clip_norm=1"),
    # The l2 term of that code is of gradients 255 times smaller, summed over the batch.
    "igam_reference_code": (
        *_IGAM, "--preset=reference_code", "--lambda_diff=10000", _DECAY),
    "igam_non_saturating": (
        *_IGAM, "--adversarial_form=non_saturating", "--discriminator_loss=mean", *_OF_ALL),
    "mixacm": (*_MIXACM, _DECAY, "--augmentation=crop"),
    "mixacm_per_example": (*_MIXACM, "--mixup_per_example"),
    "mixacm_without_mixup": (
        *_MIXACM, "--mixup_alpha=0", "--acm_reduction=sum", "--acm_normalized=false",
        "--acm_mapping=mean_of_squares", "--alpha_acm=0.1"),
    "mixacm_affine": (
        *_MIXACM, "--blocks=block1:block2,block2:block1", "--acm_transform=affine", *_OF_ALL,
        "--gradient_clip_norm=1"),
    "mixacm_student_average": (
        *_MIXACM, "--blocks=block1:block2", "--acm_transform=average",
        "--acm_transform_of=student", "--alpha_kld=0"),
    "igam_mixacm": (
        "--method=igam_mixacm", *_ACM, *_GAME, "--discriminator_every=1", "--noise=0.05", _WARM,
        _DECAY),
    "igam_mixacm_without_game": (
        "--method=igam_mixacm", *_ACM, *_MATCHING, "--lambda_adv=0", "--mixup_per_example"),
    "igam_two_replicas": (
        *_IGAM, "--noise=0.05", _DECAY, "--discriminator_every=3",
        "--distribution_strategy=mirrored"),
    "mixacm_two_replicas": (
        *_MIXACM, "--mixup_per_example", _DECAY, "--distribution_strategy=mirrored"),
}  # fmt: skip
# Left to -m slow: what they have beside the others is less, or has tests of its own.
SLOW = {
    "natural_adam_warm_up",
    "adversarial_training_fgsm",
    "adversarial_training_l2",
    "ard_soft_labels_only",
    "finetune",
    "finetune_resize",
    "finetune_transposed_conv",
    "igam",
    "igam_noise_warm_start",
    "igam_resize",
    "igam_random_pad_per_example",
    "igam_crop_seen",
    "igam_reference_code",
    "igam_non_saturating",
    "mixacm_per_example",
    "mixacm_without_mixup",
    "mixacm_affine",
    "mixacm_student_average",
    "igam_mixacm_without_game",
    "igam_two_replicas",
    "mixacm_two_replicas",
}

_IN_ITS_PROCESS = """
import sys
import numpy as np
import tensorflow as tf
from tests import net

name, by, path = sys.argv[1:]
net.prepare(name)
np.savez(path, **getattr(net, by)(name))
"""


def flags_of(name: str) -> list[str]:
    return [*SHARED, *CASES[name]]


def measure(name: str, by: str = "train") -> dict[str, np.ndarray]:
    """What `train` of the case, or `run`, returns, from a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "found.npz"
        done = fresh_process.run(_IN_ITS_PROCESS, name, by, path)
        if done.returncode:
            raise RuntimeError(f"case {name} failed:\n{done.stderr[-4000:]}")
        with np.load(path) as found:
            return dict(found)


def prepare(name: str) -> None:
    """Before TensorFlow starts: one thread, as many logical devices as replicas, determinism."""
    tf.config.threading.set_intra_op_parallelism_threads(1)
    if name.endswith("_two_replicas"):
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * 2
        )
    tf.config.experimental.enable_op_determinism()


def train(name: str) -> dict[str, np.ndarray]:
    """The steps of a case, by the way that `train` takes from flags to weights.

    Returns {"names" [variables], "shapes" [variables], "sha256" uint8 [variables, 32] of the
    float32 bytes of each, "summary" float64 [variables, 3] (its sum, its norm, and the norm of what
    the steps moved it by), "log_names" [terms], "logs" float64 [terms, epochs], NaN where an epoch
    does not have the term}.
    """
    config = parse(TrainConfig, flags_of(name))
    images = load_train(config)
    steps = data.steps_per_epoch(images, config.batch_size)
    epochs, left = divmod(config.train_steps, steps)
    assert images.input_shape == SHAPE and (epochs, left) == (2, 0), (
        "the cases are of two whole epochs"
    )
    with distribution_strategy(config.distribution_strategy).scope():
        teacher = fixed_teacher(config)
        keras.utils.set_random_seed(config.seed)
        method = compiled_method(
            config,
            images=images,
            teacher=teacher,
            steps_per_epoch=steps,
            total_steps=config.train_steps,
        )
    before = [as_numpy(variable) for variable in variables(method)]
    batches = data.train_batches(
        images, batch_size=config.batch_size, seed=config.seed, augmentation=config.augmentation
    )
    history = method.fit(
        batches, epochs=epochs, steps_per_epoch=steps, shuffle=False, verbose=0
    ).history
    assert method.steps_done == config.train_steps
    after = [as_numpy(variable) for variable in variables(method)]
    assert all(np.isfinite(value).all() for value in after)
    if name.endswith("_two_replicas"):
        assert method.distribute_strategy.num_replicas_in_sync == 2
    return {
        "names": np.array([variable.path for variable in variables(method)]),
        "shapes": np.array([str(value.shape) for value in after]),
        "sha256": np.stack([digest(value) for value in after]),
        "summary": np.array([summary(old, new) for old, new in zip(before, after, strict=True)]),
        "log_names": np.array(sorted(history)),
        "logs": np.array(
            [[np.nan] * (epochs - len(history[term])) + history[term] for term in sorted(history)]
        ),
    }


def run(name: str) -> dict[str, np.ndarray]:
    """{"sha256": of the variables of the student that `run_training` leaves for the flags}."""
    with tempfile.TemporaryDirectory() as folder:
        folders = f"--teacher={folder}/teacher.keras", f"--run_dir={folder}/run"
        short = "--attacks=", "--watch_examples=0"
        arguments = [*flags_of(name), *folders, *short]
        config = parse(TrainConfig, arguments)
        save_model(fixed_teacher(config), f"{folder}/teacher.keras")
        student = load_model(str(run_training(config).path))
        return {"sha256": np.stack([digest(as_numpy(variable)) for variable in student.weights])}


def fixed_teacher(config) -> keras.Model | None:
    """An untrained network of fixed weights, averages as of a trained one, the adapter's size."""
    if not METHODS[config.method].takes_teacher:
        return None
    size = re.search(r"(\d+)x(\d+)$", getattr(config, "adapter", ""))
    shape = (int(size[1]), int(size[2]), 1) if size else SHAPE
    teacher = build_model("small_cnn", shape, CLASSES, batch_norm=True)
    rng = np.random.default_rng(1)
    for variable in teacher.weights:
        if variable.name in ("gamma", "moving_variance"):
            value = rng.uniform(0.5, 1.5, variable.shape)
        elif variable.name == "kernel":
            value = rng.standard_normal(variable.shape) * np.sqrt(2 / np.prod(variable.shape[:-1]))
        else:
            value = rng.uniform(-0.2, 0.2, variable.shape)
        variable.assign(value.astype(np.float32))
    return teacher


def variables(method) -> list:
    """All of the student and of its terms' models, trained or not."""
    models = [method.student, *(model for term in method.terms for model in term.state().values())]
    return [variable for model in models for variable in model.weights]


def as_numpy(variable):
    value = keras.ops.convert_to_numpy(variable)
    assert value.dtype == np.float32
    return value


def digest(value):
    return np.frombuffer(hashlib.sha256(np.ascontiguousarray(value).tobytes()).digest(), np.uint8)


def summary(old, new):
    old, new = old.astype(np.float64), new.astype(np.float64)
    return new.sum(), np.linalg.norm(new), np.linalg.norm(new - old)


def platform_here() -> dict:
    """What the bits depend on: the processor, which the kernels are chosen by, and the versions."""
    processor = {"machine": platform.machine()}
    text = (
        pathlib.Path("/proc/cpuinfo").read_text() if pathlib.Path("/proc/cpuinfo").exists() else ""
    )
    for key in ("vendor_id", "cpu family", "model", "cache size"):
        found = re.search(rf"^{key}\s*:\s*(.*)$", text, re.MULTILINE)
        processor[key] = found[1] if found else ""
    flags = re.search(r"^flags\s*:\s*(.*)$", text, re.MULTILINE)
    of_numbers = r"(avx|amx|sse|ssse|fma|f16c|bmi)\w*"
    processor["flags"] = sorted(
        flag for flag in (flags[1].split() if flags else ()) if re.fullmatch(of_numbers, flag)
    )
    # Such as TF_ENABLE_ONEDNN_OPTS and ONEDNN_MAX_CPU_ISA.
    environment = {
        name: value
        for name, value in sorted(os.environ.items())
        if re.search("ONEDNN|DNNL|XLA_FLAGS", name)
    }
    versions = {
        "tensorflow": tf.version.GIT_VERSION,
        "keras": keras.__version__,
        "numpy": np.__version__,
    }
    return {"processor": processor, "environment": environment, "versions": versions}


def stored_steps() -> tuple[dict, dict[str, dict[str, np.ndarray]]]:
    """(the platform that they were measured on, {case: what `train` returned there})."""
    cases = {}
    with np.load(STEPS_FILE) as stored:
        for key in stored.files:
            if key != "platform":
                name, _, array = key.partition("/")
                cases.setdefault(name, {})[array] = stored[key]
        return json.loads(str(stored["platform"])), cases


def write_steps(cases: dict[str, dict[str, np.ndarray]]) -> None:
    arrays = {f"{name}/{key}": value for name in CASES for key, value in cases[name].items()}
    with replacing(STEPS_FILE) as temporary:
        np.savez_compressed(temporary, platform=json.dumps(platform_here()), **arrays)


# --- The effective settings of every flag file ---


def flag_files() -> list[str]:
    """Paths from the root, without files that are only included in others."""
    paths = (
        path
        for path in (ROOT / "flags").rglob("*.flags")
        if not re.match(r"common(_|$)", path.stem)
    )
    return sorted(path.relative_to(ROOT).as_posix() for path in paths)


def settings(*arguments: str) -> dict[str, str]:
    """Every flag as text, but where run and data lie. Flag files name each other from the root."""
    texts = to_text(parse(TrainConfig, list(arguments)))
    return {
        name: text for name, text in sorted(texts.items()) if name not in ("run_dir", "data_dir")
    }


def settings_of_all_files() -> dict:
    """{"defaults": {method: {flag: text}}, "files": {path: {flag: text}, what differs}}."""
    defaults = {method: settings(f"--method={method}") for method in METHODS}
    files = {}
    for path in flag_files():
        found = settings(f"--flagfile={path}")
        own = defaults[found["method"]]
        files[path] = {"method": found["method"]} | {
            name: text for name, text in found.items() if text != own[name]
        }
    return {"defaults": defaults, "files": files}


def stored_settings() -> dict:
    return json.loads(SETTINGS_FILE.read_text())


def write_settings(content: dict) -> None:
    """One line a method and one a file, so that a change shows as lines."""
    defaults = ",\n".join(
        f"  {json.dumps(name)}: {json.dumps(texts)}" for name, texts in content["defaults"].items()
    )
    files = ",\n".join(
        f"  {json.dumps(path)}: {json.dumps(found)}" for path, found in content["files"].items()
    )
    write_text(
        SETTINGS_FILE, f'{{\n "defaults": {{\n{defaults}\n }},\n "files": {{\n{files}\n }}\n}}\n'
    )
