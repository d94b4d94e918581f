"""From a velocity field and a packed file to scores and counts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from tqdm.auto import tqdm

from rlfseg.cache import LatentCache
from rlfseg.config import SamplerConfig
from rlfseg.metrics import Counts, boundary_f, count
from rlfseg.pack import Pack
from rlfseg.sampling import Sampled, aos, aos_signed, hss, multi_step, one_step
from rlfseg.types import Latent, PerSample, Score, Text, Velocity


@dataclass(frozen=True, eq=False)
class Prediction:
    """A batch of decoded masks: item numbers, scores (b, H, W), and gamma (b)."""

    items: np.ndarray
    scores: Score
    gamma: PerSample


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Counts against the annotation and, where it is known, against the exact mask.

    `boundary` is each sample's boundary F in [0, 1], (n,), where it was asked for.
    """

    annotation: Counts
    truth: Counts | None
    boundary: np.ndarray | None = None


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


def evaluate(
    v: Velocity,
    cache: LatentCache,
    items: Sequence[int],
    config: SamplerConfig,
    *,
    captions: Sequence[str] | None = None,
) -> Evaluation:
    """Scores predictions against the packed masks; arguments as for `predict`."""
    found = predict(v, cache, items, config, captions=captions)
    pairs = ((each.items, each.scores) for each in found)
    return tally(pairs, cache.pack, total=len(items), title=f"scoring {config.name}")


def tally(
    found: Iterable[tuple[np.ndarray, Score]], pack: Pack, *, total: int, title: str = "scoring"
) -> Evaluation:
    """Counts scores, whatever they come from, against the packed masks.

    Args:
        found: item numbers and scores (b, H, W), batch by batch.
        pack: the packed file.
        total: how many items there are in all.
        title: of the progress bar.

    Raises:
        ValueError: if there is nothing to score.
    """
    against: tuple[list[Counts], list[Counts]] = ([], [])
    with tqdm(total=total, desc=title, leave=False) as bar:
        for items, scores in found:
            masks = [pack.masks(int(i)) for i in items]
            ids = [pack.image_ids[pack.item_image[i]] for i in items]
            for kind, counts in enumerate(against):
                known = [mask for m in masks if (mask := m[kind]) is not None]
                if len(known) == len(masks):
                    counts.append(count(scores, torch.from_numpy(np.stack(known)), ids))
            bar.update(len(items))
    annotation, truth = (Counts.concatenate(parts) if parts else None for parts in against)
    if annotation is None:
        raise ValueError(f"{pack.path}: there are no items to score")
    return Evaluation(annotation, truth)


def boundaries(
    v: Velocity,
    cache: LatentCache,
    items: Sequence[int],
    config: SamplerConfig,
    *,
    threshold: float,
) -> np.ndarray:
    """Boundary F of each item's mask at a threshold, (n,); against the exact mask where known."""
    values = []
    for prediction in predict(v, cache, items, config):
        for item, found in zip(prediction.items, prediction.scores.cpu(), strict=True):
            annotation, exact = cache.pack.masks(int(item))[:2]
            true = annotation if exact is None else exact
            values.append(boundary_f((found > threshold).numpy(), true))
    return np.array(values)


def spaced(count: int, most: int) -> list[int]:
    """Numbers of `most` of `count` items, or of all if they are fewer, evenly spaced."""
    chosen = min(count, most)
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
