"""What several runs that differ by their seed say together."""

from collections.abc import Sequence

import numpy as np
from scipy.stats import t as student

#: By how much one thing is ahead of another, and the ends of the interval.
Gain = tuple[float, tuple[float, float]]


def over_seeds(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean over seeds and half of its 95 % interval, by Student's t.

        mean +- t(0.975, n - 1) s / sqrt(n)

    Args:
        values: one for each of n seeds; s is their standard deviation, with n - 1.

    Returns:
        The mean, and half of the interval's width; nan for one seed, which says nothing of it.

    Raises:
        ValueError: if there is no value.
    """
    n = len(values)
    if not n:
        raise ValueError("no seed, so there is nothing to average")
    if n == 1:
        return float(values[0]), float("nan")
    half = student.ppf(0.975, n - 1) * np.std(values, ddof=1) / n**0.5
    return float(np.mean(values)), float(half)


def mean_gain(gains: Sequence[float]) -> Gain:
    """Return the mean of gains and the ends of its interval, as `over_seeds`; nan for one gain."""
    mean, half = over_seeds(gains)
    return mean, (mean - half, mean + half)


def gain_of_runs(gains: Sequence[Gain]) -> Gain:
    """Return the mean gain of runs that differ by their seed, with an interval over both.

        half^2 = half_seeds^2 + half_images^2

    The first is `over_seeds`'s. The second is the mean half of the runs' own intervals: they were
    scored on the same images, and a mean over runs varies with those at most as the runs do. One
    run has its own interval alone.

    Args:
        gains: of each seed, with its interval over images.

    Raises:
        ValueError: if there is none.
    """
    mean, half = over_seeds([gain for gain, _ in gains])
    if len(gains) == 1:
        return gains[0]
    images = float(np.mean([high - low for _, (low, high) in gains])) / 2
    both = float(np.hypot(half, images))
    return mean, (mean - both, mean + both)
