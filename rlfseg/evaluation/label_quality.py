"""How good labels are: against the truth where it is known, and how polygonal their outlines are.

Corners of an outline are counted for the paper's A.1 and Figure 7.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter1d
from skimage.measure import find_contours

from rlfseg.config import RefineConfig
from rlfseg.data.packed.prepare import load_image
from rlfseg.data.packed.read import Pack
from rlfseg.evaluation.boundary import boundary_f
from rlfseg.method.refinement import Predictor, Refined, mask_iou, refine_shown

_POINTS = 240  # that an outline is resampled to
_SMOOTH = 0.008  # of the outline's length, against the steps of pixels,
_PIXELS = 1.2  # and at least so many pixels
_ARM = 0.04  # of the outline's length, on either side of a point
_TURN = np.deg2rad(28.0)  # a circle turns by 360 degrees * _ARM, 14, everywhere
_SHORTEST = 40.0  # pixels; a shorter outline is all pixel steps


@dataclass(frozen=True, eq=False)
class Quality:
    """Scores against the exact masks, one row a mask.

    Attributes:
        items: numbers in the packed file.
        iou: [n, 2], of the annotation and of the refined mask.
        boundary: [n, 2], boundary F of both.
        iterations: [n], how often SAM was asked.
    """

    items: np.ndarray
    iou: np.ndarray
    boundary: np.ndarray
    iterations: np.ndarray

    @property
    def worse(self) -> np.ndarray:
        """Which refined masks have a lower IoU with the truth than their annotations [n]."""
        return self.iou[:, 1] < self.iou[:, 0]


def refine_items(
    pack: Pack,
    items: Sequence[int],
    predictor: Predictor,
    config: RefineConfig,
    photographs: Mapping[str, Path] | None = None,
) -> list[Refined]:
    """Refine some items' masks, those of an image together; nothing is written.

    Args:
        pack: the packed file.
        items: which of its items.
        predictor: SAM.
        config: of Algorithm 1.
        photographs: the image files by image id, to be shown at their own size (`refine_shown`);
            None shows the packed images.

    Raises:
        PackError: if an image can't be read.
    """
    results: dict[int, Refined] = {}
    for image in dict.fromkeys(pack.item_image[list(items)].tolist()):
        own = [item for item in items if pack.item_image[item] == image]
        masks = [pack.annotation(item) for item in own]
        shown = pack.image(image)
        if photographs is not None:
            image_id = pack.image_ids[image]
            shown = load_image(image_id, photographs[image_id])
        refined = refine_shown(shown, masks, predictor, config)
        results.update(zip(own, refined, strict=True))
    return [results[item] for item in items]


def quality(pack: Pack, items: Sequence[int], results: Sequence[Refined]) -> Quality:
    """Score annotations and refined masks of some items against their exact masks.

    Raises:
        ValueError: if the packed file has no exact masks.
    """
    ious, boundaries = [], []
    for item, result in zip(items, results, strict=True):
        annotation, truth, _ = pack.masks(item)
        if truth is None:
            raise ValueError(f"{pack.path} has no exact masks, so labels can't be scored")
        both = (annotation, result.mask)
        ious.append([mask_iou(mask, truth) for mask in both])
        boundaries.append([boundary_f(mask, truth) for mask in both])
    return Quality(
        np.array(items),
        np.array(ious),
        np.array(boundaries),
        np.array([result.iterations for result in results]),
    )


def corners(mask: np.ndarray) -> int:
    """Count the corners of a mask's outlines: places where they turn by 28 degrees or more.

    The turn at a point is the angle between the two chords that lead 4% of the outline's length
    back and ahead; a corner is where it is largest within such a stretch. So size doesn't matter,
    a circle has none, and a polygon with up to some ten vertices shows them all. Outlines of less
    than 40 pixels are left out, holes count as outlines, and the picture's edge as background.

    Deviation: Figure 7 shows polygon-like masks and counts nothing; the measure is ours.

    Args:
        mask: bool [H, W].

    Raises:
        ValueError: if the mask is not a boolean image.
    """
    if mask.ndim != 2 or mask.dtype != np.bool_:
        raise ValueError(f"a mask is bool (H, W), got {mask.dtype} {mask.shape}")
    outlines = find_contours(np.pad(mask, 1).astype(float), 0.5)
    return sum(_corners(outline) for outline in outlines)


def _corners(outline: np.ndarray) -> int:
    steps = np.hypot(*np.diff(outline, axis=0).T)
    along = np.concatenate([[0.0], np.cumsum(steps)])
    if along[-1] < _SHORTEST:
        return 0
    places = np.linspace(0, along[-1], _POINTS, endpoint=False)
    points = np.stack([np.interp(places, along, axis) for axis in outline.T], axis=1)
    smooth = max(_SMOOTH, _PIXELS / along[-1]) * _POINTS
    points = gaussian_filter1d(points, smooth, axis=0, mode="wrap")
    arm = round(_ARM * _POINTS)
    back, ahead = points - np.roll(points, arm, 0), np.roll(points, -arm, 0) - points
    cross = back[:, 0] * ahead[:, 1] - back[:, 1] * ahead[:, 0]
    turn = np.abs(np.arctan2(cross, (back * ahead).sum(1)))
    count, taken = 0, np.zeros(_POINTS, bool)
    for point in np.argsort(-turn, kind="stable"):
        if turn[point] < _TURN:
            break
        if not taken[point]:
            count += 1
            taken[np.arange(point - arm, point + arm + 1) % _POINTS] = True
    return count
