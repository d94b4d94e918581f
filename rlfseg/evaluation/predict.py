"""From a velocity field and the latents of a packed file to decoded masks."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from rlfseg.config import SamplerConfig
from rlfseg.method.refinement import mask_iou
from rlfseg.method.sampling import sample
from rlfseg.method.types import PerSample, Score, Velocity
from rlfseg.models.latent_cache import LatentCache

_APART = 0.1  # IoU of two annotations below which their phrases mean different things


def spaced(count: int, most: int | None) -> list[int]:
    """Return the numbers of `most` of `count` items, evenly spaced; of all if fewer or for None."""
    chosen = count if most is None else min(count, most)
    return [k * count // chosen for k in range(chosen)]


def other_captions(cache: LatentCache, items: Sequence[int]) -> tuple[list[int], list[str]]:
    """Find for each item whose image has one the next caption that means something else.

    It does if the two annotations share less than a tenth of what either covers (IoU). Masks that
    merely differ won't do: two phrases for one thing were outlined by two hands.

    Returns:
        The items that have such a caption, and the captions.
    """
    pack = cache.pack
    kept, captions = [], []
    for item in items:
        image_id = pack.image_ids[pack.item_image[item]]
        every = pack.captions(image_id)
        first, said, own = pack.find(image_id, every[0]), pack.caption(item), pack.annotation(item)
        for other in [*range(item + 1, first + len(every)), *range(first, item)]:
            caption = pack.caption(other)
            if caption != said and mask_iou(pack.annotation(other), own) < _APART:
                kept.append(item)
                captions.append(caption)
                break
    return kept, captions


@dataclass(frozen=True, eq=False)
class Prediction:
    """A batch of decoded masks: item numbers, scores [b, H, W], and gamma [b]."""

    items: np.ndarray
    scores: Score
    gamma: PerSample


def predict(
    v: Velocity,
    cache: LatentCache,
    items: Sequence[int],
    config: SamplerConfig,
    *,
    captions: Sequence[str] | None = None,
    batch: int = 32,
) -> Iterator[Prediction]:
    """Sample and decode masks; every image is encoded once, whatever the number of phrases.

    Args:
        v: the field.
        cache: latents of the packed file.
        items: which of its items.
        config: the sampler.
        captions: said instead of the items' own captions, one for each.
        batch: items at a time.
    """
    said = [cache.pack.caption(i) for i in items] if captions is None else list(captions)
    zb = cache.codec.black(cache.pixels)
    for start in range(0, len(items), batch):
        some = np.asarray(items[start : start + batch])
        c = cache.codec.text(said[start : start + batch])
        sampled = sample(config, v, z1=cache.z1(some), c=c, zb=zb)
        yield Prediction(some, cache.codec.decode(sampled.z0), sampled.gamma)
