"""Scores brought to other sizes, and counted at the size of a photograph."""

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional

from rlfseg.evaluation.counting import count
from rlfseg.evaluation.counts import Counts
from rlfseg.method.types import Score


def at_size(scores: Score, height: int, width: int) -> Score:
    """Bring scores [b, h, w] to [b, height, width], bilinearly and without aliasing."""
    if scores.shape[-2:] == (height, width):
        return scores.float()
    size = (height, width)
    return functional.interpolate(scores.float()[:, None], size, mode="bilinear", antialias=True)[
        :, 0
    ]


def count_at_own_size(
    scores: Score, masks: Sequence[np.ndarray], image_ids: Sequence[str]
) -> Counts:
    """Count each of some scores [b, h, w] at the size of its mask, bool [H, W]; see `count`."""
    parts = []
    for score, mask, image_id in zip(scores, masks, image_ids, strict=True):
        resized = at_size(score[None], *mask.shape)
        parts.append(count(resized, torch.from_numpy(mask)[None], [image_id]))
    return Counts.concatenate(parts)
