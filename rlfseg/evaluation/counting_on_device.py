"""What `count` counts, by torch, so that scores need not leave the accelerator that made them."""

import torch
from torch import Tensor

from rlfseg.evaluation.grid import BINS, EDGES


def histogram(scores: Tensor, masks: Tensor) -> Tensor:
    """Count the background's and the foreground's pixels in each bin, exactly.

    Args:
        scores: finite float32 [b, n].
        masks: True on the foreground [b, n], on the same device.

    Returns:
        Pixels [b, 2, BINS], int32.
    """
    edges = torch.tensor(EDGES, device=scores.device)
    number = torch.bucketize(scores, edges, out_int32=True).long()
    number += BINS * masks
    number += 2 * BINS * torch.arange(len(scores), device=scores.device)[:, None]
    counted = torch.bincount(number.flatten(), minlength=2 * BINS * len(scores))
    return counted.reshape(len(scores), 2, BINS).int()


def average_precision(scores: Tensor, masks: Tensor) -> Tensor:
    """Return the step-wise average precision of each sample, without any binning.

        AP = mean over foreground pixels of the precision at their score

    which is the sum of (R_n - R_{n-1}) P_n over the distinct scores: pixels of one score are found
    together, so each has the precision of the last of them.

    Args:
        scores: finite float32 [b, n].
        masks: True on the foreground [b, n], on the same device.

    Returns:
        AP in [0, 1] [b], float64; nan where there is no foreground.
    """
    found, order = scores.sort(dim=1, descending=True)
    true = masks.gather(1, order)
    place = torch.arange(1, scores.shape[1] + 1, device=scores.device).expand_as(true)
    last = torch.ones_like(true)
    last[:, :-1] = found[:, 1:] != found[:, :-1]
    until = torch.where(last, place, scores.shape[1]).flip(1).cummin(1).values.flip(1)
    precision = true.cumsum(1) / place.double()
    return (precision.gather(1, until - 1) * true).sum(1) / true.sum(1)
