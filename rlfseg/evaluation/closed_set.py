"""Every pixel gets one of a closed set of names: COCO-Stuff's own protocol, asked by text."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from rlfseg.config import SamplerConfig
from rlfseg.data.packed.read import Pack
from rlfseg.evaluation.confusion import IGNORED, Confusion, load_confusions
from rlfseg.method.sampling import sample
from rlfseg.method.types import Velocity
from rlfseg.models.latent_cache import LatentCache
from rlfseg.processes import cut, in_parts

PART = 8  # pictures


def true_classes(pack: Pack, image_id: str, names: Sequence[str]) -> np.ndarray:
    """Return a picture's classes, uint8 [H, W]: numbers into `names`, or `IGNORED` for none.

    Raises:
        ValueError: if the picture has a mask of another name.
    """
    numbers = {name: number for number, name in enumerate(names)}
    captions = pack.captions(image_id)
    if strange := [caption for caption in captions if caption not in numbers]:
        raise ValueError(f"{pack.path}: {strange[0]!r} of image {image_id} is not in the set")
    masks = [pack.annotation(pack.find(image_id, caption)) for caption in captions]
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
    """Ask each picture for every name and give a pixel the one of the highest score.

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
        For each picture, class numbers [H, W], int64.

    Raises:
        ValueError: if a score is not finite; picture and name are told.
    """
    codec, pack = cache.codec, cache.pack
    zb = codec.black(cache.pixels)
    spoken = torch.cat([codec.text(names[i : i + batch]) for i in range(0, len(names), batch)])
    for image_id in images:
        z1 = cache.z1([pack.find(image_id, pack.captions(image_id)[0])])
        parts = [
            codec.decode(sample(config, v, z1=z1.expand(len(c), -1, -1, -1), c=c, zb=zb).z0)
            for c in spoken.split(batch)
        ]
        scores = torch.cat(parts)
        if not (finite := scores.isfinite().flatten(1).all(1)).all():
            broken = ", ".join(repr(names[k]) for k in torch.nonzero(~finite).flatten().tolist())
            raise ValueError(
                f"scores of image {image_id} for {broken} are not finite; decode them in float32"
            )
        yield scores.argmax(0).cpu().numpy()


def confusions_in_parts(
    folder: Path,
    pack: Pack,
    images: Sequence[str],
    names: Sequence[str],
    asking: Callable[[Sequence[str]], Iterable[np.ndarray]],
) -> list[Confusion]:
    """Count given classes against the packed masks, shared by the processes of a launch.

    Args:
        folder: where the parts are kept, the same in every process.
        pack: the packed file.
        images: its pictures.
        names: the closed set, in the order of the classes.
        asking: for some of the pictures their classes, as `given_classes` yields them.

    Returns:
        The confusion of each picture, in every process.

    Raises:
        ValueError: if there are no pictures.
    """
    if not images:
        raise ValueError("there are no pictures to name the pixels of")
    ranges = cut(len(images), PART)
    paths = [folder / f"closed-{each.start}-{each.stop}.npz" for each in ranges]

    def make(numbers: range) -> dict[str, np.ndarray]:
        some = [images[number] for number in numbers]
        found = confusions(asking(some), pack, some, names)
        return {"pixels": np.stack([each.pixels for each in found])}

    in_parts(paths, ranges, make, title="closed set", unit="img")
    return [each for path in paths for each in load_confusions(path)]


def confusions(
    given: Iterable[np.ndarray], pack: Pack, images: Sequence[str], names: Sequence[str]
) -> list[Confusion]:
    """Count given classes against the packed masks, picture by picture.

    Args:
        given: for each picture its classes, as `given_classes` yields them.
        pack: the packed file.
        images: the pictures, in the same order.
        names: the closed set, in the order of the classes.
    """
    return [
        Confusion.of(classes, true_classes(pack, image_id, names), classes=len(names))
        for image_id, classes in zip(images, given, strict=True)
    ]
