"""From a run and from baselines to cells of the tables, and the file that a table is kept in."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rlfseg.baselines.phrases import Baseline
from rlfseg.book.paper.results import Result, Results, measured
from rlfseg.book.paper.saved import save_results
from rlfseg.chapters.place import place_of
from rlfseg.evaluation.confusion import Confusion, miou_interval, pooled
from rlfseg.evaluation.counts import Counts
from rlfseg.experiment import Run, Scoring, left_out, scored, shared_images
from rlfseg.stage import provenance
from rlfseg.stand_ins import backbone, mini_sam


def run_cells(
    run: Run, scoring: Scoring, *, data: str, dataset: str = "", again: Sequence[Run] = ()
) -> dict[str, Result]:
    """Return the cells of a run's row, with every reading that its scores allow.

    Drawn pictures are packed at their own size, so all of their counts are native.
    They may be compared with the paper's, as far as its protocol is known, if they are of the
    `a100` profile and of a whole split, and no stand-in is in the place of its backbone or SAM.

    Args:
        run: scored, or to be scored.
        scoring: how.
        data: what was measured on, as it stands below the table, followed by what packing has left
            out of the split, and how many pictures of other data the run was trained on.
        dataset: goes before the columns' names, where a table has several data sets.
        again: runs that differ from the first by their seed alone.
    """
    found, on = scored(run, scoring), run.on(scoring.on)
    counts, split = found.annotation, scoring.split
    about = (data, left_out(on, split), shared_images(run, scoring.on, split))
    return measured(
        counts,
        data="; ".join(filter(None, about)),
        comparable=_comparable(run, scoring, len(counts)),
        method=run.method(scoring.sampler),
        dataset=dataset,
        again=[scored(each, scoring).annotation for each in again],
        chosen=_chosen(run, scoring),
        native=counts if found.native is None else found.native,
    )


def _comparable(run: Run, scoring: Scoring, count: int) -> str:
    if run.profile != "a100":
        return "no: another world"
    if not run.on(scoring.on).photographed:
        return "no: drawn scenes"
    if run.backbone.name in ("mini", backbone.RANDOM):
        return f"no: another backbone ({run.backbone.name})"
    if run.uses_refined and (run.sam.kind == "mini" or run.sam.checkpoint == mini_sam.RANDOM):
        return "no: another SAM refined the labels"
    if count == scoring.phrases:
        return f"no: {count} phrases of the split"
    return "yes: but for the scoring size, which the paper does not say"


def _chosen(run: Run, scoring: Scoring) -> float | str:
    """Return the threshold that is best on the validation split, or why there is none."""
    if (choosing := run.choosing(scoring)) is not None:
        return scored(run, choosing).annotation.miou().threshold
    if run.choose:
        return "the validation split itself is scored"
    return "no threshold was chosen on the validation split (`choose` in the run)"


def baseline_cells(
    run: Run, counts: Counts, baseline: Baseline, *, data: str, dataset: str = ""
) -> dict[str, Result]:
    """Return the cells of a baseline's row, never marked as comparable with the paper's.

    Args:
        run: on whose data it was scored.
        counts: its own.
        baseline: which one, and its settings.
        data: what was measured on, as it stands below the table.
        dataset: goes before the columns' names, where a table has several data sets.
    """
    why, note = baseline.source
    cells = measured(
        counts,
        data=data,
        comparable=why,
        dataset=dataset,
        chosen="no threshold is chosen on the validation split for a baseline",
        native="a baseline is not counted there" if run.photographed else counts,
    )
    return {
        column: replace(cell, note="; ".join(filter(None, (cell.note, note))))
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


def keep_results(here: Any, table: int, results: Results) -> Path:
    """Write a table's cells to `results/table_N.json` of the pass, with their provenance.

    With parameters other than the chapter's file has, the pass's are left alone: see `place_of`.

    Args:
        here: the checked parameters of the chapter that made them.
        table: 1 to 9.
        results: by the names of row and column.

    Raises:
        UnknownCellError: if a result belongs to no cell of the table.
    """
    run, path = here.run, place_of(here) / "results" / f"table_{table}.json"
    made_of = {"profile": run.profile, "parameters": asdict(run), **provenance()}
    save_results(path, table, results, made_of | {"training": run.train_stage.hash})
    return path
