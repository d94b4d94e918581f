"""The mean over seeds and its interval, against SciPy's own."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_1samp

from rlfseg.evaluation.seeds import gain_of_runs, mean_gain, over_seeds

VALUES = st.lists(st.integers(-1000, 1000), min_size=2, max_size=8, unique=True)


@given(VALUES)
def test_the_interval_is_that_of_students_t(values: list[int]) -> None:
    mean, half = over_seeds(values)
    low, high = ttest_1samp(values, 0).confidence_interval(0.95)
    assert (mean - half, mean + half) == pytest.approx((low, high), rel=1e-9, abs=1e-9)


def test_three_seeds_by_hand() -> None:
    mean, half = over_seeds([1.0, 2.0, 3.0])
    assert mean == 2
    assert half == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)  # s = 1


def test_one_seed_says_nothing_of_the_spread_and_none_is_refused() -> None:
    mean, half = over_seeds([36.5])
    assert mean == 36.5 and math.isnan(half)
    with pytest.raises(ValueError, match="no seed"):
        over_seeds([])


def test_a_gain_over_seeds_and_images_has_both_spreads() -> None:
    alone = (2.0, (1.0, 3.5))
    assert gain_of_runs([alone]) == alone
    sure = [(value, (value, value)) for value in (1.0, 2.0, 3.0)]  # of endless images
    mean, ends = gain_of_runs(sure)
    assert (mean, *ends) == pytest.approx((2.0, *mean_gain([1.0, 2.0, 3.0])[1]))
    mean, (low, high) = gain_of_runs([(2.0, (1.5, 2.5)), (2.0, (1.0, 3.0))])  # of equal seeds
    assert (mean, low, high) == pytest.approx((2, 2 - 0.75, 2 + 0.75))
    with pytest.raises(ValueError, match="no seed"):
        gain_of_runs([])


def test_nineteen_of_twenty_such_intervals_hold_the_truth() -> None:
    """Gains of three seeds, each with an error of its own and one of its images that all share."""
    rng, held, seeds, images = np.random.default_rng(0), 0, 0.5, 1.0
    for _ in range(2000):
        shared = rng.normal(0, images)
        values = shared + rng.normal(0, seeds, 3)
        gains = [(v, (v - 1.96 * images, v + 1.96 * images)) for v in values]
        low, high = gain_of_runs(gains)[1]
        held += low <= 0 <= high
    assert 0.94 < held / 2000 < 0.985
