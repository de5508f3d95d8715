"""papers/ and `report --table`: the figures against the papers' text, our columns against run
folders made by hand.
"""

import dataclasses
import itertools
import json
import re
import sys
from pathlib import Path

import pytest

from tf_robust_transfer import report
from tf_robust_transfer.command import run_command
from tf_robust_transfer.papers import PLOTTED, TABLES
from tf_robust_transfer.report import ReportConfig

ROOT = Path(__file__).resolve().parents[1]
PAPERS = ROOT.parent / "shared" / "papers"
# The paper's columns are our rows.
TRANSPOSED = {"igam_table4", "igam_table5", "mixacm_table6", "mixacm_table7"}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_well_formed(name):
    table = TABLES[name]
    rows = {row.name: row for other in TABLES.values() for row in other.rows}
    assert table.title.lower().replace(", ", "_").replace(" ", "") == name
    for row in table.rows:
        assert len(row.labels) == len(table.labels) and len(row.figures) == len(table.columns), row
        assert row.name.startswith(name.partition("_")[0] + "/"), row
        # A row that is repeated is itself no repetition: report looks no further.
        assert not row.same_as or (
            not rows[row.same_as].same_as and not rows[row.same_as].quoted
        ), row
        for figure in row.figures:
            assert figure in (PLOTTED, "-") or re.fullmatch(
                r"\d+(\.\d+)?(±\d+\.\d+)?\??", figure
            ), row


def test_no_two_rows_share_a_run_folder():
    folders = {}
    for table in TABLES.values():
        for row in table.rows:
            assert folders.setdefault(row.folder, row.name) == row.name


def numbers(text):
    return re.findall(r"\d+(?:\.\d+)?(?:±\d+\.\d+)?|-", text)


def paper_lines(paper):
    """The numbers of each line of a paper, as text."""
    text = (PAPERS / f"{paper}.md").read_text().replace("\\pm", "±")
    # IGAM's Table 2 has figures torn into two cells: "33.<tab>.9", "52<tab>.2", "23.<tab>0".
    text = re.sub(r"(\d\.)\t(\d)", r"\1\2", re.sub(r"(\d)\.?\t\.(\d)", r"\1.\2", text))
    text = re.sub(r"\\text|[${}]", "", text).replace(" - ", "\t-\t")
    return [
        numbers(line.partition("Table")[0])
        for line in re.sub(r"WRN[- ]?\d+-\d+", "", text).splitlines()
    ]


def as_printed(name):
    """A table's figures in the lines that the paper has them in."""
    rows = [row.figures for row in TABLES[name].rows]
    if name in TRANSPOSED:
        # Of Table 6, (a) is transposed.
        first = [row.figures for row in TABLES[name].rows if "table6b" not in row.name]
        return [*zip(*first), *rows[len(first) :]]
    if name == "mixacm_table2":
        # Both halves begin with the clean accuracy; a row for one of them has the other empty.
        return [
            half for row in rows for half in (row[:4], (row[0], *row[4:])) if set(half[1:]) != {"-"}
        ]
    if name == "mixacm_table3":
        # In the text, three rows are one line of columns.
        return [*zip(*rows[:3]), *rows[3:]]
    return rows


@pytest.mark.skipif(not PAPERS.is_dir(), reason="the papers are not here")
@pytest.mark.parametrize("name", TABLES)
def test_the_figures_are_the_papers(name):
    """The figures of a row stand in this order in one line of the paper."""
    lines = paper_lines(name.partition("_")[0])
    checked = 0
    for figures in as_printed(name):
        # Of a damaged line the parts between what is damaged; runs of figures that are numbers.
        for damaged, part in itertools.groupby(
            figures, lambda figure: figure.endswith("?") or figure == PLOTTED
        ):
            part = list(part)
            if damaged or set(part) == {"-"}:
                continue
            found = any(line[i : i + len(part)] == part for line in lines for i in range(len(line)))
            assert found, (TABLES[name].title, part)
            checked += len(part)
    assert checked or name in ("igam_figure5", "igam_figure7", "mixacm_figure3", "mixacm_figure7")


@pytest.mark.skipif(not PAPERS.is_dir(), reason="the papers are not here")
def test_a_wrong_figure_would_be_noticed(monkeypatch):
    table = TABLES["igam_table2"]
    wrong = dataclasses.replace(
        table.rows[5], figures=("88.7", "54.0", "52.5", "47.6", "45.1", "43.0", "43.5")
    )
    monkeypatch.setitem(
        TABLES, "igam_table2", dataclasses.replace(table, rows=(*table.rows[:5], wrong))
    )
    with pytest.raises(AssertionError, match="IGAM, Table 2"):
        test_the_figures_are_the_papers("igam_table2")


@pytest.fixture
def print_table(monkeypatch, capsys, tmp_path):
    def call(name, runs=tmp_path):
        monkeypatch.setattr(sys, "argv", ["report", f"--table={name}", f"--runs={runs}"])
        try:
            run_command(report.run, ReportConfig)
            code = 0
        except SystemExit as stop:
            code = stop.code
        out, err = capsys.readouterr()
        return code, out, err

    return call


def run_folder(root, name, accuracy, *, eps=8 / 255, count=10000, file="results.json", flags=""):
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    result = {"dataset": "cifar10", "split": "test", "num_examples": count, "accuracy": accuracy,
              "threat_model": {"norm": "linf", "eps": eps}}  # fmt: skip
    (folder / file).write_text(json.dumps(result))
    (folder / "flags.txt").write_text(flags)


def cells(out, label):
    """A row's cells after the paper's: what was measured."""
    lines = [line for line in out.splitlines() if line.startswith(label)]
    assert len(lines) == 1, out
    return re.split(r"\s{2,}", lines[0])


def test_nothing_has_run(print_table, tmp_path):
    for name in TABLES:
        code, out, _ = print_table(name, tmp_path)
        assert code == 0 and out.startswith(f"{TABLES[name].title}: ")
    code, out, _ = print_table("igam_table1")
    assert cells(out, "IGAM-MNIST") == [
        "IGAM-MNIST",
        "93.6",
        "67.8",
        "63.6",
        "56.9",
        "43.5",
        "-",
        "-",
        "-",
        "-",
        "-",
        "flags/igam/table1_igam_mnist.flags",
    ]


def test_a_folder_that_is_not_there(print_table, tmp_path):
    code, out, error = print_table("igam_table1", tmp_path / "nowhere")
    assert (code, out) == (2, "") and "--runs: no results*.json in" in error


def test_our_columns_name_attack_eps_and_images(print_table, tmp_path):
    run_folder(tmp_path, "igam/table1_standard", {"clean": 0.9512, "fgsm": 0.1, "pgd20": 0.0})
    run_folder(
        tmp_path,
        "igam/table1_standard",
        {"clean": 0.94, "autoattack": 0.25},
        count=1000,
        file="results_aa.json",
    )
    run_folder(
        tmp_path,
        "igam/table1_standard",
        {"clean": 0.94, "pgd20": 0.5},
        count=1000,
        eps=0.1,
        file="results_b.json",
    )
    code, out, _ = print_table("igam_table1")
    heading, eps, images = (re.split(r"\s{2,}", line.strip()) for line in out.splitlines()[3:6])
    assert heading == [
        "Model",
        "Clean",
        "FGSM",
        "PGD5",
        "PGD10",
        "PGD20",
        "clean",
        "clean",
        "fgsm",
        "pgd5",
        "pgd10",
        "pgd20",
        "autoattack",
        "pgd20",
        "flag file",
    ]
    assert eps == ["eps 8/255"] * 5 + ["eps 0.1"]
    assert images == ["n=10000", "n=1000", "n=10000", "n=10000", "n=1000", "n=1000"]
    assert cells(out, "Standard")[6:-1] == [
        "95.12",
        "94.0",
        "10.00",
        "-",
        "-",
        "0.00",
        "25.0",
        "50.0",
    ]
    assert cells(out, "FT-MNIST")[6:-1] == ["-"] * 8


def test_seeds_give_their_mean(print_table, tmp_path):
    for seed, accuracy in enumerate((0.90, 0.91, 0.95)):
        run_folder(tmp_path, f"seed{seed}/table1_pgd7", {"clean": accuracy})
    # The mean is 92, the deviations -2, -1, 3, and 14 / 2 = 7.
    assert cells(print_table("igam_table1")[1], "PGD7-trained")[6] == "92.00 sd 2.65 of 3"


def test_a_smoke_run_is_left_out(print_table, tmp_path):
    run_folder(
        tmp_path, "table1_pgd7", {"clean": 0.5}, count=4, flags="--method=natural\n--smoke=true\n"
    )
    assert set(cells(print_table("igam_table1")[1], "PGD7-trained")[6:-1]) == {"-"}


def test_figures_on_batch_statistics_have_columns_of_their_own(print_table, tmp_path):
    run_folder(tmp_path, "table1_pgd7", {"clean": 0.9})
    moving = print_table("igam_table1")[1]
    file = tmp_path / "table1_pgd7" / "results.json"
    other = json.loads(file.read_text()) | {"accuracy": {"clean": 0.5}, "batch_norm": "batch"}
    (tmp_path / "table1_pgd7" / "results_a_batch.json").write_text(json.dumps(other))
    out = print_table("igam_table1")[1]
    assert "on batch statistics" in out and "on batch statistics" not in moving
    row = cells(out, "PGD7-trained")
    assert row[6] == "90.00" and "50.00" in row[7:]


def test_a_repeated_row_takes_its_own_run_or_else_that_of_the_first(print_table, tmp_path):
    run_folder(tmp_path, "table1_ours", {"clean": 0.9, "pgd100": 0.5})
    assert cells(print_table("mixacm_table8")[1], "All Features")[3:-1] == ["90.00", "50.00"]
    run_folder(tmp_path, "table8_all_blocks", {"clean": 0.8, "pgd100": 0.4})
    assert cells(print_table("mixacm_table8")[1], "All Features")[3:-1] == ["80.00", "40.00"]
    assert cells(print_table("mixacm_table7")[1], "Std. Setting")[3:-1] == ["90.00", "50.00"]


def test_a_row_at_two_radii(print_table, tmp_path):
    run_folder(tmp_path, "table2_ours", {"clean": 0.6, "pgd50": 0.3}, eps=4 / 255, count=50000)
    run_folder(
        tmp_path,
        "table2_ours",
        {"clean": 0.6, "pgd50": 0.4},
        eps=2 / 255,
        count=50000,
        file="results_eps2.json",
    )
    row = cells(print_table("mixacm_table2")[1], "Ours  ")
    assert row[9:-1] == ["60.00", "-", "40.00", "-", "-", "30.00", "-"]


def test_an_unknown_table_lists_the_known_ones(print_table):
    code, out, err = print_table("igam_table9")
    assert code == 2 and not out
    (line,) = (line for line in err.splitlines() if line.startswith("error:"))
    assert "unknown table 'igam_table9'" in line and all(name in line for name in TABLES)
