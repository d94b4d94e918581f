"""Any cell of the paper by table, row and column."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from rlfseg.book.paper.ablations import ABLATIONS
from rlfseg.book.paper.comparisons import COMPARISONS
from rlfseg.book.paper.tables import Cell, Table, UnknownCellError

TABLES: Mapping[int, Table] = MappingProxyType({t.number: t for t in COMPARISONS + ABLATIONS})
"""The paper's tables by number."""


def paper_table(number: int) -> Table:
    """Return one table of the paper.

    Raises:
        UnknownCellError: if the paper has no such table.
    """
    if number not in TABLES:
        raise UnknownCellError(f"the paper has no Table {number!r}; it has 1 to {len(TABLES)}")
    return TABLES[number]


def cell(table: int, row: str, column: str) -> Cell:
    """Return one printed cell: `cell(1, "LD-ZNet", "mIoU").value` is 52.7.

    Raises:
        UnknownCellError: if the paper has no such table, row or column.
    """
    return paper_table(table).cell(row, column)
