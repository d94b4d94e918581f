"""Counts as the two cells that most of the paper's tables have."""

from __future__ import annotations

from functools import partial

from rlfseg.metrics import Counts
from rlfseg.paper.results import Result

_PROTOCOL = "CLIPSeg / LD-ZNet"
_RESAMPLES = 1000


def measured(
    counts: Counts, *, data: str, profile: str, dataset: str = "", seed: int = 0
) -> dict[str, Result]:
    """Best mIoU and AP of some counts, with 95% bootstrap intervals over images.

    Args:
        counts: of one run.
        data: what was measured on, as it stands below the table.
        profile: the one that the run belongs to; only `a100` may be set against the paper.
        dataset: goes before the columns' names, where a table has several data sets.
        seed: of the bootstrap.

    Returns:
        By column: `mIoU`, at the threshold that is best on these very counts, and `AP`, the
        step-wise average precision, mean over samples.
    """
    best, before = counts.miou(), f"{dataset} " if dataset else ""
    percent = partial(
        Result.percent,
        protocol=_PROTOCOL,
        comparable="yes" if profile == "a100" else "no: another world",
        data=data,
    )
    spans = [
        counts.bootstrap(read, n=_RESAMPLES, seed=seed)
        for read in (lambda c: c.miou().value, lambda c: c.ap_mean())
    ]
    return {
        f"{before}mIoU": percent(best.value, spans[0], threshold=best.threshold),
        f"{before}AP": percent(counts.ap_mean(), spans[1], note="step-wise AP, mean over samples"),
    }
