"""Scoring in parts, which the processes of a launch share; see `rlfseg.parts`.

No image's phrases are cut apart, so that no two processes encode it; a batch never spans two parts,
so that counts do not depend on how many processes there were.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np

from rlfseg.evaluate.score import Evaluation
from rlfseg.metrics import Counts
from rlfseg.pack import Pack
from rlfseg.parts import in_parts

PART = 256  # phrases, about
_NAMES = tuple(each.name for each in fields(Counts))
_TRUTH = "truth."  # begins the names of the arrays that are counted against the truth


def scored_in_parts(
    folder: Path,
    pack: Pack,
    items: Sequence[int],
    score: Callable[[Sequence[int]], Evaluation],
    *,
    title: str,
) -> Evaluation:
    """Scores items in the processes of a launch, or finds parts scored.

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
            arrays |= {_TRUTH + name: each for name, each in _arrays(found.truth).items()}
        return arrays

    in_parts(paths, ranges, make, title=title, unit="phrase")
    annotation, truth = [], []
    for path in paths:
        with np.load(path) as kept:
            annotation.append(Counts(**{name: kept[name] for name in _NAMES}))
            if _TRUTH + _NAMES[0] in kept.files:
                truth.append(Counts(**{name: kept[_TRUTH + name] for name in _NAMES}))
    return Evaluation(Counts.concatenate(annotation), Counts.concatenate(truth) if truth else None)


def edges_in_parts(
    folder: Path,
    pack: Pack,
    items: Sequence[int],
    measure: Callable[[Sequence[int]], np.ndarray],
    *,
    title: str,
) -> np.ndarray:
    """Boundary F of items (n,), as `scored_in_parts` counts; `measure` is for some of them."""
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
    """Places in `items` in consecutive ranges that cut no image's items apart.

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
