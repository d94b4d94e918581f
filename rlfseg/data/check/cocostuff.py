"""What a folder of COCO-Stuff holds against the published counts."""

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rlfseg.data.check import findings
from rlfseg.data.check.images import faults, in_threads, look, survey
from rlfseg.data.check.report import Level, Line
from rlfseg.data.cocostuff import IGNORE, IMAGE_FOLDERS, MAP_FOLDERS
from rlfseg.data.cocostuff_names import COCO_STUFF, Label
from rlfseg.data.drawn.write_cocostuff import MINI_CLASSES
from rlfseg.data.files import ImageFile, coco_images, field, load_json
from rlfseg.data.masks import pixel_map

#: Images by split.
PUBLISHED = {"val2017": 5_000, "train2017": 118_287}
#: What is scored; the other split is what a baseline after SemFlow is trained on.
SCORED = "val2017"
_SAMPLE = 64  # maps whose pixels are looked at
_CONVERTED = "_labelTrainIds"  # ends the names of another toolbox's maps, which readers pass over
_OTHER = "other"


@dataclass(frozen=True)
class _Stuff:
    """What a split's JSON holds."""

    images: dict[int, ImageFile]
    names: dict[int, str]  # category id -> name
    annotations: list[tuple[int, int, int]]  # id, image id, category id


def lines(root: Path, *, official: bool | None) -> Iterator[Line]:
    """Check the folder that `read_maps` and `read_json` read; see `check`."""
    read = {split: _stuff(root, split) for split in PUBLISHED}
    if official is None:
        known = [stuff.names for stuff in read.values() if isinstance(stuff, _Stuff)]
        official = not known or any(
            COCO_STUFF[number - 1].name == name
            for names in known
            for number, name in names.items()
            if number - 1 in COCO_STUFF
        )
    classes = COCO_STUFF if official else MINI_CLASSES
    for split, stuff in read.items():
        maps = findings.first_folder(root, (f"{name}/{split}" for name in MAP_FOLDERS))
        folder = findings.first_folder(root, (f"{name}/{split}" for name in IMAGE_FOLDERS))
        level: Level = "problem" if official and split == SCORED else "note"
        use = "The paper's scores are of it." if split == SCORED else "SemFlow's row needs it."
        if maps is None:
            expected = f"{PUBLISHED[split]:,} maps" if official else findings.NOT_OFFICIAL
            advice = f"They belong in {MAP_FOLDERS[0]}/{split}. {use}"
            yield Line(level, f"{split} maps", "not there", expected, advice=advice)
        if maps is None and stuff is None:
            continue
        files: dict[str, ImageFile] = {}
        if isinstance(stuff, Line):
            yield stuff
        elif stuff is not None:
            yield from _json(stuff, split, classes, official)
            files = {str(image_id): image for image_id, image in stuff.images.items()}
        if maps is not None:
            mapped = yield from _maps(maps, folder, root, split, classes, official)
            yield from _fitting(f"{split} maps", mapped, files)
            named = {image.path for image in files.values()}
            files |= {name: image for name, image in mapped.items() if image.path not in named}
        if folder is None:
            advice = f"COCO's {split} images belong in images/{split}. {use}"
            yield Line(level, f"{split} images", "not there", advice=advice)
        else:
            seen = survey(files, root, what=f"{split} images")
            yield from seen.lines
            yield findings.size_line(seen, what=f"{split} image sizes")


def _stuff(root: Path, split: str) -> _Stuff | Line | None:
    path = root / "annotations" / f"stuff_{split}.json"
    folder = findings.first_folder(root, (f"{name}/{split}" for name in IMAGE_FOLDERS))

    def read(path: Path) -> _Stuff:
        content = load_json(path, dict)
        named = enumerate(field(content, "categories", list, path.name))
        entries = enumerate(field(content, "annotations", list, path.name))
        return _Stuff(
            coco_images(content, folder=folder or root / "images" / split, where=path.name),
            dict(_category(entry, f"{path.name}, category number {n}") for n, entry in named),
            [_annotation(entry, f"{path.name}, annotation number {n}") for n, entry in entries],
        )

    return findings.attempt(read, path) if path.exists() else None


def _category(entry: Any, where: str) -> tuple[int, str]:
    return field(entry, "id", int, where), field(entry, "name", str, where)


def _annotation(entry: Any, where: str) -> tuple[int, int, int]:
    field(entry, "segmentation", (list, dict), where)
    one, image, category = (field(entry, k, int, where) for k in ("id", "image_id", "category_id"))
    return one, image, category


def _json(
    stuff: _Stuff, split: str, classes: Mapping[int, Label], official: bool
) -> Iterator[Line]:
    what = f"stuff_{split}.json"
    counts = (len(stuff.images), len(stuff.annotations))
    units, published = ("images", "annotations"), [(PUBLISHED[split],)]
    yield findings.count_line(what, counts, units, published, official=official)
    others = {number for number, name in stuff.names.items() if name == _OTHER}
    strange = [
        f"{what}: category {number} is {name!r:.60}"
        for number, name in stuff.names.items()
        if number not in others and (number - 1 not in classes or classes[number - 1].name != name)
    ]
    yield from findings.fault_line(what, strange, "categories not of the table of classes")
    twice = findings.repeated("annotation id", (one for one, _, _ in stuff.annotations), what)
    yield from findings.fault_line(what, twice, "ids repeated")
    lost = [
        f"{what}, annotation {one}: {key} {value}"
        for one, image, category in stuff.annotations
        for key, value, known in (
            ("image_id", image, image in stuff.images),
            ("category_id", category, category - 1 in classes or category in others),
        )
        if not known
    ]
    yield from findings.fault_line(what, lost, "annotations of unknown images or categories")
    if not (strange or twice or lost):
        yield Line("ok", what, "every id is known, none twice")


def _maps(
    maps: Path,
    folder: Path | None,
    root: Path,
    split: str,
    classes: Mapping[int, Label],
    official: bool,
) -> Generator[Line, None, dict[str, ImageFile]]:
    """Check a split's maps; return the image that each belongs to, of the map's size."""
    what = f"{split} maps"
    paths = sorted(path for path in maps.glob("*.png") if not path.stem.endswith(_CONVERTED))
    yield findings.count_line(
        what, (len(paths),), ("maps",), [(PUBLISHED[split],)], official=official
    )
    seen = in_threads(look, paths)
    names = [str(path.relative_to(root)) for path in paths]
    yield from faults(what, list(zip(names, seen, strict=True)))
    yield from _values(what, [p for p, s in zip(paths, seen, strict=True) if not s.fault], classes)
    if folder is None:
        return {}
    stems = {path.stem for path in paths}
    alone = sorted(path.name for path in folder.glob("*.jpg") if path.stem not in stems)
    if alone:
        yield Line("note", what, f"{len(alone):,} images have none", examples=alone)
    return {
        path.stem: ImageFile(folder / f"{path.stem}.jpg", *at.size)
        for path, at in zip(paths, seen, strict=True)
        if at.size is not None
    }


def _fitting(
    what: str, mapped: Mapping[str, ImageFile], files: Mapping[str, ImageFile]
) -> Iterator[Line]:
    """Compare the maps' sizes with the JSON's, where there are both."""
    named = {image.path: image for image in files.values()}
    differ = [
        f"{name}.png is {image.width} x {image.height}, in the JSON {other.width} x {other.height}"
        for name, image in mapped.items()
        if (other := named.get(image.path)) is not None and other != image
    ]
    yield from findings.fault_line(what, differ, "of another size")


def _values(what: str, paths: Sequence[Path], classes: Mapping[int, Label]) -> Iterator[Line]:
    """Look at the pixels of some maps, evenly spread: are all values known?"""
    sample = paths[:: -(-len(paths) // _SAMPLE) or 1]
    found = in_threads(_present, sample)
    broken = [values for values in found if isinstance(values, str)]
    yield from findings.fault_line(what, broken, f"of {len(sample):,} looked into can't be read")
    strange = {
        f"{path.name}: value {value}": value
        for path, values in zip(sample, found, strict=True)
        if not isinstance(values, str)
        for value in values
        if value not in classes and value != IGNORE
    }
    over = [text for text, value in strange.items() if value > max(classes)]
    advice = "Are these maps of other classes? They can't be packed."
    yield from findings.fault_line(what, over, "values over the last class", advice)
    gaps = [text for text, value in strange.items() if value < max(classes)]
    if gaps:
        told, advice = f"{len(gaps):,} values of no class", "Their pixels belong to nothing."
        yield Line("note", what, told, examples=gaps, advice=advice)
    if not broken and not strange:
        yield Line("ok", what, f"values of {len(sample):,} of {len(paths):,} are classes")


def _present(path: Path) -> list[int] | str:
    """Find the values in a map, or what is wrong with it."""
    try:
        return np.flatnonzero(np.bincount(pixel_map(path).ravel(), minlength=256)).tolist()
    except (OSError, ValueError) as error:
        return str(error)
