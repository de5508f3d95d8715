"""The papers' figures (and tables of one flag) that are accuracies against a flag: which flag, and
where each row stands.

What the figures show of a row that the paper gives as a number elsewhere, in the row of a table
that it repeats, is taken from there; points that stand in plots alone have no number."""

import dataclasses
import re
from collections.abc import Callable, Mapping

from tf_robust_transfer.flag_types import fraction
from tf_robust_transfer.papers import igam, mixacm, mixacm_ablations
from tf_robust_transfer.papers.table import Row, Table


@dataclasses.dataclass(frozen=True)
class SweepFigure:
    """A figure, or a panel of one.

    Attributes:
        title: where it stands and what it shows.
        table: its rows.
        x: flag on the x axis; depth, width and size_ratio are those of the student.
        series: flag whose values are told apart; "": none.
        attacks: our names of those that it shows.
        place: from a row to {flag: value} of its point, or None where it is none.
        baselines: row -> label of the dotted line that it is drawn as.
        labels: flag or "flag=value" -> how it is written.
        units: flag -> what a run's value is multiplied by to be in the paper's unit, in which x is;
            1 if it is not here.
    """

    title: str
    table: Table
    x: str
    series: str
    attacks: tuple[str, ...]
    place: Callable[[Row], dict | None]
    baselines: Mapping[str, str] = dataclasses.field(default_factory=dict)
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)
    units: Mapping[str, float] = dataclasses.field(default_factory=dict)


def _numbers(pattern: str, *flags: str):
    """Reads the flags from the name of the row's run folder; rows of another name are no points."""

    def place(row):
        found = re.fullmatch(pattern, row.folder)
        return found and dict(zip(flags, map(float, found.groups())))

    return place


def _figure_3(row):
    method, percent = re.fullmatch(r"figure3_(\w+)_(\d+)_percent", row.folder).groups()
    return {
        "train_fraction": int(percent) / 100,
        "method": {"pgd7": "adversarial_training", "ours": "mixacm"}[method],
    }


def _figure_6b(row):
    return {"size_ratio": float(row.labels[1].rstrip("%"))}


SWEEPS = {
    "mixacm_figure3": SweepFigure(
        "MixACM, Figure 3: robustness transfer with smaller data, CIFAR-10",
        mixacm.FIGURE_3,
        "train_fraction",
        "method",
        ("clean", "pgd20"),
        _figure_3,
        {"mixacm/figure3_pgd7_100_percent": "PGD7-AT with all data"},
        {
            "train_fraction": "fraction of the training images",
            "method=mixacm": "MixACM",
            "method=adversarial_training": "PGD7-AT",
        },
    ),
    "mixacm_figure6a": SweepFigure(
        "MixACM, Figure 6a: the limits of distillation, students WRN-depth-width, CIFAR-10",
        mixacm_ablations.FIGURE_6,
        "depth",
        "width",
        ("clean", "pgd20"),
        _numbers(r"figure6_(\d+)_(\d+)", "depth", "width"),
        labels={"depth": "depth of the student", "width": "width"},
    ),
    "mixacm_figure6b": SweepFigure(
        "MixACM, Figure 6b: the limits of distillation by size of the student, CIFAR-10",
        mixacm_ablations.FIGURE_6,
        "size_ratio",
        "",
        ("clean", "pgd20"),
        _figure_6b,
        labels={"size_ratio": "parameters of the student (% of the teacher's)"},
    ),
    "mixacm_figure7a": SweepFigure(
        "MixACM, Figure 7a: weight of the channel maps, without soft labels and mixup, CIFAR-10",
        mixacm_ablations.FIGURE_7,
        "alpha_acm",
        "",
        ("clean", "pgd100"),
        _numbers(r"figure7a_alpha_acm_(\d+)", "alpha_acm"),
    ),
    "mixacm_figure7b": SweepFigure(
        "MixACM, Figure 7b: weight and temperature of the soft labels, CIFAR-10",
        mixacm_ablations.FIGURE_7,
        "alpha_kld",
        "gamma",
        ("clean", "pgd100"),
        _numbers(r"figure7b_alpha_kld_([\d.]+)_gamma_(\d+)", "alpha_kld", "gamma"),
        {"mixacm/figure7b_without_kd": "without soft labels"},
    ),
    "igam_table4": SweepFigure(
        "IGAM, Table 4: weight of the l2 term, CIFAR-100",
        igam.TABLE_4,
        "lambda_diff",
        "",
        ("clean", "pgd20"),
        _numbers(r"table4_diff_([\d.]+)", "lambda_diff"),
    ),
    "igam_table5": SweepFigure(
        "IGAM, Table 5: weight of the adversarial term, CIFAR-100",
        igam.TABLE_5,
        "lambda_adv",
        "",
        ("clean", "pgd20"),
        _numbers(r"table5_adv_([\d.]+)", "lambda_adv"),
        labels={"lambda_adv": "lambda_adv of the paper (twice the flag)"},
        # Appendix A's is the reference code's beta; --lambda_adv is the weight of Eq. 10
        # (`methods.igam_presets`).
        units={"lambda_adv": 2.0},
    ),
}


def paper_accuracy(figure: SweepFigure, row: Row, tables: Mapping[str, Table]) -> dict[str, float]:
    """{our name of an attack: the paper's accuracy as a fraction} of a row, as far as the paper
    gives numbers.

    tables: all of the papers', in which the row that it repeats is looked up. A column at another
    radius than the figure's tables have (8/255) is left out, and so is a figure that is damaged in
    the text at hand."""
    found = {}
    for table in (figure.table, *tables.values()):
        for one in table.rows:
            if one.name in (row.name, row.same_as):
                for column, text in zip(table.columns, one.figures):
                    clear = re.fullmatch(r"(\d+(?:\.\d+)?)(?:±[\d.]+)?", text)
                    if (
                        clear
                        and column.attacks in figure.attacks
                        and fraction(column.eps) == 8 / 255
                    ):
                        found.setdefault(column.attacks, float(clear[1]) / 100)
    return found
