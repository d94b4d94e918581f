"""What one set of scores says under every protocol in use, as a file of results keeps it."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from rlfseg.evaluation.counts import Counts

FIXED = 0.3
"""The threshold that CLIPSeg's rows of the paper's Table 1 have."""

_REACHED = (0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True)
class Reading:
    """One number, or why there is none.

    Attributes:
        name: of the rule.
        value: percent; None where there is none.
        threshold: that the scores were cut at; None where the rule has none.
        reason: why there is no value; empty where there is one.
    """

    name: str
    value: float | None
    threshold: float | None = None
    reason: str = ""


def readings(counts: Counts, *, chosen: float | str, native: Counts | str) -> tuple[Reading, ...]:
    """Read all APs, the mIoU at every kind of threshold, and both evaluators of hard masks.

    PhraseCut's evaluator asks for IoU > k, LAVT's for IoU >= k, both without the + 1 of CLIPSeg's.
    They are read at the chosen threshold, or at `FIXED` where none was chosen.

    Deviation: PhraseCut's phrases of an image with one caption are one sample, as they are packed,
    and what packing leaves out is none, where both evaluators count it as 0. LAVT's own code counts
    at 480 x 480, its masks with holes where a thing's polygons overlap.

    Args:
        counts: at the scoring size.
        chosen: the threshold that is best on a validation split, or why there is none.
        native: counts of the same samples at the photographs' own size, or why there are none.
    """
    return tuple(_all(counts, chosen, native))


def _all(counts: Counts, chosen: float | str, native: Counts | str) -> Iterator[Reading]:
    best = counts.miou()
    yield _reading("AP, step-wise, mean over samples", counts.ap_mean())
    yield _reading("AP, step-wise, pooled", counts.ap_pooled())
    yield _reading("AP, CLIPSeg's rule", counts.ap_clipseg())
    yield _reading("mIoU, best threshold", best.value, best.threshold)
    name = "mIoU, threshold chosen on validation"
    if isinstance(chosen, str):
        yield Reading(name, None, reason=chosen)
    else:
        yield _reading(name, counts.miou_at(chosen), chosen)
    yield _reading("mIoU, fixed threshold", counts.miou_at(FIXED), FIXED)
    for name, best in (("IoU_FG", counts.iou_fg()), ("IoU_BIN", counts.iou_bin())):
        yield _reading(f"{name}, best threshold", best.value, best.threshold)
    at = FIXED if isinstance(chosen, str) else chosen
    yield from _hard(counts, at, "")
    yield from _hard(native, at, ", native size")


def _hard(counts: Counts | str, at: float, where: str) -> Iterator[Reading]:
    """Read what evaluators of hard masks say, or say for each why they don't."""
    for whose, mean, overall in (
        ("PhraseCut's evaluator", "mean IoU", "cumulative IoU"),
        ("LAVT's evaluator", "mIoU", "oIoU"),
    ):
        names = [f"{whose}{where}: {what}" for what in (mean, overall)]
        names += [f"{whose}{where}: Pr@{k}" for k in _REACHED]
        if isinstance(counts, str):
            yield from (Reading(name, None, reason=counts) for name in names)
            continue
        strict = whose.startswith("PhraseCut")
        values = [counts.miou_lavt(at), counts.oiou(at)]
        values += [counts.pr_at(at, k, strict=strict) for k in _REACHED]
        yield from (_reading(name, value, at) for name, value in zip(names, values, strict=True))


def _reading(name: str, fraction: float, threshold: float | None = None) -> Reading:
    if math.isnan(fraction):
        return Reading(name, None, threshold, "no sample has foreground")
    return Reading(name, 100 * fraction, threshold)
