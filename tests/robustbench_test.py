"""checkpoints/robustbench.py: files as RobustBench and the authors have them, against plain PyTorch
networks.

The PyTorch networks have random weights; mean, std, classes and file layout of each case are
written here once more."""

import dataclasses
import os
import pickle
import re
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="RobustBench's files need the extra [torch]")

from safetensors import torch as safetensors  # noqa: E402

import tf_robust_transfer as rt  # noqa: E402
from tests import torch_networks as networks  # noqa: E402 - needs torch
from tests.torch_networks import assert_equal_logits, images_of, saved  # noqa: E402
from tf_robust_transfer.checkpoints.robustbench import load_form, load_robustbench  # noqa: E402
from tf_robust_transfer.checkpoints.teachers import CHECKPOINTS  # noqa: E402
from tf_robust_transfer.checkpoints.torch_files import read_state_dict  # noqa: E402
from tf_robust_transfer.errors import InputError  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent

CIFAR10 = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)
ROBUSTNESS_CIFAR10 = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
CIFAR100 = (0.50707516, 0.48654887, 0.44091784), (0.26733429, 0.25643846, 0.27615047)
HALF = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def column(values, dimensions=4):
    return torch.tensor(values).view((1, -1, 1, 1) if dimensions == 4 else (-1, 1, 1))


def plain(state, statistics):
    return state


def data_parallel(state, statistics):
    return {f"module.{name}": tensor for name, tensor in state.items()}


def with_buffers(state, statistics):
    mean, std = statistics
    return {**state, "mu": column(mean), "sigma": column(std)}


def with_figures(state, statistics):
    """robust_overfitting's train_cifar.py."""
    return {
        "state_dict": data_parallel(state, statistics),
        "test_robust_acc": 0.53,
        "test_loss": 1.3,
        "epoch": 40,
    }


def imagenet_model(state, statistics):
    """RobustBench's Sequential of "normalize" and "model"."""
    mean, std = statistics
    normalize = {"normalize.mean": column(mean), "normalize.std": column(std)}
    return {
        "state_dict": {**normalize, **{f"model.{name}": tensor for name, tensor in state.items()}}
    }


def robustness_library(state, statistics):
    """MadryLab's robustness library: an AttackerModel in a DataParallel, and the optimizer."""
    mean, std = statistics
    content = {}
    for prefix, normalizer in (("", "normalizer"), ("attacker.", "normalize")):
        content[f"module.{prefix}{normalizer}.new_mean"] = column(mean, 3)
        content[f"module.{prefix}{normalizer}.new_std"] = column(std, 3)
        content |= {f"module.{prefix}model.{name}": tensor for name, tensor in state.items()}
    optimizer = {
        "state": {0: {"momentum_buffer": torch.zeros(2)}},
        "param_groups": [{"lr": 0.1, "params": [0]}],
    }
    return {"model": content, "optimizer": optimizer, "schedule": None, "epoch": 150, "amp": "N/A"}


def prefixed(prefix):
    return lambda state, statistics: {prefix + name: value for name, value in state.items()}


def under(key):
    """As copied from a training script: beside the accuracy and the epoch."""
    return lambda state, statistics: {key: state, "acc": 93.1, "epoch": 199}


def sequential(mean="mean", std="std", outer="", inner=""):
    """nn.Sequential(normaliser, network), in wrappers."""

    def layout(state, statistics):
        buffers = {f"{outer}0.{mean}": column(statistics[0], 3)}
        buffers[f"{outer}0.{std}"] = column(statistics[1], 3)
        return buffers | {f"{outer}1.{inner}{name}": value for name, value in state.items()}

    return layout


LAYOUTS = {
    **{key: under(key) for key in ("state_dict", "model_state_dict", "model", "net", "network")},
    **{key: under(key) for key in ("ema", "ema_state_dict", "model_ema", "state_dict_ema")},
    "last beside best": lambda state, _: {"last": state, "best": {"conv1.weight": torch.ones(1)}},
    "an average that was switched off": lambda state, _: {"net": state, "ema": {}},
    "AveragedModel": lambda state, statistics: {
        "n_averaged": torch.tensor(3),
        **prefixed("module.")(state, statistics),
    },
    "AveragedModel of a sequential": lambda state, statistics: {
        "n_averaged": torch.tensor(3),
        **sequential(outer="module.")(state, statistics),
    },
    **{
        prefix: prefixed(prefix)
        for prefix in ("module.", "model.", "_orig_mod.", "module._orig_mod.", "module.model.")
    },
    "sequential": sequential(),
    "sequential mu": sequential("mu", "sigma"),
    "sequential in wrappers": sequential(outer="_orig_mod.module.", inner="module."),
    "normaliser without buffers": prefixed("1."),
    "copies of Andriushchenko et al.": lambda state, _: {
        **state,
        "model_preact_hl1.1.weight": state["conv1.weight"],
        "model_preact_hl1.2.weight": state["layer1.0.bn1.weight"],
        "model_preact_hl1.2.num_batches_tracked": torch.tensor(7),
    },
}


def gowal(depth, width):
    return lambda small, *rest: networks.GowalWideResNet(
        *((16, 2) if small else (depth, width)), *rest
    )


def wide(depth, width):
    return lambda small, *rest: networks.WideResNet(*((16, 2) if small else (depth, width)), *rest)


def resnet(build):
    return lambda small, *rest: build(8 if small else 64, *rest)


def wong(small, *rest):
    return networks.PreActResNet18(
        8 if small else 64, *rest, final_batch_norm=False, activated_shortcut=False
    )


# id, its PyTorch network (small, classes, mean, std) -> module, classes, (mean, std), height,
# layout of the file.
CASES = {
    "gowal_28_10": ("Gowal2020Uncovering_28_10_extra", gowal(28, 10), 10, CIFAR10, 32, plain),
    "gowal_34_20": ("Gowal2020Uncovering_34_20", gowal(34, 20), 10, CIFAR10, 32, plain),
    "hendrycks_10": ("Hendrycks2019Using", wide(28, 10), 10, HALF, 32, data_parallel),
    "hendrycks_100": ("Hendrycks2019Using", wide(28, 10), 100, HALF, 32, data_parallel),
    "salman_50": (
        "Salman2020Do_R50",
        resnet(networks.resnet_50),
        1000,
        IMAGENET,
        224,
        imagenet_model,
    ),
    "salman_50_authors": (
        "Salman2020Do_R50",
        resnet(networks.resnet_50),
        1000,
        IMAGENET,
        224,
        robustness_library,
    ),
    "salman_50_2": (
        "Salman2020Do_50_2",
        resnet(networks.wide_resnet_50_2),
        1000,
        IMAGENET,
        224,
        imagenet_model,
    ),
    "salman_18": ("Salman2020Do_R18", resnet(networks.resnet_18), 1000, IMAGENET, 224, plain),
    "engstrom": (
        "Engstrom2019Robustness",
        resnet(networks.cifar_resnet_50),
        10,
        ROBUSTNESS_CIFAR10,
        32,
        plain,
    ),
    "engstrom_authors": (
        "Engstrom2019Robustness",
        resnet(networks.cifar_resnet_50),
        10,
        ROBUSTNESS_CIFAR10,
        32,
        robustness_library,
    ),
    "engstrom_imagenet": (
        "Engstrom2019Robustness",
        resnet(networks.resnet_50),
        1000,
        IMAGENET,
        224,
        plain,
    ),
    "wong": ("Wong2020Fast", wong, 10, CIFAR10, 32, plain),
    "wong_imagenet": (
        "Wong2020Fast",
        resnet(networks.resnet_50),
        1000,
        IMAGENET,
        288,
        data_parallel,
    ),
    "rice_linf": ("Rice2020Overfitting", wide(34, 20), 10, CIFAR10, 32, with_figures),
    "rice_l2": (
        "Rice2020Overfitting",
        resnet(networks.PreActResNet18),
        10,
        CIFAR10,
        32,
        with_buffers,
    ),
    "rice_100": (
        "Rice2020Overfitting",
        resnet(networks.PreActResNet18),
        100,
        CIFAR100,
        32,
        with_figures,
    ),
}


def small(form):
    """The form with a few channels, and ImageNet's images cut down."""
    if form.network.startswith("wrn"):
        return dataclasses.replace(form, network="wrn_16_2")
    options = {**form.options, "base_channels": 8}
    return dataclasses.replace(form, options=options, size=32 if form.size == 32 else 64)


def small_forms(model_id):
    return tuple(small(teacher.form) for teacher in CHECKPOINTS[model_id])


def twin_of(case, is_small=True):
    model_id, build, classes, statistics, _, layout = CASES[case]
    twin = networks.randomise(build(is_small, classes, *statistics))
    return model_id, twin, layout(twin.state_dict(), statistics)


@pytest.mark.parametrize("case", CASES)
def test_small_networks_give_pytorchs_logits(case, tmp_path):
    model_id, twin, content = twin_of(case)
    forms = small_forms(model_id)
    model = load_form(forms, saved(tmp_path / "model.pt", content), model_id)
    assert_equal_logits(model, twin, images_of(model.input_shape[1]))


@pytest.mark.parametrize("case", ["wong", "salman_18"])
def test_real_size(case, tmp_path):
    model_id, twin, content = twin_of(case, is_small=False)
    path = saved(tmp_path / "model.pt", content)
    model = load_robustbench(model_id, path)
    os.unlink(path)  # up to 738 MB, and pytest keeps its folders
    assert model.input_shape == (None, CASES[case][4], CASES[case][4], 3)
    assert_equal_logits(model, twin, images_of(CASES[case][4], batch=2))


@pytest.mark.slow
@pytest.mark.parametrize("case", sorted(set(CASES) - {"wong", "salman_18"}))
def test_real_size_of_the_larger_ones(case, tmp_path):
    test_real_size(case, tmp_path)


@pytest.mark.parametrize("case", ["gowal_28_10", "hendrycks_10", "wong", "salman_18", "engstrom"])
def test_endpoints_are_the_groups_outputs(case, tmp_path):
    model_id, twin, content = twin_of(case)
    model = load_form(small_forms(model_id), saved(tmp_path / "model.pt", content), model_id)
    groups = (
        list(twin.layer)
        if case.startswith("gowal")
        else [
            module
            for name, module in twin.named_children()
            if re.fullmatch(r"(layer|block)\d", name)
        ]
    )
    outputs = {}
    for number, group in enumerate(groups, start=2):
        group.register_forward_hook(
            lambda _, __, output, number=number: outputs.update({f"block{number}": output})
        )
    images = images_of(model.input_shape[1])
    with torch.no_grad():
        twin(torch.from_numpy(images.transpose(0, 3, 1, 2)))
    found = rt.endpoints(model)(images, training=False)
    assert set(found) == {"block1", "logits", *outputs}
    for name, output in outputs.items():
        np.testing.assert_allclose(
            found[name], output.numpy().transpose(0, 2, 3, 1), rtol=1e-3, atol=1e-4, err_msg=name
        )


@pytest.fixture(scope="module")
def wong_file(tmp_path_factory):
    """(path, state_dict) of a small Wong2020Fast, read by `read_wong`."""
    _, _, content = twin_of("wong")
    return saved(tmp_path_factory.mktemp("wong") / "wong.pt", content), content


def read_wong(path):
    return load_form(small_forms("Wong2020Fast"), str(path), "Wong2020Fast")


def error_of(function, *arguments):
    with pytest.raises(InputError) as caught:
        function(*arguments)
    message = str(caught.value)
    assert "\n" not in message and "\x1b" not in message and len(message) < 500
    return message


@pytest.mark.parametrize("layout", [*LAYOUTS, ".safetensors"])
def test_every_layout_gives_the_same_weights(layout, tmp_path):
    _, twin, state = twin_of("wong")
    path = tmp_path / "x.safetensors"
    if layout == ".safetensors":
        safetensors.save_file(state, path)
    else:
        path = saved(tmp_path / "x.pt", LAYOUTS[layout](state, CIFAR10))
    expected = {name: value.numpy() for name, value in state.items() if "num_batches" not in name}
    found = read_state_dict(path)
    for name in ("mean", "std", "mu", "sigma"):
        statistic = CIFAR10[0] if name in ("mean", "mu") else CIFAR10[1]
        np.testing.assert_allclose(np.ravel(found.pop(name, statistic)), statistic)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value)


class TestStateDict:
    def test_two_state_dicts_in_one_file_are_not_chosen_from(self, wong_file, tmp_path):
        content = {"net": wong_file[1], "ema": wong_file[1]}
        message = error_of(read_wong, saved(tmp_path / "x.pt", content))
        assert message.endswith("holds 2 state_dicts (net, ema); save the one that is meant alone")

    def test_a_sequential_of_three_is_not_taken_for_normaliser_and_network(
        self, wong_file, tmp_path
    ):
        content = prefixed("1.")(wong_file[1], None) | {"2.weight": torch.ones(10, 10)}
        message = error_of(read_wong, saved(tmp_path / "x.pt", content))
        assert "extra: 1.conv1.weight" in message

    def test_a_sequentials_normalisation_has_to_be_the_rows(self, wong_file, tmp_path):
        content = sequential()(wong_file[1], (CIFAR10[0], ROBUSTNESS_CIFAR10[1]))
        assert re.search(
            r"std is \[0\.2023, .*\], expected",
            error_of(read_wong, saved(tmp_path / "x.pt", content)),
        )

    def test_missing_keys(self, wong_file, tmp_path):
        content = {
            k: v
            for k, v in wong_file[1].items()
            if k not in ("layer1.0.bn1.running_mean", "linear.bias")
        }
        message = error_of(read_wong, saved(tmp_path / "x.pt", content))
        assert message.endswith(
            "is not Wong2020Fast (preact_resnet_18, 10 classes): 2 missing: "
            "layer1.0.bn1.running_mean, linear.bias"
        )

    def test_extra_keys_of_which_a_few_are_named(self, wong_file, tmp_path):
        bn = {
            f"bn.{name}": torch.ones(64)
            for name in ("weight", "bias", "running_mean", "running_var")
        }
        message = error_of(read_wong, saved(tmp_path / "x.pt", {**wong_file[1], **bn}))
        assert message.endswith(": 4 extra: bn.weight, bn.bias, bn.running_mean and 1 more")

    def test_wrong_shape(self, wong_file, tmp_path):
        content = {**wong_file[1], "layer1.0.conv1.weight": torch.zeros(8, 4, 3, 3)}
        message = error_of(read_wong, saved(tmp_path / "x.pt", content))
        assert message.endswith(
            "1 of another shape: layer1.0.conv1.weight (8, 4, 3, 3) instead of (8, 8, 3, 3)"
        )

    def test_all_three_at_once(self, wong_file, tmp_path):
        content = {**wong_file[1], "linear.bias": torch.zeros(3), "other": torch.zeros(1)}
        del content["conv1.weight"]
        message = error_of(read_wong, saved(tmp_path / "x.pt", content))
        assert (
            "1 missing: conv1.weight; 1 extra: other; 1 of another shape: linear.bias (3,) instead "
            "of (10,)" in message
        )

    def test_a_file_of_another_size_and_of_another_paper(self, wong_file, tmp_path):
        message = error_of(load_robustbench, "Wong2020Fast", wong_file[0])
        assert "of another shape: conv1.weight (8, 3, 3, 3) instead of (64, 3, 3, 3)" in message
        message = error_of(
            load_form, small_forms("Salman2020Do_R18"), wong_file[0], "Salman2020Do_R18"
        )
        assert "missing: " in message and "extra: " in message

    def test_no_logits_or_of_no_classes(self, wong_file, tmp_path):
        forms = small_forms("Hendrycks2019Using")
        for weight in (torch.zeros(()), torch.zeros(0, 128), torch.zeros(1, 128)):
            content = {**networks.WideResNet(16, 2, 10, *HALF).state_dict(), "fc.weight": weight}
            message = error_of(
                load_form, forms, saved(tmp_path / "x.pt", content), "Hendrycks2019Using"
            )
            assert f"fc.weight {tuple(weight.shape)} instead of (2, 128)" in message

    def test_the_normalisation_in_the_file_has_to_be_ours(self, wong_file, tmp_path):
        content = with_buffers(wong_file[1], (CIFAR10[0], ROBUSTNESS_CIFAR10[1]))
        message = error_of(read_wong, saved(tmp_path / "x.pt", content))
        assert re.search(
            r"sigma is \[0\.2023, 0\.1994, 0\.201\], expected \[0.2471, 0.2435, 0.2616\]$", message
        )

    def test_the_attackers_copy_has_to_be_the_network(self, tmp_path):
        model_id, twin, content = twin_of("engstrom_authors")
        content["model"]["module.attacker.model.linear.bias"] = torch.zeros(10)
        message = error_of(
            load_form, small_forms(model_id), saved(tmp_path / "x.pt", content), model_id
        )
        assert message.endswith(
            "'attacker.model.linear.bias' differs from the network's own 'linear.bias'"
        )

    def test_one_name_under_two_prefixes(self, wong_file, tmp_path):
        content = {**wong_file[1], "module.conv1.weight": torch.zeros(8, 3, 3, 3)}
        assert "holds 'conv1.weight' twice" in error_of(
            read_wong, saved(tmp_path / "x.pt", content)
        )

    @pytest.mark.parametrize(
        ("value", "complaint"),
        [
            (torch.full((10,), float("nan")), "'linear.bias' holds NaN or infinite numbers"),
            (
                torch.zeros(10, dtype=torch.int64),
                "'linear.bias' in its state_dict is no dense tensor of floats",
            ),
            (
                torch.zeros(10, dtype=torch.complex64),
                "'linear.bias' in its state_dict is no dense tensor of floats",
            ),
            (
                torch.zeros(10).to_sparse(),
                "'linear.bias' in its state_dict is no dense tensor of floats",
            ),
            (
                torch.zeros(10, device="meta"),
                "'linear.bias' in its state_dict is no dense tensor of floats",
            ),
            ([0.0] * 10, "'linear.bias' in its state_dict is no dense tensor of floats"),
        ],
        ids=["nan", "integers", "complex", "sparse", "no data", "list"],
    )
    def test_no_proper_tensor(self, value, complaint, wong_file, tmp_path):
        message = error_of(
            read_wong, saved(tmp_path / "x.pt", {**wong_file[1], "linear.bias": value})
        )
        assert message.endswith(complaint)

    @pytest.mark.parametrize(
        "content",
        [torch.zeros(3), [torch.zeros(3)], {}, None],
        ids=["tensor", "list", "{}", "None"],
    )
    def test_no_state_dict(self, content, tmp_path):
        message = error_of(read_wong, saved(tmp_path / "x.pt", content))
        assert f"holds no state_dict (names with tensors): got {type(content).__name__}" in message

    def test_half_precision_is_read(self, wong_file, tmp_path):
        content = {
            name: tensor.half() if tensor.is_floating_point() else tensor
            for name, tensor in wong_file[1].items()
        }
        model = read_wong(saved(tmp_path / "x.pt", content))
        np.testing.assert_array_equal(
            model.get_layer("logits").bias, content["linear.bias"].float()
        )


class Exploit:
    """Unpickled, it makes a directory."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


class TestFiles:
    def test_the_format_before_pytorch_1_6_is_read(self, wong_file, tmp_path):
        path = saved(tmp_path / "old.pt", wong_file[1], _use_new_zipfile_serialization=False)
        np.testing.assert_array_equal(
            read_wong(path).get_layer("logits").bias, wong_file[1]["linear.bias"]
        )

    @pytest.mark.parametrize("layout", ["zip", "before 1.6", "pickle"])
    def test_a_malicious_file_runs_nothing(self, layout, wong_file, tmp_path):
        victim, path = tmp_path / "victim", str(tmp_path / "x.pt")
        content = {**wong_file[1], "linear.bias": Exploit(victim)}
        if layout == "pickle":
            Path(path).write_bytes(pickle.dumps(Exploit(victim), protocol=2))
        else:
            saved(path, content, _use_new_zipfile_serialization=layout == "zip")
        message = error_of(read_wong, path)
        assert (
            f"holds the Python object {os.mkdir.__module__}.mkdir; only tensors are read" in message
        )
        assert not victim.exists()
        # The file is what it is said to be.
        pickle.loads(Path(path).read_bytes()) if layout == "pickle" else torch.load(
            path, weights_only=False
        )
        assert victim.is_dir()

    def test_a_pickled_module_names_its_class(self, tmp_path):
        assert "holds the Python object torch.nn.modules.linear.Linear" in error_of(
            read_wong, saved(tmp_path / "x.pt", torch.nn.Linear(2, 2))
        )

    @pytest.mark.parametrize(
        "page",
        [b"<!DOCTYPE html><html><head>", b"\xef\xbb\xbf\n <HTML>", b"<?xml version='1.0'?><Error>"],
        ids=repr,
    )
    def test_a_web_page(self, page, tmp_path):
        (tmp_path / "x.pt").write_bytes(page)
        assert "x.pt' is a web page (HTML), no PyTorch file; download it again" in error_of(
            read_wong, tmp_path / "x.pt"
        )

    @pytest.mark.parametrize("new", [True, False], ids=["zip", "before 1.6"])
    @pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.999])
    def test_cut_off(self, kept, new, wong_file, tmp_path):
        path = saved(tmp_path / "x.pt", wong_file[1], _use_new_zipfile_serialization=new)
        whole = Path(path).read_bytes()
        Path(path).write_bytes(whole[: int(kept * len(whole))])
        assert "is no PyTorch file or a damaged one (cut off?); download it again" in error_of(
            read_wong, path
        )

    @pytest.mark.parametrize("kept", [0.0, 0.001, 0.5, 0.999])
    def test_damaged_safetensors(self, kept, wong_file, tmp_path):
        path = tmp_path / "x.safetensors"
        safetensors.save_file(wong_file[1], path)
        whole = path.read_bytes()
        path.write_bytes(whole[: int(kept * len(whole))])
        assert "is no .safetensors file or a damaged one" in error_of(read_wong, path)

    def test_a_pickle_named_safetensors_runs_nothing(self, tmp_path):
        victim, path = tmp_path / "victim", tmp_path / "x.safetensors"
        path.write_bytes(pickle.dumps(Exploit(victim)))
        assert "is no .safetensors file" in error_of(read_wong, path)
        assert not victim.exists()

    def test_without_safetensors_the_extra_is_named(self, tmp_path, monkeypatch):
        (tmp_path / "x.safetensors").write_bytes(b"{}")
        monkeypatch.setitem(sys.modules, "safetensors", None)
        message = error_of(read_wong, tmp_path / "x.safetensors")
        assert message.endswith("pip install 'tf_robust_transfer[torch]'")

    def test_other_bytes_and_a_torchscript_archive(self, tmp_path):
        (tmp_path / "x.pt").write_bytes(np.random.default_rng(0).bytes(3000))
        assert "is no PyTorch file" in error_of(read_wong, tmp_path / "x.pt")
        torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "y.pt"))
        assert "is no PyTorch file" in error_of(read_wong, tmp_path / "y.pt")

    def test_no_file_and_a_directory(self, tmp_path):
        assert "none.pt' cannot be read: No such file" in error_of(read_wong, tmp_path / "none.pt")
        assert "cannot be read: Is a directory" in error_of(read_wong, tmp_path)

    def test_an_unknown_id_names_the_nearest(self):
        message = error_of(load_robustbench, "Gowal2020", "none.pt")
        assert message.startswith(
            "unknown RobustBench model 'Gowal2020'; nearest valid names: Gowal2020Uncovering"
        )

    def test_without_pytorch_the_extra_is_named(self, wong_file, monkeypatch):
        monkeypatch.setitem(sys.modules, "torch", None)
        message = error_of(read_wong, wong_file[0])
        assert message.endswith("is not installed: pip install 'tf_robust_transfer[torch]'")
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        assert any(
            requirement.startswith("torch==")
            for requirement in project["optional-dependencies"]["torch"]
        )
