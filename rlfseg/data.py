"""Batches of a rectified flow run, as a function of seed and step alone."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from rlfseg.cache import LatentCache
from rlfseg.types import Latent, PerSample, Text, Time


class FlowBatch(NamedTuple):
    """What one step of Eq. 2 needs.

    `z0_refined` is the second label of Eq. 4, and `area` the annotations' share of the picture;
    both are None where there is one label alone.
    """

    z1: Latent
    z0: Latent
    c: Text
    t: Time
    z0_refined: Latent | None = None
    area: PerSample | None = None


def batch_items(count: int, size: int, *, seed: int, step: int) -> np.ndarray:
    """Which of `count` items a step sees, without replacement within an epoch.

    Args:
        count: number of items; the last `count % size` of an epoch's order are left out.
        size: global batch size.
        seed: of the run.
        step: number from 1.

    Returns:
        int64 (size,).

    Raises:
        ValueError: if there are fewer items than a batch takes.
    """
    if count < size:
        raise ValueError(f"{count} items do not fill a batch of {size}: lower the batch size")
    epoch, place = divmod(step - 1, count // size)
    order = np.random.default_rng([seed, 0, epoch]).permutation(count)
    return order[place * size : (place + 1) * size]


def draw_times(size: int, *, kind: str, seed: int, step: int) -> Time:
    """Draws t for a batch: `uniform` on [0, 1] (the paper's), or always `one`.

    Raises:
        ValueError: for another kind.
    """
    if kind == "one":
        return torch.ones(size)
    if kind != "uniform":
        raise ValueError(f"time must be 'uniform' or 'one', got {kind!r}")
    return torch.from_numpy(np.random.default_rng([seed, 1, step]).random(size, np.float32))


def flow_batch(
    cache: LatentCache, step: int, *, size: int, time: str, selection: str, seed: int
) -> FlowBatch:
    """The batch of one step, from the latent cache.

    Args:
        cache: of the packed training split.
        step: number from 1.
        size: global batch size.
        time: as for `draw_times`.
        selection: `original` or `refined` give that label alone, `exact` and `probe` both.
        seed: of the run.

    Raises:
        PackError: if refined labels are wanted and the packed file has none.
    """
    items = batch_items(len(cache.pack), size, seed=seed, step=step)
    captions = [cache.pack.caption(int(i)) for i in items]
    both = selection in ("exact", "probe")
    return FlowBatch(
        z1=cache.z1(items),
        z0=cache.z0_refined(items) if selection == "refined" else cache.z0(items),
        c=cache.frozen.text(captions),
        t=draw_times(size, kind=time, seed=seed, step=step),
        z0_refined=cache.z0_refined(items) if both else None,
        area=cache.area(items) if both else None,
    )
