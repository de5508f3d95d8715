"""What a table of a paper is made of, as data."""

import dataclasses
import pathlib

PLOTTED = "plot"  # A figure that stands in the paper as a point of a plot, not as a number.


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of accuracies.

    Attributes:
        heading: the paper's.
        attacks: our names of the attack that it is under, comma-separated. Several where the
            paper's rows differ.
        eps: radius of the attack (linf), as a flag writes it.
    """

    heading: str
    attacks: str
    eps: str = "8/255"


@dataclasses.dataclass(frozen=True)
class Row:
    """A row, or a point of a figure: one trained model.

    Attributes:
        name: "igam/table1_standard": its flag file is flags/igam/table1_standard.flags, and its run
            folder has that name.
        labels: what the paper calls it, one for each of the table's labels.
        figures: the paper's, in % and written as there, one for each column; "-" where the paper
            has none, `PLOTTED` where it shows a point, and with "?" at the end where the text of
            the paper at hand is damaged.
        same_as: name of the row of another table that is the same model.
        quoted: why there is no flag file: a method of a third paper, whose figures this paper
            quotes. "" if there is one.
    """

    name: str
    labels: tuple[str, ...]
    figures: tuple[str, ...]
    same_as: str = ""
    quoted: str = ""

    @property
    def flag_file(self) -> str:
        """Path of the flag file from the repository's root; "" where there is none."""
        return "" if self.quoted else f"flags/{self.name}.flags"

    @property
    def folder(self) -> str:
        """Name of the row's run folders, whatever folder of seeds they stand in."""
        return pathlib.PurePath(self.name).name


@dataclasses.dataclass(frozen=True)
class Table:
    """A table or figure of a paper.

    Attributes:
        title: where it stands, "IGAM, Table 1".
        caption: what it shows, and where its form here departs from the paper's.
        labels: headings of the rows' labels.
        columns: of accuracies.
        rows: in the paper's order.
    """

    title: str
    caption: str
    labels: tuple[str, ...]
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
