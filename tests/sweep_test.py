"""`visualize --kind=sweep`: what the figures' artists show against results.json and flag files, and
what is refused.
"""

import json
import logging
import pathlib
import re

import pytest

from tf_robust_transfer import files, visualize
from tf_robust_transfer.command_line import parse, train_flags
from tf_robust_transfer.config import TrainConfig
from tf_robust_transfer.errors import InputError
from tf_robust_transfer.papers import TABLES
from tf_robust_transfer.papers.figures import SWEEPS, paper_accuracy
from tf_robust_transfer.plots.outcomes import Outcome
from tf_robust_transfer.plots.sweep import plot_sweep, sweep_figure
from tf_robust_transfer.reports import sweep
from tf_robust_transfer.visualize import VisualizeConfig

ROOT = pathlib.Path(__file__).resolve().parents[1]


def run_folder(
    folder, flags, accuracy, *, below=0.02, above=0.01, count=1000, eps=0.1, file="results.json"
):
    """accuracy: attack -> fraction. The interval: from `below` under it to `above` over it."""
    folder.mkdir(parents=True, exist_ok=True)
    interval = {name: [value - below, value + above] for name, value in accuracy.items()}
    result = {
        "dataset": "mnist",
        "split": "test",
        "num_examples": count,
        "accuracy": accuracy,
        "confidence_interval_95": interval,
        "threat_model": {"norm": "linf", "eps": eps},
    }
    (folder / file).write_text(json.dumps(result))
    (folder / "flags.txt").write_text("".join(f"--{flag}\n" for flag in flags))


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """Draws by flags and returns the figure."""

    def call(*flags):
        figures = []
        keep = lambda outcomes, path, **options: figures.append(sweep_figure(outcomes, **options))
        monkeypatch.setattr(sweep, "plot_sweep", keep)
        arguments = ["--kind=sweep", f"--runs={tmp_path}", f"--output={tmp_path}/x.png", *flags]
        visualize.run(parse(VisualizeConfig, arguments))
        return figures[0]

    return call


def points(axis, label):
    """[(x, accuracy, low, high)] of the points of that label; low and high None where there is no
    error bar.
    """
    found = []
    for container in axis.containers:
        if container.get_label() == label:
            line, _, bars = container.lines
            ends = (
                [(low[1], high[1]) for (low, high) in bars[0].get_segments()]
                if bars
                else [(None, None)] * 100
            )
            found += [(x, y, *end) for x, y, end in zip(line.get_xdata(), line.get_ydata(), ends)]
    return sorted(found)


def rounded(rows):
    return sorted(
        tuple(value if value is None else round(float(value), 9) for value in row) for row in rows
    )


def labels(axis):
    return {container.get_label() for container in axis.containers}


def line(axis, label):
    (found,) = (found for found in axis.lines if found.get_label() == label)
    return found


def test_points_bars_and_lines_are_those_of_results_json(drawn, tmp_path):
    expected, means = {"clean": [], "pgd20": []}, {"clean": {}, "pgd20": {}}
    for number, fraction in enumerate((0.1, 1 / 3, 1.0)):
        for seed in (0, 1):
            accuracy = {
                "clean": 0.9 + 0.02 * number + 0.004 * seed,
                "pgd20": 0.7 + 0.05 * number - 0.01 * seed,
            }
            flags = [f"train_fraction={fraction}", f"seed={seed}", "method=mixacm"]
            run_folder(tmp_path / f"seed{seed}" / f"run{number}", flags, accuracy)
            for attack, value in accuracy.items():
                expected[attack].append((fraction, 100 * value, 100 * value - 2, 100 * value + 1))
                means[attack].setdefault(fraction, []).append(100 * value)
    (axis,) = drawn("--x=train_fraction").axes
    for attack, label in (("clean", "clean"), ("pgd20", "under pgd20")):
        assert rounded(points(axis, label)) == rounded(expected[attack])
        mean = line(axis, f"mean: {label}")
        assert list(mean.get_xdata()) == [0.1, 1 / 3, 1.0]
        assert mean.get_ydata() == pytest.approx([sum(pair) / 2 for pair in means[attack].values()])
    assert (
        axis.get_ylabel() == "accuracy (%)"
        and axis.get_xlabel() == "train_fraction"
        and axis.get_xscale() == "linear"
    )
    low, high = axis.get_ylim()
    assert low < 67 and high > 95.4, "the whole of each interval is seen"


def test_two_seeds_of_a_point_stand_side_by_side(drawn, tmp_path):
    for seed in (0, 1):
        run_folder(tmp_path / f"seed{seed}" / "run", ["gamma=5", f"seed={seed}"], {"clean": 0.5})
    (axis,) = drawn("--x=gamma").axes
    places = [c.lines[0].get_transform().transform([5.0, 50.0])[0] for c in axis.containers]
    assert len(places) == 2 and 3 < abs(places[0] - places[1]) < 30


def test_a_series_has_a_panel_for_each_attack(drawn, tmp_path):
    for kld in (0.9, 0.95):
        for gamma in (5, 10):
            accuracy = {"clean": kld - 0.01 * gamma, "pgd100": 0.5 + 0.01 * gamma, "fgsm": 0.6}
            run_folder(
                tmp_path / f"{kld}_{gamma}", [f"alpha_kld={kld}", f"gamma={gamma}.0"], accuracy
            )
    figure = drawn("--x=alpha_kld", "--series=gamma", "--attacks=clean,pgd100")
    assert [axis.get_title() for axis in figure.axes] == ["clean", "under pgd100"]
    clean, pgd = figure.axes
    assert labels(clean) == labels(pgd) == {"gamma 5", "gamma 10"}
    assert rounded(points(pgd, "gamma 10")) == rounded([(kld, 60, 58, 61) for kld in (0.9, 0.95)])
    assert rounded(points(clean, "gamma 5")) == rounded([(0.9, 85, 83, 86), (0.95, 90, 88, 91)])
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["gamma 5", "gamma 10"]
    assert "1,000 test images of mnist, linf eps 0.1" in legend.get_title().get_text().replace(
        "\n", " "
    )


@pytest.mark.parametrize(
    ("values", "scale"),
    [((100, 1000, 100000), "log"), ((1, 30), "linear"), ((1, 31), "log"), ((0, 1, 100), "symlog")],
)
def test_wide_spans_are_logarithmic(drawn, tmp_path, values, scale):
    for value in values:
        run_folder(tmp_path / str(value), [f"alpha_acm={value}"], {"clean": 0.9})
    (axis,) = drawn("--x=alpha_acm").axes
    assert axis.get_xscale() == scale
    assert [text.get_text() for text in axis.get_xticklabels()] == list(map(str, values))


def test_depth_and_width_are_read_from_the_network(drawn, tmp_path):
    for depth, width in ((10, 1), (16, 1), (10, 2)):
        accuracy = {"clean": depth / 100 + width / 10}
        run_folder(tmp_path / f"{depth}_{width}", [f"model=wrn_{depth}_{width}"], accuracy)
    (axis,) = drawn("--x=depth", "--series=width").axes
    assert rounded(points(axis, "width 1")) == rounded([(10, 20, 18, 21), (16, 26, 24, 27)])
    assert rounded(points(axis, "width 2")) == rounded([(10, 30, 28, 31)])


def test_training_images_and_the_best_epoch_make_no_point(drawn, tmp_path):
    """They would be drawn as figures of test images, and of the run's own network."""
    folder = tmp_path / "a"
    run_folder(folder, ["lambda_diff=1"], {"clean": 0.8}, count=10)
    others = {"results_train.json": {"split": "train[:2000]"},
              "results_best.json": {"model": "runs/a/model_best.keras"}}  # fmt: skip
    result = json.loads((folder / "results.json").read_text())
    for file, other in others.items():
        written = result | other | {"num_examples": 2000, "accuracy": {"clean": 0.99}}
        written["confidence_interval_95"] = {"clean": [0.98, 1.0]}
        (folder / file).write_text(json.dumps(written))
    (axis,) = drawn("--x=lambda_diff").axes
    ((at, accuracy, *_),) = points(axis, "clean")
    assert (at, round(accuracy, 6)) == (1, 80)
    (folder / "results.json").unlink()
    with pytest.raises(InputError, match="results of other images than those of training"):
        drawn("--x=lambda_diff")


def test_each_radius_of_an_evaluation_is_a_point(drawn, tmp_path):
    run_folder(tmp_path / "a", ["lambda_diff=1"], {"clean": 0.8, "fgsm": 0.2}, eps=0.2)
    path = tmp_path / "a" / "results.json"
    result = json.loads(path.read_text())
    at = [
        {"eps": eps, "accuracy": {"clean": 0.8, "fgsm": accuracy},
         "confidence_interval_95": {"clean": [0.7, 0.9], "fgsm": [0, 1]}}
        for eps, accuracy in ((0.1, 0.5), (0.2, 0.2))
    ]  # fmt: skip
    path.write_text(json.dumps(result | {"radii": at}))
    (axis,) = drawn("--x=eps", "--attacks=fgsm").axes
    found = [(x, round(accuracy, 6)) for x, accuracy, *_ in points(axis, "under fgsm")]
    assert found == [(0.1, 50), (0.2, 20)]
    result["radii"] = [{"eps": 0.1, "accuracy": {"fgsm": 7}}]
    path.write_text(json.dumps(result))
    with pytest.raises(InputError, match="is no results file"):
        drawn("--x=eps")


def test_models_of_one_name_are_told_apart():
    assert files.told_apart(["a/seed0/igam".split("/"), "a/seed1/igam".split("/"), ["b"]]) == [
        "seed0/igam", "seed1/igam", "b"
    ]  # fmt: skip
    assert files.told_apart([["igam"], ["seed0", "igam"], ["seed0", "x"]]) == [
        "igam", "seed0/igam", "x"
    ]  # fmt: skip


def test_results_of_other_radii_are_lines_of_their_own_and_of_several_the_largest_holds(
    drawn, tmp_path
):
    run_folder(
        tmp_path / "run",
        ["gamma=5"],
        {"clean": 0.9, "pgd20": 0.8},
        count=500,
        file="results_500.json",
    )
    run_folder(tmp_path / "run", ["gamma=5"], {"clean": 0.91, "pgd20": 0.81}, count=10000)
    run_folder(
        tmp_path / "run",
        ["gamma=5"],
        {"clean": 0.92, "pgd20": 0.4},
        count=600,
        eps=0.2,
        file="results_b.json",
    )
    (axis,) = drawn("--x=gamma").axes
    found = {label: points(axis, label)[0][1] for label in labels(axis)}
    assert found == pytest.approx(
        {"clean": 91, "under pgd20, eps 0.1": 81, "under pgd20, eps 0.2": 40}
    )
    (axis,) = drawn("--x=eps", "--attacks=pgd20").axes
    assert rounded(points(axis, "under pgd20")) == rounded([(0.1, 81, 79, 82), (0.2, 40, 38, 41)])


def test_runs_may_be_chosen_by_pattern_and_smoke_runs_stay_out(drawn, tmp_path):
    for seed in (0, 1):
        run_folder(tmp_path / f"seed{seed}" / "a1", ["gamma=5"], {"clean": 0.5 + seed / 10})
        run_folder(tmp_path / f"seed{seed}" / "b1", ["gamma=6"], {"clean": 0.7})
    run_folder(tmp_path / "a_smoke", ["gamma=5", "smoke=true"], {"clean": 0.1})
    (axis,) = drawn("--x=gamma", f"--runs={tmp_path}/seed*/a?,{tmp_path}/a_smoke").axes
    assert [row[1] for row in points(axis, "clean")] == pytest.approx([50, 60])


def test_other_flags_that_differ_are_named(drawn, tmp_path, caplog):
    for seed, flags in enumerate(
        (["gamma=5", "teacher=runs/seed0/t"], ["gamma=6", "teacher=runs/seed1/t"])
    ):
        run_folder(
            tmp_path / str(seed), [*flags, f"seed={seed}", f"run_dir={seed}"], {"clean": 0.5}
        )
    with caplog.at_level(logging.WARNING):
        drawn("--x=gamma")
        assert not caplog.text
        run_folder(
            tmp_path / "other", ["gamma=7", "teacher=runs/seed0/t", "blocks=block4"], {"clean": 0.5}
        )
        drawn("--x=gamma")
    assert "beside gamma, runs of one line differ in blocks;" in caplog.text
    caplog.clear()
    drawn("--x=gamma", "--series=blocks")
    assert not caplog.text


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ([], "give --x=FLAG, the flag on the x axis, or --paper=FIGURE, one of mixacm_figure3, "),
        (["--x=gamma", "--runs=/nowhere"], r"no results\*.json in '/nowhere' or below"),
        (["--x=gama"], "--x: unknown flag 'gama'; nearest valid names: gamma"),
        (
            ["--x=gamma", "--series=metod"],
            "--series: unknown flag 'metod'; nearest valid names: method",
        ),
        (["--x=method"], "method is no number: 'mixacm'; give it as the series, not as x"),
        (["--x=depth"], "--x: unknown flag 'depth'|depth is no number"),
        (
            ["--x=gamma", "--attacks=pgd50"],
            "no run was measured under 'pgd50'; there are clean, pgd20",
        ),
        (
            ["--paper=mixacm_figure4"],
            "unknown --paper 'mixacm_figure4'; nearest valid names: mixacm_figure",
        ),
        (
            ["--paper=mixacm_figure3", "--x=gamma"],
            "are at --x=train_fraction --series=method, not at --x=gamma",
        ),
        (
            ["--paper=mixacm_figure3"],
            "no runs of mixacm_figure3 in .*; train with --flagfile=flags/mixacm/figure3_pgd7_10_",
        ),
        (["--x=gamma", "--output=/nowhere/x.png"], "its folder does not exist"),
        (["--x=gamma", "--output="], "give --output=FILE.png"),
    ],
)
def test_bad_input_gives_one_clear_line(drawn, tmp_path, flags, says):
    run_folder(tmp_path / "run", ["gamma=5", "method=mixacm"], {"clean": 0.5, "pgd20": 0.4})
    with pytest.raises(InputError, match=says) as caught:
        drawn(*flags)
    assert "\n" not in str(caught.value)


def test_the_command_writes_the_file(tmp_path):
    run_folder(tmp_path / "run", ["gamma=5"], {"clean": 1.0}, above=0.0)
    arguments = [
        "--kind=sweep",
        "--x=gamma",
        f"--runs={tmp_path}/run",
        f"--output={tmp_path}/x.png",
    ]
    visualize.run(parse(VisualizeConfig, arguments))
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(InputError, match="end the name in .png"):
        plot_sweep([Outcome({"gamma": 1}, {"clean": 0.5})], tmp_path / "x.txt", x="gamma")


@pytest.mark.parametrize("name", SWEEPS)
def test_the_places_of_a_papers_rows_are_those_of_their_flag_files(name):
    figure, placed = SWEEPS[name], 0
    for row in figure.table.rows:
        place = figure.place(row)
        if place:
            config = parse(TrainConfig, [f"--flagfile={ROOT / row.flag_file}"])
            size = re.fullmatch(r"wrn_(\d+)_(\d+)", config.model)
            flags = {flag.name: getattr(config, flag.name) for flag in train_flags(config.method)}
            flags = {**flags, **({"depth": int(size[1]), "width": int(size[2])} if size else {})}
            for flag, value in place.items():
                # The size ratio is no flag; Table 11 has it beside the student.
                found = (
                    flags[flag] * figure.units.get(flag, 1)
                    if flag in flags
                    else float(row.labels[1][:-1])
                )
                assert value == found, (row, flag)
            assert {figure.x, figure.series} - {""} == set(place)
            placed += 1
    names = {row.name for row in figure.table.rows}
    assert placed >= 3 and set(figure.baselines) <= names


def test_the_papers_points_stand_beside_ours(drawn, tmp_path):
    for depth, width in ((28, 10), (10, 1)):
        accuracy = {"clean": 0.8, "pgd20": 0.3, "pgd50": 0.2}
        run_folder(
            tmp_path / f"figure6_{depth}_{width}",
            [f"model=wrn_{depth}_{width}"],
            accuracy,
            eps=8 / 255,
        )
    # The row 28-5 repeats Table 4's; the other is none of the figure's.
    run_folder(
        tmp_path / "table4_ours_28_5_from_28_10",
        ["model=wrn_28_5"],
        {"clean": 0.7, "pgd20": 0.25},
        eps=8 / 255,
    )
    run_folder(
        tmp_path / "table4_pgd7_28_5", ["model=wrn_28_5"], {"clean": 0.1, "pgd20": 0.1}, eps=8 / 255
    )
    clean, pgd = drawn("--paper=mixacm_figure6a").axes
    assert rounded(points(pgd, "width 5")) == rounded([(28, 25, 23, 26)])
    assert rounded(points(clean, "width 1")) == rounded([(10, 80, 78, 81)])
    # MixACM's Table 11.
    assert [row[:2] for row in points(pgd, "width 10, paper")] == [
        (10, 6.54),
        (16, 48.09),
        (22, 51.23),
        (28, 54.05),
    ]
    assert [row[1] for row in points(clean, "width 1, paper")] == [66.65, 79.90, 82.74, 83.86]
    assert all(row[2] is None for row in points(clean, "width 1, paper")), (
        "the paper gives no intervals here"
    )
    paper, ours = line(pgd, "mean: width 10, paper"), line(pgd, "mean: width 10")
    assert (
        paper.get_linestyle() == "--"
        and ours.get_linestyle() == "-"
        and paper.get_color() == ours.get_color()
    )
    (axis,) = drawn("--paper=mixacm_figure6b").axes
    assert axis.get_xscale() == "log" and [row[0] for row in points(axis, "clean")] == [
        0.21,
        25.04,
        100,
    ]
    assert len(points(axis, "under pgd20, paper")) == 12


def test_baselines_are_dotted_and_numbers_come_from_the_repeated_row(drawn, tmp_path):
    for percent in (10, 100):
        for name, method in (("ours", "mixacm"), ("pgd7", "adversarial_training")):
            accuracy = {"clean": 0.8 + percent / 1000, "pgd20": 0.4 + percent / 1000}
            flags = [f"train_fraction={percent / 100}", f"method={method}"]
            run_folder(tmp_path / f"figure3_{name}_{percent}_percent", flags, accuracy, eps=8 / 255)
    clean, pgd = drawn("--paper=mixacm_figure3").axes
    assert rounded(row[:2] for row in points(pgd, "MixACM")) == [(0.1, 41), (1.0, 50)]
    dotted = {
        found.get_label(): found.get_ydata()[0]
        for found in pgd.lines
        if found.get_linestyle() == ":"
    }
    # Table 4: WRN-34-10, PGD7-AT.
    assert dotted == pytest.approx(
        {"PGD7-AT with all data": 50, "PGD7-AT with all data, paper": 49.72}
    )
    # Of Table 1 the clean accuracy alone is Figure 3's: its robustness is under other attacks.
    assert [row[:2] for row in points(clean, "MixACM, paper")] == [(1.0, 90.76)] and not points(
        pgd, "MixACM, paper"
    )


def test_any_runs_may_stand_beside_a_papers_points(drawn, tmp_path):
    for weight in (0, 5):
        run_folder(
            tmp_path / f"mine{weight}", [f"lambda_diff={weight}"], {"clean": 0.9, "pgd20": 0.5}
        )
    (axis,) = drawn("--paper=igam_table4", "--x=lambda_diff").axes
    assert [row[:2] for row in points(axis, "clean")] == [(0, 90), (5, 90)]
    assert [row[:2] for row in points(axis, "under pgd20, paper")] == [
        (0, 16.0),
        (2.5, 16.3),
        (5, 21.7),
        (10, 21.7),
    ]
    run_folder(
        tmp_path / "fraction", ["train_fraction=0.5", "method=mixacm"], {"clean": 0.9, "pgd20": 0.5}
    )
    clean, _ = drawn(
        "--paper=mixacm_figure3", "--x=train_fraction", f"--runs={tmp_path}/fraction"
    ).axes
    places = {name: [row[0] for row in points(clean, name)] for name in labels(clean)}
    assert places == {"MixACM": [0.5], "MixACM, paper": [1.0], "PGD7-AT, paper": [1.0]}


@pytest.mark.parametrize("flags", [[], ["--x=lambda_adv"]])
def test_runs_of_igams_table_5_stand_at_the_papers_lambda_adv(drawn, tmp_path, flags):
    """Twice the flag that their flag files have. The row 2 repeats Table 3's; without --paper the
    flag is the place.
    """
    accuracy = {"0": 0.78, "0.5": 0.77, "1": 0.74, "2": 0.62}
    for number, value in accuracy.items():
        read = parse(TrainConfig, [f"--flagfile={ROOT}/flags/igam/table5_adv_{number}.flags"])
        assert read.lambda_adv == {"0": 0, "0.5": 0.25, "1": 0.5, "2": 1}[number]
        folder = tmp_path / ("table3_igam_cifar10" if number == "2" else f"table5_adv_{number}")
        run_folder(
            folder,
            [f"lambda_adv={read.lambda_adv}"],
            {"clean": value, "pgd20": value / 3},
            eps=8 / 255,
        )
    (axis,) = drawn("--paper=igam_table5", *flags).axes
    ours = [(0, 78), (0.5, 77), (1, 74), (2, 62)]
    assert rounded(row[:2] for row in points(axis, "clean")) == rounded(ours)
    assert [row[:2] for row in points(axis, "clean, paper")] == [
        (0, 78.4),
        (0.5, 77.4),
        (1, 74.3),
        (2, 62.4),
    ]
    assert axis.get_xlabel() == "lambda_adv of the paper (twice the flag)"
    (axis,) = drawn("--x=lambda_adv").axes
    assert rounded(row[:2] for row in points(axis, "clean")) == rounded((x / 2, y) for x, y in ours)
    assert axis.get_xlabel() == "lambda_adv"


def test_a_figures_numbers_are_found_under_its_own_attack():
    rows = {row.folder: row for row in SWEEPS["mixacm_figure7b"].table.rows}
    found = paper_accuracy(
        SWEEPS["mixacm_figure7b"], rows["figure7b_alpha_kld_0.95_gamma_10"], TABLES
    )
    assert found == pytest.approx({"clean": 0.9076, "pgd100": 0.5665})
    assert not paper_accuracy(
        SWEEPS["mixacm_figure7b"], rows["figure7b_alpha_kld_0.9_gamma_10"], TABLES
    )


def test_a_figure_whose_baselines_alone_were_attacked(drawn, tmp_path):
    run_folder(tmp_path / "figure7b_without_kd", ["x=1"], {"clean": 0.8, "autoattack": 0.1})
    figure = SWEEPS["mixacm_figure7b"]
    row = next(row for row in figure.table.rows if figure.place(row))
    run_folder(tmp_path / row.folder, ["x=1"], {"clean": 0.8})
    with pytest.raises(InputError, match="no run was measured under 'autoattack'; there are clean"):
        drawn("--paper=mixacm_figure7b", "--attacks=autoattack")


def test_a_run_folder_reports_on_itself(tmp_path, monkeypatch, capsys):
    """ "." has no name of its own: a row without one, and for RobustBench's entries a traceback."""
    from tf_robust_transfer import report

    run_folder(tmp_path / "mine", ["method=igam"], {"clean": 0.8, "autoattack": 0.1}, count=10000)
    monkeypatch.chdir(tmp_path / "mine")
    report.main(["--runs=."])
    assert "\nmine " in capsys.readouterr().out
    report.main(["--runs=.", "--robustbench"])
    assert [pathlib.Path(file).stem for file in json.loads(capsys.readouterr().out)] == ["mine"]
