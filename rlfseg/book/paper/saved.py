"""The JSON file that keeps what a run puts beside a table's cells."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rlfseg.book.paper.results import Missing, Result, Results, complete
from rlfseg.chapters.tables import paper_table
from rlfseg.evaluation.readings import Reading
from rlfseg.stage import replaced


@dataclass(frozen=True)
class Saved:
    """What `load_results` found: every cell of the table has a `Result` or a `Missing`."""

    table: int
    results: Results
    provenance: Mapping[str, Any]


def save_results(
    path: Path | str, table: int, results: Results, provenance: Mapping[str, Any]
) -> None:
    """Write a table's cells as a JSON list, whole or not at all.

    Each cell carries row, column, the paper's printed text, value (or null and the reason),
    interval, data, protocol, threshold, comparable, note, the values by seed, all readings of the
    counts that it comes of, and provenance.

    Args:
        path: the file; its folder is made.
        table: 1 to 9.
        results: by row and column; cells that are not in it are written as not run.
        provenance: JSON-able: profile, commit, versions, artefact hashes.

    Raises:
        UnknownCellError: if a result belongs to no cell of the table.
        ValueError: if a setting is no text, or a measurement is one.
    """
    path = Path(path)
    cells = []
    for (row, column), result in complete(table, results).items():
        printed = paper_table(table).cell(row, column).printed
        entry: dict[str, Any] = {"table": table, "row": row, "column": column, "paper": printed}
        if isinstance(result, Missing):
            entry |= {"value": None, "reason": result.reason}
        else:
            entry |= {
                "value": result.value,
                "interval": None if result.low is None else [result.low, result.high],
                "protocol": result.protocol,
                "data": result.data,
                "threshold": result.threshold,
                "comparable": result.comparable,
                "note": result.note,
                "seeds": list(result.seeds),
                "readings": [asdict(each) for each in result.readings],
            }
        cells.append({**entry, "provenance": dict(provenance)})
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(cells, indent=1, ensure_ascii=False, allow_nan=False)
    with replaced(path) as draft:
        draft.write_text(text + "\n", encoding="utf-8")


def load_results(path: Path | str) -> Saved:
    """Read what `save_results` wrote.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no such file, misses a cell, or holds other paper values than these.
    """
    path = Path(path)
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))
        table = int(cells[0]["table"])
        provenance = cells[0]["provenance"]
        results = {(cell["row"], cell["column"]): _result(cell) for cell in cells}
        paper = {(cell["row"], cell["column"]): cell["paper"] for cell in cells}
        same = all((c["table"], c["provenance"]) == (table, provenance) for c in cells)
        wanted = {(c.row, c.column.name): c.printed for c in paper_table(table).cells()}
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError(f"{path} holds no results of a table ({error!r}): run again") from error
    if not same or paper != wanted:
        raise ValueError(f"{path} does not hold the cells of the paper's Table {table}: run again")
    return Saved(table, results, provenance)


def _result(cell: Mapping[str, Any]) -> Result | Missing:
    if cell["value"] is None:
        return Missing(cell["reason"])
    low, high = cell["interval"] or (None, None)
    rest = {k: cell[k] for k in ("protocol", "comparable", "data", "threshold", "note")}
    rest["readings"] = tuple(Reading(**each) for each in cell["readings"])
    return Result(cell["value"], low, high, seeds=tuple(cell["seeds"]), **rest)
