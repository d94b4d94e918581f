"""Three average precisions that share nothing but the name; every table says which one it shows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rlfseg.metrics.grid import BINS


def exact(foreground: NDArray[np.float32], background: NDArray[np.float32]) -> float:
    """Return the step-wise average precision of one sample, without any binning.

        AP = sum_n (R_n - R_{n-1}) P_n    over the distinct scores, from high to low

    Recall changes only at scores that a foreground pixel has, so these are the only ones looked at.

    Args:
        foreground: Scores of the foreground pixels, ascending.
        background: Scores of the background pixels, ascending.

    Returns:
        AP in [0, 1]; nan if there is no foreground, where recall has no meaning.
    """
    if not len(foreground):
        return float("nan")
    first = np.flatnonzero(np.concatenate([[True], foreground[1:] != foreground[:-1]]))
    gained = np.diff(first, append=len(foreground))
    true = len(foreground) - first
    false = len(background) - np.searchsorted(background, foreground[first])
    return float(np.sum(gained * (true / (true + false))) / len(foreground))


def binned(histogram: NDArray[np.float64]) -> float:
    """Return the step-wise average precision of scores known only by their bin.

    Scores in one bin count as equal, so this is the exact value for scores rounded to the bins of
    `rlfseg.metrics.grid`, steps of 0.001; for smooth scores it lies within 0.0005 of the unrounded
    one.

    Args:
        histogram: Pixels [2, BINS]; row 0 background, row 1 foreground, bins ascending.

    Returns:
        AP in [0, 1]; nan if there is no foreground.

    Raises:
        ValueError: Wrong shape.
    """
    if histogram.shape != (2, BINS):
        raise ValueError(f"the histogram must be (2, {BINS}), got {histogram.shape}")
    false, true = np.cumsum(histogram[:, ::-1], axis=1)
    gained = histogram[1, ::-1]
    if not true[-1]:
        return float("nan")
    hit = gained > 0
    return float(np.sum(gained[hit] * true[hit] / (true + false)[hit]) / true[-1])


def clipseg(tp: NDArray[np.float64], fp: NDArray[np.float64], positives: float) -> float:
    """Return the average precision of the CLIPSeg protocol from pooled counts.

        P = TP / (1 + TP + FP),  R = TP / (1 + TP + FN)    where TP + FP > 0
        AP = Simpson's rule for P over R, equal (R, P) once, R ascending

    There are no anchors at R = 0 and R = 1, so the value depends on how the scores are spread over
    the thresholds, not on their order alone; a hard mask gives 0.

    Deviation: points of equal R are ordered by falling P, the order of falling thresholds, where
    the protocol leaves it to chance. A set without any prediction has AP 0 rather than an error.

    Args:
        tp: True positives [49] at the ascending thresholds.
        fp: False positives [49].
        positives: Foreground pixels of the set.

    Returns:
        AP; 0 if there are fewer than two points.
    """
    some = tp + fp > 0
    precision = (tp / (1 + tp + fp))[some]
    recall = (tp / (1 + positives))[some]
    recall, fallen = np.unique(np.stack([recall, -precision], axis=1), axis=0).T
    return simpson(-fallen, recall)


def simpson(y: NDArray[np.float64], x: NDArray[np.float64]) -> float:
    """Integrate y over an uneven ascending grid x by Simpson's rule, with every case pinned here.

    - An odd number of points: each pair of intervals is integrated under the parabola through its
      three points.
    - An even number, 4 or more: the mean of two values, one with the trapezoid on the last
      interval and pairs before it, one with the trapezoid on the first and pairs after it. This
      was SciPy's rule ("avg") when the protocol's numbers were published; SciPy has changed since.
    - Two points: the trapezoid. Fewer: 0.
    - A pair with an interval of no width has no parabola; both its intervals are trapezoids.

    Args:
        y: Values [n].
        x: Positions [n], ascending, repeats allowed.

    Returns:
        The integral.
    """
    if len(x) < 2:
        return 0.0
    if len(x) == 2:
        return _trapezoid(y, x)
    if len(x) % 2:
        return sum(_parabola(y[i : i + 3], x[i : i + 3]) for i in range(0, len(x) - 2, 2))
    last = simpson(y[:-1], x[:-1]) + _trapezoid(y[-2:], x[-2:])
    first = _trapezoid(y[:2], x[:2]) + simpson(y[1:], x[1:])
    return (last + first) / 2


def _trapezoid(y: NDArray[np.float64], x: NDArray[np.float64]) -> float:
    return float(np.sum(np.diff(x) * (y[:-1] + y[1:])) / 2)


def _parabola(y: NDArray[np.float64], x: NDArray[np.float64]) -> float:
    left, right = np.diff(x)
    if not left or not right:
        return _trapezoid(y, x)
    width = left + right
    weights = np.array([2 - right / left, width**2 / (left * right), 2 - left / right])
    return float(width / 6 * (weights @ y))
