"""docs/results: every figure comes from a record, and `report` joins, averages and marks them."""

import csv
import io
import itertools
import json
import pathlib
import re

import numpy as np
import pytest

from tf_robust_transfer.errors import InputError
from tf_robust_transfer.reports import table
from tf_robust_transfer.reports.experiments import all_experiments, read_experiments
from tf_robust_transfer.reports.pages import Filler, write_pages
from tf_robust_transfer.reports.records import records

ROOT = pathlib.Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
# Those of docs/reference are generated from the code.
PAGES = [
    ROOT / "README.md",
    *(page for page in sorted(DOCS.rglob("*.md")) if page.parent.name != "reference"),
]


def write(
    folder, name, seed, file="results.json", flags="--image_size=14x14\n--noise=0.4\n", **found
):
    run = folder / f"seed{seed}" / name
    run.mkdir(parents=True, exist_ok=True)
    (run / "flags.txt").write_text(flags)
    result = {
        "dataset": "mnist",
        "split": "test",
        "num_examples": 1000,
        "seed": seed,
        "threat_model": {"norm": "linf", "eps": 0.1},
        "accuracy": {"clean": 0.9},
        "confidence_interval_95": {},
        "warnings": [],
    }
    (run / file).write_text(json.dumps(result | found))
    return run


@pytest.fixture
def results(tmp_path):
    folder = tmp_path / "docs" / "results"
    (folder / "rows").mkdir(parents=True)
    (folder / "rows" / "group.toml").write_text(
        'flag_file = "a.flags"\n[rows.one]\nlabel = "first"\noverrides = ["--noise=0.4"]\n'
        "[rows.two]\n"
    )
    return folder


def test_the_pages_are_what_their_records_say():
    texts = {page: page.read_text() for page in PAGES}
    filler = Filler(DOCS / "results")
    for page, text in texts.items():
        assert filler.fill(text, str(page)) == text, f"{page}: run report --write=docs"


def test_no_figure_stands_outside_generated_text():
    """A percentage, or a figure with its interval, is from a record or not there."""
    figures = re.compile(r"\d+(?:\.\d+)?\s?%|\d+\.\d \[\d+\.\d, \d+\.\d\]")
    for page in PAGES:
        text = re.sub(
            r"<!-- (?:table|=|speed|counts)[ ].*?<!-- end(?: of counts)? -->",
            "",
            page.read_text(),
            flags=re.DOTALL,
        )
        text = re.sub(
            r"```.*?```|`[^`\n]*`|\b95% (?:confidence )?intervals?", "", text, flags=re.DOTALL
        )
        text = re.sub(r"<!-- published: .*? -->.*?<!-- end -->", "", text, flags=re.DOTALL)
        assert not figures.findall(text), page


def test_the_figures_of_theorem_41_are_its_records():
    page = (DOCS / "results" / "theorem41.md").read_text()
    for seed, gamma in itertools.product((0, 1, 2), (1, 10)):
        record = DOCS / "results" / "theorem41" / f"seed{seed}_gamma{gamma}.json"
        found = json.loads(record.read_text())
        assert found["gamma"] == gamma and len(found["students"]) == 3
        for terms in found["students"].values():
            assert f" {terms['weighted_sum']:.4g} " in page
            for name in ("robust_error", "adversarial_loss", "distillation_loss"):
                low, high = terms[name]["confidence_interval_95"]
                assert f" {terms[name]['mean']:.4g} [{low:.4g}, {high:.4g}] " in page


def test_the_rows_name_flag_files_and_teachers():
    files = all_experiments(DOCS / "results" / "rows")
    for rows in files.values():
        for row in rows.values():
            assert not row.flag_file or (ROOT / row.flag_file).is_file(), row
            assert set(row.needs) <= set(files["teachers"]), row


def test_every_record_belongs_to_a_row():
    files = all_experiments(DOCS / "results" / "rows")
    known = {(row.group, row.name) for rows in files.values() for row in rows.values()}
    found = {
        (path.parents[2].name, path.parent.name) for path in DOCS.rglob("records/*/*/*/*.json")
    }
    assert found <= known, found - known


def test_records_name_no_place_of_another_machine():
    for path in (DOCS / "results" / "records").glob("*/*/*/*"):
        assert not re.search(r"[\"=]/(?:work|root|home|tmp|Users)", path.read_text()), path


def test_a_row_joins_its_files_and_takes_the_figure_of_most_images(tmp_path):
    run = write(tmp_path, "one", 0, num_examples=10000, accuracy={"clean": 0.91, "pgd20": 0.5})
    write(
        tmp_path,
        "one",
        0,
        "results_autoattack.json",
        accuracy={"clean": 0.8, "autoattack": 0.4},
        confidence_interval_95={"autoattack": [0.37, 0.43]},
    )
    (record,) = records([run])
    assert record.heading == "mnist test, images of 14x14, linf eps 0.1"
    assert record.figure("clean").text == "91.0"
    assert record.figure("autoattack").text == "40.0 [37.0, 43.0]"
    assert record.figure("square") is None
    ((_, one),) = table.by_heading([record])
    assert one.columns[1:] == (
        "clean, 10,000 images",
        "pgd20, 10,000 images",
        "autoattack, 1,000 images",
    )


def test_other_data_sets_and_sizes_are_other_tables(tmp_path):
    runs = [
        write(tmp_path, "one", 0),
        write(tmp_path, "two", 0, flags="--image_size=\n"),
        write(tmp_path, "three", 0, image_shape=[10, 12, 1]),
    ]
    unknown = write(tmp_path, "four", 0)
    (unknown / "flags.txt").unlink()
    headings = [heading for heading, _ in table.by_heading(records([*runs, unknown]))]
    sizes = [re.search("images of (.*?), linf", heading)[1] for heading in headings]
    assert sorted(sizes) == ["10x12", "14x14", "28x28", "not recorded"]


def test_seeds_are_averaged(tmp_path):
    accuracies = [0.5, 0.6, 0.65]
    for seed, accuracy in enumerate(accuracies):
        write(tmp_path, "one", seed, accuracy={"clean": accuracy})
    ((_, one),) = table.by_heading(records(sorted(tmp_path.glob("*/*"))))
    expected = f"{100 * np.mean(accuracies):.1f} ± {100 * np.std(accuracies, ddof=1):.1f}"
    assert one.lines[-1] == ("one, mean of 3 seeds", expected)


def test_the_best_epochs_network_is_a_row_of_its_own(tmp_path):
    """That of --keep=both: its figures do not join the last one's."""
    for file, model, accuracy in (
        ("results.json", "model.keras", {"clean": 0.9, "fgsm": 0.2}),
        ("results_best.json", "model_best.keras", {"clean": 0.8, "fgsm": 0.5}),
        ("results_best_auto.json", "model_best.keras", {"clean": 0.8, "autoattack": 0.45}),
    ):
        run = write(tmp_path, "x", 0, file=file, model=f"{tmp_path}/{model}", accuracy=accuracy)
    ((_, one),) = table.by_heading(records([run]))
    assert one.lines == (("x", "90.0", "20.0", "-"), ("x, best epoch", "80.0", "50.0", "45.0"))


def test_a_mean_over_other_numbers_of_images_names_them(tmp_path):
    for seed, number in ((0, 100), (1, 1000)):
        write(tmp_path, "x", seed, num_examples=number)
    ((_, one),) = table.by_heading(records(sorted(tmp_path.glob("*/*"))))
    assert one.lines[-1][1] == "90.0 ± 0.0 (100 and 1,000 images)"


def test_networks_of_one_name_and_other_flags_are_not_averaged(tmp_path):
    for method, clean in (("igam", 0.8), ("mixacm", 0.6)):
        for seed in (0, 1):
            flags = f"--method={method}\n--seed={seed}\n--image_size=14\n"
            write(tmp_path / method, "student", seed, flags=flags, accuracy={"clean": clean})
    # The same network, evaluated in two folders, is no second seed.
    for folder in ("there", "here"):
        write(tmp_path / folder, "student", 0, flags="--method=natural\n--image_size=14\n")
    ((_, one),) = table.by_heading(records(sorted(tmp_path.glob("*/*/*"))))
    means = [line for line in one.lines if "mean" in line[0]]
    assert sorted(figure for _, figure in means) == ["60.0 ± 0.0", "80.0 ± 0.0"]
    assert len(one.lines) == 6 + 2


def test_warnings_are_marks_with_one_footnote_for_a_kind(tmp_path):
    below = "AutoAttack is {} points below PGD: make claims with AutoAttack"
    names = {"clean": 0.9, "pgd20": 0.6, "autoattack": 0.5}
    runs = [
        write(tmp_path, name, 0, accuracy=names, warnings=[below.format(points)])
        for name, points in (("one", "3.5"), ("two", "10.1"))
    ]
    runs.append(write(tmp_path, "three", 0, accuracy=names))
    ((_, one),) = table.by_heading(records(runs))
    cells = {line[0]: line[1:] for line in one.lines}
    assert cells["one"] == ("90.0", "60.0 ¹", "50.0") and cells["three"] == ("90.0", "60.0", "50.0")
    assert one.notes == (
        "¹ Warned: AutoAttack is 3.5 to 10.1 points below PGD: make claims with AutoAttack.",
    )


def test_the_tenth_kind_of_warning_has_a_mark_of_its_own(tmp_path):
    runs = [
        write(tmp_path, letter, 0, warnings=[f"clean: {letter}: {points} points"])
        for points, letter in enumerate("abcdefghijk")
    ]
    ((_, one),) = table.by_heading(records(runs))
    assert one.lines[8] == ("i", "90.0 ⁹")
    assert one.lines[9:] == (("j", "90.0 ¹⁰"), ("k", "90.0 ¹¹"))
    assert one.notes[8:] == (
        "⁹ Warned: clean: i: 8 points.",
        "¹⁰ Warned: clean: j: 9 points.",
        "¹¹ Warned: clean: k: 10 points.",
    )
    # Of one cell, in the order of the numbers.
    warnings = [f"clean: {letter}: 1 points" for letter in "kjihgfedcba"]
    (last,) = records([write(tmp_path, "last", 0, warnings=warnings)])
    cell = table.table((), [table.Row((), (last,))], ["clean"]).lines[0][0]
    assert cell == "90.0 ¹ ² ³ ⁴ ⁵ ⁶ ⁷ ⁸ ⁹ ¹⁰ ¹¹"


def test_a_table_says_what_was_attacked_in_less_than_float32(tmp_path):
    def cells(one):
        return {line[0]: line[1:] for line in one.lines}

    accuracy = {"clean": 0.9, "pgd20": 0.5}
    runs = [
        write(tmp_path, "low", seed, accuracy=accuracy, precision="bfloat16") for seed in (0, 1)
    ]
    ((_, one),) = table.by_heading(records(runs))
    assert one.attacked == ", attacked in bfloat16" and not one.notes
    text = table.as_markdown(records(runs))
    assert "eps 0.1, 1,000 images, attacked in bfloat16; accuracy in % [95% interval]" in text
    # One that says float32, one that says nothing, and seeds of two.
    runs += [
        write(tmp_path, "full", 0, accuracy=accuracy, precision="float32"),
        write(tmp_path, "old", 0, accuracy=accuracy),
        write(tmp_path, "two", 0, accuracy=accuracy, precision="float32"),
        write(tmp_path, "two", 1, accuracy=accuracy, precision="mixed"),
    ]
    ((_, one),) = table.by_heading(records(runs))
    found = cells(one)
    assert one.attacked == "" and found["low"] == ("90.0", "50.0 ¹")
    assert found["full"] == found["old"] == ("90.0", "50.0")
    assert found["two (seed 1)"] == ("90.0", "50.0 ²")
    assert found["low, mean of 2 seeds"][1] == "50.0 ± 0.0 ¹"
    assert found["two, mean of 2 seeds"] == ("90.0 ± 0.0", "50.0 ± 0.0 ³")
    assert one.notes == (
        "¹ Attacked in bfloat16.",
        "² Attacked in mixed precision.",
        "³ Some of the seeds attacked in mixed precision.",
    )
    # Clean images are judged by the network itself.
    ((_, one),) = table.by_heading(records([write(tmp_path, "clean", 0, precision="bfloat16")]))
    assert one.attacked == ""


def test_csv_and_json_have_each_figure_and_never_guess(tmp_path):
    run = write(tmp_path, "one", 3, confidence_interval_95={"clean": [0.88, 0.92]})
    found = records([run])
    (line,) = csv.DictReader(io.StringIO(table.as_csv(found)))
    (same,) = json.loads(table.as_json(found))
    assert (line["model"], line["seed"], line["low"]) == ("one", "3", "0.88")
    assert line["device"] == same["device"] == "not recorded" and same["accuracy"] == 0.9
    assert table.as_markdown(found).count("|") == 3 * 3


def test_a_page_is_filled_from_its_records(results):
    for seed, accuracy in ((0, 0.5), (1, 0.7)):
        write(results / "records" / "group", "one", seed, accuracy={"clean": accuracy})
    page = results / "page.md"
    page.write_text(
        "<!-- table group columns=noise -->\n<!-- end -->\n"
        "<!-- = group:one:clean --><!-- end --> <!-- = group:one:clean:1 --><!-- end --> "
        "<!-- = group:one:clean:1 - group:one:clean:0 --><!-- end --> "
        "<!-- = group:one:clean:0 / group:one:clean:1 --><!-- end -->\n"
    )
    assert write_pages(results.parent) == [page]
    text = page.read_text()
    assert "| first | 0.4 | 60.0 ± 14.1 |" in text and "| two | - | no record |" in text
    shown = re.sub("<!--.*?-->", "", text.splitlines()[-1])
    assert shown == "60.0 70.0 20.0 71%"
    assert write_pages(results.parent) == []


def test_a_flag_that_the_method_does_not_have_is_a_dash(results):
    """Old records have every method's flags, at their defaults."""
    for name, method in (("one", "igam"), ("two", "natural")):
        flags = f"--method={method}\n--lambda_diff=10.0\n--noise=0.0\n--epochs=4.0\n"
        write(results / "records" / "group", name, 0, flags=flags)
    text = Filler(results).fill("<!-- table group columns=lambda_diff,epochs -->\n<!-- end -->")
    assert "| first | 10 | 4 | 90.0 |" in text and "| two | - | 4 | 90.0 |" in text


def test_the_caption_of_a_page_has_the_precision(results):
    accuracy = {"clean": 0.9, "pgd20": 0.5}
    for name, precision in (("one", "bfloat16"), ("two", "float32")):
        group = results / "records" / "group"
        write(group, name, 0, accuracy=accuracy, precision=precision)
    filler = Filler(results)
    text = filler.fill("<!-- table group rows=one -->\n<!-- end -->")
    assert "eps 0.1, 1,000 images, attacked in bfloat16; accuracy in %: seed 0" in text
    text = filler.fill("<!-- table group -->\n<!-- end -->")
    assert "eps 0.1, 1,000 images; accuracy" in text and "| 50.0 ¹ |" in text
    assert "\n¹ Attacked in bfloat16.\n" in text


def test_rows_are_compared_on_the_seeds_that_both_have(results):
    for name, seed, accuracy in (("one", 0, 0.5), ("one", 1, 0.7), ("two", 0, 0.4)):
        write(results / "records" / "group", name, seed, accuracy={"clean": accuracy})
    filler = Filler(results)
    assert filler.figure("group:one:clean - group:two:clean") == "10.0"
    assert filler.figure("group:two:clean / group:one:clean") == "80%"
    assert filler.figure("group:one:clean:1 - group:two:clean") == "30.0"  # as asked


def test_a_row_of_fewer_seeds_is_told(results):
    for name, seed in (("one", 0), ("one", 1), ("one", 2), ("two", 1), ("two", 2)):
        write(results / "records" / "group", name, seed)
    text = Filler(results).fill("<!-- table group -->\n<!-- end -->")
    assert "over seeds 0, 1, 2 (of some rows 1, 2), or one seed's with its 95% interval." in text


def test_training_and_test_images_are_never_averaged(results):
    for split, accuracy in (("train[:2000]", 0.9), ("test", 0.5)):
        name = f"results_{split[:4]}.json"
        write(
            results / "records" / "group", "one", 0, name, split=split, accuracy={"clean": accuracy}
        )
    filler = Filler(results)
    with pytest.raises(InputError, match="'one' has figures of several splits: say split=test or"):
        filler.fill("<!-- table group rows=one -->\n<!-- end -->")
    assert filler.figure("group:one:clean") == "50.0"
    for split, shown in (("train", "90.0"), ("test", "50.0")):
        text = filler.fill(f"<!-- table group rows=one split={split} -->\n<!-- end -->")
        assert f"| first | {shown} |" in text


@pytest.mark.parametrize(
    ("comment", "says"),
    [
        ("<!-- table groop -->\n<!-- end -->", "no rows 'groop'; nearest valid names: group"),
        ("<!-- table group rows=tow -->\n<!-- end -->", "no row 'tow' in group"),
        ("<!-- table group colums=a -->\n<!-- end -->", "a table has no 'colums'"),
        ("<!-- = group:two:clean --><!-- end -->", "no record of 'group:two:clean'"),
        ("<!-- = group:two --><!-- end -->", "expected FILE:ROW:ATTACK"),
        ("<!-- = a * b --><!-- end -->", "expected a, a - b or a / b"),
    ],
)
def test_a_wrong_comment_is_named_with_its_page(results, comment, says):
    (results / "page.md").write_text(comment + "\n")
    with pytest.raises(InputError, match=rf"page.md.*{re.escape(says)}"):
        write_pages(results.parent)
    assert (results / "page.md").read_text() == comment + "\n"


def test_a_row_of_an_unknown_key_is_refused(tmp_path):
    path = tmp_path / "group.toml"
    path.write_text('[rows.one]\nflagfile = "a"\n')
    with pytest.raises(InputError, match="unknown key 'flagfile'; nearest valid names: flag_file"):
        read_experiments(path)
    path.write_text("rows = [\n")
    with pytest.raises(InputError, match="is no TOML"):
        read_experiments(path)
