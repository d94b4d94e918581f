"""From decoded masks to counts against the packed ones, in any number of processes.

Scoring in parts is shared by the processes of a launch: see `rlfseg.processes`. No image's phrases
are cut apart, so that no two processes encode it; a batch never spans two parts, so that counts do
not depend on how many processes there were.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
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
from rlfseg.evaluation.sizes import count_at_own_size
from rlfseg.method.types import Score, Velocity
from rlfseg.models.latent_cache import LatentCache
from rlfseg.processes import in_parts
from rlfseg.stage import readable

PART = 256  # phrases, about
_FILES = {"annotation": "counts.npz", "truth": "truth.npz", "native": "native.npz"}
_BOUNDARY = "boundary.npy"
_NAMES = tuple(each.name for each in fields(Counts))


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Counts against the annotation and, where it is known, against the exact mask.

    `native` are those against the annotation at the photographs' own size, `boundary` each sample's
    boundary F in [0, 1], [n], where they were asked for.
    """

    annotation: Counts
    truth: Counts | None = None
    boundary: np.ndarray | None = None
    native: Counts | None = None

    @property
    def counts(self) -> dict[str, Counts]:
        """All counts that there are, by name."""
        every = {name: getattr(self, name) for name in _FILES}
        return {name: counts for name, counts in every.items() if counts is not None}

    def save(self, folder: Path) -> None:
        """Write what there is into a folder."""
        for name, counts in self.counts.items():
            counts.save(folder / _FILES[name])
        if self.boundary is not None:
            np.save(folder / _BOUNDARY, self.boundary.astype(np.float32))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote; ValueError names a file that is damaged."""
        boundary = folder / _BOUNDARY
        with readable(boundary):
            edges = np.load(boundary) if boundary.exists() else None
        some = [name for name, file in _FILES.items() if (folder / file).exists()]
        counts = {name: Counts.load(folder / _FILES[name]) for name in {"annotation", *some}}
        return cls(counts["annotation"], counts.get("truth"), edges, native=counts.get("native"))


def evaluate(
    v: Velocity,
    cache: LatentCache,
    items: Sequence[int],
    config: SamplerConfig,
    *,
    captions: Sequence[str] | None = None,
    native: Callable[[int], np.ndarray] | None = None,
) -> Evaluation:
    """Score predictions against the packed masks; arguments as for `predict` and `tally`."""
    found = predict(v, cache, items, config, captions=captions)
    pairs = ((each.items, each.scores) for each in found)
    title = f"scoring {config.name}"
    return tally(pairs, cache.pack, total=len(items), title=title, native=native)


def tally(
    found: Iterable[tuple[np.ndarray, Score]],
    pack: Pack,
    *,
    total: int,
    title: str = "scoring",
    native: Callable[[int], np.ndarray] | None = None,
) -> Evaluation:
    """Count scores, whatever they come from, against the packed masks.

    Args:
        found: item numbers and scores [b, H, W], batch by batch.
        pack: the packed file.
        total: how many items there are in all.
        title: of the progress bar.
        native: gives an item's annotation at its photograph's own size, bool [H, W], against
            which it is then counted too.

    Raises:
        ValueError: if there is nothing to score.
    """
    against: dict[str, list[Counts]] = {name: [] for name in _FILES}
    quiet = not PartialState().is_main_process
    with tqdm(total=total, desc=title, leave=False, disable=quiet) as bar:
        for items, scores in found:
            masks = [pack.masks(int(i)) for i in items]
            ids = [pack.image_ids[pack.item_image[i]] for i in items]
            for kind, name in enumerate(("annotation", "truth")):
                known = [mask for m in masks if (mask := m[kind]) is not None]
                if len(known) == len(masks):
                    against[name].append(count(scores, torch.from_numpy(np.stack(known)), ids))
            if native is not None:
                own = [native(int(i)) for i in items]
                against["native"].append(count_at_own_size(scores, own, ids))
            bar.update(len(items))
    return _summed(against, pack)


def flawless(pack: Pack, items: Sequence[int]) -> Counts:
    """Count the exact masks against the annotations: what a mask without a fault scores.

    Raises:
        ValueError: if an exact mask is not known.
    """
    every = []
    for item in items:
        annotation, exact, _ = pack.masks(item)
        if exact is None:
            raise ValueError(f"{pack.path}: the exact mask of item {item} is not known")
        score, mask = (torch.from_numpy(each)[None] for each in (exact, annotation))
        every.append(count(score.float(), mask, [pack.image_ids[pack.item_image[item]]]))
    return Counts.concatenate(every)


def _summed(parts: Mapping[str, Sequence[Counts]], pack: Pack) -> Evaluation:
    counts = {name: Counts.concatenate(each) for name, each in parts.items() if each}
    if "annotation" not in counts:
        raise ValueError(f"{pack.path}: there are no items to score")
    return Evaluation(counts["annotation"], counts.get("truth"), native=counts.get("native"))


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
    ranges = _by_image(pack, items)
    paths = [folder / f"counts-{each.start}-{each.stop}.npz" for each in ranges]

    def make(numbers: range) -> dict[str, np.ndarray]:
        found = score([items[number] for number in numbers])
        return {
            f"{kind}.{name}": getattr(counts, name)
            for kind, counts in found.counts.items()
            for name in _NAMES
        }

    in_parts(paths, ranges, make, title=title, unit="phrase")
    against: dict[str, list[Counts]] = {name: [] for name in _FILES}
    for path in paths:
        with np.load(path) as kept:
            for kind in {name.partition(".")[0] for name in kept.files}:
                against[kind].append(Counts(**{name: kept[f"{kind}.{name}"] for name in _NAMES}))
    return _summed(against, pack)


def boundaries_in_parts(
    folder: Path,
    pack: Pack,
    items: Sequence[int],
    measure: Callable[[Sequence[int]], np.ndarray],
    *,
    title: str,
) -> np.ndarray:
    """Measure the boundary F of items [n] as `scored_in_parts` counts; `measure` takes some."""
    ranges = _by_image(pack, items)
    paths = [folder / f"edges-{each.start}-{each.stop}.npz" for each in ranges]

    def make(numbers: range) -> dict[str, np.ndarray]:
        return {"boundary": measure([items[number] for number in numbers])}

    in_parts(paths, ranges, make, title=title, unit="phrase")
    parts = []
    for path in paths:
        with np.load(path) as kept:
            parts.append(kept["boundary"])
    return np.concatenate(parts)


def _by_image(pack: Pack, items: Sequence[int]) -> list[range]:
    """Cut the places in `items` into consecutive ranges that cut no image's items apart.

    Items of one image stand together; a range has at least `PART` places, but for the last one.
    """
    images = pack.item_image[np.asarray(items, np.int64)]
    starts = np.flatnonzero(np.diff(images, prepend=-1)).tolist()
    cuts = [0]
    for start in starts:
        if start - cuts[-1] >= PART:
            cuts.append(start)
    return [range(a, b) for a, b in zip(cuts, [*cuts[1:], len(items)], strict=True)]
