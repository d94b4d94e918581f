"""Corners of shapes that are known to have them."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from rlfseg.evaluation.label_quality import corners


def polygon(vertices: np.ndarray, *, side: int) -> np.ndarray:
    image = Image.new("1", (side, side))
    ImageDraw.Draw(image).polygon([tuple(v) for v in vertices.tolist()], fill=1)
    return np.asarray(image)


def regular(count: int, *, radius: float, turn: float, side: int) -> np.ndarray:
    angles = turn + 2 * np.pi * np.arange(count) / count
    around = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return polygon(side / 2 + radius * around, side=side)


@pytest.mark.parametrize("radius", [10, 14, 25, 60])
@pytest.mark.parametrize("turn", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("count", [3, 4, 5, 6])
def test_a_regular_polygon_has_its_own(count: int, turn: float, radius: int) -> None:
    assert corners(regular(count, radius=radius, turn=turn, side=2 * radius + 9)) == count


@pytest.mark.parametrize("radius", [7, 8, 10, 14, 25, 60])
def test_a_circle_has_none(radius: int) -> None:
    y, x = np.mgrid[: 2 * radius + 9, : 2 * radius + 9] - radius - 4.3
    assert corners(np.hypot(x, y) < radius) == 0


def test_corners_that_point_inwards_count_and_so_do_holes() -> None:
    angles = np.pi * np.arange(10) / 5
    reach = np.where(np.arange(10) % 2, 22, 50)[:, None]
    star = 60 + reach * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    assert corners(polygon(star, side=121)) == 10
    frame = np.zeros((80, 80), bool)
    frame[10:70, 10:70] = True
    frame[25:55, 25:55] = False
    assert corners(frame) == 8
    assert corners(np.ones((40, 40), bool)) == 4  # the picture's edge bounds it


def test_what_is_too_small_to_tell_has_none() -> None:
    mask = np.zeros((20, 20), bool)
    assert corners(mask) == 0
    mask[4:9, 4:9] = True
    assert corners(mask) == 0


def test_what_is_no_mask_is_refused() -> None:
    with pytest.raises(ValueError, match=r"bool \(H, W\), got uint8 \(3, 3\)"):
        corners(np.zeros((3, 3), np.uint8))
