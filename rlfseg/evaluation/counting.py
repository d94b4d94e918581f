"""From scores and masks to counts."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from rlfseg.evaluation import average_precision, counting_on_device
from rlfseg.evaluation.counts import Counts
from rlfseg.evaluation.grid import BINS, EDGES
from rlfseg.method.types import Mask, Score

_PER_UNIT, _ZERO = np.float32(BINS / 2), np.float32(BINS / 4)  # a bin is 0.001; 0 begins bin 500
_NEAR = np.float32(
    1e-3
)  # of a bin's width: several times what float32 can be wrong by, in [-0.5, 1.5]
_SHIFT = BINS.bit_length()  # foreground pixels are counted this many bits further up
_SIDE = 1 << _SHIFT
_AT_ONCE = 2**16  # pixels: what is worked on stays in the processor's cache


def count(scores: Score, masks: Mask, image_ids: Sequence[str]) -> Counts:
    """Count one batch.

    Scores are counted by `histogram` and, for the exact average precision, sorted; neither loops
    over thresholds. Scores on a GPU are counted there, by `counting_on_device`, and only the
    counts leave it. Others are counted by NumPy, whose sort of 32 bits is an order of magnitude
    faster than torch's on a CPU. The counts are the same.

    Args:
        scores: decoded masks [b, H, W]; 0 background, 1 foreground, not clamped. Compared in
            float32, as the protocols do.
        masks: true masks [b, H, W], bool, at the same size.
        image_ids: the image of each sample [b]; samples of one image share it, so that intervals
            are drawn over images.

    Returns:
        Counts of b samples.

    Raises:
        ValueError: if shapes or lengths disagree, masks are not bool, or a score is not finite.
    """
    if scores.ndim != 3 or scores.shape != masks.shape:
        shapes = f"{tuple(scores.shape)} and {tuple(masks.shape)}"
        raise ValueError(f"scores and masks must both be [b, H, W], got {shapes}")
    if masks.dtype != torch.bool:
        raise ValueError(f"masks must be bool, got {masks.dtype}; compare with a threshold first")
    if len(image_ids) != len(scores):
        raise ValueError(f"{len(image_ids)} image ids for {len(scores)} samples")
    score = scores.detach().float().flatten(1)
    mask = masks.to(score.device).flatten(1)
    ids = [str(name) for name in image_ids]
    finite = score.isfinite().all(1).cpu().numpy() if score.is_cuda else _finite(score.numpy())
    if not finite.all():
        broken = ", ".join(repr(ids[i]) for i in np.flatnonzero(~finite))
        raise ValueError(f"scores of image(s) {broken} are not finite; decode them in float32")
    if score.is_cuda:
        counted = counting_on_device.histogram(score, mask).cpu().numpy()
        ap = counting_on_device.average_precision(score, mask).cpu().numpy()
    else:
        counted = histogram(score.numpy(), mask.numpy())
        pairs = zip(score.numpy(), mask.numpy(), strict=True)
        ap = np.array([average_precision.exact(each, inside) for each, inside in pairs], np.float64)
    return Counts(
        image_id=np.array(ids, dtype=np.str_),
        histogram=counted,
        ap=ap,
        weight=np.ones(len(ids), np.int64),
    )


def _finite(score: NDArray[np.float32]) -> NDArray[np.bool_]:
    return np.asarray(np.isfinite(score).all(axis=1))


def histogram(scores: NDArray[np.float32], masks: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Count the background's and the foreground's pixels in each bin, exactly.

    A score times the bins' number a unit is its bin, but for rounding, which matters within a
    thousandth of an edge alone: there the score is compared with the edge itself.

    Args:
        scores: finite [b, n].
        masks: True on the foreground [b, n].

    Returns:
        Pixels [b, 2, BINS].
    """
    counted = np.zeros((len(scores), 2 * _SIDE), np.int32)
    width = min(_AT_ONCE, scores.shape[1])
    floats, numbers = np.empty((2, width), np.float32), np.empty((2, width), np.int32)
    for row, (score, inside) in enumerate(zip(scores, masks, strict=True)):
        for start in range(0, len(score), width):
            some = slice(start, start + width)
            number = _numbered(score[some], inside[some], floats, numbers)
            counted[row] += np.bincount(number, minlength=2 * _SIDE)
    return counted.reshape(-1, 2, _SIDE)[..., :BINS].copy()


def _numbered(
    score: NDArray[np.float32],
    inside: NDArray[np.bool_],
    floats: NDArray[np.float32],
    numbers: NDArray[np.int32],
) -> NDArray[np.int32]:
    """Write the bin of each score, + _SIDE on the foreground, into the arrays given."""
    scaled, apart = floats[:, : len(score)]
    number, side = numbers[:, : len(score)]
    np.multiply(score, _PER_UNIT, out=scaled)
    scaled += _ZERO
    np.clip(scaled, np.float32(0.5), np.float32(BINS - 0.5), out=scaled)
    np.copyto(number, scaled, casting="unsafe")
    np.rint(scaled, out=apart)
    apart -= scaled
    np.abs(apart, out=apart)
    near = np.flatnonzero(apart < _NEAR)
    edge = np.rint(scaled[near]).astype(np.int32)
    number[near] = edge - (score[near] <= EDGES[edge - 1])
    np.copyto(side, inside.view(np.int8))
    side <<= _SHIFT
    number += side
    return number
