"""Tables 6 to 11 and Figures 6 and 7 of MixACM, which are its ablations and the limits of
distillation.
"""

import dataclasses

from tf_robust_transfer.papers.mixacm import CLEAN, ROBUST, TABLE_4, pairs, row
from tf_robust_transfer.papers.table import PLOTTED, Column, Table

# What these tables call robustness of WRN-34-10 is the PGD-100 of Table 1: 56.65.
_PGD_100 = Column("Rob.", "pgd100")
_ACCURACY_AND_ROBUSTNESS = (
    Column("Accuracy", "clean"),
    dataclasses.replace(_PGD_100, heading="Robustness"),
)

_COMPONENTS = (
    row("table6a_standard", ("Std. Setting",), "90.76 56.65", same_as="mixacm/table1_ours"),
    row("table6a_without_kd", ("w/o KD",), "92.50 52.29"),
    row(
        "table6a_without_mixup",
        ("w/o Mixup",),
        "91.17 49.53",
        same_as="mixacm/table1_ours_without_mixup",
    ),
    row("table6a_only_acm", ("Only ACM",), "92.87 48.38"),
    row("table6a_only_kd", ("Only KD",), "89.38 0.21", same_as="mixacm/table1_rkd"),
)
_FEATURES = (
    row("table6b_block_2", ("Low-Level (2)",), "86.36 17.24"),
    row("table6b_block_3", ("Mid-Level (3)",), "88.30 39.37"),
    row("table6b_block_4", ("High-Level (4)",), "91.18 33.13"),
    row("table6b_blocks_2_3", ("Low+Mid Level (2+3)",), "88.15 41.92"),
    row("table6b_blocks_3_4", ("Mid+High Level (3+4)",), "90.69 52.79"),
    row("table6b_block_1", ("First Layer Only (1)",), "86.00 0.31"),
    row("table6b_blocks_2_3_4", ("No First Layer (2+3+4)",), "90.69 56.15"),
    row("table6b_all_blocks", ("All Features",), "90.76 56.65", same_as="mixacm/table1_ours"),
)


def _repeated(rows, old, new):
    """The same rows in another table of the paper."""
    return tuple(
        dataclasses.replace(one, name=one.name.replace(old, new), same_as=one.same_as or one.name)
        for one in rows
    )


TABLE_6 = Table(
    "MixACM, Table 6",
    "CIFAR-10, WRN-34-10, accuracy (%): (a) impact of the components (the paper's columns are rows "
    "here), (b) of the matched features",
    ("Setting",),
    _ACCURACY_AND_ROBUSTNESS,
    (*_COMPONENTS, *_FEATURES),
)

TABLE_7 = Table(
    "MixACM, Table 7",
    "impact of the components, CIFAR-10, WRN-34-10, accuracy (%) (the paper's columns are rows "
    "here)",
    ("Setting",),
    _ACCURACY_AND_ROBUSTNESS,
    _repeated(_COMPONENTS, "table6a", "table7"),
)

TABLE_8 = Table(
    "MixACM, Table 8",
    "impact of the matched features, CIFAR-10, WRN-34-10, accuracy (%)",
    ("Features Used",),
    _ACCURACY_AND_ROBUSTNESS,
    _repeated(_FEATURES, "table6b", "table8"),
)

TABLE_9 = Table(
    "MixACM, Table 9",
    "a direct loss on the features beside the activated channel maps, accuracy (%); the paper's "
    "robustness is that of its Table 1 (PGD-100) for WRN-34-10 on CIFAR-10, else PGD-20",
    ("Data", "Method", "Teacher", "Student"),
    (Column("Accuracy", "clean"), Column("Robustness", "pgd20,pgd100")),
    (
        row(
            "table9_direct_34_10_from_28_10",
            ("CIFAR-10", "Full", "WRN28-10", "WRN34-10"),
            "89.98 56.12",
        ),
        row(
            "table9_mixacm_34_10_from_28_10",
            ("CIFAR-10", "MixACM", "WRN28-10", "WRN34-10"),
            "90.76 56.65",
            same_as="mixacm/table1_ours",
        ),
        row(
            "table9_direct_28_5_from_28_10",
            ("CIFAR-10", "Full", "WRN28-10", "WRN28-5"),
            "88.46 44.95",
        ),
        row(
            "table9_mixacm_28_5_from_28_10",
            ("CIFAR-10", "MixACM", "WRN28-10", "WRN28-5"),
            "90.26 48.75",
            same_as="mixacm/table4_ours_28_5_from_28_10",
        ),
        row(
            "table9_direct_16_10_from_34_20",
            ("CIFAR-10", "Full", "WRN-34-20", "WRN16-10"),
            "84.27 41.9",
        ),
        row(
            "table9_mixacm_16_10_from_34_20",
            ("CIFAR-10", "MixACM", "WRN-34-20", "WRN16-10"),
            "86.31 47.18",
            same_as="mixacm/table4_ours_16_10_from_34_20",
        ),
        row(
            "table9_cifar100_direct", ("CIFAR-100", "Direct", "WRN28-10", "WRN34-10"), "57.86 16.20"
        ),
        row(
            "table9_cifar100_acm",
            ("CIFAR-100", "ACM", "WRN28-10", "WRN34-10"),
            "65.69 24.14",
            same_as="mixacm/table5_ours",
        ),
    ),
)

TABLE_10 = Table(
    "MixACM, Table 10",
    "channel transforms, WRN-28-10 to WRN-28-5, CIFAR-10, accuracy (%), Robustness under PGD-20 at "
    "linf 8/255",
    ("Teacher Transform", "Student Transform"),
    (Column("Accuracy", "clean"), Column("Robustness", "pgd20")),
    (
        row("table10_student_max", ("None", "Adaptive Max Pool"), "89.92 46.41"),
        row("table10_student_average", ("None", "Adaptive Avg Pool"), "90.04 46.27"),
        row("table10_student_affine", ("None", "Affine"), "88.86 30.27"),
        row(
            "table10_teacher_max",
            ("Adaptive Max Pool", "None"),
            "90.26 48.75",
            same_as="mixacm/table4_ours_28_5_from_28_10",
        ),
        row("table10_teacher_average", ("Adaptive Avg Pool", "None"), "89.99 42.01"),
        row("table10_teacher_affine", ("Affine", "None"), "88.39 23.51"),
    ),
)

_RATIOS_OF_TABLE_11 = (
    ("28_10", "100%", "84.17 49.23", "90.48 54.05"),
    ("28_5", "25.04%", "83.90 47.74", "90.26 48.75"),
    ("28_1", "1.01%", "78.89 48.27", "83.86 8.67"),
    ("22_10", "73.5%", "84.26 49.29", "90.40 51.23"),
    ("22_5", "18.40%", "83.73 48.93", "89.49 46.16"),
    ("22_1", "0.75%", "78.36 47.57", "82.74 5.81"),
    ("16_10", "46.92%", "83.90 47.55", "89.93 48.09"),
    ("16_5", "11.76%", "83.51 48.11", "88.96 36.95"),
    ("16_1", "0.48%", "75.69 44.46", "79.90 2.45"),
    ("10_10", "20.38%", "78.59 44.41", "86.31 6.54"),
    ("10_5", "5.12%", "78.16 44.04", "82.82 3.41"),
    ("10_1", "0.21%", "67.11 38.85", "66.65 1.15"),
)
_IN_TABLE_4 = {
    one.name.removeprefix("mixacm/table4_"): one.same_as or one.name for one in TABLE_4.rows
}

TABLE_11 = Table(
    "MixACM, Table 11",
    "distillation from WRN-28-10 with different size ratios, CIFAR-10, accuracy (%), Rob. under "
    "PGD-20 at linf 8/255; each row of the paper is two here",
    ("Student", "Size Ratio", "Method"),
    (CLEAN, ROBUST),
    pairs(
        "table11",
        [
            ((f"WRN {s.replace('_', '-')}", ratio), s, "28_10", at, ours)
            for s, ratio, at, ours in _RATIOS_OF_TABLE_11
        ],
        lambda name: _IN_TABLE_4.get(name, ""),
    ),
)

FIGURE_6 = Table(
    "MixACM, Figure 6",
    "the limits of distillation: Table 11's rows by depth and width, and by size ratio (the paper "
    "plots them)",
    ("Student", "Size Ratio"),
    (CLEAN, ROBUST),
    tuple(
        row(
            f"figure6_{s}",
            (f"WRN {s.replace('_', '-')}", ratio),
            ours,
            same_as=_IN_TABLE_4.get(f"ours_{s}_from_28_10", f"mixacm/table11_ours_{s}_from_28_10"),
        )
        for s, ratio, _, ours in _RATIOS_OF_TABLE_11
    ),
)

_TWO_POINTS = f"{PLOTTED} {PLOTTED}"

FIGURE_7 = Table(
    "MixACM, Figure 7",
    "hyper-parameters, CIFAR-10, WRN-34-10, accuracy (%): (a) alpha_acm with the ACM loss alone, "
    "(b) alpha_kld and gamma (the paper plots them; its text names alpha_acm 100 and 100000, "
    "alpha_kld 0 and 0.95, gamma 10, the others are ours)",
    ("Setting",),
    (CLEAN, _PGD_100),
    (
        *(
            row(
                f"figure7a_alpha_acm_{weight}",
                (f"(a) alpha_acm {weight}",),
                _TWO_POINTS,
                same_as="mixacm/table6a_only_acm" if weight == 5000 else "",
            )
            for weight in (100, 1000, 5000, 10000, 100000)
        ),
        row(
            "figure7b_without_kd",
            ("(b) alpha_kld 0",),
            _TWO_POINTS,
            same_as="mixacm/table6a_without_kd",
        ),
        *(
            row(
                f"figure7b_alpha_kld_{kld}_gamma_{gamma}",
                (f"(b) alpha_kld {kld}, gamma {gamma}",),
                _TWO_POINTS,
                same_as="mixacm/table1_ours" if (kld, gamma) == (0.95, 10) else "",
            )
            for kld in (0.9, 0.95, 0.99)
            for gamma in (5, 10, 20)
        ),
    ),
)
