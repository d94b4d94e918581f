"""The paper's Tables 1-9 as data, and this run's results beside them.

`cell` looks up what the paper prints; `render` sets it beside `Result`s for the book;
`save_results` and `load_results` keep them as JSON.
"""

from __future__ import annotations

from collections.abc import Mapping

from rlfseg.book.paper.cells import baseline_cells, keep_results, semflow_cell
from rlfseg.book.paper.render import render
from rlfseg.book.paper.results import (
    NOT_RUN,
    Missing,
    Result,
    Results,
    Saved,
    difference,
    load_results,
    measured,
    save_results,
)
from rlfseg.book.paper.tables import (
    Cell,
    Column,
    Row,
    Table,
    UnknownCellError,
    cell,
    environment,
    paper_table,
    paper_tables,
)

__all__ = [
    "ENVIRONMENT",
    "NOT_RUN",
    "TABLES",
    "Cell",
    "Column",
    "Missing",
    "Result",
    "Results",
    "Row",
    "Saved",
    "Table",
    "UnknownCellError",
    "baseline_cells",
    "cell",
    "difference",
    "keep_results",
    "load_results",
    "measured",
    "paper_table",
    "render",
    "save_results",
    "semflow_cell",
]

TABLES: Mapping[int, Table]
"""The paper's tables by number."""
ENVIRONMENT: Mapping[str, str]
"""The versions of A.3.1."""


def __getattr__(name: str) -> Mapping[int, Table] | Mapping[str, str]:
    """Read the paper's tables when they are first asked for."""
    if name == "TABLES":
        return paper_tables()
    if name == "ENVIRONMENT":
        return environment()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
