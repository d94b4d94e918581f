"""The paper's Tables 1-9 as data, and this run's results beside them.

`cell` looks up what the paper prints; `render` sets it beside `Result`s for the book;
`save_results` and `load_results` keep them as JSON.
"""

from __future__ import annotations

from rlfseg.book.paper.ablations import ENVIRONMENT
from rlfseg.book.paper.cells import baseline_cells, keep_results, semflow_cell
from rlfseg.book.paper.lookup import TABLES, cell, paper_table
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
from rlfseg.book.paper.tables import Cell, Column, Row, Table, UnknownCellError

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
