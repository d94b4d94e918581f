"""Write the mini world in PhraseCut's own files, annotated as coarsely as a hurried person would.

    root/image_data_split.json, root/refer_{train,val,test}.json, root/images/{image_id}.jpg
    root/mini_truth.json    what PhraseCut does not have: exact masks, by task_id

Scenes differ between splits; the colour and shape pairs of `HELD_OUT` appear in val and test only.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco
from skimage.measure import find_contours

from rlfseg.data.drawn.chunks import (
    SPLITS,
    Chunk,
    box,
    encode,
    image_id,
    in_chunks,
    save_jpeg,
    write_json,
)
from rlfseg.data.drawn.phrases import Phrase, phrases, truth
from rlfseg.data.drawn.scene import Scene

__all__ = ["SPLITS", "TRUTH_FILE", "Truth", "annotate", "read_truth", "write_phrasecut"]
TRUTH_FILE = "mini_truth.json"
_JITTER = 0.009  # of the image's side, standard deviation of a vertex
_MIN_CONTOUR = 8  # points; shorter contours are specks that nobody annotates


@dataclass(frozen=True)
class Truth:
    """What is known of one task: its exact mask (bool [H, W]), its kind, whether it is unseen."""

    mask: np.ndarray
    kind: str
    unseen: bool


def annotate(rng: np.random.Generator, mask: np.ndarray) -> list[list[list[float]]]:
    """Draw polygons of 6 to 12 jittered vertices around the parts of one thing's mask.

    Args:
        rng: the source of the jitter.
        mask: bool [H, W].

    Returns:
        One polygon [[x, y], ...] a part, in pixels.
    """
    return _clicked(rng, _contours(mask), mask.shape[0])


def _contours(mask: np.ndarray) -> list[np.ndarray]:
    """Follow the edges of a mask's parts, the longest first: [n, 2] each, (x, y) in pixels."""
    found = find_contours(np.pad(mask, 1).astype(float), 0.5)
    parts = sorted((c for c in found if len(c) >= _MIN_CONTOUR), key=len, reverse=True)
    # a contour repeats its first point
    return [contour[:-1, ::-1] - 1 for contour in parts or found[:1]]


def _clicked(
    rng: np.random.Generator, contours: list[np.ndarray], side: int
) -> list[list[list[float]]]:
    """Click around the contours: see `annotate`."""
    polygons = []
    for points in contours:
        along = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(points, axis=0).T))])
        vertices = int(rng.integers(9, 13)) if len(points) > 40 else 6
        at = (np.arange(vertices) + rng.random()) / vertices * along[-1]
        chosen = np.stack([np.interp(at, along, points[:, k]) for k in (0, 1)], axis=1)
        chosen += rng.normal(0, _JITTER * side, chosen.shape)
        polygons.append(np.clip(chosen, 0, side - 1).round(2).tolist())
    return polygons


def write_phrasecut(
    root: Path, *, seed: int, counts: Mapping[str, int], pixels: int, workers: int = 2
) -> None:
    """Draw the splits and write them; the result depends on `seed`, `counts` and `pixels` alone.

    Scene number i of a split is the same whatever the counts, so a longer split begins with a
    shorter one.
    """
    splits = in_chunks(_write, root, seed=seed, counts=counts, pixels=pixels, workers=workers)
    (root / "images").mkdir(parents=True, exist_ok=True)
    known: dict[str, Any] = {}
    listing: list[dict[str, Any]] = []
    for split, parts in splits:
        known |= {key: value for part in parts for key, value in part[1].items()}
        listing += [
            {
                "image_id": image_id(split, number),
                "width": pixels,
                "height": pixels,
                "split": split,
                "coco_id": None,
                "flickr_id": None,
            }
            for number in range(counts[split])
        ]
        write_json(root / f"refer_{split}.json", [task for part in parts for task in part[0]])
    write_json(root / "image_data_split.json", listing)
    write_json(root / TRUTH_FILE, known)


def read_truth(root: Path) -> dict[str, Truth]:
    """Read the exact masks of a folder that `write_phrasecut` wrote, by task_id.

    Raises:
        FileNotFoundError: if it wrote no such folder.
    """
    path = root / TRUTH_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: only the mini world has one; write it with write_phrasecut"
        )
    return {
        task: Truth(coco.decode(entry["rle"]).astype(bool), entry["kind"], entry["unseen"])
        for task, entry in json.loads(path.read_text()).items()
    }


def _write(chunk: Chunk) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Draw some scenes of a split; return their tasks and what is known of them."""
    tasks: list[dict[str, Any]] = []
    known: dict[str, Any] = {}
    for picture, scene, rng in chunk.scenes():
        save_jpeg(scene, chunk.root / "images" / f"{picture}.jpg")
        contours = [_contours(thing.mask) for thing in scene.things]  # several phrases are of one
        for place, phrase in enumerate(phrases(rng, scene)):
            task = _task(rng, scene, contours, phrase, picture, place)
            tasks.append(task)
            known[task["task_id"]] = {
                "rle": encode(truth(scene, phrase)),
                "kind": phrase.kind,
                "unseen": phrase.unseen,
            }
    return tasks, known


def _task(
    rng: np.random.Generator,
    scene: Scene,
    contours: list[list[np.ndarray]],
    phrase: Phrase,
    picture: int,
    place: int,
) -> dict[str, Any]:
    """Make one entry of `refer_*.json`."""
    side = scene.image.shape[0]
    relation = [list(phrase.relation)] if phrase.relation else []
    return {
        "task_id": f"{picture}__{place}",
        "image_id": picture,
        "ann_ids": [picture * 10 + number for number in phrase.targets],
        "instance_boxes": [box(scene.things[number].mask) for number in phrase.targets],
        "Polygons": [_clicked(rng, contours[number], side) for number in phrase.targets],
        "phrase": phrase.text,
        "phrase_structure": {
            "name": phrase.name,
            "attributes": list(phrase.attributes),
            "relation_descriptions": relation,
            "type": phrase.kind,
        },
    }
