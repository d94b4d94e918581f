"""Counts the images that PhraseCut shares with a set of COCO's images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from rlfseg.data.check import findings
from rlfseg.data.check.report import Line
from rlfseg.data.files import field, load_json
from rlfseg.data.safe_pickle import load


def shared_lines(path: Path, in_split: Mapping[str, set[int]]) -> Iterator[Line]:
    """Counts the images that a file shares with each split.

    Args:
        path: JSON with COCO's `images`, or REFER's refs (`*.p`), of which each split counts by
            itself.
        in_split: COCO's ids of the images of each split.
    """
    groups = findings.attempt(_refs if path.suffix == ".p" else _images, path)
    if isinstance(groups, Line):
        yield groups
        return
    for group, ids in groups.items():
        counts = ", ".join(f"{name} {len(own & ids):,}" for name, own in in_split.items())
        what = f"shared with {path.name} {group}".rstrip()
        yield Line("note", what, f"of its {len(ids):,} images: {counts or 'no split'}")


def _images(path: Path) -> dict[str, set[int]]:
    entries = field(load_json(path, dict), "images", list, str(path))
    ids = {field(e, "id", int, f"{path}, image number {n}") for n, e in enumerate(entries)}
    return {"": ids}


def _refs(path: Path) -> dict[str, set[int]]:
    refs = load(path)
    if not isinstance(refs, list):
        raise ValueError(f"{path} holds a {type(refs).__name__}, not a list")
    found: dict[str, set[int]] = {}
    for number, ref in enumerate(refs):
        where = f"{path}, ref number {number}"
        split = field(ref, "split", str, where)
        found.setdefault(split, set()).add(field(ref, "image_id", int, where))
    return found
