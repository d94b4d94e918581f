"""How polygonal an outline is (the paper's A.1 and Figure 7): its corners, counted."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter1d
from skimage.measure import find_contours

_POINTS = 240  # that an outline is resampled to
_SMOOTH = 0.008  # of the outline's length, against the steps of pixels,
_PIXELS = 1.2  # and at least so many pixels
_ARM = 0.04  # of the outline's length, on either side of a point
_TURN = np.deg2rad(28.0)  # a circle turns by 360 degrees * _ARM, 14, everywhere
_SHORTEST = 40.0  # pixels; a shorter outline is all pixel steps


def corners(mask: np.ndarray) -> int:
    """Counts the corners of a mask's outlines: places where they turn by 28 degrees or more.

    The turn at a point is the angle between the two chords that lead 4% of the outline's length
    back and ahead; a corner is where it is largest within such a stretch. So size doesn't matter,
    a circle has none, and a polygon with up to some ten vertices shows them all. Outlines of less
    than 40 pixels are left out, holes count as outlines, and the picture's edge as background.

    Deviation: Figure 7 shows polygon-like masks and counts nothing; the measure is ours.

    Args:
        mask: bool (H, W).

    Raises:
        ValueError: if the mask is not a boolean image.
    """
    if mask.ndim != 2 or mask.dtype != np.bool_:
        raise ValueError(f"a mask is bool (H, W), got {mask.dtype} {mask.shape}")
    outlines = find_contours(np.pad(mask, 1).astype(float), 0.5)
    return sum(_corners(outline) for outline in outlines)


def _corners(outline: np.ndarray) -> int:
    steps = np.hypot(*np.diff(outline, axis=0).T)
    along = np.concatenate([[0.0], np.cumsum(steps)])
    if along[-1] < _SHORTEST:
        return 0
    places = np.linspace(0, along[-1], _POINTS, endpoint=False)
    points = np.stack([np.interp(places, along, axis) for axis in outline.T], axis=1)
    smooth = max(_SMOOTH, _PIXELS / along[-1]) * _POINTS
    points = gaussian_filter1d(points, smooth, axis=0, mode="wrap")
    arm = round(_ARM * _POINTS)
    back, ahead = points - np.roll(points, arm, 0), np.roll(points, -arm, 0) - points
    cross = back[:, 0] * ahead[:, 1] - back[:, 1] * ahead[:, 0]
    turn = np.abs(np.arctan2(cross, (back * ahead).sum(1)))
    count, taken = 0, np.zeros(_POINTS, bool)
    for point in np.argsort(-turn, kind="stable"):
        if turn[point] < _TURN:
            break
        if not taken[point]:
            count += 1
            taken[np.arange(point - arm, point + arm + 1) % _POINTS] = True
    return count
