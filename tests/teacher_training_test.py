"""Students of two rows of the table of teachers, MixACM and IGAM, by flag file: two steps on 32x32
images, from files with a PyTorch network's weights."""

import json

import keras
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="RobustBench's files need the extra [torch]")

from tests import torch_networks as networks  # noqa: E402 - needs torch
from tests.torch_networks import saved  # noqa: E402
from tf_robust_transfer.command_line import parse  # noqa: E402
from tf_robust_transfer.config import TrainConfig  # noqa: E402
from tf_robust_transfer.runs import run_training  # noqa: E402

NONE = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
CIFAR10 = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)
TEACHERS = {
    "Rade2021Helper_R18_ddpm@cifar10_linf": lambda: networks.DeepMindPreActResNet18(
        64, 10, *CIFAR10
    ),
    "Sehwag2021Proxy_R18@l2": lambda: networks.cifar_resnet_18(64, 10, *NONE),
}
METHODS = {
    "mixacm": """--method=mixacm
--model=wrn_10_1
--blocks=block2,block3,block4
--alpha_acm=5000
--alpha_kld=0.95
""",
    "igam": """--method=igam
--model=wrn_10_1
--lambda_adv=1
--lambda_diff=10
""",
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teachers")
    return {
        model_id: saved(folder / f"{number}.pt", networks.randomise(build()).state_dict())
        for number, (model_id, build) in enumerate(TEACHERS.items())
    }


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("model_id", TEACHERS)
def test_two_steps_by_flag_file(model_id, method, files, tmp_path):
    flag_file = tmp_path / "student.flags"
    flag_file.write_text(
        f"--dataset=cifar10\n--smoke\n--run_dir={tmp_path}/run\n{METHODS[method]}"
        f"--teacher=robustbench:{model_id}:{files[model_id]}\n"
    )
    folder = run_training(parse(TrainConfig, [f"--flagfile={flag_file}"]))
    student = keras.saving.load_model(folder.model)
    assert all(np.isfinite(weight.numpy()).all() for weight in student.weights)
    assert json.loads(folder.results.read_text())["accuracy"]
