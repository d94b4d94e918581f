"""PhraseCut's own files: `refer_{split}.json`, `image_data_split.json` and `images/{id}.jpg`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from rlfseg.sources.sample import Sample

#: The table of images: its usual name, and the one under which it is also handed out.
IMAGE_TABLES = ("image_data_split.json", "image_data_split3000.json")


@dataclass(frozen=True)
class _Entry:
    """What the table of images says of one image, and where its file is."""

    path: Path
    width: int
    height: int


def read(root: Path | str, split: str) -> Iterator[Sample]:
    """Reads one split, in the order of its file.

    The files that belong to the split are opened at once, so that a missing or broken one is
    reported by this call; image files are looked up one by one as the samples are drawn. The
    split's JSON is held in memory while it is read.

    Args:
        root: the folder with the JSON files and `images/`.
        split: the part of `refer_{split}.json`: train, val, test or miniv.

    Returns:
        An iterator of samples; `ids` holds `task_id`, `ann_ids` and `phrase_structure`.

    Raises:
        FileNotFoundError: if the folder, a JSON file, `images/` or an image is missing.
        ValueError: if a JSON file is incomplete or not of the expected form, if a task names an
            image that the table of images lacks, or if an image id is no plain file name.
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(
            f"PhraseCut's folder {root} is not there: pass the folder that holds refer_{split}.json"
        )
    refer = root / f"refer_{split}.json"
    if not refer.is_file():
        found = sorted(p.stem.removeprefix("refer_") for p in root.glob("refer_*.json"))
        raise FileNotFoundError(f"{refer} is not there; splits found: {', '.join(found) or 'none'}")
    folder = root / "images"
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not there: PhraseCut's images belong in it")
    images = _image_table(root)
    return _samples(refer, _load_list(refer), images, split)


def rasterise(sample: Sample) -> np.ndarray:
    """Draws the union of a sample's polygons by the rule of PhraseCut's own evaluator.

    The rule: coordinates cut to integers (towards zero), each polygon of two points or more drawn
    by Pillow with `outline=1, fill=1`, the union of all.

    Deviation: Pillow draws no separate outline where it has the colour of the fill, and has
    changed its polygon filler between releases, so single border pixels depend on the release;
    the lock pins it.

    Args:
        sample: polygons in pixels of a `width` x `height` image.

    Returns:
        The mask, bool, (height, width).
    """
    sheet = Image.new("L", (sample.width, sample.height), 0)
    draw = ImageDraw.Draw(sheet)
    for polygon in (polygon for instance in sample.polygons for polygon in instance):
        if len(polygon) >= 2:
            points = np.trunc(polygon).astype(np.int64).tolist()
            draw.polygon([(x, y) for x, y in points], outline=1, fill=1)
    return np.asarray(sheet) > 0


def _samples(
    refer: Path, tasks: list[Any], images: Mapping[str, _Entry], split: str
) -> Iterator[Sample]:
    present: set[str] = set()
    for number, task in enumerate(tasks):
        where = f"{refer}, task number {number}"
        image_id = str(_field(task, "image_id", (int, str), where))
        entry = images.get(image_id)
        if entry is None:
            raise ValueError(
                f"{where}: image_id {image_id!r} is not in the table of images "
                f"({' or '.join(IMAGE_TABLES)} beside it)"
            )
        if image_id not in present:
            if not entry.path.is_file():
                raise FileNotFoundError(
                    f"{entry.path} is not there, but {where} refers to it: fetch the image again"
                )
            present.add(image_id)
        yield Sample(
            image_id=image_id,
            image_path=entry.path,
            caption=_field(task, "phrase", str, where),
            split=split,
            width=entry.width,
            height=entry.height,
            polygons=_polygons(_field(task, "Polygons", list, where), where),
            ids={
                "task_id": str(_field(task, "task_id", (int, str), where)),
                "ann_ids": tuple(_field(task, "ann_ids", list, where)),
                "phrase_structure": _field(task, "phrase_structure", (dict, type(None)), where),
            },
        )


def _image_table(root: Path) -> dict[str, _Entry]:
    """Reads the size of each image, keyed by image id."""
    path = next((root / name for name in IMAGE_TABLES if (root / name).is_file()), None)
    if path is None:
        raise FileNotFoundError(f"{root} holds no table of images: {' or '.join(IMAGE_TABLES)}")
    table = {}
    for number, entry in enumerate(_load_list(path)):
        where = f"{path}, entry number {number}"
        image_id = str(_field(entry, "image_id", (int, str), where))
        width, height = (_field(entry, side, int, where) for side in ("width", "height"))
        if width < 1 or height < 1:
            raise ValueError(f"{where}: image {image_id} has size {width} x {height}")
        if image_id in ("", ".", "..") or any(c in image_id for c in "/\\:\0"):
            raise ValueError(
                f"{where}: image_id {image_id!r} is no plain file name, so its file "
                f"could lie outside {root / 'images'}"
            )
        table[image_id] = _Entry(root / "images" / f"{image_id}.jpg", width, height)
    return table


def _polygons(instances: list[Any], where: str) -> tuple[tuple[np.ndarray, ...], ...]:
    try:
        polygons = tuple(
            tuple(np.array(polygon, np.float64).reshape(len(polygon), 2) for polygon in instance)
            for instance in instances
        )
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: Polygons is not [instance][polygon][[x, y], ...]") from error
    if not all(np.isfinite(polygon).all() for instance in polygons for polygon in instance):
        raise ValueError(f"{where}: Polygons holds a coordinate that is no finite number")
    return polygons


def _load_list(path: Path) -> list[Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not complete JSON ({error}): fetch the file again") from error
    if not isinstance(content, list):
        raise ValueError(f"{path} holds a {type(content).__name__}, not a list")
    return content


def _field(entry: Any, key: str, kind: type | tuple[type, ...], where: str) -> Any:
    if not isinstance(entry, dict) or key not in entry:
        raise ValueError(f"{where}: the key {key!r} is missing")
    value = entry[key]
    if not isinstance(value, kind):
        raise ValueError(f"{where}: {key!r} is {value!r:.60}, of type {type(value).__name__}")
    return value
