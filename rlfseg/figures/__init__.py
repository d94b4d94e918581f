"""Every picture of the book; the only package that imports matplotlib."""

from __future__ import annotations

from rlfseg.figures.charts import (
    COLOURS,
    bars,
    before_after,
    histograms,
    lines,
    miou_bars,
    sample_histograms,
    smoothed,
    sweeps,
)
from rlfseg.figures.pictures import as_picture, pictures, refinement, sample_pictures

__all__ = [
    "COLOURS",
    "as_picture",
    "bars",
    "before_after",
    "histograms",
    "lines",
    "miou_bars",
    "pictures",
    "refinement",
    "sample_histograms",
    "sample_pictures",
    "smoothed",
    "sweeps",
]
