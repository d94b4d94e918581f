"""What a folder of REFER's holds against the published counts."""

from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any, TypeAlias

from rlfseg.data import files
from rlfseg.data.check import findings
from rlfseg.data.check.images import survey
from rlfseg.data.check.report import Line
from rlfseg.data.files import ImageFile, coco_images, load_json
from rlfseg.data.masks import blank, fault
from rlfseg.data.refer import IMAGE_FOLDERS, PARTITIONS
from rlfseg.data.safe_pickle import load
from rlfseg.data.sample import Segments

#: Refs by split, where they were published.
PUBLISHED = {
    ("refcoco", "unc"): {"train": 42_404, "val": 3_811, "testA": 1_975, "testB": 1_810},
    ("refcoco+", "unc"): {"train": 42_278, "val": 3_805, "testA": 1_975, "testB": 1_798},
    ("refcocog", "umd"): {"train": 42_226, "val": 2_573, "test": 5_023},
}
_UNITS = ("refs", "sentences", "images")
_IN_COCO = "person"  # a category that COCO has and the mini world has not


_Annotation: TypeAlias = tuple[int, int, Segments]  # its id, its image's id, what it outlines


@dataclass
class _Instances:
    """What `instances.json` holds."""

    images: dict[int, ImageFile]
    image_of: dict[int, int]  # annotation id -> image id
    malformed: dict[int, str]  # annotation id -> why it can't be drawn
    blank: set[int]  # ids of annotations that draw nothing
    official: bool


@dataclass
class _Split:
    """What the refs of a split add up to."""

    refs: int = 0
    sentences: int = 0
    images: set[int] = field(default_factory=set)
    malformed: list[str] = field(default_factory=list)
    blank: list[str] = field(default_factory=list)


@dataclass
class _Refs:
    """What a partition's refs hold."""

    splits: dict[str, _Split] = field(default_factory=dict)
    ref_ids: list[int] = field(default_factory=list)
    sent_ids: list[int] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    unresolved: list[str] = field(default_factory=list)


def lines(root: Path, dataset: str, *, official: bool | None) -> Iterator[Line]:
    """Check the folder that `refer.read` reads; see `check`."""
    home = root / dataset
    if not home.is_dir():
        yield Line("problem", dataset, "no such folder", advice=f"It belongs in {root}.")
        return
    folder = findings.first_folder(root, IMAGE_FOLDERS)
    instances = yield from _instances(home / "instances.json", folder or root / IMAGE_FOLDERS[0])
    if official is None:
        official = instances is None or instances.official
    used: set[int] = set()
    for number, partition in enumerate(PARTITIONS[dataset]):
        path = home / f"refs({partition}).p"
        if number == 0 or path.exists():
            used |= yield from _partition(path, dataset, partition, instances, official)
    if folder is None:
        looked = ", ".join(IMAGE_FOLDERS)
        advice = f"COCO's train2014 images belong in one of these: {looked}."
        yield Line("problem", "images", "not there", advice=advice)
    elif instances is None:
        yield Line("note", "image files", "not looked at: no instances.json to name them")
    else:
        named = {str(i): instances.images[i] for i in sorted(used) if i in instances.images}
        seen = survey(named, root)
        yield from seen.lines
        yield findings.size_line(seen)


def _instances(path: Path, folder: Path) -> Generator[Line, None, _Instances | None]:
    def read(path: Path) -> tuple[dict[str, Any], dict[int, ImageFile], list[_Annotation]]:
        content = load_json(path, dict)
        images = coco_images(content, folder=folder, where=path.name)
        entries = files.field(content, "annotations", list, path.name)
        return content, images, [_annotation(e, path, n) for n, e in enumerate(entries)]

    found = findings.attempt(read, path)
    if isinstance(found, Line):
        yield found
        return None
    content, images, annotations = found
    pairs = [(ann, image) for ann, image, _ in annotations]
    twice = findings.repeated("image id", (entry["id"] for entry in content["images"]), path.name)
    twice += findings.repeated("annotation id", (ann for ann, _ in pairs), path.name)
    yield from findings.fault_line(path.name, twice, "ids repeated", "The last entry counts.")
    unknown = [
        f"{path.name}, annotation {ann}: image_id {image}"
        for ann, image in pairs
        if image not in images
    ]
    yield from findings.fault_line(path.name, unknown, "annotations of unknown images")
    if not twice and not unknown:
        yield Line("ok", path.name, f"{len(images):,} images, {len(pairs):,} annotations")
    categories = content.get("categories")
    entries = categories if isinstance(categories, list) else []
    names = {str(entry.get("name")) for entry in entries if isinstance(entry, dict)}
    malformed, empty = {}, set()
    for ann, image, region in annotations:
        size = images[image] if image in images else ImageFile(path, 0, 0)
        if wrong := fault(region, size.width, size.height):
            malformed[ann] = wrong
        elif blank(region):
            empty.add(ann)
    return _Instances(images, dict(pairs), malformed, empty, not names or _IN_COCO in names)


def _annotation(entry: Any, path: Path, number: int) -> _Annotation:
    where = f"{path.name}, annotation number {number}"
    ann, image = (files.field(entry, key, int, where) for key in ("id", "image_id"))
    return ann, image, Segments((entry.get("segmentation"),))


def _partition(
    path: Path, dataset: str, partition: str, instances: _Instances | None, official: bool
) -> Generator[Line, None, set[int]]:
    """Check one refs file; return the ids of its images."""
    content = findings.attempt(load, path)
    if not isinstance(content, (list, Line)):
        content = Line("problem", path.name, f"holds a {type(content).__name__}, not a list")
    if isinstance(content, Line):
        yield content
        return set()
    refs = _Refs()
    for number, ref in enumerate(content):
        _read_ref(ref, f"{path.name}, ref number {number}", refs, instances)
    published = PUBLISHED.get((dataset, partition), {})
    for name in {**published, **refs.splits}:
        split = refs.splits.get(name, _Split())
        found = (split.refs, split.sentences, len(split.images))
        counts = [(published[name],)] if name in published else []
        if split.refs or official:
            what = f"{path.name} {name}"
            yield findings.count_line(what, found, _UNITS, counts, official=official)
        yield from findings.left_out_lines(f"{path.name} {name}", split.malformed, split.sentences)
        if split.blank:
            told = f"{len(split.blank):,} sentences of objects without an outline"
            advice = "They have no mask to learn."
            yield Line("note", f"{path.name} {name}", told, examples=split.blank, advice=advice)
    yield from findings.fault_line(path.name, refs.faults, "refs can't be used")
    twice = findings.repeated("ref_id", refs.ref_ids, path.name)
    twice += findings.repeated("sent_id", refs.sent_ids, path.name)
    yield from findings.fault_line(path.name, twice, "ids repeated")
    advice = "The two files belong to different releases: fetch both again."
    yield from findings.fault_line(
        path.name, refs.unresolved, "refs don't fit instances.json", advice
    )
    if not (refs.faults or twice or refs.unresolved):
        whole = "complete" if instances is None else "complete, their ids in instances.json"
        yield Line("ok", path.name, f"{len(refs.ref_ids):,} refs {whole}")
    yield _parted(path.name, partition, refs.splits)
    return {image for split in refs.splits.values() for image in split.images}


def _read_ref(ref: Any, where: str, refs: _Refs, instances: _Instances | None) -> None:
    """Enter what is needed of a ref, or what is wrong with it."""
    try:
        name = files.field(ref, "split", str, where)
        ids = {
            key: files.field(ref, key, int, where)
            for key in ("ref_id", "ann_id", "category_id", "image_id")
        }
        sentences = files.field(ref, "sentences", list, where)
        for place, sentence in enumerate(sentences):
            spoken = f"{where}, sentence number {place}"
            files.field(sentence, "raw", str, spoken)
            refs.sent_ids.append(files.field(sentence, "sent_id", int, spoken))
            said = files.field(sentence, "sent", str, spoken)
            if findings.unfit(said):
                raise ValueError(f"{spoken}: 'sent' is {said!r:.60}, which packing leaves out")
    except ValueError as error:
        refs.faults.append(str(error))
        return
    refs.ref_ids.append(ids["ref_id"])
    split = refs.splits.setdefault(name, _Split())
    split.refs += 1
    split.sentences += len(sentences)
    split.images.add(ids["image_id"])
    if instances is None:
        return
    if ids["image_id"] not in instances.images:
        refs.unresolved.append(f"{where}: image_id {ids['image_id']} is not there")
    elif ids["ann_id"] not in instances.image_of:
        refs.unresolved.append(f"{where}: ann_id {ids['ann_id']} is not there")
    elif instances.image_of[ids["ann_id"]] != ids["image_id"]:
        other = instances.image_of[ids["ann_id"]]
        refs.unresolved.append(f"{where}: image_id is {ids['image_id']}, its annotation's {other}")
    elif why := instances.malformed.get(ids["ann_id"]):
        split.malformed += [f"{where}, annotation {ids['ann_id']}: {why}"] * len(sentences)
    elif ids["ann_id"] in instances.blank:
        split.blank += [f"{where}, annotation {ids['ann_id']}"] * len(sentences)


def _parted(what: str, partition: str, splits: Mapping[str, _Split]) -> Line:
    """Say whether splits share images; Google's part the objects, not the images."""
    common = {(a, b): splits[a].images & splits[b].images for a, b in combinations(splits, 2)}
    if not any(common.values()):
        return Line("ok", what, "no image in two splits")
    found = ", ".join(f"{a} and {b} {len(ids):,}" for (a, b), ids in common.items() if ids)
    examples = [
        f"{what}: image {image} in {a} and {b}"
        for (a, b), ids in common.items()
        for image in sorted(ids)
    ]
    if partition == "google":
        advice = "Google's splits part the objects, not the images: take another partition."
        return Line("note", what, f"images in two splits: {found}", "", examples, advice)
    advice = "Numbers on one of them would be about images of the other."
    return Line("problem", what, f"images in two splits: {found}", "none", examples, advice)
