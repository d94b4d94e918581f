"""Rows of the paper's tables that predictions of other programs fill."""

from pathlib import Path
from typing import Any

from rlfseg.book.paper.results import Result, measured
from rlfseg.book.paper.saved import load_results, save_results
from rlfseg.chapters.tables import paper_table
from rlfseg.data.catalogue import DATASETS, REFERRING
from rlfseg.data.packed.schema import key_of
from rlfseg.evaluation.readings import Reading, readings
from rlfseg.evaluation.score import Evaluation
from rlfseg.experiment import Run
from rlfseg.stage import provenance, repository

_TABLES = {
    "phrasecut": (1, "test"),
    **dict.fromkeys(REFERRING, (2, "val")),
    "cocostuff": (3, "val"),
}
_NOT_CHOSEN = "no predictions on the validation split are given"


def check_row(dataset: str, split: str, row: str) -> None:
    """Check that predictions on a split may fill a row.

    Raises:
        ValueError: if the data set's table has no such row, or its rows are of another split.
    """
    table, wanted = _TABLES[dataset]
    if row not in (known := paper_table(table).row_names):
        raise ValueError(f"Table {table} has no row {row!r}; it has {', '.join(known)}")
    if split != wanted:
        raise ValueError(f"Table {table}'s rows are of the split {wanted}, not {split}")


def read_all(found: Evaluation) -> tuple[Reading, ...]:
    """Return all readings of predictions; without counts of their own, the size is native."""
    native = found.annotation if found.native is None else found.native
    return readings(found.annotation, chosen=_NOT_CHOSEN, native=native)


def keep_predicted(run: Run, row: str, found: Evaluation, made_of: dict[str, Any]) -> Path:
    """Write the cells of a row for the chapters to find, and return the file.

    Args:
        run: on whose data the predictions are.
        row: of the data set's table.
        found: their counts.
        made_of: what identifies them: `folder` and `sha256`.
    """
    dataset, (table, split) = run.data.dataset, _TABLES[run.data.dataset]
    cells = measured(
        found.annotation,
        data=f"{run.data.source}, {len(found.annotation)} phrases of {split}",
        comparable="unknown: predictions of another program",
        method=f"Predictions made elsewhere, folder {made_of['folder']}, "
        f"SHA-256 {made_of['sha256'][:16]}",
        dataset=DATASETS[dataset].title if table == 2 else "",
        chosen=_NOT_CHOSEN,
        native=found.annotation if found.native is None else found.native,
    )
    path = _folder(run, table) / f"{key_of(row, what='row')}-{dataset}.json"
    kept = {(row, column): cell for column, cell in cells.items()}
    save_results(
        path, table, kept, {"profile": run.profile, "predictions": made_of, **provenance()}
    )
    return path


def predicted_cells(run: Run, table: int) -> dict[tuple[str, str], Result]:
    """Return the cells of a table that predictions given for a run's profile fill.

    Raises:
        ValueError: naming a file that holds no results.
    """
    cells = {}
    for path in sorted(_folder(run, table).glob("*.json")):
        for key, result in load_results(path).results.items():
            if isinstance(result, Result):
                cells[key] = result
    return cells


def _folder(run: Run, table: int) -> Path:
    return repository() / "runs" / run.profile / "predictions" / f"table_{table}"
