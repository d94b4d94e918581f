"""From a run and from baselines to cells of the tables, and the file that a table is kept in."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from rlfseg.baselines.phrases import Baseline
from rlfseg.book.paper.results import Result, Results, measured, save_results
from rlfseg.evaluation.confusion import Confusion, miou_interval, pooled
from rlfseg.evaluation.counts import Counts
from rlfseg.experiment import Run
from rlfseg.stage import provenance, repository


def baseline_cells(
    counts: Counts, baseline: Baseline, *, data: str, profile: str
) -> dict[str, Result]:
    """Return the cells of a baseline's row, never marked as comparable with the paper's."""
    why, note = baseline.source
    cells = measured(counts, data=data, profile=profile)
    return {
        column: replace(cell, comparable=why, note="; ".join(filter(None, (cell.note, note))))
        for column, cell in cells.items()
    }


def semflow_cell(pictures: Sequence[Confusion]) -> Result:
    """Return the baseline's cell of Table 3, with a 95% interval over pictures, marked as ours.

    It is never comparable with the paper's: it is trained far shorter, and on less.
    """
    return Result.percent(
        pooled(pictures).miou(),
        miou_interval(pictures, seed=0),
        protocol="Closed set: every pixel gets one of all names; mIoU of the confusion matrix",
        comparable="no: ours, after its idea",
        data=f"{len(pictures)} pictures of val",
        note="A small baseline of ours in its manner (`rlfseg.baselines.semflow`)",
    )


def keep_results(run: Run, table: int, results: Results) -> Path:
    """Write a table's cells to `runs/<profile>/results/table_N.json`, with their provenance.

    Raises:
        UnknownCellError: if a result belongs to no cell of the table.
    """
    path = repository() / "runs" / run.profile / "results" / f"table_{table}.json"
    made_of = {"profile": run.profile, "parameters": asdict(run), **provenance()}
    save_results(path, table, results, made_of | {"training": run.train_stage.hash})
    return path
