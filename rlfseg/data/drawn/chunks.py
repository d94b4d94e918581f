"""Scenes drawn by worker processes, and a split of them in chunks for all that write them to files.

Scene number i of a split is the same whatever the file format and however many there are; the
colour and shape pairs of `HELD_OUT` appear in val and test only.
"""

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image
from pycocotools import mask as coco
from tqdm.auto import tqdm

from rlfseg.data.drawn.scene import Scene, draw_scene
from rlfseg.data.packed.workers import ordered_map
from rlfseg.stage import replaced

SPLITS = ("train", "val", "test")
_CHUNK = 64
_T = TypeVar("_T")
_R = TypeVar("_R")


@dataclass(frozen=True)
class Chunk:
    """Scenes `first` to `last` (excluded) of a split, to be written below `root`."""

    root: Path
    seed: int
    split: str
    first: int
    last: int
    pixels: int

    def scenes(self) -> Iterator[tuple[int, Scene, np.random.Generator]]:
        """Draw the scenes, each with its image id and the generator it was drawn with."""
        for number in range(self.first, self.last):
            rng = np.random.default_rng([self.seed, SPLITS.index(self.split), number])
            scene = draw_scene(rng, pixels=self.pixels, held_out=self.split != "train")
            yield image_id(self.split, number), scene, rng


def image_id(split: str, number: int) -> int:
    """Return the id of a scene's image, the same in every format."""
    return (SPLITS.index(split) + 1) * 1_000_000 + number


def ranges(count: int) -> list[range]:
    """Return the numbers of `count` scenes, parted for workers."""
    return [range(first, min(first + _CHUNK, count)) for first in range(0, count, _CHUNK)]


def in_workers(
    work: Callable[[_T], _R], tasks: Sequence[_T], *, workers: int, title: str = "drawing"
) -> list[_R]:
    """Hand tasks to worker processes; return what `work` returned for each, in order."""
    with ordered_map(workers) as each:
        return list(tqdm(each(work, tasks), total=len(tasks), desc=title, leave=False))


def in_chunks(
    work: Callable[[Chunk], _T],
    root: Path,
    *,
    seed: int,
    counts: Mapping[str, int],
    pixels: int,
    workers: int,
    splits: Collection[str] = SPLITS,
) -> Iterator[tuple[str, list[_T]]]:
    """Hand the scenes to worker processes, chunk by chunk.

    Returns:
        An iterator of the splits, in the order of `counts`, each with what `work` returned for its
        chunks, in order.

    Raises:
        ValueError: at once, if `counts` names a split that is not among `splits`.
    """
    unknown = set(counts) - set(splits)
    if unknown:
        raise ValueError(f"unknown splits {sorted(unknown)}: choose from {tuple(splits)}")

    def run() -> Iterator[tuple[str, list[_T]]]:
        for split, count in counts.items():
            chunks = [Chunk(root, seed, split, n.start, n.stop, pixels) for n in ranges(count)]
            yield split, in_workers(work, chunks, workers=workers, title=f"drawing {split}")

    return run()


def save_jpeg(scene: Scene, path: Path) -> None:
    """Write the picture with next to no loss."""
    Image.fromarray(scene.image).save(path, quality=95, subsampling=0)


def encode(mask: np.ndarray) -> dict[str, Any]:
    """Encode a mask, bool [H, W], as COCO's compressed RLE, ready for JSON."""
    return as_json(coco.encode(np.asfortranarray(mask.astype(np.uint8))))


def as_json(rle: Mapping[str, Any]) -> dict[str, Any]:
    """Return an RLE of pycocotools' with text for bytes."""
    return {"size": list(rle["size"]), "counts": rle["counts"].decode()}


def box(mask: np.ndarray) -> list[int]:
    """Return the smallest box around a mask: x, y, width, height in pixels."""
    rows, columns = np.nonzero(mask)
    x, y = int(columns.min()), int(rows.min())
    return [x, y, int(columns.max()) - x + 1, int(rows.max()) - y + 1]


def write_json(path: Path, content: object) -> None:
    """Write a file that is either complete or not there."""
    with replaced(path) as draft:
        draft.write_text(json.dumps(content))
