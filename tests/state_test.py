"""An evaluation that dies goes on: killed in every component, it ends with the flags of one left
alone.
"""

import json
import signal
import textwrap

import numpy as np
import pytest
import tensorflow as tf

from tests import fresh_process
from tf_robust_transfer import as_classifier
from tf_robust_transfer.attacks import PGD, ThreatModel
from tf_robust_transfer.errors import InputError
from tf_robust_transfer.evaluation import evaluate_robustness, state
from tf_robust_transfer.evaluation.state import State
from tf_robust_transfer.models import build_model

THREAT = ThreatModel("linf", 0.15)
# Dies by SIGKILL in the middle of the component that it is given, right after a write; "none":
# lives.
CHILD = """
    import os, signal, sys
    import numpy as np
    from tests import golden_networks
    from tf_robust_transfer.evaluation import evaluate_robustness, state
    state.SECONDS_BETWEEN_WRITES = 0.0
    write = state.State.write
    def dying(self, arrays=None, *, now=True):
        write(self, arrays, now=now)
        running = self.values.get("running", {})
        lanes = arrays and any(key.startswith("lanes/") for key in arrays())
        there = len(running.get("components", ())) == int(sys.argv[2])
        if lanes and there and self.arrays["running/done"].sum() > 3:
            os.kill(os.getpid(), signal.SIGKILL)
    state.State.write = dying
    model, images, labels, threat_model, _ = golden_networks.load("digits_robust_linf")
    result = evaluate_robustness(
        model, images[:24], labels[:24],
        threat_model=threat_model, attacks=["autoattack"], batch_size=8,
        state=sys.argv[1], keep_adversarial=True, check_model=False)
    found = {f"images {k}": v for k, v in result.adversarial.items()}
    np.savez(sys.argv[3], **result.correct, **found)
"""


def run_child(path, component, output):
    return fresh_process.run(textwrap.dedent(CHILD), path, component, output)


@pytest.mark.slow
def test_killed_in_every_component(tmp_path):
    whole = run_child(tmp_path / "whole.npz", -1, tmp_path / "expected.npz")
    assert whole.returncode == 0, whole.stderr
    for component in (0, 1, 2, 3):
        killed = run_child(tmp_path / "state.npz", component, tmp_path / "none.npz")
        assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (tmp_path / "none.npz").exists()
    rest = run_child(tmp_path / "state.npz", -1, tmp_path / "found.npz")
    assert rest.returncode == 0, rest.stderr
    expected, found = np.load(tmp_path / "expected.npz"), np.load(tmp_path / "found.npz")
    assert expected.files == found.files and 0 < expected["autoattack"].sum() < 24
    for name in expected.files:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


@pytest.fixture(scope="module")
def evaluation():
    """Function (**options) -> result of a small evaluation that has a state."""
    model = build_model("small_cnn", (8, 8, 1), 4)
    images = np.random.default_rng(0).uniform(size=(40, 8, 8, 1)).astype(np.float32)
    labels = np.argmax(model(images), axis=1)

    def run(path, **options):
        arguments = {
            "threat_model": THREAT,
            "attacks": ["pgd5x2", "fgsm"],
            "batch_size": 8,
            "check_model": False,
        }
        return evaluate_robustness(model, images, labels, state=path, **{**arguments, **options})

    return run


def test_a_finished_evaluation_is_read_and_not_run(evaluation, tmp_path, monkeypatch):
    first = evaluation(tmp_path / "a.npz")
    monkeypatch.setattr(PGD, "step", None)
    again = evaluation(tmp_path / "a.npz")
    assert again.accuracy == first.accuracy and again.seconds == first.seconds


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 1}, "seed"),
        ({"attacks": ["fgsm"]}, "list of attacks"),
        ({"batch_size": 9}, "batch size"),
        ({"threat_model": ThreatModel("linf", 0.1)}, "threat model"),
        ({"step_size": 0.1}, "list of attacks and their options"),
    ],
)
def test_the_state_of_another_evaluation_is_refused(evaluation, tmp_path, change, named):
    evaluation(tmp_path / "a.npz")
    before = (tmp_path / "a.npz").read_bytes()
    with pytest.raises(InputError, match=f"evaluation with another {named}"):
        evaluation(tmp_path / "a.npz", **change)
    assert (tmp_path / "a.npz").read_bytes() == before


def test_other_weights_are_another_evaluation(evaluation, tmp_path):
    evaluation(tmp_path / "a.npz")
    other = build_model("small_cnn", (8, 8, 1), 4)
    images = np.random.default_rng(0).uniform(size=(40, 8, 8, 1)).astype(np.float32)
    with pytest.raises(InputError, match="another model"):
        evaluate_robustness(
            other,
            images,
            np.zeros(40, int),
            threat_model=THREAT,
            attacks=["pgd5x2", "fgsm"],
            batch_size=8,
            state=tmp_path / "a.npz",
            check_model=False,
        )


def test_an_attack_of_another_setting_under_the_same_name_is_another_evaluation(
    evaluation, tmp_path
):
    evaluation(tmp_path / "a.npz", attacks={"mine": PGD(1)})
    with pytest.raises(InputError, match="another list of attacks and their options"):
        evaluation(tmp_path / "a.npz", attacks={"mine": PGD(20)})


def test_another_function_of_the_same_weights_is_another_model(tmp_path):
    """A normalisation has no weights."""
    model, images = build_model("small_cnn", (8, 8, 1), 4), np.full((5, 8, 8, 1), 0.2, np.float32)
    options = {"threat_model": THREAT, "attacks": ["fgsm"], "state": tmp_path / "a.npz"}
    evaluate_robustness(as_classifier(model), images, np.arange(5) % 4, **options)
    with pytest.raises(InputError, match="another model; remove it"):
        evaluate_robustness(
            as_classifier(model, mean=0.5, std=0.25), images, np.arange(5) % 4, **options
        )


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 broken"])
def test_a_file_that_is_no_state(tmp_path, content):
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(InputError, match="is no state of an evaluation; remove it"):
        State(tmp_path / "a.npz", {})
    assert (tmp_path / "a.npz").read_bytes() == content


def test_the_home_folder_is_written_as_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    State("~/folder/state.npz", {"model": "mine"}).write()
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    with pytest.raises(InputError, match=f"{tmp_path}/folder/state.npz' belongs to .* model"):
        State("~/folder/state.npz", {"model": "another"})


def test_writes_now_and_then(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(state.time, "monotonic", lambda: now[0])
    written = State(tmp_path / "a.npz", {"seed": "0"})
    written.values["x"] = 1
    written.write(now=False)
    assert not (tmp_path / "a.npz").exists()
    now[0] += state.SECONDS_BETWEEN_WRITES
    written.arrays["y"] = np.arange(3)
    written.write(lambda: {"z": np.ones(2)}, now=False)
    read = State(tmp_path / "a.npz", {"seed": "0"})
    assert read.values == {"x": 1} and list(read.arrays) == ["y", "z"]
    assert json.loads(str(np.load(tmp_path / "a.npz")["header"]))["identity"] == {"seed": "0"}
    assert tf.io.gfile.listdir(str(tmp_path)) == ["a.npz"]
