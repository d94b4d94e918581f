"""The paper's tables beside this run's, as MyST for the book."""

import re
from collections.abc import Iterable
from typing import Any

from IPython.display import Markdown

from rlfseg.book.myst import DASH, captioned, flat
from rlfseg.book.paper.about import DRAWN_PROFILES, this_run
from rlfseg.book.paper.layout import Line, one_by_one, side_by_side
from rlfseg.book.paper.results import Missing, Result, Results, complete, difference
from rlfseg.chapters.place import file_of, name_of, of_the_pass, place_of
from rlfseg.chapters.tables import UNREPORTED, Cell, paper_table
from rlfseg.evaluation.seeds import over_seeds
from rlfseg.stage import commit, repository

_LONG = 2  # columns of a table that has a line for each cell
_OURS = ("run", "difference", "comparable")  # what a line says of this run


def render(here: Any, table: int, results: Results, *, caption: str, name: str) -> Markdown:
    """Set a table of the paper beside this run.

    Each cell of the paper is a line; where the paper has more than two columns, these are the lines
    and its rows stand side by side, the paper's number below this run's. Rows are in the paper's
    order; those for which this run has nothing to say are folded below. A cell that the paper
    leaves empty is shown only if the run has something for it. The difference is shown only where
    the result says that it is comparable, and columns that would hold the same in all rows are left
    out. Behind a value stand its interval over images and, where there are several seeds, their
    mean with its own. Below the table stand the run's profile, data, protocol and thresholds; notes
    are folded.

    Args:
        here: the checked parameters of the chapter that made the results.
        table: 1 to 9.
        results: by the names of row and column; cells that are not in it are shown as not run.
        caption: one line; before it stands which table of the paper it is.
        name: target of `{ref}`, such as `table-1`.

    Returns:
        MyST with a `{table}`, whose number is the paper's.

    Raises:
        UnknownCellError: if a result belongs to no cell of the table.
        ValueError: if `name` is no plain target, the caption is empty, a setting is no text or a
            measurement is one, or what was measured on drawn scenes claims to be comparable (a
            time may be, if the model has its full size).
    """
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        raise ValueError(f"name {name!r} must be lower-case words joined by hyphens")
    if not caption.strip():
        raise ValueError(f"{name}: the caption is empty")
    printed, profile = paper_table(table), here.run.profile
    filled = complete(table, results)
    for cell in printed.cells():
        _refuse_a_false_claim(cell, filled[cell.row, cell.column.name], profile)
    settings = printed.columns[0].metric == "value"
    run = "this run" if settings else "this run (95% interval)"
    heads = Line(printed.stub, "metric", "paper", run, "difference", "comparable?")
    notes = _Notes()
    rows = _rows(table, filled, notes)
    told, folded = rows[True], rows[False]
    without = {"metric"} if len(printed.columns) == 1 else set()
    without |= {"difference"} if {line.difference for line in told} <= {DASH} else set()
    same = {line.comparable for line in told} - {DASH}
    alike = len(same) < 2 and not any(each.startswith("yes") for each in same)
    without |= {"comparable"} if alike else set()
    lay = side_by_side if len(printed.columns) > _LONG else one_by_one
    parts = [
        captioned(
            lay(heads, told or folded, without),
            caption=f"Paper, Table {table}: {caption}",
            name=name,
        ),
        f"Comparable with the paper: {flat(same.pop())}." if alike and same else "",
        this_run(filled, profile),
        _folded(lay(heads, folded, {*_OURS, *without}), folded) if told else "",
        notes.folded(f"{note}." for note in printed.notes),
        _made_by(here, table),
        "What the tables compare, and our choices where the paper is silent: {doc}`deviations`.",
    ]
    return Markdown("\n\n".join(part for part in parts if part) + "\n")


def _folded(body: str, lines: list[Line]) -> str:
    """Fold the rows of which nothing was run here."""
    if not lines:
        return ""
    names = len({line.row for line in lines})
    return _dropdown(f"The paper's other rows, of which nothing was run here ({names})", body)


def _dropdown(title: str, body: str) -> str:
    return f"::::{{dropdown}} {title}\n{body}\n::::"


class _Notes:
    """Footnotes in the order in which the table first needs them."""

    def __init__(self) -> None:
        self._texts: list[str] = []

    def mark(self, *texts: str) -> str:
        """Return the superscript for some notes; empty texts have none."""
        wanted = [flat(text) for text in texts if text.strip()]
        self._texts += [text for text in dict.fromkeys(wanted) if text not in self._texts]
        numbers = sorted({self._texts.index(text) + 1 for text in wanted})
        return f"\N{NO-BREAK SPACE}{{sup}}`{','.join(map(str, numbers))}`" if numbers else ""

    def folded(self, more: Iterable[str]) -> str:
        """List all notes by number, and what is to be said below them, folded."""
        listed = "\n".join(f"{n}. {text.rstrip('.')}." for n, text in enumerate(self._texts, 1))
        body = "\n\n".join(filter(None, (listed, *more)))
        about = "Tables and sections named here are the paper's."
        return _dropdown(f"Notes ({len(self._texts)})", f"{about}\n\n{body}") if body else ""


def _rows(table: int, filled: Results, notes: _Notes) -> dict[bool, list[Line]]:
    """Say what there is of each cell.

    Under True stand the rows that this run has a value for, or a reason of its own why not.
    """
    printed = paper_table(table)
    cites = {row.name: f" {{cite}}`{row.cite}`" if row.cite else "" for row in printed.rows}
    decimals = {
        name: max(c.decimals for c in printed.cells() if c.column.name == name)
        for name in printed.column_names
    }
    told = {row for (row, _), result in filled.items() if result != Missing()}
    lines: dict[bool, list[Line]] = {True: [], False: []}
    for cell in printed.cells():
        result = filled[cell.row, cell.column.name]
        reported = cell.printed != UNREPORTED
        if not reported and result == Missing():
            continue
        measured = () if cell.column.metric == "value" else (cell.protocol,)
        paper = (cell.printed if reported else DASH) + notes.mark(*measured, *cell.flags)
        gap = difference(cell, result)
        places = decimals[cell.column.name]
        if isinstance(result, Missing):
            run, comparable = result.reason, DASH
        else:
            run = _number(result, places) + notes.mark(result.note)
            comparable = result.comparable
        lines[cell.row in told].append(
            Line(
                cell.row + cites[cell.row],
                cell.column.name,
                paper,
                run,
                DASH if gap is None else f"{gap:+.{places}f}".replace("-", "−"),
                comparable,
            )
        )
    return lines


def _number(result: Result, places: int) -> str:
    if isinstance(result.value, str):
        return result.value
    if result.low is None:
        return f"{result.value:.{places}f} (no interval)"
    shown = f"{result.value:.{places}f} ({result.low:.{places}f} to {result.high:.{places}f})"
    if len(result.seeds) > 1:
        mean, half = over_seeds(result.seeds)
        shown += f"; {len(result.seeds)} seeds {mean:.{places}f} ± {half:.{places}f}"
    return shown


def _made_by(here: Any, table: int) -> str:
    """Say where every cell comes from: chapter, parameters, commit, and the file that says so."""
    name, known = f"table_{table}.json", f"`{file_of(here).relative_to(repository())}`"
    if of_the_pass(here):
        given, file = known, f"{{download}}`{name} <results/{name}>`"
    else:
        given = f"other parameters than those of {known}"
        file = f"`{place_of(here).relative_to(repository())}/results/{name}`"
    return (
        f"Made by {{doc}}`{name_of(here)}` with {given} at commit `{commit()[:10]}`; each cell "
        f"with what made it, and its scores by every protocol in use: {file}."
    )


def _refuse_a_false_claim(cell: Cell, result: Result | Missing, profile: str) -> None:
    """Refuse scores of drawn scenes as comparable; a time may be, of the full-size model."""
    metric = cell.column.metric
    real = metric == "value" or (metric == "seconds" and profile == "preflight")
    claims = isinstance(result, Result) and result.is_comparable
    if claims and not real and profile in DRAWN_PROFILES:
        raise ValueError(
            f"Table {cell.table}, {cell.row!r}, {cell.column.name!r}: what profile {profile!r} "
            f"measures ({DRAWN_PROFILES[profile]}) is not comparable; say 'no: <reason>'"
        )
