"""The average precisions, against scikit-learn, SciPy and hand-worked numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import simpson as scipy_simpson
from sklearn.metrics import average_precision_score
from torch import Tensor

from rlfseg.evaluation import average_precision as precision
from rlfseg.evaluation.counting import count
from rlfseg.evaluation.grid import EDGES


def scene(n: int = 12, size: int = 24, noise: float = 0.3) -> tuple[Tensor, Tensor, list[str]]:
    """Return scores, masks and ids of n samples, three to an image."""
    masks = torch.zeros(n, size, size, dtype=torch.bool)
    for i in range(n):
        masks[i, 2 : 4 + i, 3 : 5 + 2 * i] = True
    scores = masks * 0.6 + 0.2 + noise * torch.randn(n, size, size)
    return scores, masks, [f"image {i // 3}" for i in range(n)]


@given(seed=st.integers(0, 2**16), levels=st.sampled_from([1, 2, 10, 0]))
def test_the_exact_ap_is_scikit_learn_s(seed: int, levels: int) -> None:
    torch.manual_seed(seed)
    scores = torch.rand(1, 6, 7)
    scores = (scores * levels).round() if levels else scores
    masks = torch.rand(1, 6, 7) > 0.7
    masks[0, 0, 0] = True
    expected = average_precision_score(masks.flatten().numpy(), scores.flatten().numpy())
    assert count(scores, masks, ["a"]).ap[0] == pytest.approx(expected, abs=1e-12)


@given(
    st.lists(
        st.sampled_from([-9.0, -2.0, -0.5, -0.0, 0.0, 1e-30, 0.5, 1.5, 2.0, 40.0]), min_size=4
    ),
    st.integers(0, 2**16),
)
def test_ties_signs_and_far_scores_make_no_difference(values: list[float], seed: int) -> None:
    scores = np.array(values, np.float32)
    inside = np.random.default_rng(seed).random(len(scores)) < 0.5
    inside[0] = True
    expected = average_precision_score(inside, scores)
    assert precision.exact(scores, inside) == pytest.approx(expected, abs=1e-12)


def test_samples_without_foreground_have_no_ap_and_are_left_out_of_the_mean() -> None:
    scores, masks, ids = scene()
    masks[0] = False
    counts = count(scores, masks, ids)
    assert np.isnan(counts.ap[0])
    assert counts.ap_mean() == pytest.approx(counts.ap[1:].mean())
    empty = counts.select(np.arange(len(counts)) == 0)
    assert np.isnan(empty.ap_mean()) and np.isnan(empty.ap_pooled())


def test_the_pooled_ap_is_scikit_learn_s_up_to_the_bins() -> None:
    scores, masks, ids = scene(size=48)
    pooled = count(scores, masks, ids).ap_pooled()
    exact = average_precision_score(masks.flatten().numpy(), scores.flatten().numpy())
    assert pooled == pytest.approx(exact, abs=5e-4)
    binned = np.searchsorted(EDGES, scores.flatten().numpy())
    assert pooled == pytest.approx(average_precision_score(masks.flatten(), binned), abs=1e-12)


def test_scores_heaped_in_the_outermost_bins_lose_their_order_there() -> None:
    """Then the pooled AP is far from the unrounded one, and still what its bins say."""
    masks, ids = scene(size=48)[1:]
    scores = torch.sigmoid(12 * (2 * masks - 1 + torch.randn(masks.shape)))
    assert ((scores < 0.001) | (scores > 0.999)).float().mean() > 0.7
    pooled = count(scores, masks, ids).ap_pooled()
    binned = np.searchsorted(EDGES, scores.flatten().numpy())
    assert pooled == pytest.approx(average_precision_score(masks.flatten(), binned), abs=1e-12)
    exact = average_precision_score(masks.flatten().numpy(), scores.flatten().numpy())
    assert 0.1 < exact - pooled < 0.2


def test_ap_clipseg_by_hand() -> None:
    # Four points (R, P) after the duplicate and the threshold without prediction are gone:
    # (1/5, 1/2), (2/5, 2/4), (3/5, 3/7), (4/5, 4/10).
    tp, fp = np.array([4.0, 4, 3, 2, 1, 0]), np.array([5.0, 5, 3, 1, 0, 0])
    y = np.array([1 / 2, 1 / 2, 3 / 7, 2 / 5])
    last = 0.2 / 3 * (y[0] + 4 * y[1] + y[2]) + 0.1 * (y[2] + y[3])
    first = 0.1 * (y[0] + y[1]) + 0.2 / 3 * (y[1] + 4 * y[2] + y[3])
    assert precision.clipseg(tp, fp, 4) == pytest.approx((last + first) / 2, abs=1e-15)
    assert precision.clipseg(tp, fp, 4) == pytest.approx(29 / 105, abs=1e-15)
    # (1/3, 1/2), (2/3, 1/2), (2/3, 1/3): equal R by falling P, so that the area is 1/3 of 1/2.
    tp, fp = np.array([2.0, 2, 1]), np.array([3.0, 1, 0])
    assert precision.clipseg(tp, fp, 2) == pytest.approx(1 / 6, abs=1e-15)


def test_ap_clipseg_depends_on_calibration_and_is_zero_for_a_hard_mask() -> None:
    scores, masks, ids = scene(n=9, size=64)
    logits = 3 * (scores - 0.5)
    soft, sharp = (count(torch.sigmoid(k * logits), masks, ids) for k in (0.5, 3))
    assert soft.ap_mean() == pytest.approx(sharp.ap_mean(), abs=1e-3)  # the ranking is the same
    assert soft.ap_clipseg() > sharp.ap_clipseg() + 0.1
    assert count((scores > 0.5).float(), masks, ids).ap_clipseg() == 0
    assert count(torch.zeros_like(scores), masks, ids).ap_clipseg() == 0  # no prediction at all


@given(seed=st.integers(0, 2**16), pairs=st.integers(1, 12))
def test_simpson_is_scipy_s_for_an_odd_number_of_points(seed: int, pairs: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = np.cumsum(rng.uniform(0.01, 1, 2 * pairs + 1)), rng.normal(size=2 * pairs + 1)
    assert precision.simpson(y, x) == pytest.approx(scipy_simpson(y, x=x), rel=1e-9, abs=1e-9)


def test_simpson_by_hand() -> None:
    x = np.array([0.0, 1.0, 3.0])  # exact for a parabola on an uneven grid
    assert precision.simpson(x**2, x) == pytest.approx(9)
    # Even: (parabola 0..2 + trapezoid 2..3, then trapezoid 0..1 + parabola 1..3) / 2.
    x = np.arange(4.0)
    assert precision.simpson(x**2, x) == pytest.approx(((8 / 3 + 6.5) + (0.5 + 26 / 3)) / 2)
    assert precision.simpson(np.array([2.0, 4.0]), np.array([0.0, 3.0])) == 9
    assert precision.simpson(np.array([2.0]), np.array([0.5])) == 0
    # The same on an uneven grid: the parabola through three of the points, and the trapezoid.
    x, y = np.array([0.0, 1.0, 3.0, 7.0]), np.array([2.0, 5.0, 1.0, 4.0])
    area = [np.polyint(np.polyfit(x[some], y[some], 2)) for some in (slice(0, 3), slice(1, 4))]
    last = np.polyval(area[0], 3) - np.polyval(area[0], 0) + 4 * (1 + 4) / 2
    first = 1 * (2 + 5) / 2 + np.polyval(area[1], 7) - np.polyval(area[1], 1)
    assert precision.simpson(y, x) == pytest.approx((last + first) / 2, rel=1e-12)
    # No width: what is left of the pair is a trapezoid.
    y = np.array([5.0, 2.0, 4.0])
    assert precision.simpson(y, np.array([0.0, 0.0, 1.0])) == 3
    assert precision.simpson(y, np.array([0.0, 1.0, 1.0])) == 3.5
