"""Which items of a packed file are scored, and what is said of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rlfseg.cache import LatentCache


def spaced(count: int, most: int | None) -> list[int]:
    """Numbers of `most` of `count` items, evenly spaced; of all if they are fewer, or for None."""
    chosen = count if most is None else min(count, most)
    return [k * count // chosen for k in range(chosen)]


def other_captions(cache: LatentCache, items: Sequence[int]) -> tuple[list[int], list[str]]:
    """For each item whose image has one, the next caption whose mask differs from its own.

    Returns:
        The items that have such a caption, and the captions.
    """
    pack = cache.pack
    kept, captions = [], []
    for item in items:
        image_id = pack.image_ids[pack.item_image[item]]
        said = list(pack.captions(image_id))
        place = said.index(pack.caption(item))
        own = pack.masks(item)[0]
        for caption in said[place + 1 :] + said[:place]:
            if not np.array_equal(pack.masks(pack.find(image_id, caption))[0], own):
                kept.append(item)
                captions.append(caption)
                break
    return kept, captions
