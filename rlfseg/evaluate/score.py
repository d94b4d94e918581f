"""From decoded masks to counts against the packed ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from accelerate import PartialState
from tqdm.auto import tqdm

from rlfseg.cache import LatentCache
from rlfseg.config import SamplerConfig
from rlfseg.evaluate.predict import predict
from rlfseg.metrics import Counts, boundary_f, count
from rlfseg.pack import Pack
from rlfseg.types import Score, Velocity

_COUNTS, _TRUTH, _BOUNDARY = "counts.npz", "truth.npz", "boundary.npy"


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Counts against the annotation and, where it is known, against the exact mask.

    `boundary` is each sample's boundary F in [0, 1], (n,), where it was asked for.
    """

    annotation: Counts
    truth: Counts | None = None
    boundary: np.ndarray | None = None

    def save(self, folder: Path) -> None:
        """Writes what there is into a folder."""
        self.annotation.save(folder / _COUNTS)
        if self.truth is not None:
            self.truth.save(folder / _TRUTH)
        if self.boundary is not None:
            np.save(folder / _BOUNDARY, self.boundary.astype(np.float32))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Reads what `save` wrote; ValueError if a file holds no counts."""
        truth, boundary = folder / _TRUTH, folder / _BOUNDARY
        return cls(
            Counts.load(folder / _COUNTS),
            Counts.load(truth) if truth.exists() else None,
            np.load(boundary) if boundary.exists() else None,
        )


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
    quiet = not PartialState().is_main_process
    with tqdm(total=total, desc=title, leave=False, disable=quiet) as bar:
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
