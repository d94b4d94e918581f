"""PhraseCut's own files: `refer_{split}.json`, `image_data_split.json` and `images/{id}.jpg`."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rlfseg.data.files import ImageFile, check_there, field, image_file, load_json
from rlfseg.data.images import DAMAGE, taken
from rlfseg.data.sample import Polygons, Sample, Unreadable

#: The table of images: its usual name, and the one under which it is also handed out.
IMAGE_TABLES = ("image_data_split.json", "image_data_split3000.json")
#: The images that CLIPSeg, and LD-ZNet after it, leave out: their size is not the annotated one.
CLIPSEG_LEFT_OUT = frozenset(
    map(
        str,
        (
            *(61530, 61564, 150333, 150344, 150417, 150516, 285665, 285743, 285761),
            *(285814, 286065, 286093, 498010, 498042, 498187, 498246, 498269),
        ),
    )
)


@dataclass(frozen=True)
class SizeMismatch:
    """An image whose file and annotation disagree.

    Attributes:
        image_id: the image.
        annotated: width and height by the table of images, in which masks are drawn.
        stored: width and height of the file; None where there is no readable one.
    """

    image_id: str
    annotated: tuple[int, int]
    stored: tuple[int, int] | None


def read(root: Path | str, split: str, *, leave_out: Collection[str] = ()) -> Iterator[Sample]:
    """Read one split, in the order of its file.

    The files that belong to the split are opened at once, so that a missing or broken one is
    reported by this call; image files are looked up one by one as the samples are drawn. The
    split's JSON is held in memory while it is read.

    Args:
        root: the folder with the JSON files and `images/`.
        split: the part of `refer_{split}.json`: train, val, test or miniv.
        leave_out: ids of images to pass over, such as `CLIPSEG_LEFT_OUT`.

    Returns:
        An iterator of samples; `ids` holds `task_id`, `ann_ids` and `phrase_structure`. Polygons
        that can't be read make a sample that can't be drawn.

    Raises:
        FileNotFoundError: if the folder, a JSON file, `images/` or an image is missing.
        ValueError: if a JSON file is incomplete or not of the expected form, if a task names an
            image that the table of images lacks, or if an image id is no plain file name.
    """
    refer, tasks, images = _open(Path(root), split)
    return _samples(refer, tasks, images, split, frozenset(leave_out))


def image_ids(root: Path | str, split: str) -> list[str]:
    """Return the ids of a split's images, in the order of the tasks; no image file is looked at.

    Raises:
        FileNotFoundError: if the folder, a JSON file or `images/` is missing.
        ValueError: as `read`.
    """
    refer, tasks, _ = _open(Path(root), split)
    return list(dict.fromkeys(_image_id(task, refer, n) for n, task in enumerate(tasks)))


def coco_ids(root: Path | str, split: str) -> frozenset[int] | None:
    """Return COCO's ids of the images of a split that are COCO's too.

    Returns:
        None if the table of images says of none whether it is.

    Raises:
        FileNotFoundError: if the folder, a JSON file or `images/` is missing.
        ValueError: as `read`.
    """
    used, entries = set(image_ids(root, split)), load_json(_table_file(Path(root)), list)
    if not any("coco_id" in entry for entry in entries):
        return None
    coco = {str(entry["image_id"]): entry.get("coco_id") for entry in entries}
    return frozenset(number for i in used if isinstance(number := coco.get(i), int))


def size_mismatches(root: Path | str, split: str) -> list[SizeMismatch]:
    """Find the images of a split whose file has another size than its annotation says.

    Masks drawn in the annotated size would not lie on such an image; this is why CLIPSeg and
    LD-ZNet leave out `CLIPSEG_LEFT_OUT`. Only the headers of the image files are read.

    Args:
        root: as for `read`.
        split: as for `read`.

    Returns:
        One entry an image, in the order of the tasks. A file that is missing or no image is among
        them, without a size.

    Raises:
        FileNotFoundError: if the folder, a JSON file or `images/` is missing.
        ValueError: as `read`.
    """
    refer, tasks, images = _open(Path(root), split)
    found = []
    numbers = {_image_id(task, refer, number): number for number, task in enumerate(tasks)}
    for image_id, number in numbers.items():
        entry = _entry(images, image_id, _where(refer, number))
        try:
            with Image.open(entry.path, formats=taken()) as image:
                size: tuple[int, int] | None = image.size
        except DAMAGE:
            size = None
        if size != (entry.width, entry.height):
            found.append(SizeMismatch(image_id, (entry.width, entry.height), size))
    return found


def _open(root: Path, split: str) -> tuple[Path, list[Any], dict[str, ImageFile]]:
    """Return the split's file, its tasks, and the table of images."""
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
    return refer, load_json(refer, list), images


def _samples(
    refer: Path,
    tasks: list[Any],
    images: Mapping[str, ImageFile],
    split: str,
    leave_out: frozenset[str],
) -> Iterator[Sample]:
    seen: set[Path] = set()
    for number, task in enumerate(tasks):
        where = _where(refer, number)
        image_id = _image_id(task, refer, number)
        if image_id in leave_out:
            continue
        entry = _entry(images, image_id, where)
        check_there(entry.path, seen, where)
        yield Sample(
            image_id=image_id,
            image_path=entry.path,
            caption=field(task, "phrase", str, where),
            split=split,
            width=entry.width,
            height=entry.height,
            region=region_of(field(task, "Polygons", object, where)),
            ids={
                "task_id": str(field(task, "task_id", (int, str), where)),
                "ann_ids": tuple(field(task, "ann_ids", list, where)),
                "phrase_structure": field(task, "phrase_structure", (dict, type(None)), where),
            },
        )


def _where(refer: Path, number: int) -> str:
    return f"{refer}, task number {number}"


def _image_id(task: Any, refer: Path, number: int) -> str:
    return str(field(task, "image_id", (int, str), _where(refer, number)))


def _entry(images: Mapping[str, ImageFile], image_id: str, where: str) -> ImageFile:
    if image_id not in images:
        raise ValueError(
            f"{where}: image_id {image_id!r} is not in the table of images "
            f"({' or '.join(IMAGE_TABLES)} beside it)"
        )
    return images[image_id]


def _table_file(root: Path) -> Path:
    path = next((root / name for name in IMAGE_TABLES if (root / name).is_file()), None)
    if path is None:
        raise FileNotFoundError(f"{root} holds no table of images: {' or '.join(IMAGE_TABLES)}")
    return path


def _image_table(root: Path) -> dict[str, ImageFile]:
    """Read the size of each image, keyed by image id."""
    path, table = _table_file(root), {}
    for number, entry in enumerate(load_json(path, list)):
        where = f"{path}, entry number {number}"
        image = image_file(entry, "image_id", folder=root / "images", suffix=".jpg", where=where)
        table[str(entry["image_id"])] = image
    return table


def region_of(instances: Any) -> Polygons | Unreadable:
    """Return what a task's `Polygons` tell, `Unreadable` if they are not of the expected form."""
    try:
        polygons = tuple(
            tuple(np.array(polygon, np.float64).reshape(len(polygon), 2) for polygon in instance)
            for instance in instances
        )
    except (TypeError, ValueError, OverflowError):
        return Unreadable("Polygons is not [instance][polygon][[x, y], ...]")
    return Polygons(polygons)
