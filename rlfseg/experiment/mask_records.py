"""What is told of each refined mask, and of all of them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rlfseg.data.packed.read import Pack
from rlfseg.method.refinement import Refined
from rlfseg.stage import readable

_WORST = 12
_SHARES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True)
class MaskRecord:
    """How one mask was refined.

    Attributes:
        item: its number in the packed file.
        pixels: foreground pixels of the annotation.
        anchors: number of anchors, at most N.
        iterations: how often SAM was asked.
        converged: whether IoU(M_t, M_{t-1}) reached tau.
        iou_previous: IoU of the last two masks; None if SAM wasn't asked.
        iou_original: IoU of what is stored as refined with the annotation.
        score: SAM's own estimate of its last mask's IoU.
        reason: why the annotation was kept (see `method.refinement.Reason`); None if it wasn't.
    """

    item: int
    image_id: str
    caption: str
    pixels: int
    anchors: int
    iterations: int
    converged: bool
    iou_previous: float | None
    iou_original: float
    score: float | None
    reason: str | None


@dataclass(frozen=True)
class RelabelReport:
    """What refinement did to a packed file.

    Attributes:
        made_of: identifies the packed file's content, SAM's weights and the configuration.
        masks: how many there are.
        kept: how many annotations were kept, by reason; the others were refined.
        converged: how many masks converged.
        iterations: how many masks took how many iterations.
        iou_previous: 5%, 25%, 50%, 75% and 95% quantiles over the refined masks, as the next two.
        iou_original: with the annotation.
        score: SAM's own estimate.
        worst: the items whose refined masks differ most from their annotations, worst first.
    """

    made_of: str
    masks: int
    kept: dict[str, int]
    converged: int
    iterations: dict[str, int]
    iou_previous: dict[str, float]
    iou_original: dict[str, float]
    score: dict[str, float]
    worst: tuple[int, ...]


def read_records(out: Path | str) -> list[MaskRecord]:
    """Return the records that `relabel` wrote, in the items' order."""
    path = Path(out) / "records.jsonl"
    with readable(path):
        return [MaskRecord(**json.loads(line)) for line in path.read_text().splitlines()]


def record_of(pack: Pack, item: int, mask: np.ndarray, result: Refined) -> MaskRecord:
    """Record what became of an item's annotation."""
    return MaskRecord(
        item=item,
        image_id=pack.image_ids[pack.item_image[item]],
        caption=pack.caption(item),
        pixels=int(mask.sum()),
        anchors=len(result.anchors),
        iterations=result.iterations,
        converged=result.converged,
        iou_previous=result.ious[-1] if result.ious else None,
        iou_original=result.iou_original,
        score=result.score,
        reason=result.reason,
    )


def report_of(records: Sequence[MaskRecord], made_of: str) -> RelabelReport:
    """Sum the records up."""
    refined = [record for record in records if record.reason is None]
    worst = sorted(refined, key=lambda record: (record.iou_original, record.item))
    return RelabelReport(
        made_of=made_of,
        masks=len(records),
        kept=_counts([record.reason for record in records if record.reason is not None]),
        converged=sum(record.converged for record in records),
        iterations=_counts([str(record.iterations) for record in records]),
        iou_previous=_quantiles([record.iou_previous for record in refined]),
        iou_original=_quantiles([record.iou_original for record in refined]),
        score=_quantiles([record.score for record in refined]),
        worst=tuple(record.item for record in worst[:_WORST]),
    )


def _counts(values: Sequence[str]) -> dict[str, int]:
    return {value: values.count(value) for value in sorted(set(values))}


def _quantiles(values: Sequence[float | None]) -> dict[str, float]:
    known = [value for value in values if value is not None]
    if not known:
        return {}
    found = np.quantile(known, _SHARES).tolist()
    return {str(share): value for share, value in zip(_SHARES, found, strict=True)}
