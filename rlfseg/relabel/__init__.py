"""Refinement as a stage: the masks of a packed file, refined and stored beside the annotations."""

from __future__ import annotations

from rlfseg.relabel.corners import corners
from rlfseg.relabel.quality import Quality, quality, refine_items
from rlfseg.relabel.report import MaskRecord, RelabelReport, read_records
from rlfseg.relabel.stage import VERSION, relabel

__all__ = [
    "VERSION",
    "MaskRecord",
    "Quality",
    "RelabelReport",
    "corners",
    "quality",
    "read_records",
    "refine_items",
    "relabel",
]
