"""Refinement as a stage: the masks of a packed file, refined and stored beside the annotations."""

from __future__ import annotations

from rlfseg.relabel.report import MaskRecord, RelabelReport, read_records
from rlfseg.relabel.stage import relabel

__all__ = ["MaskRecord", "RelabelReport", "read_records", "relabel"]
