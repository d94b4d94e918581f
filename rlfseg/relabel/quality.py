"""How good labels are where the truth is known: annotations and refined masks against it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rlfseg.config import RefineConfig
from rlfseg.metrics import boundary_f
from rlfseg.pack import Pack
from rlfseg.refine import Predictor, Refined, refine


@dataclass(frozen=True, eq=False)
class Quality:
    """Scores against the exact masks, one row a mask.

    Attributes:
        items: numbers in the packed file.
        iou: (n, 2), of the annotation and of the refined mask.
        boundary: (n, 2), boundary F of both.
        iterations: (n), how often SAM was asked.
    """

    items: np.ndarray
    iou: np.ndarray
    boundary: np.ndarray
    iterations: np.ndarray

    @property
    def worse(self) -> np.ndarray:
        """Which refined masks have a lower IoU with the truth than their annotations (n)."""
        return self.iou[:, 1] < self.iou[:, 0]


def refine_items(
    pack: Pack, items: Sequence[int], predictor: Predictor, config: RefineConfig
) -> list[Refined]:
    """Refines some items' masks, those of an image together; nothing is written."""
    results: dict[int, Refined] = {}
    for image in dict.fromkeys(pack.item_image[list(items)].tolist()):
        own = [item for item in items if pack.item_image[item] == image]
        masks = [pack.masks(item)[0] for item in own]
        refined = refine(pack.image(image), masks, predictor, config)
        results.update(zip(own, refined, strict=True))
    return [results[item] for item in items]


def quality(pack: Pack, items: Sequence[int], results: Sequence[Refined]) -> Quality:
    """Scores annotations and refined masks of some items against their exact masks.

    Raises:
        ValueError: if the packed file has no exact masks.
    """
    ious, boundaries = [], []
    for item, result in zip(items, results, strict=True):
        annotation, truth, _ = pack.masks(item)
        if truth is None:
            raise ValueError(f"{pack.path} has no exact masks, so labels can't be scored")
        both = (annotation, result.mask)
        ious.append([(mask & truth).sum() / (mask | truth).sum() for mask in both])
        boundaries.append([boundary_f(mask, truth) for mask in both])
    return Quality(
        np.array(items),
        np.array(ious),
        np.array(boundaries),
        np.array([result.iterations for result in results]),
    )
