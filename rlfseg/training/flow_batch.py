"""Batches of a rectified flow run, as a function of seed and step alone."""

from typing import NamedTuple

import numpy as np
import torch

from rlfseg.method.types import Latent, PerSample, Text, Time
from rlfseg.models.latent_cache import LatentCache


class FlowBatch(NamedTuple):
    """What one step of Eq. 2 needs.

    `z0_refined` is the second label of Eq. 4, and `area` the annotations' share of the picture;
    both are None where there is one label alone. `names` tell the samples apart in an error.
    `at_one` says that all t are 1, so that nobody need wait for the device to know.
    """

    z1: Latent
    z0: Latent
    c: Text
    t: Time
    z0_refined: Latent | None = None
    area: PerSample | None = None
    names: tuple[str, ...] = ()
    at_one: bool = False


def batch_items(
    count: int, size: int, *, seed: int, step: int, share: tuple[int, int] = (0, 1)
) -> np.ndarray:
    """Choose which of `count` items a step sees, without replacement within an epoch.

    Args:
        count: number of items; the last `count % size` of an epoch's order are left out.
        size: global batch size.
        seed: of the run.
        step: number from 1.
        share: this process's number and how many there are; each has its own items.

    Returns:
        int64 [size / processes].

    Raises:
        ValueError: if there are fewer items than a batch takes, or it can't be shared equally.
    """
    rank, world = share
    if size % world:
        raise ValueError(f"a batch of {size} can't be shared equally by {world} processes")
    if count < size:
        raise ValueError(f"{count} items do not fill a batch of {size}: lower the batch size")
    epoch, place = divmod(step - 1, count // size)
    order = np.random.default_rng([seed, 0, epoch]).permutation(count)
    return order[place * size : (place + 1) * size][rank::world]


def draw_times(size: int, *, kind: str, seed: int, step: int) -> Time:
    """Draw t for a batch: `uniform` on [0, 1] (the paper's), or always `one`.

    Uniform times are stratified: one in each of `size` equal parts of the interval, in random
    order. Each alone is uniform, and batches differ less from each other (D. P. Kingma et al.,
    "Variational diffusion models", 2021).

    Raises:
        ValueError: for another kind.
    """
    if kind == "one":
        return torch.ones(size)
    if kind != "uniform":
        raise ValueError(f"time must be 'uniform' or 'one', got {kind!r}")
    rng = np.random.default_rng([seed, 1, step])
    times = (rng.permutation(size) + rng.random(size)) / size
    return torch.from_numpy(times.astype(np.float32))


def flow_batch(
    cache: LatentCache,
    step: int,
    *,
    size: int,
    time: str,
    selection: str,
    seed: int,
    share: tuple[int, int] = (0, 1),
) -> FlowBatch:
    """Make one process's share of a step's batch, from the latent cache.

    Args:
        cache: of the packed training split.
        step: number from 1.
        size: global batch size.
        time: as for `draw_times`.
        selection: `original` or `refined` give that label alone, `exact` and `probe` both.
        seed: of the run.
        share: this process's number and how many there are; together they see just what one alone
            would see.

    Raises:
        ValueError: if the batch can't be shared equally.
        PackError: if refined labels are wanted and the packed file has none.
    """
    rank, world = share
    items = batch_items(len(cache.pack), size, seed=seed, step=step, share=share)
    captions = [cache.pack.caption(int(i)) for i in items]
    both = selection in ("exact", "probe")
    return FlowBatch(
        z1=cache.z1(items),
        z0=cache.z0_refined(items) if selection == "refined" else cache.z0(items),
        c=cache.codec.text(captions),
        t=draw_times(size, kind=time, seed=seed, step=step)[rank::world].to(cache.codec.device),
        z0_refined=cache.z0_refined(items) if both else None,
        area=cache.area(items) if both else None,
        names=tuple(
            f"image {cache.pack.image_ids[cache.pack.item_image[i]]}, {caption!r}"
            for i, caption in zip(items, captions, strict=True)
        ),
        at_one=time == "one",
    )
