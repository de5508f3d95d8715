"""Model cards, read by the hub library's own reader."""

import json

import keras
import numpy as np
import pytest

huggingface_hub = pytest.importorskip("huggingface_hub", reason="needs the extra [hub]")

import tf_robust_transfer as rt  # noqa: E402
from scripts import update_cards  # noqa: E402
from tf_robust_transfer import convert, evaluate, train  # noqa: E402
from tf_robust_transfer.command_line import parse  # noqa: E402
from tf_robust_transfer.config import TrainConfig  # noqa: E402
from tf_robust_transfer.convert import ConvertConfig  # noqa: E402
from tf_robust_transfer.errors import InputError  # noqa: E402
from tf_robust_transfer.evaluate import EvaluateConfig  # noqa: E402
from tf_robust_transfer.evaluation import model_card  # noqa: E402
from tf_robust_transfer.quickstart import ROWS  # noqa: E402


def card_of(path):
    return huggingface_hub.ModelCard.load(path)


def figures(card):
    """{(attack, data set): (percent, further entries)}"""
    return {
        (result.metric_name, result.dataset_name): (result.metric_value, result.metric_args)
        for result in card.data.eval_results
    }


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    keras.utils.set_random_seed(0)
    path = tmp_path_factory.mktemp("model") / "cnn.keras"
    rt.save_model(rt.build_model("small_cnn", (8, 8, 1), 10), path)
    return path


def test_convert_writes_one_and_evaluate_adds_to_it(model, tmp_path):
    output = tmp_path / "copy.keras"
    convert.run(
        parse(ConvertConfig, [f"--model={model}", f"--output={output}", "--dataset=digits"])
    )
    card = card_of(tmp_path / "copy.keras.md")
    assert card.data.library_name == "keras"
    assert card.data.pipeline_tag == "image-classification"
    assert card.data.model_name == "copy"
    described = json.loads((tmp_path / "copy.keras.json").read_text())
    percent, args = figures(card)["clean", "digits"]
    assert percent == pytest.approx(100 * described["accuracy"]["clean"], abs=1e-4)
    assert args["examples"] == described["num_examples"]
    assert f"--output={output}" in card.text and str(model) in card.text

    record = tmp_path / "results.json"
    arguments = [
        f"--model={output}",
        "--dataset=digits",
        "--attacks=clean,fgsm",
        "--eps=0.1",
        f"--output={record}",
        "--model_card",
    ]
    for _ in range(2):  # the second replaces the first's
        evaluate.run(parse(EvaluateConfig, arguments))
    card = card_of(tmp_path / "copy.keras.md")
    results = json.loads(record.read_text())
    found = figures(card)
    assert set(found) == {("clean", "digits"), ("fgsm, linf 0.1", "digits")}
    percent, args = found["fgsm, linf 0.1", "digits"]
    assert percent == pytest.approx(100 * results["accuracy"]["fgsm"], abs=1e-4)
    np.testing.assert_allclose(
        args["interval"], 100 * np.array(results["confidence_interval_95"]["fgsm"]), atol=1e-4
    )
    assert args["record"] == "results.json"
    assert card.text.count("| fgsm, linf 0.1") == 1 and f"| {percent:.2f} |" in card.text


def test_each_radius_has_its_figure_and_batch_statistics_replace_none(model, tmp_path):
    """The largest radius alone was kept, and `--batch_norm=batch` wrote over the proper figures."""
    file = tmp_path / "it.keras"
    model_card.write_card(file, model=rt.load_model(str(model)), source="", command="")
    written = {
        "dataset": "digits", "split": "test", "num_examples": 10, "seed": 0, "warnings": [],
        "threat_model": {"norm": "linf", "eps": 0.2}, "accuracy": {"clean": 0.5, "fgsm": 0.3},
        "confidence_interval_95": {"clean": [0.4, 1.0], "fgsm": [0.1, 1.0]},
    }  # fmt: skip
    interval = {"confidence_interval_95": written["confidence_interval_95"]}
    radii = [
        {"eps": eps, "accuracy": {"clean": 0.5, "fgsm": 0.5 - eps}} | interval for eps in (0.1, 0.2)
    ]
    said = ["eps 0.2: square took 1.0 points off what the gradient attacks had left"]
    model_card.add_results(file, written | {"radii": radii, "warnings": said}, "a.json")
    batch = {"batch_norm": "batch", "accuracy": {"clean": 0.9}}
    model_card.add_results(file, written | batch, "b.json")
    found = {
        name: (percent, args["doubtful"])
        for (name, _), (percent, args) in figures(card_of(model_card.card_path(file))).items()
    }
    assert found == {
        "clean": (50.0, False),
        "fgsm, linf 0.1": (40.0, False),
        "fgsm, linf 0.2": (30.0, True),
        "clean, on batch statistics": (90.0, False),
    }


def test_train_writes_one(tmp_path):
    train.run(parse(TrainConfig, ["--dataset=digits", "--smoke", f"--run_dir={tmp_path}/run"]))
    card = card_of(tmp_path / "run" / "model.keras.md")
    assert card.data.datasets == ["digits"] and "natural" in card.data.tags
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert {name.split(",")[0] for name, _ in figures(card)} == set(results["accuracy"])


def test_the_sites_cards_are_those_of_the_quickstarts_records():
    text = update_cards.page()
    assert update_cards.PAGE.read_text(encoding="utf-8") == text, (
        "run python scripts/update_cards.py"
    )
    for row in ROWS:
        card = huggingface_hub.ModelCard(update_cards.card(row))
        record = json.loads((update_cards.RECORDS / row / "results.json").read_text())
        found = figures(card)
        assert len(found) == len(record["accuracy"]) > 1
        for (name, dataset), (percent, args) in found.items():
            assert dataset == "digits"
            warned = any(f"{name.split(',')[0]}'s" in line for line in record["warnings"])
            assert args["doubtful"] == warned
            assert percent == pytest.approx(100 * record["accuracy"][name.split(",")[0]], abs=1e-4)
        assert f"\n## {row}\n" in text and card.data.tags[-1] in text


def test_the_licence_of_robustbenchs_weights():
    assert convert._license("robustbench:Ding2020MMA@l2:x.pt") == "CC-BY-NC-SA-4.0"
    assert convert._license("robustbench:Hendrycks2019Using:x.pt") == ""  # of two, by the data set
    assert convert._license("models/x.keras") == ""


def test_without_a_card_or_with_another_it_is_said_before_any_attack(model, tmp_path):
    arguments = [f"--model={model}", "--dataset=digits", "--attacks=clean", "--model_card"]
    with pytest.raises(InputError, match="there is no model card"):
        evaluate.run(parse(EvaluateConfig, arguments))
    foreign = tmp_path / "x.keras"
    for text in ("", "# Mine\n", "---\nlicense: mit\n---\n# Mine\n"):
        model_card.card_path(foreign).write_text(text)
        with pytest.raises(InputError, match="is no model card that this package has written"):
            model_card.add_results(foreign, {}, "results.json")
