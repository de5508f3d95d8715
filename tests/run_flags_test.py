"""What a run trains on, chooses, leaves and measures, each held against its flags alone: nothing is
trained here.
"""

import dataclasses
import json
import types

import numpy as np
import pytest

import tf_robust_transfer as rt
from tests.method_by_flags import method_by_flags
from tf_robust_transfer.attacks import FGSM, PGD, ThreatModel
from tf_robust_transfer.command_line import parse
from tf_robust_transfer.config import TrainConfig
from tf_robust_transfer.evaluate import EvaluateConfig
from tf_robust_transfer.methods.n_fgsm import NFGSM
from tf_robust_transfer.methods.shared_options import InnerAttack
from tf_robust_transfer.runs import measured, trainer, watching
from tf_robust_transfer.runs.measured import KeepBest
from tf_robust_transfer.runs.optimizers import learning_rate


def test_what_chooses_the_epoch_is_not_trained_on(tmp_path, monkeypatch):
    class Enough(Exception):
        pass

    def seen(run):
        raise Enough(run)

    monkeypatch.setattr(trainer, "fit", seen)
    monkeypatch.setattr(trainer.device, "set_determinism", lambda on: None)  # of other tests
    flags = ["--dataset=digits", "--keep=best", "--validation_fraction=0.1"]
    with pytest.raises(Enough) as caught:
        trainer.run_training(parse(TrainConfig, [*flags, f"--run_dir={tmp_path}"]))
    (run,) = caught.value.args
    whole = rt.data.load_data("digits", "train")
    assert len(run.train) + len(run.validation) == len(whole)
    assert len(run.validation) > 100 and run.steps_per_epoch == len(run.train) // run.batch_size


def test_the_epoch_of_the_most_robust_accuracy_is_kept(monkeypatch, tmp_path):
    figures = iter([(0.9, 0.2), (0.8, 0.5), (0.7, 0.5), (0.99, 0.3)])
    saved, network, path = [], object(), tmp_path / "model_best.keras"

    def evaluated(*_, **__):
        clean, robust = next(figures)
        accuracy = {"clean": clean, "fgsm": robust}
        return types.SimpleNamespace(accuracy=accuracy, attacks=("clean", "fgsm"))

    monkeypatch.setattr(measured, "evaluate_robustness", evaluated)
    monkeypatch.setattr(measured, "save_model", lambda model, path: saved.append(model))
    of = types.SimpleNamespace(take=lambda: network, network=network)
    for epoch, robust in enumerate((0.2, 0.5, 0.5, 0.3)):
        logs = {}
        keep = KeepBest(  # anew for each epoch: a run that goes on
            of, None, np.zeros(7), threat_model=None, attack="fgsm", seed=0, path=path
        )
        keep.on_epoch_end(epoch, logs)
        assert logs == {"validation_robust_accuracy": robust}
    assert saved == [network, network]
    assert json.loads(path.with_suffix(".json").read_text()) == {
        "epoch": 2, "robust_accuracy": 0.5, "clean_accuracy": 0.8, "num_examples": 7,
    }  # fmt: skip


@pytest.mark.parametrize(("keep", "kept"), [("last", "last"), ("best", "best"), ("both", "last")])
def test_which_network_a_run_leaves(keep, kept, tmp_path, monkeypatch):
    left = []
    monkeypatch.setattr(trainer, "load_model", lambda path: "best")
    monkeypatch.setattr(trainer, "save_model", lambda network, path: left.append(network))
    monkeypatch.setattr(trainer, "_evaluate", lambda run, network, *_: left.append(network))
    for name in ("_evaluation", "_record"):
        monkeypatch.setattr(trainer, name, lambda *_: {})
    folder = types.SimpleNamespace(
        path=tmp_path, checkpoints=tmp_path, best=tmp_path / "b", model=tmp_path / "m"
    )
    run = types.SimpleNamespace(
        config=dataclasses.replace(parse(TrainConfig, []), keep=keep), folder=folder, test=None,
        total_steps=1, batch_size=1, measured=types.SimpleNamespace(take=lambda: "last"),
    )  # fmt: skip
    trainer._finish(run, None)
    assert left == [kept, kept]


def test_a_runs_evaluation_is_of_its_flags(monkeypatch):
    given, flags = {}, ["--attack_step_size=2/255", "--eps=4/255", "--norm=l2", "--seed=3"]
    monkeypatch.setattr(trainer, "evaluate_robustness", lambda *_, **options: given.update(options))
    images = rt.data.synthetic_data((8, 8, 1), 10, 2, 0)
    trainer._evaluation(parse(TrainConfig, flags), None, images, None)
    assert (given.get("step_size"), given["seed"]) == (2 / 255, 3)
    assert given["threat_model"] == ThreatModel("l2", 4 / 255)


def test_the_norm_of_evaluate():
    read = parse(EvaluateConfig, ["--norm=l2", "--eps=0.5,1"])
    assert read.threat_model == ThreatModel("l2", 1.0)


def test_the_watched_figures(monkeypatch):
    found = types.SimpleNamespace(accuracy={"clean": 0.9, "pgd2": 0.4}, attacks=("clean", "pgd2"))
    monkeypatch.setattr(watching, "evaluate_robustness", lambda *_, **__: found)
    of, logs = types.SimpleNamespace(take=lambda: None), {}
    watching.WatchAccuracy(
        np.zeros(2), np.zeros(2), threat_model=None, attack="pgd2", seed=0, measured=of
    ).on_epoch_end(0, logs)
    assert logs == {"test_clean_accuracy": 0.9, "test_robust_accuracy": 0.4}


def test_the_inner_attack_of_the_flags():
    fast = InnerAttack(kind="n-fgsm", step_size=0.05).attack(0.1)
    assert type(fast) is NFGSM and (fast.noise, fast.step_size) == (2.0, 0.05)
    one = InnerAttack(steps=1).attack(0.1)
    assert type(one) is FGSM and (one.step_size, one.random_start) == (0.125, True)


def test_trades_by_flags_climbs_the_divergence():
    model = rt.build_model("small_cnn", (4, 4, 1), 3)
    assert method_by_flags("trades", model, None).attack.options == PGD(10, loss="kl").options


def test_one_cycle_by_flags():
    rate = learning_rate(
        parse(TrainConfig, ["--schedule=one_cycle", "--schedule_peak=0.2", "--learning_rate=1"]), 10
    )
    assert float(rate(2)) == 1.0
