"""What a printed table is: rows and columns of cells, each with its protocol and its flags.

A protocol says how a number was measured, by metric, as far as it is known: a sentence that a
rendered table shows as a note. What was not verified says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

UNREPORTED = "-"
"""What the paper prints where a method has no number."""

_CLIPSEG_AP = (
    "AP of CLIPSeg's protocol: counts pooled over the set, Simpson's rule over recall, no anchors"
)

PHRASECUT = {"mIoU": "From PhraseCut's own evaluator: mean over phrases of the IoU of a hard mask"}
CLIPSEG = {"mIoU": "CLIPSeg's protocol at the fixed threshold 0.3", "AP": _CLIPSEG_AP}
LDZNET = {
    "mIoU": "CLIPSeg's protocol at the best of its thresholds, chosen on the test set itself",
    "AP": _CLIPSEG_AP,
}
LDZNET_REFER = {
    "mIoU": "By the text, LD-ZNet's protocol; which threshold each row uses was not verified",
    "AP": _CLIPSEG_AP,
}
OURS = {
    "mIoU": "Best mIoU “following LD-ZNet”, so at the best threshold on the test set; it is not "
    "printed",
    "AP": "AP “following LD-ZNet”; which of the rules of that name was used was not verified",
}
VPD = {
    "mIoU": "Not mIoU but overall IoU, pooled over the validation set (VPD's abstract: 73.3 oIoU "
    "on RefCOCO val)"
}
ADDP = {"mIoU": "Which IoU and which split this is was not verified"}
SEMFLOW = {"mIoU": "Closed set: every pixel gets one of 171 names; mIoU of the confusion matrix"}
LATENCY = {"seconds": "Mean of 100 runs on an RTX 3090; batch and precision are not stated"}
SETTING = {"value": "A setting, not a measurement"}


class UnknownCellError(LookupError):
    """A table, row or column that the paper does not have; the message names those it has."""


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        name: unique in its table, such as `mIoU`, or `RefCOCO mIoU` under a printed group.
        metric: `mIoU`, `AP` (both in percent), `seconds` or `value` (a setting).
        dataset: what was measured on; empty for settings.
    """

    name: str
    metric: str
    dataset: str = ""


def paired(*datasets: str) -> tuple[Column, ...]:
    """Make columns for mIoU and AP on each data set."""
    return tuple(Column(f"{d} {metric}", metric, d) for d in datasets for metric in ("mIoU", "AP"))


def flag(text: str, *columns: str) -> dict[str, tuple[str, ...]]:
    """Put the same flag on several columns of a row."""
    return dict.fromkeys(columns, (text,))


@dataclass(frozen=True)
class Cell:
    """One printed number.

    Attributes:
        table: 1 to 9.
        row: name of the row.
        column: its name, metric and data set.
        printed: exactly as in the paper.
        protocol: how it was measured, as far as is known; empty where nothing is printed.
        flags: what a reader should know before comparing it.
    """

    table: int
    row: str
    column: Column
    printed: str
    protocol: str
    flags: tuple[str, ...] = ()

    @property
    def value(self) -> float | None:
        """The printed number (percent or seconds), or None where it is none."""
        try:
            return float(self.printed)
        except ValueError:
            return None

    @property
    def decimals(self) -> int:
        """Decimals printed; 1 where there is no number."""
        return len(self.printed.partition(".")[2]) if self.value is not None else 1


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        name: as printed where that is unique; else with what tells it apart.
        printed: one text a column.
        protocols: how the numbers were measured, by metric.
        flags: by column name, what a reader should know.
        cite: key in `references.bib`, where the row is another work's.
    """

    name: str
    printed: tuple[str, ...]
    protocols: Mapping[str, str] = field(default_factory=dict)
    flags: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    cite: str = ""


@dataclass(frozen=True)
class Table:
    """A table of the paper.

    Attributes:
        number: 1 to 9.
        title: what it shows.
        stub: heading of the rows.
        columns: from left to right.
        rows: from top to bottom.
        notes: what a reader should know of the whole table.
    """

    number: int
    title: str
    stub: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for names in (self.column_names, self.row_names):
            if len(set(names)) != len(names):
                raise ValueError(f"Table {self.number}: a name occurs twice in {names}")
        for row in self.rows:
            if len(row.printed) != len(self.columns):
                raise ValueError(f"Table {self.number}, row {row.name!r}: not one text a column")
            if unknown := set(row.flags) - set(self.column_names):
                raise ValueError(f"Table {self.number}, row {row.name!r}: flags on {unknown}")

    @property
    def row_names(self) -> tuple[str, ...]:
        """Names of the rows, from top to bottom."""
        return tuple(row.name for row in self.rows)

    @property
    def column_names(self) -> tuple[str, ...]:
        """Names of the columns, from left to right."""
        return tuple(column.name for column in self.columns)

    def cells(self) -> Iterator[Cell]:
        """Yield the cells in the paper's order, row by row."""
        for row in self.rows:
            for column, printed in zip(self.columns, row.printed, strict=True):
                reported = printed != UNREPORTED
                yield Cell(
                    table=self.number,
                    row=row.name,
                    column=column,
                    printed=printed,
                    protocol=row.protocols.get(column.metric, "") if reported else "",
                    flags=row.flags.get(column.name, ()),
                )

    def cell(self, row: str, column: str) -> Cell:
        """Return one cell, by the names of its row and column.

        Raises:
            UnknownCellError: if there is no such row or column.
        """
        for what, name, names in (
            ("row", row, self.row_names),
            ("column", column, self.column_names),
        ):
            if name not in names:
                has = ", ".join(repr(n) for n in names)
                raise UnknownCellError(f"Table {self.number} has no {what} {name!r}; it has {has}")
        return next(c for c in self.cells() if (c.row, c.column.name) == (row, column))
