"""From decoded masks to counts against the packed ones, in any number of processes.

Scoring in parts is shared by the processes of a launch: see `rlfseg.processes`. No image's phrases
are cut apart, so that no two processes encode it; a batch never spans two parts, so that counts do
not depend on how many processes there were.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Self

import numpy as np
import torch
from accelerate import PartialState
from tqdm.auto import tqdm

from rlfseg.config import SamplerConfig
from rlfseg.data.packed.read import Pack
from rlfseg.evaluation.boundary import boundary_f
from rlfseg.evaluation.counting import count
from rlfseg.evaluation.counts import Counts
from rlfseg.evaluation.predict import predict
from rlfseg.method.types import Score, Velocity
from rlfseg.models.latent_cache import LatentCache
from rlfseg.processes import in_parts
from rlfseg.stage import readable

PART = 256  # phrases, about
_COUNTS, _TRUTH, _BOUNDARY = "counts.npz", "truth.npz", "boundary.npy"
_NAMES = tuple(each.name for each in fields(Counts))
_EXACT = "truth."  # begins the names of the arrays that are counted against the truth


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Counts against the annotation and, where it is known, against the exact mask.

    `boundary` is each sample's boundary F in [0, 1], [n], where it was asked for.
    """

    annotation: Counts
    truth: Counts | None = None
    boundary: np.ndarray | None = None

    def save(self, folder: Path) -> None:
        """Write what there is into a folder."""
        self.annotation.save(folder / _COUNTS)
        if self.truth is not None:
            self.truth.save(folder / _TRUTH)
        if self.boundary is not None:
            np.save(folder / _BOUNDARY, self.boundary.astype(np.float32))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote; ValueError names a file that is damaged."""
        truth, boundary = folder / _TRUTH, folder / _BOUNDARY
        with readable(boundary):
            edges = np.load(boundary) if boundary.exists() else None
        return cls(
            Counts.load(folder / _COUNTS), Counts.load(truth) if truth.exists() else None, edges
        )


def evaluate(
    v: Velocity,
    cache: LatentCache,
    items: Sequence[int],
    config: SamplerConfig,
    *,
    captions: Sequence[str] | None = None,
) -> Evaluation:
    """Score predictions against the packed masks; arguments as for `predict`."""
    found = predict(v, cache, items, config, captions=captions)
    pairs = ((each.items, each.scores) for each in found)
    return tally(pairs, cache.pack, total=len(items), title=f"scoring {config.name}")


def tally(
    found: Iterable[tuple[np.ndarray, Score]], pack: Pack, *, total: int, title: str = "scoring"
) -> Evaluation:
    """Count scores, whatever they come from, against the packed masks.

    Args:
        found: item numbers and scores [b, H, W], batch by batch.
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
    """Measure each item's boundary F at a threshold [n], against the exact mask where known."""
    values = []
    for prediction in predict(v, cache, items, config):
        for item, found in zip(prediction.items, prediction.scores.cpu(), strict=True):
            annotation, exact = cache.pack.masks(int(item))[:2]
            true = annotation if exact is None else exact
            values.append(boundary_f((found > threshold).numpy(), true))
    return np.array(values)


def scored_in_parts(
    folder: Path,
    pack: Pack,
    items: Sequence[int],
    score: Callable[[Sequence[int]], Evaluation],
    *,
    title: str,
) -> Evaluation:
    """Score items in the processes of a launch, or find parts scored.

    Args:
        folder: where the parts are kept, the same in every process.
        pack: the packed file.
        items: which of its items.
        score: scores some of them.
        title: of the progress bar.

    Returns:
        The counts of all of them, in order, in every process.
    """
    ranges = by_image(pack, items)
    paths = [folder / f"counts-{each.start}-{each.stop}.npz" for each in ranges]

    def make(numbers: range) -> dict[str, np.ndarray]:
        found = score([items[number] for number in numbers])
        arrays = _arrays(found.annotation)
        if found.truth is not None:
            arrays |= {_EXACT + name: each for name, each in _arrays(found.truth).items()}
        return arrays

    in_parts(paths, ranges, make, title=title, unit="phrase")
    annotation, truth = [], []
    for path in paths:
        with np.load(path) as kept:
            annotation.append(Counts(**{name: kept[name] for name in _NAMES}))
            if _EXACT + _NAMES[0] in kept.files:
                truth.append(Counts(**{name: kept[_EXACT + name] for name in _NAMES}))
    return Evaluation(Counts.concatenate(annotation), Counts.concatenate(truth) if truth else None)


def edges_in_parts(
    folder: Path,
    pack: Pack,
    items: Sequence[int],
    measure: Callable[[Sequence[int]], np.ndarray],
    *,
    title: str,
) -> np.ndarray:
    """Measure the boundary F of items [n] as `scored_in_parts` counts; `measure` takes some."""
    ranges = by_image(pack, items)
    paths = [folder / f"edges-{each.start}-{each.stop}.npz" for each in ranges]

    def make(numbers: range) -> dict[str, np.ndarray]:
        return {"boundary": measure([items[number] for number in numbers])}

    in_parts(paths, ranges, make, title=title, unit="phrase")
    parts = []
    for path in paths:
        with np.load(path) as kept:
            parts.append(kept["boundary"])
    return np.concatenate(parts)


def by_image(pack: Pack, items: Sequence[int], *, size: int | None = None) -> list[range]:
    """Cut the places in `items` into consecutive ranges that cut no image's items apart.

    Args:
        pack: the packed file.
        items: numbers of its items; those of one image stand together.
        size: a range has at least so many places, but for the last one; None for `PART`.
    """
    images = pack.item_image[np.asarray(items, np.int64)]
    starts = np.flatnonzero(np.diff(images, prepend=-1)).tolist()
    cuts = [0]
    for start in starts:
        if start - cuts[-1] >= (size or PART):
            cuts.append(start)
    return [range(a, b) for a, b in zip(cuts, [*cuts[1:], len(items)], strict=True)]


def _arrays(counts: Counts) -> dict[str, np.ndarray]:
    return {name: getattr(counts, name) for name in _NAMES}
