"""What a sentence says is what its numbers say."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from rlfseg.book.words import compared, listed, over_all_seeds, verdict
from rlfseg.evaluation.seeds import mean_gain

NUMBER = st.floats(-90, 90)


@given(NUMBER, NUMBER, NUMBER)
def test_a_comparison_says_what_the_interval_says(a: float, b: float, c: float) -> None:
    low, gain, high = sorted((a, b, c))
    said = compared(gain, (low, high))
    assert ("not told apart" in said) == (low <= 0 <= high)
    assert ("ahead" in said) == (gain > 0) and ("behind" in said) == (gain <= 0)
    numbers = [float(each) for each in re.findall(r"[+-]?\d+\.\d+", said)]
    size, one, two = numbers
    assert abs(size - abs(gain)) <= 0.051
    if low > 0 or high < 0:
        assert one <= size <= two
    else:
        assert one <= 0 <= two


def test_an_example_of_each() -> None:
    assert compared(4.12, (2.93, 5.21)) == "4.1 points ahead (2.9 to 5.2)"
    assert compared(-4.12, (-5.21, -2.93), unit="%") == "4.1 % behind (2.9 to 5.2)"
    assert compared(0.04, (0.01, 0.07)) == "0.04 points ahead (0.01 to 0.07)"
    assert listed({"a": compared(4.12, (2.93, 5.21)), "b": "c"}) == (
        "a: 4.1 points ahead (2.9 to 5.2); b: c"
    )
    assert compared(0.1, (-0.31, 0.52)) == "not told apart (0.1 points ahead, -0.3 to +0.5)"


def test_seeds_have_an_interval_where_there_are_several() -> None:
    assert over_all_seeds([-2.04]) == "2.0 points behind (one seed)"
    assert over_all_seeds([1.0, 1.0, 1.0]) == "1.0 points ahead (1.0 to 1.0)"
    assert "not told apart" in over_all_seeds([5.0, -5.0, 1.0])


@given(st.lists(st.tuples(NUMBER, NUMBER), min_size=1, max_size=4))
def test_a_verdict_is_what_the_comparisons_say(ends: list[tuple[float, float]]) -> None:
    gains = [((low + high) / 2, (low, high)) for low, high in map(sorted, ends)]
    said = [compared(*gain) for gain in gains]
    clear = [each for each in said if "not told apart" not in each]
    ahead = [each for each in clear if "ahead" in each]
    expected = {
        len(said): "held",
        0: "did not hold" if clear else "not told apart",
    }.get(len(ahead), "held in part" + ", in part the opposite" * (len(clear) > len(ahead)))
    assert verdict(gains) == expected


def test_what_has_no_interval_decides_nothing() -> None:
    assert verdict([mean_gain([5.0])]) == "not told apart" and verdict([]) == "not run here"
    assert verdict([mean_gain([5.0]), mean_gain([1.0, 1.1, 0.9])]) == "held in part"
