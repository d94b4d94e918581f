"""Boundary F by hand, and against the benchmark's own way of computing it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import binary_dilation
from skimage.morphology import disk

from rlfseg.evaluation.boundary import boundary_f


def box(side: int, top: int, left: int, size: int) -> np.ndarray:
    mask = np.zeros((side, side), bool)
    mask[top : top + size, left : left + size] = True
    return mask


def test_a_shift_within_the_tolerance_costs_nothing() -> None:
    mask = box(100, 20, 20, 30)
    assert boundary_f(mask, mask) == 1.0
    assert boundary_f(box(100, 22, 20, 30), mask) == 1.0  # tolerance: 0.008 * 141 = 1.1, up to 2
    assert boundary_f(box(100, 60, 60, 30), mask) == 0.0


def test_a_shift_beyond_it_costs_the_sides_that_moved() -> None:
    """Shifted by 10 down: of each side of 116 pixels, left and right overlap in 20 rows each.

    Within 2 pixels of the other boundary lie 22 of 30 pixels on the left and on the right, and
    the ends of the moved edges: 3 - 1 on either side of the edge that lies within the other.
    """
    found, true = box(100, 30, 20, 30), box(100, 20, 20, 30)
    left_and_right, moved_edge = 2 * 22, 2 * 2
    share = (left_and_right + moved_edge) / 116
    assert boundary_f(found, true) == pytest.approx(share)


def test_what_has_no_boundary() -> None:
    empty, full = np.zeros((9, 9), bool), np.ones((9, 9), bool)
    assert boundary_f(empty, empty) == boundary_f(full, full) == boundary_f(empty, full) == 1.0
    assert boundary_f(empty, box(9, 2, 2, 4)) == boundary_f(box(9, 2, 2, 4), full) == 0.0


@given(
    arrays(bool, (12, 15), elements=st.booleans()),
    arrays(bool, (12, 15), elements=st.booleans()),
    st.integers(1, 3),
)
@settings(max_examples=40, deadline=None)
def test_it_is_what_dilation_by_a_disk_gives(a: np.ndarray, b: np.ndarray, reach: int) -> None:
    """The benchmark's code dilates the boundaries; the edge rule is spelled out here."""

    def edge(mask: np.ndarray) -> np.ndarray:
        padded = np.pad(mask, 1, mode="constant", constant_values=True)
        inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
        return mask & ~inner

    one, two = edge(a), edge(b)
    if not (one.any() and two.any()):
        return
    precision = (one & binary_dilation(two, disk(reach))).sum() / one.sum()
    recall = (two & binary_dilation(one, disk(reach))).sum() / two.sum()
    wanted = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    tolerance = reach / np.hypot(12, 15) - 1e-9
    assert boundary_f(a, b, tolerance=tolerance) == pytest.approx(wanted)
    assert boundary_f(b, a, tolerance=tolerance) == pytest.approx(wanted)


def test_masks_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="must be bool"):
        boundary_f(np.zeros((3, 3), bool), np.zeros((3, 4), bool))
    with pytest.raises(ValueError, match="must be bool"):
        boundary_f(np.zeros((3, 3), np.uint8), np.zeros((3, 3), bool))
