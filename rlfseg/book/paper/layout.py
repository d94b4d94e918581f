"""How a table of the paper is laid out: a line for each of its cells, or its rows side by side."""

from collections.abc import Collection, Sequence
from typing import NamedTuple

from rlfseg.book.myst import DASH, grid


class Line(NamedTuple):
    """What is said of one cell: where it is, what the paper prints, and what this run has."""

    row: str
    metric: str
    paper: str
    run: str
    difference: str
    comparable: str


def one_by_one(heads: Line, lines: Sequence[Line], without: Collection[str]) -> str:
    """Write a line for each cell, its row's name only in the first, but for some columns."""
    kept = [name for name in Line._fields if name not in without]
    body, last = [], ""
    for line in lines:
        again = line._replace(row="") if line.row == last else line
        body.append([getattr(again, name) for name in kept])
        last = line.row
    return grid([getattr(heads, name) for name in kept], body)


def side_by_side(heads: Line, lines: Sequence[Line], without: Collection[str]) -> str:
    """Write the paper's columns as lines and its rows as columns, but for some of what is said.

    In a cell stands what this run has, and below it the rest, each after its head.
    """
    kept = [name for name in Line._fields[2:] if name not in without]
    kept.sort(key=lambda name: name != "run")  # first, without its head
    texts = {}
    for line in lines:
        said = [getattr(line, name) for name in kept[:1]]
        rest = {getattr(heads, name): getattr(line, name) for name in kept[1:]}
        said += [f"{head} {text}" for head, text in rest.items() if text != DASH]
        texts[line.metric, line.row] = "<br>".join(said)
    rows = dict.fromkeys(line.row for line in lines)
    metrics = dict.fromkeys(line.metric for line in lines)
    body = [[metric, *(texts.get((metric, row), DASH) for row in rows)] for metric in metrics]
    return grid([f"{heads.metric}, by {heads.row.lower()}", *rows], body)
