"""The flag files of the papers' rows: each parses, can be built and names its row; the small ones
train two steps here.

smoke_test.py trains two steps of all.
"""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from tf_robust_transfer import data
from tf_robust_transfer.adapters import build_adapter
from tf_robust_transfer.attacks.names import parse_attack
from tf_robust_transfer.checkpoints import robustbench, teachers
from tf_robust_transfer.command_line import default_run_dir, parse
from tf_robust_transfer.config import TrainConfig
from tf_robust_transfer.evaluate import EvaluateConfig
from tf_robust_transfer.methods import METHODS
from tf_robust_transfer.methods.igam_presets import PRESETS
from tf_robust_transfer.models import build_model
from tf_robust_transfer.models.preprocessing import preprocessing_layer
from tf_robust_transfer.papers import PLOTTED, TABLES
from tf_robust_transfer.runs import run_training
from tf_robust_transfer.runs.teachers import teacher_flags

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.usefixtures("at_the_root")  # Flag files name each other from there.
# A file that others include is no model of its own.
FILES = sorted(
    path.relative_to(ROOT).as_posix()
    for paper in ("igam", "mixacm")
    for path in (ROOT / "flags" / paper).glob("*.flags")
    if not path.name.startswith("common_")
)
ROWS = {
    row.flag_file: (table, row) for table in TABLES.values() for row in table.rows if not row.quoted
}
WITH_TEACHER = ("ard", "finetune", "igam", "igam_mixacm", "mixacm", "rkd")


def read(path, *arguments):
    return parse(TrainConfig, [f"--flagfile={path}", *arguments])


def header(path):
    """The comment at the top as one line."""
    lines = Path(path).read_text().split("\n--", 1)[0].splitlines()
    return " ".join(line.removeprefix("# ").removesuffix("\\").strip() for line in lines)


def test_every_row_has_its_file_and_every_file_is_a_row_or_a_teacher():
    teachers = [path for path in FILES if re.search(r"/(teacher|finetune)_", path)]
    assert sorted([*ROWS, *teachers]) == FILES
    named = {read(path).teacher.removeprefix("flagfile:") for path in FILES}
    assert set(teachers) <= named | {
        re.search(r"--flagfile=(\S+)", Path(path).read_text())[1] for path in ROWS
    }


@pytest.mark.parametrize("path", FILES)
def test_a_file_says_what_it_is(path):
    text = header(path)
    assert Path(path).read_text().startswith("# ") and all(
        len(line) <= 125 for line in Path(path).open()
    )
    assert f"# python -m tf_robust_transfer.train --flagfile={path}\n" in Path(path).read_text()
    if path in ROWS:
        # Some rows stand in two tables of the papers; the file names the first.
        table, row = next((t, r) for t in TABLES.values() for r in t.rows if r.flag_file == path)
        labels = ", ".join(f"{heading} {label}" for heading, label in zip(table.labels, row.labels))
        assert text.startswith(f"{table.title}, row {labels}. ")
        for column, figure in zip(table.columns, row.figures):
            # To its end: 44.04 is not 44.041.
            whole = rf" {re.escape(f'{column.heading} {figure}')}(?![\w.]*\d)"
            assert figure in (PLOTTED, "-") or re.search(whole, text), (column.heading, figure)
        # Which the report looks for.
        assert Path(default_run_dir([f"--flagfile={path}"])).name == row.folder


def test_every_file_parses_and_its_teachers_are_there():
    for path in FILES:
        config = read(path)
        assert config.method in METHODS, path
        for attack in (*config.attacks, config.watch_attack):
            parse_attack(attack)
        follow(path, config)


def shape_and_classes(config):
    shape, classes = data.SHAPES[config.dataset]
    return ((*(config.image_size or shape[:2]), shape[2]), classes)


def follow(path, config):
    """Goes along the chain of teachers, and checks that each fits. Returns (input shape, classes)
    of the model.
    """
    shape, classes = shape_and_classes(config)
    if config.method not in WITH_TEACHER:
        assert not config.teacher or config.method == "adversarial_training", path
        return shape, classes
    kind, _, rest = config.teacher.partition(":")
    if kind == "robustbench":
        model_id, _, file = rest.partition(":")
        forms = [teacher.form for teacher in teachers.CHECKPOINTS[model_id]]
        assert re.fullmatch(rf"models/{model_id}(_\w+)?\.pt", file), path
        assert (forms[0].size, forms[0].size, 3) == shape, path
        soft_labels = config.method != "mixacm" or config.alpha_kld
        assert not soft_labels or any(form.classes in (None, classes) for form in forms), path
    else:
        assert kind == "flagfile" and Path(rest).is_file(), path
        # Its run folder is the one that it has on its own, so that it is trained once.
        assert Path(rest).parent == Path(path).parent or rest.startswith("flags/igam/"), path
        taken, told = follow(rest, teacher_flags(config, rest))
        if config.adapter:
            taken_here = tuple(build_adapter(config.adapter, shape).output_shape[1:])
        else:
            taken_here = shape
        assert taken == taken_here, path
        assert config.method == "finetune" or told == classes, path
    return shape, classes


def test_every_network_can_be_built():
    """With their depths, options and images, but one channel of the width: building the real ones
    takes minutes.
    """
    kinds = set()
    for path in FILES:
        config = read(path)
        if config.method != "finetune":
            kinds.add(
                (config.model, tuple(config.model_options.items()), *shape_and_classes(config))
            )
    assert len(kinds) > 20
    built = set()
    for name, options, shape, classes in kinds:
        narrow, options = re.sub(r"(wrn_\d+)_\d+", r"\1_1", name), dict(options)
        if name in ("igam_student", "resnet_50"):
            options["width" if name == "igam_student" else "base_channels"] = 1
        if (narrow, shape, str(options)) not in built:
            assert build_model(narrow, shape, classes, **options).output_shape == (None, classes)
            built.add((narrow, shape, str(options)))


@pytest.mark.parametrize("path", [path for path, (_, row) in ROWS.items() if row.same_as])
def test_a_repeated_row_is_the_same_model(path):
    assert read(path) == read(f"flags/{ROWS[path][1].same_as}.flags")


def test_the_settings_of_the_papers():
    """A sample, against Appendix A of IGAM and A.1 of MixACM."""
    assert read("flags/igam/table2_pad.flags").epochs == 200
    assert [
        read(f"flags/igam/{name}.flags").epochs
        for name in (
            "finetune_mnist_to_cifar10",
            "finetune_tiny_imagenet_to_cifar10_pad",
            "finetune_cifar10_to_tiny_imagenet_crop",
            "table1_ft_mnist",
        )
    ] == [10, 6, 5, 100]
    ours = read("flags/mixacm/table1_ours.flags")
    assert (ours.alpha_acm, ours.alpha_kld, ours.gamma, ours.mixup_alpha) == (5000, 0.95, 10, 1)
    assert (ours.learning_rate, ours.momentum, ours.nesterov, ours.weight_decay) == (
        0.1,
        0.9,
        True,
        5e-4,
    )
    assert (ours.batch_size, ours.epochs, ours.schedule, ours.augmentation) == (
        128,
        200,
        "cosine",
        ("crop", "flip"),
    )
    # Added to the paper's settings, for MixACM alone.
    assert (ours.warm_up_epochs, read("flags/mixacm/table1_rkd.flags").warm_up_epochs) == (5, 0)
    imagenet = read("flags/mixacm/table2_ours_randaugment.flags")
    assert (
        imagenet.epochs,
        imagenet.batch_size,
        imagenet.learning_rate,
        imagenet.weight_decay,
    ) == (120, 2048, 0.8, 5e-5)
    assert (imagenet.warm_up_epochs, imagenet.warm_up_learning_rate, imagenet.mixup_alpha) == (
        5,
        0.16,
        0.2,
    )
    assert imagenet.augmentation == ("resized_crop", "flip", "randaugment")
    pgd7 = read("flags/mixacm/table3_cifar10_pgd7.flags")
    assert (pgd7.train_attack_steps, pgd7.train_attack_step_size, pgd7.eps) == (7, 2 / 255, 8 / 255)


# Appendix A of IGAM, typed from the paper: lambda_adv, lambda_diff, the discriminator's channels
# ("5 CNN layers (8-16-32-64)" are the four), after how many steps of the classifier it is updated;
# for Tables 4 and 5 and Figure 7 their own weights.
LARGE, SMALL = (16, 32, 64, 128, 256), (8, 16, 32, 64)
APPENDIX_A = {
    "igam/table1_igam_mnist": (1, 100, LARGE, 10),
    "igam/table2_transposed_conv": (1, 10, SMALL, 5),
    "igam/table2_random_pad": (1, 10, SMALL, 5),
    "igam/table2_pad": (2, 20, SMALL, 5),
    "igam/table2_upsize": (5, 10, SMALL, 5),
    "mixacm/table1_igam": (5, 10, SMALL, 5),
    "igam/table3_igam_mnist": (0.1, 200, LARGE, 5),
    "igam/table3_igam_cifar10": (2, 10, LARGE, 10),
    "mixacm/table5_igam": (2, 10, LARGE, 10),
    "igam/table4_diff_0": (2, 0, LARGE, 10),
    "igam/table4_diff_2.5": (2, 2.5, LARGE, 10),
    "igam/table4_diff_5": (2, 5, LARGE, 10),
    "igam/table4_diff_10": (2, 10, LARGE, 10),
    "igam/table5_adv_0": (0, 10, LARGE, 10),
    "igam/table5_adv_0.5": (0.5, 10, LARGE, 10),
    "igam/table5_adv_1": (1, 10, LARGE, 10),
    "igam/table5_adv_2": (2, 10, LARGE, 10),
    "igam/figure7_b": (2, 0, LARGE, 10),
    "igam/figure7_c": (0, 10, LARGE, 10),
    "igam/figure7_d": (2, 10, LARGE, 10),
    "igam/figure5_igam_cifar10_resize": (0.1, 200, SMALL, 5),
    "igam/figure5_igam_cifar10_crop": (2, 50, SMALL, 5),
    "igam/figure5_igam_cifar100_resize": (0.1, 200, SMALL, 5),
    "igam/figure5_igam_cifar100_crop": (0.5, 200, SMALL, 5),
}
OF_APPENDIX_A = ("lambda_adv", "lambda_diff", "discriminator_channels", "discriminator_every")


def test_the_igam_rows_are_all_in_appendix_a():
    assert {path for path in FILES if read(path).method == "igam"} == {
        f"flags/{name}.flags" for name in APPENDIX_A
    }


@pytest.mark.parametrize("name", APPENDIX_A)
def test_an_igam_row_is_appendix_a_in_the_reference_codes_form(name):
    """Its lambda_adv is that code's beta, twice ours: the reference code's total_loss has - beta *
    disc_model.mean_xent, a mean over both models' gradients, and Eq. 10 is the sum of both
    means."""
    config, (beta, *others) = read(f"flags/{name}.flags"), APPENDIX_A[name]
    assert config.lambda_adv == beta / 2
    assert [getattr(config, field) for field in OF_APPENDIX_A[1:]] == others
    assert config.preset == "reference_code"
    for field, value in PRESETS["reference_code"].items():
        if field not in OF_APPENDIX_A:
            assert getattr(config, field) == value, field
    # What the code has beside its preset: batches of 32, plain training for seven eighths, noise of
    # +-8 pixels.
    epochs = 320_000 / (100_000 / 32) if config.dataset == "tiny_imagenet" else config.epochs
    assert config.batch_size == 32 and config.warm_start_epochs == pytest.approx(7 / 8 * epochs)
    assert config.noise == (8 / 255 if "cifar10_to_cifar100" in config.teacher else 0)
    label = f"The paper's lambda_adv {beta:g} is the reference code's beta: {beta / 2:g} here."
    repeated = name.startswith("mixacm") or name.endswith("diff_10")
    assert (label in header(f"flags/{name}.flags")) == (beta > 0 and not repeated)


@pytest.mark.parametrize("path", [path for path in FILES if path.startswith("flags/igam/")])
def test_what_the_igam_rows_have_of_madrylab(path):
    """cifar10_input.py pads 32 to 36; only weights called DW decay, the new logits do not:
    model_original_cifar_challenge.py sums the squares before it makes them. FT rows train on what
    they are evaluated on."""
    config = read(path)
    assert config.augmentation == (() if config.dataset == "mnist" else ("crop:2", "flip"))
    undecayed = config.dataset == "mnist" or config.method == "finetune"
    assert config.weight_decay == (0 if undecayed else 2e-4) and config.weight_decay_of == "kernels"
    if config.method == "finetune":
        assert (config.optimizer, config.learning_rate, config.batch_size) == ("adam", 1e-3, 64)
        assert config.teacher_batch_norm == ("moving" if "_ft_" in path else "batch")


# Of each teacher's design, typed from RobustBench and torchvision: (mean, std) of [0, 1] pixels,
# activation, padding.
GOWAL = ((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616), "swish", "same")
HENDRYCKS = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "relu", "symmetric")  # 2x - 1
SALMAN = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), None, None)
OWN = [
    path
    for path in FILES
    if path.startswith("flags/mixacm/") and not re.search(r"igam|table5_(natural|pgd7)", path)
]


@pytest.mark.parametrize("path", OWN)
def test_a_mixacm_row_has_its_teachers_design_and_pytorchs_decay(path):
    """Baselines have the network of the rows beside them."""
    config = read(path)
    assert config.weight_decay_of == "all" and config.nesterov == (config.dataset != "imagenet2012")
    options = dict(config.model_options)
    mean, std, activation, padding = {
        "cifar10": GOWAL,
        "cifar100": HENDRYCKS,
        "imagenet2012": SALMAN,
    }[config.dataset]
    if path == "flags/mixacm/table1_at.flags":
        # MadryLab's, quoted; the row's network with ReLU.
        assert options == {}
        return
    if config.teacher:
        form = teachers.CHECKPOINTS[config.teacher.split(":")[1]][0].form
        assert (form.mean, form.std) == (mean, std)
    assert (options.pop("activation", "relu"), options.pop("padding", "symmetric")) == (
        (activation, padding) if activation else ("relu", "symmetric"))  # fmt: skip
    layer = preprocessing_layer(
        options.pop("preprocessing"), options.pop("mean", None), options.pop("std", None)
    )
    assert not options
    images = np.random.default_rng(0).uniform(size=(2, 4, 4, 3)).astype(np.float32)
    expected = (images - np.array(mean)) / np.array(std)
    np.testing.assert_allclose(layer(images), expected, rtol=1e-5, atol=1e-5)
    assert config.augmentation[:2] == (
        ("resized_crop" if config.dataset == "imagenet2012" else "crop"),
        "flip",
    )


def test_pgd_of_mixacm_has_steps_of_2_255_but_where_the_row_is_anothers():
    """Section 6: "the standard value of step size (2/255)"."""
    quoted = {
        "flags/mixacm/table2_fast_at_eps2.flags": 0.5 / 255,
        "flags/mixacm/table2_fast_at_eps4.flags": 1 / 255,
    }
    for path in OWN:
        assert read(path).attack_step_size == pytest.approx(quoted.get(path, 2 / 255)), path
    for name in ("table2_ours", "table2_ours_randaugment"):
        command = re.search(
            r"evaluate (.+?results_eps2.json)", header(f"flags/mixacm/{name}.flags")
        )[1]
        config = parse(EvaluateConfig, command.split())
        assert (config.threat_model.eps, config.attack_step_size) == (2 / 255, 2 / 255)
        assert config.attacks == ("pgd10", "pgd50", "pgd100") and "whole radius" in header(
            f"flags/mixacm/{name}.flags"
        )


@pytest.mark.parametrize(
    "path", ["flags/igam/table1_ft_mnist.flags", "flags/igam/teacher_mnist.flags"]
)
def test_a_small_file_trains_two_steps(path, tmp_path):
    folder = run_training(read(path, "--smoke", f"--run_dir={tmp_path}/run"))
    assert folder.model.exists() and folder.results.exists()
    assert not [other for other in tmp_path.iterdir() if other.name != "run"], (
        "teachers are built, not trained"
    )
    assert list(json.loads(folder.results.read_text())["accuracy"]) == ["clean", "fgsm"]


def test_a_smoke_run_builds_a_teacher_whose_file_is_absent(tmp_path, monkeypatch):
    rows = [
        teachers.Teacher(
            "Small", dataset, "linf", "8/255", network, "deepmind", "cifar10", 80.0, 50.0
        )
        for network, dataset in (("wrn_10_1", "cifar10"), ("wrn_16_1", "cifar100"))
    ]
    monkeypatch.setitem(teachers.CHECKPOINTS, "Small", tuple(rows))
    file = f"{tmp_path}/absent.pt"
    arguments = ["--model=wrn_10_1", f"--teacher=robustbench:Small:{file}", "--dataset=cifar100",
                 f"--run_dir={tmp_path}/run"]  # fmt: skip
    path = "flags/mixacm/table5_ours.flags"
    assert run_training(read(path, *arguments, "--smoke")).finished
    assert robustbench.build_robustbench("Small", (32, 32, 3), 100).output_shape == (None, 100)
    with pytest.raises(Exception, match="absent.pt"):
        run_training(read(path, *arguments, f"--run_dir={tmp_path}/real"))
