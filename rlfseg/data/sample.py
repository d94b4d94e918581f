"""The one type that every data set is read into: a phrase, its image and where the mask is told."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class Polygons:
    """Outlines, as PhraseCut keeps them.

    Attributes:
        instances: `[instance][polygon]`, each a float array [n, 2] of x, y in pixels, y downwards.
    """

    instances: tuple[tuple[np.ndarray, ...], ...]


@dataclass(frozen=True, eq=False)
class Segments:
    """COCO segmentations, one for each object, as the JSON holds them.

    Attributes:
        objects: each a list of flat polygons [x0, y0, x1, y1, ...], or an RLE as a dictionary
            (`size` [height, width], `counts` compressed text or a list of run lengths).
    """

    objects: tuple[Any, ...]


@dataclass(frozen=True, eq=False)
class Unreadable:
    """An annotation that is not of its data set's form; `why` says what is wrong with it."""

    why: str


@dataclass(frozen=True, eq=False)
class PixelMap:
    """Classes of a pixel map, as COCO-Stuff keeps them: all that is told of its image.

    Attributes:
        path: a PNG of one channel.
        values: the pixel values that are the mask.
    """

    path: Path
    values: tuple[int, ...]


Region = Polygons | Segments | PixelMap | Unreadable


class AnnotationError(ValueError):
    """A single annotation can't be drawn, while the file that it is in can be used."""


@dataclass(frozen=True, eq=False)
class Sample:
    """One phrase of one image, as the data set's own files state it.

    Attributes:
        image_id: the data set's id of the image.
        image_path: the image file; it existed when the sample was read.
        caption: the phrase, exactly as written.
        split: name of the split that the sample was read from.
        width: width of the image that the region refers to, in pixels.
        height: height of the same image, in pixels.
        region: the mask, as the data set tells it; `rasterise` draws it.
        ids: the data set's own ids and whatever else identifies the annotation.
    """

    image_id: str
    image_path: Path
    caption: str
    split: str
    width: int
    height: int
    region: Region
    ids: Mapping[str, Any]


def by_image(samples: Iterable[Sample]) -> Iterator[Sample]:
    """Put the samples of an image next to each other, as a packed file needs them.

    Images keep the order of their first sample, and the samples of an image keep their own. A
    data set's file need not be in such an order, so all samples (not their pixels) are held; but
    those of a pixel map, which come together, go on at once.

    Yields:
        The same samples, one image after another.
    """
    grouped: dict[str, list[Sample]] = {}
    for sample in samples:
        if isinstance(sample.region, PixelMap):
            yield sample
        else:
            grouped.setdefault(sample.image_id, []).append(sample)
    for group in grouped.values():
        yield from group
