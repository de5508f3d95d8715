"""checkpoints/teachers.py: every row of the table against a plain PyTorch network with its file's
names.

Which network, mean, std and classes a row has is read here once more from RobustBench's model
definitions, by network, not by id."""

import collections
import dataclasses
import gc
import re

import keras
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="RobustBench's files need the extra [torch]")

import tf_robust_transfer as rt  # noqa: E402
from scripts import update_teachers  # noqa: E402
from tests import torch_networks as networks  # noqa: E402 - needs torch
from tests.torch_networks import assert_equal_logits, images_of, saved  # noqa: E402
from tf_robust_transfer import command_line, convert, train  # noqa: E402
from tf_robust_transfer.checkpoints import robustbench, teachers  # noqa: E402
from tf_robust_transfer.config import TrainConfig  # noqa: E402
from tf_robust_transfer.errors import InputError  # noqa: E402
from tf_robust_transfer.runs import trainer  # noqa: E402

NONE = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
HALF = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
CIFAR10 = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)
ROBUSTNESS_CIFAR10 = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
AUGUSTIN = (0.49139976, 0.48215856, 0.44653093), (0.24703225, 0.24348516, 0.26158784)
RONY = (0.491, 0.482, 0.447), (0.247, 0.243, 0.262)
CIFAR100 = (0.50707516, 0.48654887, 0.44091784), (0.26733429, 0.25643846, 0.27615047)
CIFAR100_SHORT = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)
CIFAR100_CHEN = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)

# Network (and its depth and width), (mean, std), data set and norm, ids.
READ = [
    ("gowal 106 16", CIFAR10, "cifar10_linf", "Rebuffi2021Fixing_106_16_cutmix_ddpm"),
    (
        "gowal 28 10",
        CIFAR10,
        "cifar10_l2",
        "Rebuffi2021Fixing_28_10_cutmix_ddpm Wang2023Better_WRN-28-10",
    ),
    (
        "gowal 28 10",
        CIFAR10,
        "cifar10_linf",
        "Gowal2020Uncovering_28_10_extra Rebuffi2021Fixing_28_10_cutmix_ddpm "
        "Rade2021Helper_ddpm Gowal2021Improving_28_10_ddpm_100m "
        "Pang2022Robustness_WRN28_10 Wang2023Better_WRN-28-10 Xu2023Exploring_WRN-28-10 "
        "Cui2023Decoupled_WRN-28-10",
    ),
    (
        "gowal 28 10",
        CIFAR100_SHORT,
        "cifar100_linf",
        "Rebuffi2021Fixing_28_10_cutmix_ddpm Pang2022Robustness_WRN28_10 "
        "Wang2023Better_WRN-28-10 Cui2023Decoupled_WRN-28-10",
    ),
    ("gowal 34 10", CIFAR10, "cifar10_linf", "Rade2021Helper_extra"),
    ("gowal 34 20", CIFAR10, "cifar10_linf", "Gowal2020Uncovering_34_20"),
    (
        "gowal 70 16",
        CIFAR10,
        "cifar10_l2",
        "Gowal2020Uncovering Gowal2020Uncovering_extra "
        "Rebuffi2021Fixing_70_16_cutmix_ddpm Rebuffi2021Fixing_70_16_cutmix_extra "
        "Wang2023Better_WRN-70-16",
    ),
    (
        "gowal 70 16",
        CIFAR10,
        "cifar10_linf",
        "Gowal2020Uncovering_70_16 Gowal2020Uncovering_70_16_extra "
        "Rebuffi2021Fixing_70_16_cutmix_ddpm Rebuffi2021Fixing_70_16_cutmix_extra "
        "Gowal2021Improving_70_16_ddpm_100m Pang2022Robustness_WRN70_16 "
        "Wang2023Better_WRN-70-16",
    ),
    (
        "gowal 70 16",
        CIFAR100_SHORT,
        "cifar100_linf",
        "Gowal2020Uncovering Gowal2020Uncovering_extra "
        "Rebuffi2021Fixing_70_16_cutmix_ddpm Pang2022Robustness_WRN70_16 "
        "Wang2023Better_WRN-70-16",
    ),
    ("gowal 82 8", CIFAR10, "cifar10_linf", "Bartoldson2024Adversarial_WRN-82-8"),
    ("gowal 94 16", CIFAR10, "cifar10_linf", "Bartoldson2024Adversarial_WRN-94-16"),
    ("hypersphere 34 20", CIFAR10, "cifar10_linf", "Pang2020Boosting"),
    ("mma 28 4", NONE, "cifar10_l2", "Ding2020MMA"),
    ("mma 28 4", NONE, "cifar10_linf", "Ding2020MMA"),
    (
        "DeepMindPreActResNet18",
        CIFAR10,
        "cifar10_l2",
        "Rebuffi2021Fixing_R18_cutmix_ddpm Rade2021Helper_R18_ddpm",
    ),
    (
        "DeepMindPreActResNet18",
        CIFAR10,
        "cifar10_linf",
        "Rebuffi2021Fixing_R18_ddpm Rade2021Helper_R18_extra Rade2021Helper_R18_ddpm "
        "Gowal2021Improving_R18_ddpm_100m",
    ),
    (
        "DeepMindPreActResNet18",
        CIFAR100_SHORT,
        "cifar100_linf",
        "Rebuffi2021Fixing_R18_ddpm Rade2021Helper_R18_ddpm",
    ),
    ("PreActResNet18", CIFAR10, "cifar10_l2", "Rice2020Overfitting"),
    ("PreActResNet18", CIFAR100, "cifar100_linf", "Rice2020Overfitting"),
    ("PreActResNet18", NONE, "cifar100_linf", "Addepalli2021Towards_PARN18"),
    ("cifar_resnet_18", NONE, "cifar100_linf", "Addepalli2022Efficient_RN18"),
    ("cifar_resnet_18", NONE, "cifar10_l2", "Sehwag2021Proxy_R18"),
    (
        "cifar_resnet_18",
        NONE,
        "cifar10_linf",
        "Sehwag2021Proxy_R18 Addepalli2021Towards_RN18 Addepalli2022Efficient_RN18",
    ),
    ("cifar_resnet_50", AUGUSTIN, "cifar10_l2", "Augustin2020Adversarial"),
    ("cifar_resnet_50", ROBUSTNESS_CIFAR10, "cifar10_l2", "Engstrom2019Robustness"),
    ("cifar_resnet_50", ROBUSTNESS_CIFAR10, "cifar10_linf", "Engstrom2019Robustness"),
    ("wide 28 10", HALF, "cifar100_linf", "Hendrycks2019Using"),
    ("wide 28 10", HALF, "cifar10_linf", "Hendrycks2019Using"),
    ("wide 28 10", NONE, "cifar10_l2", "Standard"),
    ("wide 28 10", NONE, "cifar10_linf", "Standard"),
    ("wide 28 10", RONY, "cifar10_l2", "Rony2019Decoupling"),
    (
        "trades 28 10",
        NONE,
        "cifar10_linf",
        "Carmon2019Unlabeled Sehwag2020Hydra Wang2020Improving Wu2020Adversarial_extra "
        "Zhang2020Geometry Sridhar2021Robust",
    ),
    (
        "wide 34 10",
        AUGUSTIN,
        "cifar10_l2",
        "Augustin2020Adversarial_34_10 Augustin2020Adversarial_34_10_extra",
    ),
    ("wide 34 10", CIFAR100, "cifar100_linf", "Wu2020Adversarial"),
    (
        "wide 34 10",
        NONE,
        "cifar100_linf",
        "Sehwag2021Proxy Addepalli2022Efficient_WRN_34_10 "
        "Cui2020Learnable_34_10_LBGAT9_eps_8_255 Cui2023Decoupled_WRN-34-10 "
        "Cui2023Decoupled_WRN-34-10_autoaug Chen2024Data_WRN_34_10",
    ),
    ("wide 34 10", NONE, "cifar10_l2", "Wu2020Adversarial Sehwag2021Proxy"),
    (
        "wide 34 10",
        NONE,
        "cifar10_linf",
        "Wu2020Adversarial Sehwag2021Proxy Chen2021LTD_WRN34_10 Jia2022LAS-AT_34_10 "
        "Addepalli2022Efficient_WRN_34_10 Cui2023Decoupled_WRN-34-10 "
        "Chen2024Data_WRN_34_10",
    ),
    ("trades 34 10", CIFAR10, "cifar10_linf", "Chen2020Efficient"),
    ("trades 34 10", CIFAR100_CHEN, "cifar100_linf", "Chen2020Efficient"),
    (
        "trades 34 10",
        NONE,
        "cifar100_linf",
        "Cui2020Learnable_34_10_LBGAT0 Cui2020Learnable_34_10_LBGAT6 "
        "Sitawarin2020Improving Addepalli2021Towards_WRN34 Chen2021LTD_WRN34_10 "
        "Jia2022LAS-AT_34_10",
    ),
    (
        "trades 34 10",
        NONE,
        "cifar10_linf",
        "Zhang2019Theoretically Huang2020Self Zhang2019You Zhang2020Attacks "
        "Sitawarin2020Improving Cui2020Learnable_34_10 Addepalli2021Towards_WRN34",
    ),
    ("trades 34 15", NONE, "cifar10_linf", "Sridhar2021Robust_34_15"),
    ("wide 34 20", CIFAR10, "cifar10_linf", "Rice2020Overfitting"),
    ("wide 34 20", NONE, "cifar100_linf", "Jia2022LAS-AT_34_20"),
    ("wide 34 20", NONE, "cifar10_linf", "Chen2021LTD_WRN34_20 Chen2024Data_WRN_34_20"),
    ("trades 34 20", NONE, "cifar100_linf", "Cui2020Learnable_34_20_LBGAT6"),
    ("trades 34 20", NONE, "cifar10_linf", "Cui2020Learnable_34_20"),
    ("wide 70 16", NONE, "cifar10_linf", "Jia2022LAS-AT_70_16"),
    ("wong", CIFAR10, "cifar10_linf", "Wong2020Fast"),
    ("wong", NONE, "cifar10_linf", "Andriushchenko2020Understanding"),
    ("wrn_34_r", NONE, "cifar10_linf", "Huang2021Exploring Huang2021Exploring_ema"),
    ("wrn_a4", CIFAR10, "cifar10_linf", "Huang2022Revisiting_WRN-A4"),
]
CLASSES = {"cifar10": 10, "cifar100": 100}


def wong(channels, *rest):
    return networks.PreActResNet18(
        channels, *rest, final_batch_norm=False, activated_shortcut=False
    )


def by_group(counts, a4):
    return lambda widths, *rest: networks.WideResNetByGroup(counts, widths, *rest, a4=a4)


def trades(depth, width, *rest):
    return networks.WideResNet(depth, width, *rest, sub_block=True)


WIDE = {
    "gowal": networks.GowalWideResNet,
    "hypersphere": networks.HypersphereWideResNet,
    "mma": networks.MMAWideResNet,
    "trades": trades,
    "wide": networks.WideResNet,
}
RESNETS = {
    "DeepMindPreActResNet18": networks.DeepMindPreActResNet18,
    "PreActResNet18": networks.PreActResNet18,
    "cifar_resnet_18": networks.cifar_resnet_18,
    "cifar_resnet_50": networks.cifar_resnet_50,
    "wong": wong,
}
# Blocks, a4, widths, cut widths.
BY_GROUP = {
    "wrn_34_r": ((5, 5, 5), False, (20, 20, 8), (3, 3, 1)),
    "wrn_a4": ((27, 28, 13), True, (10, 14, 6), (2, 3, 1)),
}


def twin_of(text, classes, statistics, *, cut=False, shallow=False):
    """The PyTorch network; cut: with few channels; shallow: of a Wide-ResNet, with one block a
    group.
    """
    name, *size = text.split()
    if name in WIDE:
        depth, width = map(int, size)
        return WIDE[name](10 if shallow else depth, 1 if cut else width, classes, *statistics)
    if name in RESNETS:
        return RESNETS[name](8 if cut else 64, classes, *statistics)
    counts, a4, widths, few = BY_GROUP[name]
    return by_group((1, 1, 1) if shallow else counts, a4)(
        few if cut else widths, classes, *statistics
    )


def form_of(row, text, *, shallow=False):
    """The row's form for `twin_of(text, ..., cut=True)`."""
    name, *size = text.split()
    if name in WIDE:
        network = f"wrn_{10 if shallow else size[0]}_1"
        return dataclasses.replace(row.form, network=network)
    if name in RESNETS:
        options = {"base_channels": 8}
    else:
        options = {"widths": BY_GROUP[name][3]} | ({"blocks": (1, 1, 1)} if shallow else {})
    return dataclasses.replace(row.form, options=row.form.options | options)


def rows_of(where, ids):
    return [rt_row(f"{model_id}@{where}") for model_id in ids.split()]


def rt_row(model_id):
    (row,) = teachers.find_teachers(model_id)
    return row


def test_every_entry_is_a_row_or_left_out_with_a_reason():
    read = {(*where.split("_"), name) for *_, where, ids in READ for name in ids.split()}
    cifar = [row for row in teachers.TEACHERS if row.dataset != "imagenet"]
    assert {(row.dataset, row.norm, row.id) for row in cifar} == read
    assert len(cifar) == len(read) == 115
    assert not read & set(teachers.LEFT_OUT)
    assert len(teachers.LEFT_OUT) == 135 - 115 and all(teachers.LEFT_OUT.values())


def cases():
    """(network, (mean, std), classes, its rows, shallow): each at full depth where its network is
    the first of its cut size.
    """
    rows = collections.defaultdict(list)
    for text, statistics, where, ids in READ:
        rows[text, statistics, CLASSES[where.split("_")[0]]] += rows_of(where, ids)
    seen = set()
    for (text, statistics, classes), found in rows.items():
        cut = tuple(text.split()[:2])  # without the width
        depth = re.search(r"\b(\d+)\b", text)
        deep = cut not in seen and depth and int(depth[1]) > 40
        yield pytest.param(
            text,
            statistics,
            classes,
            found,
            cut in seen,
            id=f"{text}-{classes}-{found[0].id}",
            marks=[pytest.mark.slow] if deep else [],
        )
        seen.add(cut)


def load_and_compare(form, twin, tmp_path, size=32):
    model = robustbench.load_form([form], saved(tmp_path / "x.pt", twin.state_dict()), "the row")
    assert_equal_logits(model, twin, images_of(size))


@pytest.mark.parametrize(("text", "statistics", "classes", "rows", "shallow"), cases())
def test_every_row_gives_pytorchs_logits(text, statistics, classes, rows, shallow, tmp_path):
    # One file stands for all of them.
    assert all(row.form == rows[0].form for row in rows)
    assert rows[0].form.classes in (None, classes)
    twin = networks.randomise(twin_of(text, classes, statistics, cut=True, shallow=shallow))
    load_and_compare(form_of(rows[0], text, shallow=shallow), twin, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("text", list(dict.fromkeys(text for text, *_ in READ)))
def test_full_widths(text, tmp_path, monkeypatch):
    """Rows of one network differ in normalisation and classes alone, which the cut networks have
    had above: the first stands for all of them.
    """
    read = [entry for entry in READ if entry[0] == text]
    rows = [row for *_, where, ids in read for row in rows_of(where, ids)]
    bare = [dataclasses.replace(row.form, mean=None, std=None, classes=None) for row in rows]
    assert all(form == bare[0] for form in bare)
    _, statistics, where, ids = read[0]
    # What would be drawn first, minutes in all, `randomise` and the file write over.
    for name in ("kaiming_uniform_", "uniform_"):
        monkeypatch.setattr(torch.nn.init, name, lambda tensor, *_, **__: tensor)
    zeros = lambda self, shape, dtype=None: keras.ops.zeros(shape, dtype)
    monkeypatch.setattr(keras.initializers.VarianceScaling, "__call__", zeros)
    twin = networks.randomise(twin_of(text, CLASSES[where.split("_")[0]], statistics))
    path = tmp_path / "x.pt"
    model_id = f"{ids.split()[0]}@{where}"
    model = robustbench.load_robustbench(model_id, saved(path, twin.state_dict()))
    path.unlink()  # up to 1.6 GB, and pytest keeps its folders
    assert_equal_logits(model, twin, images_of(32, batch=2))
    del model, twin
    gc.collect()  # up to 5 GB, in cycles


@pytest.mark.slow
@pytest.mark.parametrize("method", ["igam", "mixacm"])
@pytest.mark.parametrize(
    ("model_id", "text", "statistics"),
    [
        ("Ding2020MMA@cifar10_linf", "mma 28 4", NONE),
        ("Rebuffi2021Fixing_R18_ddpm@cifar10_linf", "DeepMindPreActResNet18", CIFAR10),
    ],
)
def test_a_student_is_trained_by_flag_file(
    model_id, text, statistics, method, tmp_path, monkeypatch, at_the_root, no_network
):
    """Two steps (--smoke) on images of 32x32, IGAM with its game. The teacher of the run is the
    file's network, in its input gradients too.
    """
    twin = networks.randomise(twin_of(text, 10, statistics))
    path = saved(tmp_path / "teacher.pt", twin.state_dict())
    flags = [
        f"--flagfile=flags/cifar10/{method}.flags",
        f"--teacher=robustbench:{model_id}:{path}",
        "--model=wrn_10_1",
        "--model_options=",
        "--mixed_precision=none",
        f"--data_dir={tmp_path}",
        "--smoke",
        f"--run_dir={tmp_path}/run",
        *(["--lambda_adv=0.1"] if method == "igam" else []),
    ]
    (tmp_path / "student.flags").write_text("\n".join(flags) + "\n")
    seen = []

    def kept(*arguments, make=trainer.compiled_method, **keywords):
        made = make(*arguments, **keywords)
        seen.append((made, made.student.get_weights()))
        return made

    monkeypatch.setattr(trainer, "compiled_method", kept)
    train.run(command_line.parse(TrainConfig, [f"--flagfile={tmp_path}/student.flags"]))
    ((made, before),) = seen
    assert made.steps_done == 2 and made.student.input_shape == (None, 32, 32, 3)
    after = made.student.get_weights()
    assert all(np.isfinite(value).all() for value in after)
    assert any((old != new).any() for old, new in zip(before, after, strict=True))
    terms = {"igam": ("difference", "adversarial"), "mixacm": ("acm", "kld")}
    logs = {name: float(value) for name, value in made.get_metrics_result().items()}
    for term in terms[method]:
        assert np.isfinite(logs[term]) and logs[term] != 0, logs
    assert (tmp_path / "run/model.keras").exists() and (tmp_path / "run/results.json").exists()
    images = images_of(32, batch=2)
    assert_equal_logits(made.teacher, twin, images)
    networks.assert_equal_input_gradients(made.teacher, twin, images, np.array([3, 7]))


@pytest.fixture(scope="module")
def full_size_files():
    """Entry of READ -> the tensors of its file at full width, without memory."""
    with torch.device("meta"):
        return [
            {
                name: np.broadcast_to(np.float32(0), tuple(tensor.shape))
                for name, tensor in twin_of(text, CLASSES[where.split("_")[0]], statistics)
                .state_dict()
                .items()
            }
            for text, statistics, where, _ in READ
        ]


def test_every_row_is_told_from_those_of_another_network(full_size_files):
    for (text, _, where, ids), tensors in zip(READ, full_size_files, strict=True):
        for other_text, _, other_where, other_ids in READ:
            row = rows_of(other_where, other_ids)[0]
            alike = other_text == text and row.form.classes in (None, CLASSES[where.split("_")[0]])
            assert (robustbench.differences(row.form, tensors) == []) == alike, (ids, row.id)


class TestIds:
    def test_the_file_or_the_id_tells_which(self):
        assert [row.network for row in teachers.find_teachers("Rice2020Overfitting")] == [
            "wrn_34_20",
            "preact_resnet_18",
            "preact_resnet_18",
        ]
        for which, expected in (
            ("cifar10", 2),
            ("cifar100", 1),
            ("l2", 1),
            ("cifar10_l2", 1),
            ("linf", 2),
        ):
            assert len(teachers.find_teachers(f"Rice2020Overfitting@{which}")) == expected

    @pytest.mark.parametrize("which", ["imagenet", "cifar100_l2", "", "cifar"])
    def test_what_there_is_not_is_refused_with_what_there_is(self, which):
        with pytest.raises(InputError) as caught:
            teachers.find_teachers(f"Rice2020Overfitting@{which}")
        assert str(caught.value) == (
            f"there is no 'Rice2020Overfitting@{which}'; there is "
            "Rice2020Overfitting@cifar10_linf, Rice2020Overfitting@cifar10_l2, "
            "Rice2020Overfitting@cifar100_linf"
        )

    def test_classes_named_by_the_id_are_asked_of_the_file(self, tmp_path):
        twin = networks.WideResNet(10, 1, 100, *HALF)
        path = saved(tmp_path / "x.pt", twin.state_dict())
        with pytest.raises(InputError, match=r"Using@cifar10 \(wrn_28_10, 10 classes\)"):
            rt.load_model(f"robustbench:Hendrycks2019Using@cifar10:{path}")


class TestNearest:
    def test_a_file_of_another_row_names_it(self, tmp_path):
        twin = twin_of("DeepMindPreActResNet18", 100, CIFAR100_SHORT)
        path = saved(tmp_path / "x.pt", twin.state_dict())
        with pytest.raises(InputError, match=r"; nearest: R\w+_R18_ddpm@cifar100$") as caught:
            robustbench.load_robustbench("Sehwag2021Proxy_R18", path)
        assert "missing: conv1.weight" in str(caught.value)
        assert "extra: conv_2d.weight" in str(caught.value)

    def test_a_damaged_file_of_the_row_names_no_other(self, tmp_path):
        state = twin_of("DeepMindPreActResNet18", 10, CIFAR10).state_dict()
        del state["layer_1.0.conv_2d_1.weight"], state["batchnorm.bias"]
        path = saved(tmp_path / "x.pt", state)
        with pytest.raises(InputError, match=r"batchnorm\.bias$"):
            robustbench.load_robustbench("Rade2021Helper_R18_extra", path)


def test_the_page_is_the_tables():
    page = update_teachers.PAGE.read_text(encoding="utf-8")
    assert page == update_teachers.page(), "run python scripts/update_teachers.py"
    for row in teachers.TEACHERS:
        figures = rf"{row.eps} | {row.clean:.2f} | {row.autoattack:.2f}"
        assert page.count(f"| [{row.id}]({row.paper[1]}) |") >= 1 and figures in page
    for *_, name in teachers.LEFT_OUT:
        assert f"- {name} (" in page
    # What nothing in the file tells apart is named.
    alike = page.split("## Files that look alike")[1].split("##")[0]
    for text, _, where, _ids in READ:
        others = [
            name
            for other, _, there, names in READ
            for name in names.split()
            if other == text and there.split("_")[0] == where.split("_")[0]
        ]
        assert len(others) == 1 or all(name in alike for name in others)


def test_every_networks_cost_is_there():
    for row in teachers.TEACHERS:
        assert row.cost.parameters > 1 and row.cost.gibibytes > 0.5 and row.cost.seconds >= 1


def test_the_command_lists_them(capsys):
    convert.run(command_line.parse(convert.ConvertConfig, ["--list", "--dataset=cifar100"]))
    heading, *lines = capsys.readouterr().out.splitlines()
    assert heading.split()[:3] == ["id", "network", "kind"] and len(lines) == 31
    assert lines[0].startswith("Wang2023Better_WRN-70-16@cifar100_linf")
    assert "75.22  42.67       42.66" in lines[0]
    with pytest.raises(InputError, match="dataset must be one of cifar10, cifar100, imagenet"):
        convert.run(command_line.parse(convert.ConvertConfig, ["--list", "--dataset=mnist"]))


class TestListTeachers:
    def test_all_of_them_the_most_robust_first(self):
        found = rt.list_teachers()
        assert set(found) == set(teachers.TEACHERS) and len(found) == 120
        accuracies = [row.autoattack for row in found]
        assert accuracies == sorted(accuracies, reverse=True)
        assert all(0 <= row.autoattack <= row.clean <= 100 for row in found)
        assert all(row.external is None or row.external < row.autoattack for row in found)

    def test_filters(self):
        def ids(*arguments, **options):
            return [row.id for row in rt.list_teachers(*arguments, **options)]

        assert ids("wang2023*", dataset="cifar100") == [
            "Wang2023Better_WRN-70-16",
            "Wang2023Better_WRN-28-10",
        ]
        assert ids(dataset="cifar10", norm="l2", min_autoattack=83) == [
            "Wang2023Better_WRN-70-16",
            "Wang2023Better_WRN-28-10",
        ]
        assert ids("nothing*") == []

    @pytest.mark.parametrize("options", [{"dataset": "mnist"}, {"norm": "l1"}])
    def test_unknown_filters(self, options):
        with pytest.raises(InputError, match="must be one of"):
            rt.list_teachers(**options)

    def test_figures_papers_and_licences(self):
        row = rt_row("Gowal2020Uncovering_28_10_extra")
        assert (row.clean, row.autoattack, row.external, row.eps) == (89.48, 62.80, 62.76, "8/255")
        assert row.paper == (
            "Uncovering the Limits of Adversarial Training against Norm-Bounded Adversarial "
            "Examples",
            "https://arxiv.org/abs/2010.03593",
        )
        assert row.license == "Apache-2.0"
        assert rt_row("Zhang2019Theoretically").eps == "0.031"
        assert rt_row("Ding2020MMA@l2").license == "CC-BY-NC-SA-4.0"
        assert rt_row("Hendrycks2019Using@cifar10").license == "Apache-2.0"
        assert rt_row("Hendrycks2019Using@cifar100").license == "MIT"
        assert all(
            title and address.startswith("https://")
            for title, address in (row.paper for row in teachers.TEACHERS)
        )
