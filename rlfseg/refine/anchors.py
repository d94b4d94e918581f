"""Anchors: the points inside a mask that stay fixed while SAM redraws its boundary (Eq. 3)."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from sklearn.cluster import KMeans
from threadpoolctl import ThreadpoolController

#: Starts of k-means, by k-means++; scikit-learn's own choice. The best of ten differs little.
STARTS = 1


def anchors(mask: np.ndarray, *, n: int, seed: int) -> np.ndarray:
    """Places anchors by k-means over the coordinates of the foreground (Eq. 3).

        P = KMeans({(x, y) | M0(x, y) > 0.5}, N)

    Deviation: the centre of a ring or a crescent lies outside it, where it would point SAM at
    something else; so each centre moves to the nearest pixel of its own cluster. Anchors therefore
    lie on the foreground and are distinct. A mask of no more than N pixels has each as an anchor.

    Args:
        mask: bool (H, W), the annotation.
        n: N, at least 1.
        seed: of k-means; the same mask and seed give the same anchors with any number of threads.

    Returns:
        float64 (k, 2): x (column) and y (row) in pixels, k = min(N, foreground pixels).

    Raises:
        ValueError: if nothing is marked in the mask, or it is no mask.
    """
    if mask.dtype != np.bool_ or mask.ndim != 2:
        raise ValueError(f"the mask is {mask.dtype} {mask.shape}; it must be bool (H, W)")
    if n < 1:
        raise ValueError(f"n must be at least 1 anchor, got {n}")
    points = np.argwhere(mask)[:, ::-1].astype(np.float64)
    if not len(points):
        raise ValueError("the mask is empty: there is no foreground to place anchors in")
    if len(points) <= n:
        return points
    with _threads().limit(limits=1):  # with more, sums are taken in any order
        found = KMeans(n, n_init=STARTS, random_state=seed).fit(points)
    return np.stack(
        [
            _nearest(points[found.labels_ == number], centre)
            for number, centre in enumerate(found.cluster_centers_)
        ]
    )


def _nearest(points: np.ndarray, centre: np.ndarray) -> np.ndarray:
    return points[np.square(points - centre).sum(1).argmin()]


@lru_cache(maxsize=1)
def _threads() -> ThreadpoolController:
    return ThreadpoolController()
