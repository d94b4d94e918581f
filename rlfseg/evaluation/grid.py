"""The fixed grid on which scores are counted: 2000 bins, among whose edges are 49 thresholds.

A bin holds its upper edge, not its lower one, so `score > edge` is exactly "in a higher bin". Edges
are float32, as scores are: a score that equals a threshold is not above it.
"""

import numpy as np
from numpy.typing import NDArray

BINS = 2000
"""Bins of width 0.001 over [-0.5, 1.5]; the outermost two are open to the outside."""

THRESHOLDS: NDArray[np.float64] = np.linspace(0, 1, 51)[1:-1]
"""The 49 thresholds of the CLIPSeg protocol: 0.02, 0.04, ..., 0.98."""

_STEP = round(0.02 * BINS / 2)
_FIRST = round(0.52 * BINS / 2)

THRESHOLD_BINS: NDArray[np.int64] = _FIRST + _STEP * np.arange(len(THRESHOLDS))
"""The first bin above each threshold."""

_edges = np.linspace(-0.5, 1.5, BINS + 1)
_edges[THRESHOLD_BINS] = THRESHOLDS

EDGES: NDArray[np.float32] = _edges[1:-1].astype(np.float32)
"""The edges between bins; bin i ends at EDGES[i] and bin i + 1 begins there."""

for _constant in (THRESHOLDS, THRESHOLD_BINS, EDGES):
    _constant.setflags(write=False)
