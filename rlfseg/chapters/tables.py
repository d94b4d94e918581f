"""The paper's tables: rows and columns of cells, each with its protocol and its flags.

What they hold is in `tables.yml`. A protocol says how a number was measured, by metric, as far as
it is known: a sentence that a rendered table shows as a note. What was not verified says so.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from itertools import chain
from types import MappingProxyType
from typing import Any

import yaml

UNREPORTED = "-"
"""What the paper prints where a method has no number."""


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
        unknown: what isn't known of how it was measured, so that nothing compares; empty where
            enough is.
    """

    table: int
    row: str
    column: Column
    printed: str
    protocol: str
    flags: tuple[str, ...] = ()
    unknown: str = ""

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
        unknown: by column name, what isn't known of how it was measured.
        cite: key in `references.bib`, where the row is another work's.
    """

    name: str
    printed: tuple[str, ...]
    protocols: Mapping[str, str] = field(default_factory=dict)
    flags: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    unknown: Mapping[str, str] = field(default_factory=dict)
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
            if strange := {*row.flags, *row.unknown} - set(self.column_names):
                raise ValueError(f"Table {self.number}, row {row.name!r}: flags on {strange}")
            texts = [row.name, *row.printed, *row.protocols.values(), *chain(*row.flags.values())]
            texts += row.unknown.values()
            if wrong := [text for text in texts if not isinstance(text, str)]:
                raise ValueError(f"Table {self.number}, row {row.name!r}: quote {wrong[0]!r}")

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
                    unknown=row.unknown.get(column.name, ""),
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


@cache
def paper_tables() -> Mapping[int, Table]:
    """Return the paper's tables by number."""
    path = files("rlfseg.chapters") / "tables.yml"
    tables = yaml.safe_load(path.read_text(encoding="utf-8"))["tables"]
    return MappingProxyType({given["number"]: _table(**given) for given in tables})


def paper_table(number: int) -> Table:
    """Return one table of the paper.

    Raises:
        UnknownCellError: if the paper has no such table.
    """
    if number not in paper_tables():
        raise UnknownCellError(
            f"the paper has no Table {number!r}; it has 1 to {len(paper_tables())}"
        )
    return paper_tables()[number]


def cell(table: int, row: str, column: str) -> Cell:
    """Return one printed cell: `cell(1, "LD-ZNet", "mIoU").value` is 52.7.

    Raises:
        UnknownCellError: if the paper has no such table, row or column.
    """
    return paper_table(table).cell(row, column)


def _table(
    *,
    columns: Iterable[Sequence[str]],
    rows: Iterable[Mapping[str, Any]],
    protocols: Mapping[str, str] | None = None,
    unknown: Mapping[str, str] | None = None,
    notes: Iterable[str] = (),
    **rest: Any,
) -> Table:
    """Make a table; protocols and what is unknown are those of every row that has none."""
    made = tuple(Column(*column) for column in columns)
    usual = {"protocols": protocols or {}, "unknown": unknown or {}}
    return Table(
        columns=made,
        rows=tuple(_row(made, **{**usual, **row}) for row in rows),
        notes=tuple(notes),
        **rest,
    )


def _row(
    columns: Iterable[Column],
    *,
    printed: Iterable[str],
    flags: Mapping[str, str] | None = None,
    unknown: Mapping[str, str],
    **rest: Any,
) -> Row:
    """Make a row."""
    flagged = {name: (text,) for name, text in _by_column(columns, flags or {}).items()}
    return Row(printed=tuple(printed), flags=flagged, unknown=_by_column(columns, unknown), **rest)


def _by_column(columns: Iterable[Column], texts: Mapping[str, str]) -> dict[str, str]:
    """Put a text on a metric on all columns of it."""
    return {
        name: text
        for where, text in texts.items()
        for name in [c.name for c in columns if c.metric == where] or [where]
    }
