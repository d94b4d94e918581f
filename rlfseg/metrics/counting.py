"""From scores and masks to counts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from rlfseg.metrics import precision
from rlfseg.metrics.counts import Counts
from rlfseg.metrics.grid import BINS, EDGES
from rlfseg.types import Mask, Score


def count(scores: Score, masks: Mask, image_ids: Sequence[str]) -> Counts:
    """Count one batch.

    Foreground and background scores are sorted once for each sample; the histogram and the exact
    average precision both follow from the sorted scores, without a loop over thresholds. The work
    is done by NumPy on the CPU, whose sort of float32 is an order of magnitude faster than torch's;
    the next batch can run on the accelerator meanwhile.

    Args:
        scores: Decoded masks [b, H, W]; 0 background, 1 foreground, not clamped. Compared in
            float32, as the protocols do.
        masks: True masks [b, H, W], bool, at the same size.
        image_ids: The image of each sample [b]; samples of one image share it, so that intervals
            are drawn over images.

    Returns:
        Counts of b samples.

    Raises:
        ValueError: Shapes or lengths disagree, masks are not bool, or a score is not finite.
    """
    if scores.ndim != 3 or scores.shape != masks.shape:
        shapes = f"{tuple(scores.shape)} and {tuple(masks.shape)}"
        raise ValueError(f"scores and masks must both be [b, H, W], got {shapes}")
    if masks.dtype != torch.bool:
        raise ValueError(f"masks must be bool, got {masks.dtype}; compare with a threshold first")
    if len(image_ids) != len(scores):
        raise ValueError(f"{len(image_ids)} image ids for {len(scores)} samples")
    score = scores.detach().to("cpu", torch.float32).flatten(1).numpy()
    mask = masks.detach().to("cpu").flatten(1).numpy()
    ids = [str(name) for name in image_ids]
    finite = np.isfinite(score).all(axis=1)
    if not finite.all():
        broken = ", ".join(repr(ids[i]) for i in np.flatnonzero(~finite))
        raise ValueError(f"scores of image(s) {broken} are not finite; decode them in float32")
    histogram = np.empty((len(score), 2, BINS), np.int32)
    ap = np.empty(len(score))
    for i, (values, inside) in enumerate(zip(score, mask, strict=True)):
        background, foreground = np.sort(values[~inside]), np.sort(values[inside])
        histogram[i] = _bin(background), _bin(foreground)
        ap[i] = precision.exact(foreground, background)
    return Counts(
        image_id=np.array(ids, dtype=np.str_),
        histogram=histogram,
        ap=ap,
        weight=np.ones(len(ids), np.int64),
    )


def _bin(ascending: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return how many of the sorted scores lie in each bin [BINS]."""
    below = np.searchsorted(ascending, EDGES, side="right")
    return np.diff(below, prepend=0, append=len(ascending))
