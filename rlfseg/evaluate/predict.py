"""From a velocity field and the latents of a packed file to decoded masks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from rlfseg.cache import LatentCache
from rlfseg.config import SamplerConfig
from rlfseg.sampling import Sampled, aos, aos_signed, hss, multi_step, one_step
from rlfseg.types import Latent, PerSample, Score, Text, Velocity


@dataclass(frozen=True, eq=False)
class Prediction:
    """A batch of decoded masks: item numbers, scores (b, H, W), and gamma (b)."""

    items: np.ndarray
    scores: Score
    gamma: PerSample


def sample(config: SamplerConfig, v: Velocity, *, z1: Latent, c: Text, zb: Latent) -> Sampled:
    """Runs the sampler that a configuration names."""
    match config.name:
        case "one":
            return one_step(v, z1=z1, c=c)
        case "steps":
            return multi_step(v, z1=z1, c=c, steps=config.steps)
        case "aos":
            return aos(v, z1=z1, c=c, zb=zb, tol=config.tol)
        case "aos_signed":
            return aos_signed(v, z1=z1, c=c, zb=zb, tol=config.tol)
        case _:
            return hss(v, z1=z1, c=c, tol=config.tol, steps=config.steps)


def predict(
    v: Velocity,
    cache: LatentCache,
    items: Sequence[int],
    config: SamplerConfig,
    *,
    captions: Sequence[str] | None = None,
    batch: int = 32,
) -> Iterator[Prediction]:
    """Samples and decodes masks; every image is encoded once, whatever the number of phrases.

    Args:
        v: the field.
        cache: latents of the packed file.
        items: which of its items.
        config: the sampler.
        captions: said instead of the items' own captions, one for each.
        batch: items at a time.
    """
    said = [cache.pack.caption(i) for i in items] if captions is None else list(captions)
    zb = cache.frozen.black(cache.pixels)
    for start in range(0, len(items), batch):
        some = np.asarray(items[start : start + batch])
        c = cache.frozen.text(said[start : start + batch])
        sampled = sample(config, v, z1=cache.z1(some), c=c, zb=zb)
        yield Prediction(some, cache.frozen.decode(sampled.z0), sampled.gamma)
