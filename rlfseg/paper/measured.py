"""Counts as the two cells that most of the paper's tables have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from rlfseg.metrics import Counts
from rlfseg.paper.results import Result

_PROTOCOL = "CLIPSeg / LD-ZNet"
_RESAMPLES = 1000


def measured(
    counts: Counts,
    *,
    data: str,
    profile: str,
    dataset: str = "",
    seed: int = 0,
    again: Sequence[Counts] = (),
) -> dict[str, Result]:
    """Best mIoU and AP of some counts, with 95% bootstrap intervals over images.

    Args:
        counts: of one run.
        data: what was measured on, as it stands below the table.
        profile: the one that the run belongs to; only `a100` may be set against the paper.
        dataset: goes before the columns' names, where a table has several data sets.
        seed: of the bootstrap.
        again: of runs that differ from the first by their seed alone.

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

    def cell(read: Callable[[Counts], float], **more: Any) -> Result:
        span = counts.bootstrap(read, n=_RESAMPLES, seed=seed)
        seeds = [read(each) for each in (counts, *again)] if again else []
        return percent(read(counts), span, seeds=seeds, **more)

    return {
        f"{before}mIoU": cell(lambda c: c.miou().value, threshold=best.threshold),
        f"{before}AP": cell(lambda c: c.ap_mean(), note="step-wise AP, mean over samples"),
    }
