"""Every pixel gets one of a closed set of names: COCO-Stuff's own protocol, asked by text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from tqdm.auto import tqdm

from rlfseg.cache import LatentCache
from rlfseg.config import SamplerConfig
from rlfseg.evaluate import sample
from rlfseg.metrics import IGNORED, Confusion
from rlfseg.pack import Pack
from rlfseg.types import Velocity


def true_classes(pack: Pack, image_id: str, names: Sequence[str]) -> np.ndarray:
    """A picture's classes (H, W), uint8: numbers into `names`, or `IGNORED` where none is.

    Raises:
        ValueError: if the picture has a mask of another name.
    """
    numbers = {name: number for number, name in enumerate(names)}
    captions = pack.captions(image_id)
    if strange := [caption for caption in captions if caption not in numbers]:
        raise ValueError(f"{pack.path}: {strange[0]!r} of image {image_id} is not in the set")
    masks = [pack.masks(pack.find(image_id, caption))[0] for caption in captions]
    classes = np.full(masks[0].shape, IGNORED, np.uint8)
    for caption, mask in zip(captions, masks, strict=True):
        classes[mask] = numbers[caption]
    return classes


def given_classes(
    v: Velocity,
    cache: LatentCache,
    images: Sequence[str],
    names: Sequence[str],
    config: SamplerConfig,
    *,
    batch: int = 32,
) -> Iterator[np.ndarray]:
    """Asks each picture for every name and gives a pixel the one of the highest score.

    A picture is encoded once, and so is a name. Scores are compared as they are decoded, not
    clamped.

    Args:
        v: the field.
        cache: latents of the packed file.
        images: which of its pictures.
        names: the closed set, in the order of the classes.
        config: the sampler.
        batch: names at a time.

    Yields:
        For each picture, class numbers (H, W), int64.
    """
    frozen, pack = cache.frozen, cache.pack
    zb = frozen.black(cache.pixels)
    spoken = torch.cat([frozen.text(names[i : i + batch]) for i in range(0, len(names), batch)])
    for image_id in images:
        z1 = cache.z1([pack.find(image_id, pack.captions(image_id)[0])])
        scores = [
            frozen.decode(sample(config, v, z1=z1.expand(len(c), -1, -1, -1), c=c, zb=zb).z0)
            for c in spoken.split(batch)
        ]
        yield torch.cat(scores).argmax(0).cpu().numpy()


def closed_set(
    given: Iterable[np.ndarray], pack: Pack, images: Sequence[str], names: Sequence[str]
) -> Confusion:
    """Counts given classes against the packed masks.

    Args:
        given: for each picture its classes, as `given_classes` yields them.
        pack: the packed file.
        images: the pictures, in the same order.
        names: the closed set, in the order of the classes.
    """
    total = Confusion(np.zeros((len(names), len(names)), np.int64))
    for one in each_confusion(given, pack, images, names):
        total += one
    return total


def each_confusion(
    given: Iterable[np.ndarray], pack: Pack, images: Sequence[str], names: Sequence[str]
) -> Iterator[Confusion]:
    """What `closed_set` adds up, picture by picture."""
    each = zip(images, given, strict=True)
    for image_id, classes in tqdm(each, total=len(images), desc="closed set", leave=False):
        truth = true_classes(pack, image_id, names)
        yield Confusion.of(classes, truth, classes=len(names))
