"""The mean over seeds and its interval, against SciPy's own."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_1samp

from rlfseg.evaluation.seeds import over_seeds

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
