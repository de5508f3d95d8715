"""Tables 1 to 5 and Figure 3 of "MixACM: Mixup-Based Robustness Transfer via Distillation of
Activated Channel Maps".
"""

from tf_robust_transfer.papers.table import PLOTTED, Column, Row, Table

CLEAN = Column("Acc.", "clean")
ROBUST = Column("Rob.", "pgd20")


def row(name, labels, figures, **kwargs):
    return Row(f"mixacm/{name}", tuple(labels), tuple(figures.split()), **kwargs)


def _quoted(name, labels, figures, paper, public=""):
    """A row of a third paper; public: the RobustBench file that fills it, by `evaluate` into its
    run folder.
    """
    why = f"figures of {paper}, whose method is not here"
    if public:
        why += (
            "; python -m tf_robust_transfer.evaluate "
            f"--model=robustbench:{public}:models/{public}.pt --dataset=cifar10 "
            "--eps=8/255 --attack_step_size=2/255 --attacks=pgd100,autoattack "
            f"--output=runs/mixacm/{name}/results.json"
        )
    return row(name, labels, figures, quoted=why)


_W10, _W20 = "WRN-34-10", "WRN-34-20"

TABLE_1 = Table(
    "MixACM, Table 1",
    "CIFAR-10 test accuracy and robustness (%), linf 8/255; the paper's own rows are means and "
    "standard deviations of five",
    ("Method", "Model", "Extra B.P. Steps"),
    (
        Column("Clean Acc.", "clean"),
        Column("PGD 100", "pgd100"),
        Column("Auto Attack", "autoattack"),
    ),
    (
        row("table1_at", ("AT (Madry et al.)", _W10, "yes"), "87.14 47.04 44.04"),
        _quoted(
            "table1_lat",
            ("LAT (Singh et al.)", _W10, "yes"),
            "87.80 53.04 49.12",
            "Singh et al. [70]",
        ),
        _quoted(
            "table1_tla", ("TLA (Mao et al.)", _W10, "yes"), "86.21 50.03 47.41", "Mao et al. [51]"
        ),
        _quoted(
            "table1_yopo",
            ("YOPO (Zhang et al.)", _W10, "yes"),
            "87.20 47.98 44.83",
            "Zhang et al. [94]",
        ),
        _quoted(
            "table1_free_at",
            ("Free AT (Shafahi et al.)", _W10, "yes"),
            "86.11 46.19 41.47",
            "Shafahi et al. [67]",
        ),
        _quoted(
            "table1_trades",
            ("TRADES (Zhang et al.)", _W10, "yes"),
            "84.92 56.43 53.08",
            "Zhang et al. [95]",
        ),
        _quoted(
            "table1_mart", ("MART (Wang et al.)", _W10, "yes"), "83.07 55.57 -", "Wang et al. [79]"
        ),
        _quoted(
            "table1_awp", ("AWP (Wu et al.)", _W10, "yes"), "85.36 59.12 56.17", "Wu et al. [82]"
        ),
        _quoted(
            "table1_fat",
            ("FAT (Zhang et al.)", _W10, "yes"),
            "84.52 54.36 53.51",
            "Zhang et al. [97]",
        ),
        _quoted(
            "table1_overfitting",
            ("Overfitting (Rice et al.)", _W20, "yes"),
            "85.34 58.00 53.42",
            "Rice et al. [61]",
            public="Rice2020Overfitting",
        ),
        _quoted(
            "table1_bot_trades",
            ("BoT TRADES (Pang et al.)", _W20, "yes"),
            "86.43 54.39 54.39",
            "Pang et al. [56]",
        ),
        _quoted(
            "table1_pretraining",
            ("Adv. Pretraining (Hendrycks et al.)", "WRN-28-10", "yes"),
            "87.10 57.40 54.92",
            "Hendrycks et al. [33]",
            public="Hendrycks2019Using",
        ),
        row(
            "table1_igam",
            ("IGAM (Chan et al.)", _W10, "yes"),
            "88.70 43.00 -",
            same_as="igam/table2_upsize",
        ),
        row("table1_rkd", ("RKD (Goldblum et al.)", _W10, "no"), "89.38 0.21 0"),
        row(
            "table1_ours_without_mixup",
            ("Ours (w/o Mixup)", _W10, "no"),
            "91.17±0.06 49.53±1.44 47.38±1.51",
        ),
        row("table1_ours", ("Ours (w/ Mixup)", _W10, "no"), "90.76±0.05 56.65±0.93 53.93±0.77"),
    ),
)

TABLE_2 = Table(
    "MixACM, Table 2",
    "ImageNet, ResNet-50, accuracy (%) at two radii; a model that was trained for one of them has "
    "a row of its own here",
    ("Method", "Train eps (1/255)"),
    (
        CLEAN,
        *(
            Column(f"PGD{k} {eps}", f"pgd{k}", eps)
            for eps in ("2/255", "4/255")
            for k in (10, 50, 100)
        ),
    ),
    (
        _quoted(
            "table2_free_at_eps2",
            ("Free-AT", "2"),
            "64.45 43.52 43.39 43.40 - - -",
            "Shafahi et al. [67]",
        ),
        _quoted(
            "table2_free_at_eps4",
            ("Free-AT", "4"),
            "60.21 - - - 32.77 31.88 31.82",
            "Shafahi et al. [67]",
        ),
        row("table2_fast_at_eps2", ("Fast-AT", "2"), "60.90 - 43.46 - - - -"),
        row("table2_fast_at_eps4", ("Fast-AT", "4"), "55.45 - - - - 30.28 -"),
        row("table2_ours", ("Ours", "0"), "59.64 46.03 45.96 45.92 32.70 31.51 31.39"),
        row(
            "table2_ours_randaugment", ("Ours+RA", "0"), "62.05 48.54 48.45 48.44 34.93 33.71 33.63"
        ),
    ),
)

TABLE_3 = Table(
    "MixACM, Table 3",
    "distillation from WRN-28-10 to WRN-16-10, accuracy (%), linf 8/255",
    ("Dataset", "Method"),
    (
        CLEAN,
        Column("FGSM", "fgsm"),
        Column("PGD 20", "pgd20"),
        Column("PGD 500", "pgd500"),
        Column("APGD CE", "apgd-ce"),
        Column("APGD DLR", "apgd-dlr"),
        Column("FAB", "fab"),
        Column("Square", "square"),
        Column("Auto Attack", "autoattack"),
    ),
    (
        row("table3_cifar10_natural", ("CIFAR-10", "Natural"), "93.79 5.34 0 0 0 0 0 0 0"),
        row(
            "table3_cifar10_pgd7",
            ("CIFAR-10", "PGD7-AT"),
            "83.90 53.07 47.55 47.36 47.28 44.52 44.89 53.26 44.51",
        ),
        row("table3_cifar10_rkd", ("CIFAR-10", "RKD"), "88.60 27.37 0.12 0 0 0 0 7.31 0"),
        row(
            "table3_cifar10_ours_without_mixup",
            ("CIFAR-10", "Ours w/o mixup"),
            "90.47 56.98 40.69 39.69 39.24 36.46 37.21 56.30 36.42",
        ),
        row(
            "table3_cifar10_ours",
            ("CIFAR-10", "Ours"),
            "89.93 59.48 48.09 47.51 47.31 43.73 44.46 60.20 43.64",
        ),
        row("table3_cifar100_natural", ("CIFAR-100", "Natural"), "76.91 3.17 0 0 0 0 0 0 0"),
        row(
            "table3_cifar100_pgd7",
            ("CIFAR-100", "PGD7-AT"),
            "60.29 28.37 24.94 24.75 24.71 21.94 22.16 27.97 21.94",
        ),
        row("table3_cifar100_rkd", ("CIFAR-100", "RKD"), "67.19 10.27 0.23 0.16 0.04 0 0 3.73 0"),
        row(
            "table3_cifar100_ours_without_mixup",
            ("CIFAR-100", "Ours w/o mixup"),
            "60.81 30.13 25.38 25.12 24.93 19.51 19.83 29.74 19.50",
        ),
        row(
            "table3_cifar100_ours",
            ("CIFAR-100", "Ours"),
            "59.35 31.89 28.24 28.20 27.96 22.02 22.26 31.60 22.02",
        ),
    ),
)


def pairs(table, compared, same=lambda name: ""):
    """Two rows, PGD7-AT and ours, for each row of the paper.

    table: "table4", with which the names begin. compared: of (the paper's labels, student "16_10",
    teacher "28_10", figures of PGD7-AT, figures of ours). same: from the name of a row, without the
    table, to the row of another table that it repeats, or ""."""
    rows = []
    for labels, student, teacher, adversarial, ours in compared:
        for name, method, figures in (
            (f"pgd7_{student}", "PGD7-AT", adversarial),
            (f"ours_{student}_from_{teacher}", "Ours", ours),
        ):
            rows.append(row(f"{table}_{name}", (*labels, method), figures, same_as=same(name)))
    return tuple(rows)


_BOTH = "Depth & Channel"
_ROWS_OF_TABLE_4 = (
    (("Depth", "WRN-28-10", "WRN-16-10", "46.92%"), "16_10", "28_10", "83.90 47.55", "89.93 48.09"),
    (("Channel", "WRN-28-10", "WRN-28-5", "25.04%"), "28_5", "28_10", "83.90 47.74", "90.26 48.75"),
    (
        ("Channel", "WRN-34-20", "WRN-34-10", "25.01%"),
        "34_10",
        "34_20",
        "84.30 49.72",
        "87.26 52.83",
    ),
    ((_BOTH, "WRN-28-10", "WRN-16-5", "11.76%"), "16_5", "28_10", "83.51 48.11", "88.96 36.95"),
    ((_BOTH, "WRN-34-20", "WRN-16-10", "9.227%"), "16_10", "34_20", "83.90 47.55", "86.31 47.18"),
    (
        ("Tiny network", "WRN-28-10", "WRN-10-1", "0.21%"),
        "10_1",
        "28_10",
        "67.11 38.85",
        "66.65 1.15",
    ),
    (
        ("Tiny network", "WRN-34-20", "WRN-10-1", "0.04%"),
        "10_1",
        "34_20",
        "67.11 38.85",
        "63.19 3.75",
    ),
    (
        ("Same network", "WRN-28-10", "WRN-28-10", "100%"),
        "28_10",
        "28_10",
        "84.17 49.23",
        "90.48 54.05",
    ),
    (
        ("Same network", "WRN-34-20", "WRN-34-20", "100%"),
        "34_20",
        "34_20",
        "84.20 49.11",
        "87.17 53.60",
    ),
    (
        ("Up Transfer", "WRN-28-10", "WRN-34-20", "505.85%"),
        "34_20",
        "28_10",
        "84.20 49.11",
        "90.67 58.36",
    ),
)
_IN_TABLE_3 = {
    "pgd7_16_10": "mixacm/table3_cifar10_pgd7",
    "ours_16_10_from_28_10": "mixacm/table3_cifar10_ours",
}

TABLE_4 = Table(
    "MixACM, Table 4",
    "model compression, CIFAR-10, accuracy (%), Rob. under PGD-20 at linf 8/255; each row of the "
    "paper is two here",
    ("Distill Type", "Teacher", "Student", "Size Ratio", "Method"),
    (CLEAN, ROBUST),
    pairs("table4", _ROWS_OF_TABLE_4, lambda name: _IN_TABLE_3.get(name, "")),
)

FIGURE_3 = Table(
    "MixACM, Figure 3",
    "CIFAR-10, student trained on a part of the training images, accuracy (%), Rob. under PGD-20 "
        "at linf 8/255 (the paper "
    "plots them; its text names 30% alone, the other fractions are ours, and so is the student, "
        "which it does not name)",
    ("Fraction", "Method"),
    (CLEAN, ROBUST),
    tuple(
        row(f"figure3_{name}_{percent}_percent", (f"{percent}%", method), f"{PLOTTED} {PLOTTED}",
            same_as=whole if percent == 100 else "")
        for percent in (10, 20, 30, 50, 70, 100)
        for name, method, whole in (
            ("pgd7", "PGD7-AT", "mixacm/table4_pgd7_34_10"),
            ("ours", "Ours", "mixacm/table1_ours"),
        )
    ),
)  # fmt: skip

TABLE_5 = Table(
    "MixACM, Table 5",
    "robustness transfer from ImageNet to CIFAR-100, accuracy (%), linf 8/255; ours are means of "
    "five in the paper",
    ("Defense",),
    (CLEAN, Column("FGSM", "fgsm"), *(Column(f"PGD-{k}", f"pgd{k}") for k in (5, 10, 20))),
    (
        row(
            "table5_natural", ("Natural",), "78.70 7.95 0.13 0.03 0", same_as="igam/table3_standard"
        ),
        row(
            "table5_pgd7", ("PGD7-AT",), "60.40 29.10 29.30 24.30 23.50", same_as="igam/table3_pgd7"
        ),
        row(
            "table5_igam",
            ("IGAM",),
            "62.39 34.31 29.59 24.05 21.74",
            same_as="igam/table3_igam_cifar10",
        ),
        row("table5_ours_without_mixup", ("Ours w/o Mixup",), "68.91 29.09 28.65 21.70 20.27"),
        row("table5_ours", ("Ours",), "65.69 32.09 32.04 25.58 24.14"),
    ),
)
