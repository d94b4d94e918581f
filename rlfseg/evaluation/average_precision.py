"""Three average precisions that share nothing but the name; every table says which one it shows."""

import numpy as np
from numpy.typing import NDArray

from rlfseg.evaluation.grid import BINS


def exact(scores: NDArray[np.float32], mask: NDArray[np.bool_]) -> float:
    """Return the step-wise average precision of one sample, without any binning.

        AP = sum_n (R_n - R_{n-1}) P_n    over the distinct scores, from high to low

    Recall changes only at scores that a foreground pixel has, so these are the only ones looked at.
    One sort does for both kinds of pixels: a score's bits, ordered as a whole number, leave room
    for one more bit, which says whether the pixel is foreground.

    Args:
        scores: finite [n].
        mask: True on the foreground [n].

    Returns:
        AP in [0, 1]; nan if there is no foreground, where recall has no meaning.
    """
    keys = _keys(scores, mask)
    keys.sort()
    place = np.flatnonzero((keys & 1).astype(np.bool_))
    if not len(place):
        return float("nan")
    found = keys[place]
    first = np.flatnonzero(np.concatenate([[True], found[1:] != found[:-1]]))
    found, from_here = found[first], place[first]
    # background of the very same score lies just before the foreground, and counts as found too
    tied = np.flatnonzero((from_here > 0) & (keys[from_here - 1] == found - 1))
    from_here[tied] = np.searchsorted(keys, found[tied] - 1)
    gained = np.diff(first, append=len(place))
    true = len(place) - first
    return float(np.sum(gained * (true / (len(keys) - from_here))) / len(place))


def _keys(scores: NDArray[np.float32], mask: NDArray[np.bool_]) -> NDArray[np.signedinteger]:
    """Return whole numbers in the order of the scores, with the mask in their lowest bit [n].

    Scores between -2 and 2 leave a bit of their 32 free; any others take 64.
    """
    bits = (scores + np.float32(0)).view(np.int32)  # -0 becomes 0
    bits ^= (bits >> 31) & 0x7FFFFFFF  # the more negative, the smaller
    lowest, highest = bits.min(initial=0), bits.max(initial=0)
    room = lowest >= -(2**30) and highest < 2**30
    keys = bits if room else bits.astype(np.int64)
    keys <<= 1
    keys |= mask.view(np.int8)
    return keys


def binned(histogram: NDArray[np.float64]) -> float:
    """Return the step-wise average precision of scores known only by their bin.

    Scores in one bin count as equal, so this is the exact value for scores rounded to the bins of
    `grid`, steps of 0.001. For scores that spread over them it lies within about 0.001 of the
    unrounded one; for those of a saturated sigmoid, heaped in the outermost, a tenth or more below.

    Args:
        histogram: pixels [2, BINS]; row 0 background, row 1 foreground, bins ascending.

    Returns:
        AP in [0, 1]; nan if there is no foreground.

    Raises:
        ValueError: if the shape is wrong.
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
        tp: true positives [49] at the ascending thresholds.
        fp: false positives [49].
        positives: foreground pixels of the set.

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
        y: values [n].
        x: positions [n], ascending, repeats allowed.

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
