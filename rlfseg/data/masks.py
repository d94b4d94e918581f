"""Draw a sample's region: the one place where annotations of any kind become pixels.

Polygons by PhraseCut's own rule or CLIPSeg's, segments by pycocotools, pixel maps by their values.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageDraw
from pycocotools import mask as coco
from skimage.draw import polygon2mask

from rlfseg.data.images import DAMAGE, bounded
from rlfseg.data.sample import (
    AnnotationError,
    PixelMap,
    Polygons,
    Region,
    Sample,
    Segments,
    Unreadable,
)

PolygonRule = Literal["pillow", "skimage"]
Overlap = Literal["union", "legacy"]
_FARTHEST = 2**16  # pixels; longer than a side of any JPEG, and safe in the fillers' C integers
_LONGEST = 12  # characters of one compressed run length; more would not fit 64 bits


def rasterise(
    sample: Sample, *, polygon_rule: PolygonRule = "pillow", overlap: Overlap = "union"
) -> np.ndarray:
    """Draw the mask of a sample; it may be empty.

    `Polygons`, the union of all, by one of two rules:

    - "pillow", of PhraseCut's own evaluator: coordinates cut to integers (towards zero), each
      polygon of two points or more drawn by Pillow with `outline=1, fill=1`.
    - "skimage", of CLIPSeg: coordinates as they are, each polygon drawn by `polygon2mask` with x
      and y swapped, which takes the pixels whose centre is inside or on the border.

    `Segments`: pycocotools draws every polygon of every object, and the sum tells how often a
    pixel is covered. "union" takes `> 0`. "legacy" takes `== 1`, as the usual loaders do with the
    sum that REFER's `getMask` returns: where two polygons of an object overlap there is a hole.

    A polygon may cross itself or leave the image: each rule fills it in its own way, always the
    same, and what lies outside is cut off. Coordinates that are no finite numbers, or lie over
    65,536 pixels away, are refused.

    Deviation: Pillow draws no separate outline where it has the colour of the fill, and has
    changed its polygon filler between releases, so single border pixels depend on the release;
    the lock pins it. CLIPSeg stops at a polygon without points; here it draws nothing.

    Args:
        sample: its region, in pixels of a `width` x `height` image.
        polygon_rule: "pillow" or "skimage"; only `Polygons` ask for it.
        overlap: "union" or "legacy"; only `Segments` ask for it.

    Returns:
        The mask, bool [height, width].

    Raises:
        FileNotFoundError: if the file of a pixel map is missing.
        AnnotationError: if the region can't be drawn: see above, or a COCO polygon of fewer than 6
            or an odd number of numbers, an RLE of another size than the sample or with counts that
            don't fill it. The message names split, image, ids and key.
        ValueError: if a rule is unknown; if a map is of another size or mode.
    """
    if polygon_rule not in ("pillow", "skimage"):
        raise ValueError(f"polygon_rule is {polygon_rule!r}: choose pillow or skimage")
    if overlap not in ("union", "legacy"):
        raise ValueError(f"overlap is {overlap!r}: choose union or legacy")
    region, width, height = sample.region, sample.width, sample.height
    try:
        if isinstance(region, Polygons):
            polygons = _checked(region)
            draw = _by_pillow if polygon_rule == "pillow" else _by_skimage
            return draw(polygons, width, height)
        if isinstance(region, Segments):
            covered = _covered(region, width, height)
            return covered > 0 if overlap == "union" else covered == 1
        if isinstance(region, PixelMap):
            return _chosen(region, width, height)
        raise AnnotationError(region.why)
    except ValueError as error:
        ids = (f"{key} {value}" for key, value in sample.ids.items() if key.endswith(("id", "ids")))
        name = ", ".join([f"{sample.split}, image {sample.image_id}", *ids])
        kind = ValueError if isinstance(region, PixelMap) else AnnotationError
        raise kind(f"{name}: {error}") from error


def fault(region: Region, width: int, height: int) -> str:
    """Say why `rasterise` could not draw a region of a `width` x `height` image, or nothing.

    It is not drawn; the file of a pixel map is not looked at.
    """
    try:
        if isinstance(region, Polygons):
            _checked(region)
        if isinstance(region, Segments):
            _parsed(region, width, height)
    except ValueError as error:
        return str(error)
    return region.why if isinstance(region, Unreadable) else ""


def drawable(samples: Iterable[Sample]) -> list[Sample]:
    """Return the samples that `rasterise` can draw."""
    return [each for each in samples if not fault(each.region, each.width, each.height)]


def blank(region: Region) -> bool:
    """Tell whether an annotation without fault has nothing to draw: no outline, no run."""
    if isinstance(region, Polygons):
        return not any(len(polygon) > 1 for instance in region.instances for polygon in instance)
    return isinstance(region, Segments) and not any(region.objects)


def pixel_map(path: Path) -> np.ndarray:
    """Read a pixel map; the last two are kept, as an image's classes come one after another.

    Returns:
        The values, uint8 [height, width], read-only.

    Raises:
        FileNotFoundError: if the file is missing.
        ValueError: if it is no image, cut off, or not of one 8-bit channel.
    """
    status = path.stat()
    return _pixel_map(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=2)
def _pixel_map(path: Path, changed: int, size: int) -> np.ndarray:
    try:
        with bounded(path) as image:
            mode, values = image.mode, np.array(image)
    except DAMAGE as error:
        raise ValueError(f"{path} is not a complete image ({error}): fetch it again") from error
    if mode not in ("L", "P"):
        raise ValueError(f"{path} is of mode {mode}, not one channel of classes")
    values.flags.writeable = False
    return values


def _chosen(region: PixelMap, width: int, height: int) -> np.ndarray:
    values = pixel_map(region.path)
    if values.shape != (height, width):
        raise ValueError(
            f"{region.path} is {values.shape[1]} x {values.shape[0]} pixels, "
            f"the annotated image {width} x {height}"
        )
    return np.isin(values, region.values)


def _checked(region: Polygons) -> list[np.ndarray]:
    for number, instance in enumerate(region.instances):
        for place, polygon in enumerate(instance):
            if not (np.abs(polygon) <= _FARTHEST).all():
                raise _far(f"Polygons, instance {number}, polygon {place}")
    return [polygon for instance in region.instances for polygon in instance]


def _far(where: str) -> ValueError:
    return ValueError(f"{where}: a coordinate is no finite number, or over {_FARTHEST} pixels away")


def _by_pillow(polygons: Sequence[np.ndarray], width: int, height: int) -> np.ndarray:
    sheet = Image.new("L", (width, height), 0)
    draw = ImageDraw.Draw(sheet)
    for polygon in polygons:
        if len(polygon) >= 2:
            points = np.trunc(polygon).astype(np.int64).tolist()
            draw.polygon([(x, y) for x, y in points], outline=1, fill=1)
    return np.asarray(sheet) > 0


def _by_skimage(polygons: Sequence[np.ndarray], width: int, height: int) -> np.ndarray:
    mask = np.zeros((height, width), bool)
    for polygon in polygons:
        if len(polygon):
            mask |= polygon2mask((height, width), polygon[:, ::-1])
    return mask


def _covered(region: Segments, width: int, height: int) -> np.ndarray:
    """Count how many polygons or RLEs cover each pixel, [height, width]."""
    covered = np.zeros((height, width), np.uint16, order="F")  # as pycocotools' masks are
    for parsed in _parsed(region, width, height):
        if isinstance(parsed, list):
            rles = coco.frPyObjects(parsed, height, width) if parsed else []
        else:
            rles = [coco.frPyObjects({"size": [height, width], "counts": parsed}, height, width)]
        for rle in rles:
            covered += coco.decode(rle)
    return covered


def _parsed(region: Segments, width: int, height: int) -> list[list[list[float]] | np.ndarray]:
    """Check each object's segmentation; return its polygons, or its run lengths."""
    objects: list[list[list[float]] | np.ndarray] = []
    for number, segmentation in enumerate(region.objects):
        where = f"segmentation of object {number}"
        if isinstance(segmentation, dict):
            objects.append(_run_lengths(segmentation, width, height, where))
        elif isinstance(segmentation, list):
            every = enumerate(segmentation)
            objects.append([_flat(polygon, f"{where}, polygon {i}") for i, polygon in every])
        else:
            raise ValueError(f"{where} is a {type(segmentation).__name__}, not a list or an RLE")
    return objects


def _flat(polygon: Any, where: str) -> list[float]:
    """Check a polygon of COCO's: pycocotools takes one of 4 numbers for a box."""
    if not isinstance(polygon, list) or any(type(n) not in (int, float) for n in polygon):
        raise ValueError(f"{where} is not a list of numbers [x0, y0, x1, y1, ...]")
    if len(polygon) < 6 or len(polygon) % 2:
        raise ValueError(f"{where} has {len(polygon)} numbers, not an even number of 6 or more")
    if not all(abs(number) <= _FARTHEST for number in polygon):
        raise _far(where)
    return polygon


def _run_lengths(rle: dict[str, Any], width: int, height: int, where: str) -> np.ndarray:
    """Check an RLE's run lengths: pycocotools leaves what they miss uninitialised."""
    size, counts = rle.get("size"), rle.get("counts")
    if not isinstance(size, list | tuple) or list(size) != [height, width]:
        raise ValueError(f"{where}: size is {size}, the annotated image's is [{height}, {width}]")
    if isinstance(counts, str | bytes):
        text = counts.encode() if isinstance(counts, str) else counts
        runs = _decompress(text, where)
    else:
        runs = np.asarray(counts)
    if runs.ndim != 1 or runs.dtype.kind not in "iu" or runs.min() < 0:
        raise ValueError(f"{where}: counts holds something that is no length of a run")
    if runs.sum() != width * height:
        raise ValueError(
            f"{where}: counts tells of {runs.sum()} pixels, the image has {width * height}"
        )
    return runs


def _decompress(text: bytes, where: str) -> np.ndarray:
    """Read COCO's compressed counts: 5 bits a character, differences from the last but one."""
    codes = np.frombuffer(text, np.uint8).astype(np.int64) - 48
    ends = np.flatnonzero(codes & 32 == 0)
    if not len(ends) or ends[-1] != len(codes) - 1 or codes.min() < 0 or codes.max() > 63:
        raise ValueError(f"{where}: counts is cut off, or no compressed run lengths")
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > _LONGEST:
        raise ValueError(f"{where}: counts is no compressed run lengths")
    place = np.arange(len(codes)) - np.repeat(starts, lengths)
    runs = np.add.reduceat((codes & 31) << (5 * place), starts)
    runs -= np.where(codes[ends] & 16, 1 << (5 * lengths), 0)
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs
