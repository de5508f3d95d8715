"""The tables of the two papers as data: their rows, the papers' figures, and the flag file that
trains each row.

The figures are copied from the papers, none is ours. `comparison` puts what run folders hold beside
them."""

from tf_robust_transfer.papers import igam, mixacm, mixacm_ablations
from tf_robust_transfer.papers.comparison import comparison
from tf_robust_transfer.papers.table import PLOTTED, Column, Row, Table

__all__ = ["PLOTTED", "TABLES", "Column", "Row", "Table", "comparison"]

TABLES = {
    "igam_figure5": igam.FIGURE_5,
    "igam_figure7": igam.FIGURE_7,
    "igam_table1": igam.TABLE_1,
    "igam_table2": igam.TABLE_2,
    "igam_table3": igam.TABLE_3,
    "igam_table4": igam.TABLE_4,
    "igam_table5": igam.TABLE_5,
    "mixacm_figure3": mixacm.FIGURE_3,
    "mixacm_figure6": mixacm_ablations.FIGURE_6,
    "mixacm_figure7": mixacm_ablations.FIGURE_7,
    "mixacm_table1": mixacm.TABLE_1,
    "mixacm_table2": mixacm.TABLE_2,
    "mixacm_table3": mixacm.TABLE_3,
    "mixacm_table4": mixacm.TABLE_4,
    "mixacm_table5": mixacm.TABLE_5,
    "mixacm_table6": mixacm_ablations.TABLE_6,
    "mixacm_table7": mixacm_ablations.TABLE_7,
    "mixacm_table8": mixacm_ablations.TABLE_8,
    "mixacm_table9": mixacm_ablations.TABLE_9,
    "mixacm_table10": mixacm_ablations.TABLE_10,
    "mixacm_table11": mixacm_ablations.TABLE_11,
}
