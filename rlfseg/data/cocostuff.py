"""COCO-Stuff's own files, of which a phrase is the name of a class that is in the picture.

    root/stuffthingmaps/{split}/{image}.png    things and stuff
    root/annotations/stuff_{split}.json        stuff alone, in COCO's format
    root/images/{split}/{image}.jpg

The maps' folders may also lie in root/annotations/, the images' in root/ itself.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rlfseg.data.cocostuff_names import COCO_STUFF, Label
from rlfseg.data.files import ImageFile, check_there, coco_images, field, load_json
from rlfseg.data.masks import pixel_map
from rlfseg.data.sample import PixelMap, Region, Sample, Segments

MAP_FOLDERS = ("stuffthingmaps", "annotations")
IMAGE_FOLDERS = ("images", ".")
IGNORE = 255
_OTHER = "other"  # the JSON's class of every pixel that is not stuff
_CONVERTED = "_labelTrainIds.png"  # what a well-known toolbox puts beside the maps


def train_id(raw: int, classes: Mapping[int, Label] = COCO_STUFF) -> int:
    """Return the number of a class among the classes, 0-170 for COCO-Stuff; 255 for no class.

    Args:
        raw: the value in a pixel map, COCO's category id less one.
        classes: the table of classes, by raw value.

    Raises:
        ValueError: if the value fits no 8-bit map.
    """
    if not 0 <= raw <= IGNORE:
        raise ValueError(f"raw id {raw} is not in 0-{IGNORE}")
    return sorted(classes).index(raw) if raw in classes else IGNORE


def read_maps(
    root: Path | str, split: str, *, classes: Mapping[int, Label] = COCO_STUFF
) -> Iterator[Sample]:
    """Read the pixel maps of a split, a sample for each class in a picture.

    Images come in the order of their names, classes by rising id. Pixels of 255 and of the 11
    ids that COCO gave up belong to nothing. The caption is the class's prompt (see
    `cocostuff_names`).

    Args:
        root: the folder that holds the maps' and the images' folders.
        split: the name of the folders, such as val2017.
        classes: the table of classes, by the maps' values.

    Returns:
        An iterator of samples; `ids` holds `category_id` (COCO's), `train_id` and `name`.

    Raises:
        FileNotFoundError: if a folder or an image is missing, or there is no map.
        ValueError: if a map is broken, not of one 8-bit channel, or holds a value over the
            table's largest, so that it is a map of something else.
    """
    return _mapped(*map_files(Path(root), split), split, classes)


def map_files(root: Path, split: str) -> tuple[list[Path], Path]:
    """Return a split's pixel maps, in the order of their names, and the folder of its images.

    Raises:
        FileNotFoundError: if a folder is missing, or there is no map.
    """
    maps, images = _folder(root, split, MAP_FOLDERS), _folder(root, split, IMAGE_FOLDERS)
    paths = sorted(path for path in maps.glob("*.png") if not path.name.endswith(_CONVERTED))
    if not paths:
        raise FileNotFoundError(f"{maps} holds no pixel map (*.png)")
    return paths, images


def read_json(
    root: Path | str, split: str, *, classes: Mapping[int, Label] = COCO_STUFF
) -> Iterator[Sample]:
    """Read the stuff annotations of a split, a sample for each class in a picture.

    Images come in the order of their first annotation, classes by rising id. The class "other",
    which lumps all things together, is left out: it names nothing.

    Args:
        root: the folder that holds `annotations/stuff_{split}.json` and the images' folder.
        split: such as val2017.
        classes: the table of classes, by category id less one.

    Returns:
        An iterator of samples; `ids` holds `category_id`, `train_id`, `name` and `ann_ids`.

    Raises:
        FileNotFoundError: if a file or folder is missing.
        ValueError: if the file is incomplete or not of the expected form, if its categories are
            not those of the table, if an annotation names an unknown image or category, or if a
            file name leaves the folder of images.
    """
    root = Path(root)
    path = root / "annotations" / f"stuff_{split}.json"
    if not path.is_file():
        found = sorted(p.stem.removeprefix("stuff_") for p in path.parent.glob("stuff_*.json"))
        raise FileNotFoundError(f"{path} is not there; splits found: {', '.join(found) or 'none'}")
    content = load_json(path, dict)
    files = coco_images(content, folder=_folder(root, split, IMAGE_FOLDERS), where=str(path))
    others = _others(content, classes, path)
    found_in: dict[int, dict[int, list[Any]]] = {}
    for number, entry in enumerate(field(content, "annotations", list, str(path))):
        where = f"{path}, annotation number {number}"
        image_id, category = (field(entry, k, int, where) for k in ("image_id", "category_id"))
        field(entry, "segmentation", (list, dict), where)
        field(entry, "id", int, where)
        if image_id not in files:
            raise ValueError(f"{where}: image_id {image_id} is not among the file's images")
        if category - 1 in classes:
            found_in.setdefault(image_id, {}).setdefault(category - 1, []).append(entry)
        elif category not in others:
            raise ValueError(f"{where}: category_id {category} is not in the table of classes")
    return _segmented(found_in, files, path, split, classes)


def _mapped(
    paths: list[Path], images: Path, split: str, classes: Mapping[int, Label]
) -> Iterator[Sample]:
    largest = max(classes)
    for path in paths:
        image = images / f"{path.stem}.jpg"
        check_there(image, set(), str(path))
        pixels = pixel_map(path)
        present = np.flatnonzero(np.bincount(pixels.ravel(), minlength=256)).tolist()
        strange = [raw for raw in present if largest < raw < IGNORE]
        if strange:
            raise ValueError(
                f"{path} holds the value {strange[0]}, over {largest}, the largest of its classes: "
                "is it a map of other classes?"
            )
        image_id = str(int(path.stem)) if path.stem.isdecimal() else path.stem
        file = ImageFile(image, pixels.shape[1], pixels.shape[0])
        for raw in (raw for raw in present if raw in classes):
            yield _sample(image_id, file, PixelMap(path, (raw,)), split, raw, classes, {})


def _segmented(
    found_in: Mapping[int, Mapping[int, list[Any]]],
    files: Mapping[int, ImageFile],
    path: Path,
    split: str,
    classes: Mapping[int, Label],
) -> Iterator[Sample]:
    for image_id, by_class in found_in.items():
        file = files[image_id]
        check_there(file.path, set(), str(path))
        for raw in sorted(by_class):
            region = Segments(tuple(entry["segmentation"] for entry in by_class[raw]))
            extra = {"ann_ids": tuple(entry["id"] for entry in by_class[raw])}
            yield _sample(str(image_id), file, region, split, raw, classes, extra)


def _sample(
    image_id: str,
    file: ImageFile,
    region: Region,
    split: str,
    raw: int,
    classes: Mapping[int, Label],
    extra: Mapping[str, Any],
) -> Sample:
    name, prompt = classes[raw]
    ids = {"category_id": raw + 1, "train_id": train_id(raw, classes), "name": name, **extra}
    return Sample(image_id, file.path, prompt, split, file.width, file.height, region, ids)


def _others(content: dict[str, Any], classes: Mapping[int, Label], path: Path) -> set[int]:
    """Check the file's names against the table; return the category ids to leave out."""
    others = set()
    for number, entry in enumerate(field(content, "categories", list, str(path))):
        where = f"{path}, category number {number}"
        category, name = field(entry, "id", int, where), field(entry, "name", str, where)
        if category - 1 not in classes and name == _OTHER:
            others.add(category)
        elif category - 1 in classes and name != classes[category - 1].name:
            raise ValueError(
                f"{where}: category {category} is {name!r}, in the table of classes "
                f"{classes[category - 1].name!r}"
            )
    return others


def _folder(root: Path, split: str, names: tuple[str, ...]) -> Path:
    """Return the first of `root/{name}/{split}` that is there."""
    for name in names:
        if (root / name / split).is_dir():
            return root / name / split
    looked = " or ".join(str(root / name / split) for name in names)
    found = {p.name for n in names if (root / n).is_dir() for p in (root / n).iterdir()}
    listed = ", ".join(sorted(found)) or "nothing"
    raise FileNotFoundError(f"{looked} is not there; found in their place: {listed}")
