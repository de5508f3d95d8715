"""The examples run as they stand; each within five minutes on two cores.

examples/terms_in_a_loop.py is terms_test.py's."""

import json
from pathlib import Path

import numpy as np
import pytest

from examples import attack_my_model, igam_digits

pytestmark = pytest.mark.slow
NOTEBOOK = Path(__file__).resolve().parents[1] / "examples/import_a_teacher.ipynb"


def test_igam_on_the_digits(tmp_path):
    accuracies = igam_digits.main(figure=tmp_path / "figure.png")
    natural, teacher, student = (found["pgd20"] for found in accuracies.values())
    assert natural + 0.2 < student < teacher + 0.05 and accuracies["student"]["clean"] > 0.95
    assert (tmp_path / "figure.png").exists()


def test_a_model_of_ones_own():
    classifier, result = attack_my_model.main()
    accuracy = [result.accuracy[name] for name in ("clean", "fgsm", "pgd20", "autoattack")]
    assert accuracy[0] > 0.9 and accuracy == sorted(accuracy, reverse=True)
    assert accuracy[3] < accuracy[0] - 0.2
    # Logits, not the softmax that the model ends in.
    logits = np.asarray(classifier(np.zeros((1, 8, 8, 1), np.float32)))
    assert abs(logits.sum() - 1) > 0.01


def test_a_teacher_from_a_file_of_robustbenchs_form(tmp_path, monkeypatch, capsys):
    """Every cell in its order, and each prints what is stored in the notebook."""
    pytest.importorskip("torch", reason="RobustBench's files need the extra [torch]")
    monkeypatch.chdir(tmp_path)
    names = {}
    for cell in json.loads(NOTEBOOK.read_text())["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), cell["id"], "exec"), names)
            stored = "".join(line for output in cell["outputs"] for line in output["text"])
            assert capsys.readouterr().out == stored
    assert (tmp_path / "teacher.keras").exists()
