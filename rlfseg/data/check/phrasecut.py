"""What PhraseCut's folder holds against what the authors published."""

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any

from rlfseg.data import files
from rlfseg.data.check import findings
from rlfseg.data.check.images import Survey, survey
from rlfseg.data.check.report import Line
from rlfseg.data.drawn.write_phrasecut import TRUTH_FILE
from rlfseg.data.files import ImageFile, load_json
from rlfseg.data.masks import blank, fault
from rlfseg.data.phrasecut import CLIPSEG_LEFT_OUT, IMAGE_TABLES, region_of
from rlfseg.data.safe_pickle import load

#: Images and phrases by split. The second of val is without the images of miniv, of which the
#: authors say both that they are part of val and that val's file lacks them.
PUBLISHED = {
    "train": ((71_746, 310_816),),
    "val": ((2_971, 20_316), (2_971 - 100, 20_316 - 821)),
    "test": ((2_545, 14_354),),
    "miniv": ((100, 821),),
}
#: The counts that the authors gave at first, when COCO's images were still in test.
EARLIER = {"train": (71_354, 308_893), "val": (2_971, 20_350), "test": (2_937, 18_980)}
_EARLIER = "These are the counts of an earlier release, whose test set held images of COCO."
_UNITS = ("images", "phrases")
_INNER = ("VG_100K", "VG_100K_2")  # what Visual Genome's archives unpack to
_LISTED = 40  # image ids of another size that are named in full


@dataclass
class _Split:
    """What a split's file holds; the tasks themselves are not kept."""

    first: dict[str, int] = field(default_factory=dict)  # image id -> number of its first task
    task_ids: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    malformed: list[str] = field(default_factory=list)
    blank: list[str] = field(default_factory=list)


@dataclass
class _Table:
    """The table of images."""

    images: dict[str, ImageFile] = field(default_factory=dict)
    coco: dict[str, int] = field(default_factory=dict)  # COCO's id of an image that has one
    names_coco: bool = False


def lines(root: Path, *, official: bool | None, coco_ids: Sequence[Path]) -> Iterator[Line]:
    """Check the folder that `phrasecut.read` reads; see `check`."""
    if official is None:
        official = not (root / TRUTH_FILE).is_file()
    table = yield from _table(root)
    splits: dict[str, _Split] = {}
    for name in PUBLISHED:
        split = yield from _split(root / f"refer_{name}.json", name, official)
        if split is not None:
            splits[name] = split
    yield from _tasks(splits, table)
    if table is None:
        yield Line("note", "image files", "not looked at: no table of images")
        return
    used = {i: table.images[i] for s in splits.values() for i in s.first if i in table.images}
    if inner := [f"images/{name}" for name in _INNER if (root / "images" / name).is_dir()]:
        advice = "Move the files in them up into images/: that is where they are read."
        yield Line("problem", "images", f"folders in it: {', '.join(inner)}", advice=advice)
    if not (root / "images").is_dir():
        yield Line("problem", "images", "not there", advice="Visual Genome's images belong in it.")
    else:
        seen = survey(used, root)
        yield from seen.lines
        yield _sizes(seen, used)
    yield from _honesty(splits, table, official)
    for path in coco_ids:
        in_split = {
            name: {table.coco[i] for i in split.first if i in table.coco}
            for name, split in splits.items()
        }
        yield from _shared(path, in_split)


def _table(root: Path) -> Generator[Line, None, _Table | None]:
    path = next((p for name in IMAGE_TABLES if (p := root / name).is_file()), None)
    if path is None:
        advice = f"Fetch it; {IMAGE_TABLES[1]} is another name of it."
        yield Line("problem", IMAGE_TABLES[0], "not there", advice=advice)
        return None
    content = findings.attempt(lambda p: load_json(p, list), path)
    if isinstance(content, Line):
        yield content
        return None
    table, faults, ids = _Table(), [], []
    for number, entry in enumerate(content):
        where = f"{path.name}, entry number {number}"
        try:
            image = files.image_file(
                entry, "image_id", folder=root / "images", suffix=".jpg", where=where
            )
        except ValueError as error:
            faults.append(str(error))
            continue
        image_id = str(entry["image_id"])
        ids.append(image_id)
        table.images[image_id] = image
        table.names_coco |= "coco_id" in entry
        if isinstance(entry.get("coco_id"), int):
            table.coco[image_id] = entry["coco_id"]
    yield from findings.fault_line(path.name, faults, "entries can't be used")
    twice = findings.repeated("image_id", ids, path.name)
    yield from findings.fault_line(path.name, twice, "image ids repeated", "The last entry counts.")
    if not faults and not twice:
        yield Line("ok", path.name, f"{len(table.images):,} images")
    return table


def _split(path: Path, name: str, official: bool) -> Generator[Line, None, _Split | None]:
    if not path.is_file():
        if official and name != "miniv":
            advice = "Fetch it if you need this split."
            yield Line("problem", path.name, "not there", advice=advice)
        elif official:
            yield Line("note", path.name, "not there", advice="A small part for trying things out.")
        return None
    content = findings.attempt(lambda p: load_json(p, list), path)
    if isinstance(content, Line):
        yield content
        return None
    split = _Split()
    for number, task in enumerate(content):
        _read_task(task, f"{path.name}, task number {number}", number, split)
    found = (len(split.first), len(content))
    line = findings.count_line(path.name, found, _UNITS, PUBLISHED[name], official=official)
    if official and found == EARLIER.get(name):
        line = replace(line, level="note", advice=_EARLIER)
    yield line
    yield from findings.left_out_lines(path.name, split.malformed, len(content))
    return split


def _read_task(task: Any, where: str, number: int, split: _Split) -> None:
    """Enter what is needed of a task, or what is wrong with it."""
    try:
        image_id = str(files.field(task, "image_id", (int, str), where))
        split.first.setdefault(image_id, number)
        split.task_ids.append(str(files.field(task, "task_id", (int, str), where)))
        files.field(task, "ann_ids", list, where)
        files.field(task, "phrase_structure", (dict, type(None)), where)
        phrase = files.field(task, "phrase", str, where)
        region = region_of(files.field(task, "Polygons", object, where))
    except ValueError as error:
        split.faults.append(str(error))
        return
    if findings.unfit(phrase):
        split.faults.append(f"{where}: 'phrase' is {phrase!r:.60}, which packing leaves out")
    if wrong := fault(region, 0, 0):
        split.malformed.append(f"{where}: {wrong}")
    elif blank(region):
        split.blank.append(f"{where}: 'Polygons' has no polygon of 2 points")


def _tasks(splits: Mapping[str, _Split], table: _Table | None) -> Iterator[Line]:
    """Say what the splits' tasks tell of each other and of the table of images."""
    every = list(splits.values())
    faults = [fault for split in every for fault in split.faults]
    yield from findings.fault_line("tasks", faults, "can't be used")
    empty = [text for split in every for text in split.blank]
    if empty:
        found = f"{len(empty):,} draw nothing"
        yield Line("note", "tasks", found, examples=empty, advice="They have no mask to learn.")
    twice = findings.repeated("task_id", (i for s in every for i in s.task_ids), "refer_*.json")
    yield from findings.fault_line("task ids", twice, "repeated")
    unknown = [
        f"refer_{name}.json, task number {number}: image_id {image_id!r}"
        for name, split in splits.items()
        for image_id, number in split.first.items()
        if table is not None and image_id not in table.images
    ]
    yield from findings.fault_line("image ids", unknown, "not in the table of images")
    common = [
        f"refer_{a}.json and refer_{b}.json: image_id {image_id!r}"
        for a, b in combinations(splits, 2)
        for image_id in splits[a].first
        if image_id in splits[b].first
    ]
    advice = "Numbers on one of them would be about images of the other."
    yield from findings.fault_line("splits", common, "images in two of them", advice)
    if splits and not (faults or twice or unknown or common):
        total = sum(len(split.task_ids) for split in every)
        yield Line("ok", "tasks", f"{total:,} complete; no id or image twice")


def _sizes(seen: Survey, used: Mapping[str, ImageFile]) -> Line:
    """Say which images have another size than annotated, and how that fits CLIPSeg's list."""
    differ = {mismatch.image_id for mismatch in seen.mismatches}
    known = CLIPSEG_LEFT_OUT & set(used)
    if not differ:
        line = findings.size_line(seen)
        fit = f"{len(known)} of the 17 that CLIPSeg leaves out are here, and fit." if known else ""
        return Line(line.level, line.what, line.found, line.expected, advice=fit)
    listed = sorted(differ, key=lambda i: (len(i), i))[:_LISTED]
    more = f" and {len(differ) - _LISTED:,} more" if len(differ) > _LISTED else ""
    names = f"They are {', '.join(listed)}{more}."
    examples = [findings.size_text(mismatch) for mismatch in seen.mismatches]
    if differ <= CLIPSEG_LEFT_OUT:
        which = "exactly" if differ == CLIPSEG_LEFT_OUT else f"all {len(differ)} among"
        found = f"{len(differ)} of {seen.sized:,} differ, {which} CLIPSeg's 17"
        advice = f"Packing leaves them out, as CLIPSeg does (data: leave_out). {names}"
        return Line("note", "image sizes", found, "as annotated", examples, advice)
    found = f"{len(differ):,} of {seen.sized:,} differ, {len(differ & CLIPSEG_LEFT_OUT)} of them "
    advice = (
        "Masks would not lie on them, so packing leaves them out (data: leave_out); were they "
        f"scaled or cut, fetch them again. {names}"
    )
    return Line("note", "image sizes", f"{found}of CLIPSeg's 17", "as annotated", examples, advice)


def _honesty(splits: Mapping[str, _Split], table: _Table, official: bool) -> Iterator[Line]:
    """Count the images that are COCO's too."""
    what = "zero-shot honesty"
    if not table.names_coco:
        yield Line("note", what, "the table of images has no coco_id")
        return
    counts = {name: sum(i in table.coco for i in split.first) for name, split in splits.items()}
    found = ", ".join(f"{name} {count:,}" for name, count in counts.items()) or "no split"
    advice = "Images that are COCO's too: say so beside a zero-shot number on COCO's data sets."
    expected = "test 0" if official and "test" in counts else ""
    yield Line("note", what, f"with a coco_id: {found}", expected, (), advice)


def _shared(path: Path, in_split: Mapping[str, set[int]]) -> Iterator[Line]:
    """Count the images that a file shares with each split.

    Args:
        path: JSON with COCO's `images`, or REFER's refs (`*.p`), of which each split counts by
            itself.
        in_split: COCO's ids of the images of each split.
    """
    groups = findings.attempt(_coco_ids_of_refs if path.suffix == ".p" else _coco_ids, path)
    if isinstance(groups, Line):
        yield groups
        return
    for group, ids in groups.items():
        counts = ", ".join(f"{name} {len(own & ids):,}" for name, own in in_split.items())
        what = f"shared with {path.name} {group}".rstrip()
        yield Line("note", what, f"of its {len(ids):,} images: {counts or 'no split'}")


def _coco_ids(path: Path) -> dict[str, set[int]]:
    entries = files.field(load_json(path, dict), "images", list, str(path))
    ids = {files.field(e, "id", int, f"{path}, image number {n}") for n, e in enumerate(entries)}
    return {"": ids}


def _coco_ids_of_refs(path: Path) -> dict[str, set[int]]:
    refs = load(path)
    if not isinstance(refs, list):
        raise ValueError(f"{path} holds a {type(refs).__name__}, not a list")
    found: dict[str, set[int]] = {}
    for number, ref in enumerate(refs):
        where = f"{path}, ref number {number}"
        split = files.field(ref, "split", str, where)
        found.setdefault(split, set()).add(files.field(ref, "image_id", int, where))
    return found
