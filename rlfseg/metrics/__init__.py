"""How good is a set of masks: additive counts, and every number the tables need read from them.

`count` turns scores and masks into `Counts`; `Counts` of batches, processes and nodes add up; its
methods are the readings: mIoU, oIoU, average precision under each protocol, and their intervals.
"""

from __future__ import annotations

from rlfseg.metrics.boundary import boundary_f
from rlfseg.metrics.confusion import (
    IGNORED,
    Confusion,
    load_confusions,
    miou_interval,
    pooled,
    save_confusions,
)
from rlfseg.metrics.counting import count
from rlfseg.metrics.counts import BestIoU, Counts
from rlfseg.metrics.grid import THRESHOLDS
from rlfseg.metrics.seeds import over_seeds

__all__ = [
    "IGNORED",
    "THRESHOLDS",
    "BestIoU",
    "Confusion",
    "Counts",
    "boundary_f",
    "count",
    "load_confusions",
    "miou_interval",
    "over_seeds",
    "pooled",
    "save_confusions",
]
