"""Drawn scenes in the layouts, and with the oddities, that the official releases have.

    FOLDER/VGPhraseCut_v0/    refer_{train,val,test,miniv}.json, image_data_split3000.json, images/
    FOLDER/refer/             {refcoco,refcoco+,refcocog}/, images/train2014/
    FOLDER/cocostuff/         stuffthingmaps/{train2017,val2017}/, images/{train2017,val2017}/

What `rlfseg.data.drawn` writes is tidy. This is not: pictures of every size and aspect, annotated
sizes that are turned, a picture that lies on its side, polygons of one point, regions of less than
a pixel, phrases with slashes, quotes and other scripts, twice the same phrase or sentence in a
picture, crowds, pickles as Python 2 wrote them, pixels of no class.
"""

from __future__ import annotations

import json
import pickle
import struct
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from rlfseg.data.drawn.chunks import box
from rlfseg.data.drawn.expressions import expressions
from rlfseg.data.drawn.phrases import phrases
from rlfseg.data.drawn.scene import GROUNDS, SHAPES, Scene, Thing, draw_scene
from rlfseg.data.drawn.write_phrasecut import annotate

COUNTS = {"train": 24, "val": 6, "test": 8}
SIDES = (90, 170)  # pixels
#: Images whose annotated size isn't that of the file: of CLIPSeg's list, and one on no list.
TURNED = {("train", 0): 61530, ("test", 0): 285743, ("train", 2): 2300777}
ON_ITS_SIDE = {("train", 1): 498010}  # stored with an EXIF orientation, annotated upright
_NAMED = {**TURNED, **ON_ITS_SIDE}
_FIRST = {"train": 2_310_000, "val": 2_320_000, "test": 2_330_000, "miniv": 2_340_000}
_CATEGORIES = {1: ("person", "person"), 3: ("car", "vehicle"), 17: ("cat", "animal")}
_CATEGORIES |= {18: ("dog", "animal"), 62: ("chair", "furniture")}
_THINGS = (0, 2, 15, 16, 17, 43, 61)  # raw ids of COCO-Stuff, a shape each
_STUFF = (95, 105, 123, 156, 168)  # and a ground each


def write(folder: Path, *, seed: int = 0) -> None:
    """Write all three releases; the result depends on the seed alone."""
    _phrasecut(folder / "VGPhraseCut_v0", np.random.default_rng([seed, 0]))
    _refer(folder / "refer", np.random.default_rng([seed, 1]))
    _cocostuff(folder / "cocostuff", np.random.default_rng([seed, 2]))


def scene(rng: np.random.Generator, **drawn: Any) -> Scene:
    """A drawn scene, cut to a size and an aspect of its own."""
    width, height = (int(n) for n in rng.integers(*SIDES, 2))
    whole = draw_scene(rng, pixels=max(width, height), held_out=True, count=(3, 4), **drawn)
    x, y = (max(width, height) - width) // 2, (max(width, height) - height) // 2
    part = (slice(y, y + height), slice(x, x + width))
    things = (
        replace(t, mask=t.mask[part], centre=(t.centre[0] - x, t.centre[1] - y))
        for t in whole.things
    )
    kept = tuple(thing for thing in things if thing.mask.sum() > 40)
    if len(kept) < 3:
        return scene(rng, **drawn)
    return Scene(whole.image[part], whole.ground, kept)


def _outlines(rng: np.random.Generator, thing: Thing) -> list[list[list[float]]]:
    """Coarse polygons of a thing, within the picture."""
    height, width = thing.mask.shape
    side = max(height, width)
    square = np.pad(thing.mask, ((0, side - height), (0, side - width)))
    limits = np.array([width - 1, height - 1])
    return [np.minimum(polygon, limits).tolist() for polygon in annotate(rng, square)]


# ---------------------------------------------------------------- PhraseCut


def _phrasecut(root: Path, rng: np.random.Generator) -> None:
    (root / "images").mkdir(parents=True)
    table = []
    for split, count in {**COUNTS, "miniv": 2}.items():
        tasks = []
        for number in range(count):
            drawn = scene(rng)
            image_id = _NAMED.get((split, number), _FIRST[split] + 7 * number)
            picture, annotated, how = Image.fromarray(drawn.image), drawn.image.shape[1::-1], {}
            if image_id in TURNED.values():
                annotated = annotated[::-1]
            if image_id in ON_ITS_SIDE.values():
                how["exif"] = Image.Exif()
                how["exif"][0x0112] = 6  # to be turned clockwise by who shows it
                picture = picture.transpose(Image.Transpose.ROTATE_90)
            if (split, number) == ("val", 0):
                picture = picture.convert("L")
            picture.save(root / "images" / f"{image_id}.jpg", quality=95, **how)
            table.append(_of_table(image_id, annotated, split))
            said = [(p.text, [drawn.things[k] for k in p.targets]) for p in phrases(rng, drawn)]
            regions = [(text, [_outlines(rng, t) for t in meant]) for text, meant in said]
            regions += _odd(split, number, regions)
            tasks += [_task(image_id, place, *one) for place, one in enumerate(regions)]
        _write(root / f"refer_{split}.json", tasks)
    table.append(_of_table(2_399_999, (640, 480), "train"))  # an image without tasks
    _write(root / "image_data_split3000.json", table)
    _write(root / "name_att_rel_count.json", {"cat": [[shape, 9] for shape in SHAPES]})


def _odd(split: str, number: int, regions: Sequence[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """Phrases of the kinds that give trouble."""
    first, last = regions[0][1], regions[-1][1]
    if number == 1 and split == "test":
        yield "speck", [[[[1.2, 1.2], [1.4, 1.2], [1.4, 1.4]]]]
    if number == 2:
        yield "lamp post", [[*first[0], [[3.0, 4.0]], []]]
        yield "a single point", [[[[3.0, 4.0]]]]
    if number == 3:
        yield "wooden table", first
        yield "wooden table", last
    if number == 4:
        yield "caf\u00e9 sign", first
        yield "\u732b on the left", last
        yield "sma\u0301ll ball \U0001f3be", first
    if number == 5:
        yield 'black/white "stop" sign', first
        yield "man's hat", last
        yield "  two  blanks ", first
        yield "..", last


def _of_table(image_id: int, size: Sequence[int], split: str) -> dict[str, Any]:
    return {
        "width": size[0],
        "height": size[1],
        "url": f"https://cs.stanford.edu/people/rak248/VG_100K_2/{image_id}.jpg",
        "image_id": image_id,
        "coco_id": 72 + image_id % 5000 if image_id % 2 and split != "test" else None,
        "flickr_id": 2_000_000_000 + image_id,
        "split": split,
    }


def _task(image_id: int, place: int, phrase: str, polygons: list[Any]) -> dict[str, Any]:
    ids = [10 * image_id + 3 * place + k for k in range(len(polygons))]
    return {
        "task_id": f"{image_id}__{place}_{'_'.join(map(str, ids))}",
        "image_id": image_id,
        "ann_ids": ids,
        "instance_boxes": [[0.0, 0.0, 9.0, 9.0] for _ in ids],
        "Polygons": polygons,
        "phrase": phrase,
        "phrase_structure": {
            "name": phrase.split()[-1],
            "attributes": [],
            "relation_ids": [],
            "relation_descriptions": [],
            "type": "name",
        },
    }


# ---------------------------------------------------------------- REFER


def _refer(root: Path, rng: np.random.Generator) -> None:
    folder = root / "images" / "train2014"
    folder.mkdir(parents=True)
    images, annotations = [], []
    refs: dict[str, list[dict[str, Any]]] = {
        name: [] for name in ("refcoco", "refcoco+", "refcocog")
    }
    places = [(s, n) for s, c in COUNTS.items() for n in range(c)]
    for count, (split, number) in enumerate(places):
        drawn, image_id = scene(rng), 72 + 977 * count
        name = f"COCO_train2014_{image_id:012d}"
        Image.fromarray(drawn.image).save(folder / f"{name}.jpg", quality=95)
        height, width = drawn.image.shape[:2]
        images.append(
            {"id": image_id, "file_name": f"{name}.jpg", "width": width, "height": height}
        )
        for place, thing in enumerate(drawn.things):
            annotations.append(
                _annotation(rng, thing, image_id, place, crowd=place == 2 and not number)
            )
        for dataset, own in refs.items():
            where = ("testA", "testB")[number % 2] if split == "test" else split
            for place, said in enumerate(expressions(rng, drawn, dataset)):
                if not number % 4:  # two refs of a picture with one sentence, a ref with it twice
                    said = [["man"], ["left man", "left man"], ["man"], ["a chair"]][place]
                if dataset == "refcocog":
                    where = split
                    said = [*said, " ".join(["a very long sentence of words"] * 15)][
                        number % 5 == 1 :
                    ]
                if said:
                    own.append(
                        _ref(len(own), said, annotations[place - len(drawn.things)], name, where)
                    )
    categories = [{"id": n, "name": a, "supercategory": b} for n, (a, b) in _CATEGORIES.items()]
    instances = {"info": {"year": 2014}, "licenses": [], "categories": categories}
    for dataset, partition in (("refcoco", "unc"), ("refcoco+", "unc"), ("refcocog", "umd")):
        home = root / dataset
        home.mkdir()
        _write(home / "instances.json", {**instances, "images": images, "annotations": annotations})
        (home / f"refs({partition}).p").write_bytes(pickled(refs[dataset]))


def _annotation(
    rng: np.random.Generator, thing: Thing, image_id: int, place: int, *, crowd: bool
) -> dict[str, Any]:
    outlines = [[round(n, 2) for point in o for n in point] for o in _outlines(rng, thing)]
    return {
        "id": 1_700_000 + 10 * image_id + place,
        "image_id": image_id,
        "category_id": list(_CATEGORIES)[place],
        "segmentation": run_lengths(thing.mask) if crowd else outlines,
        "area": float(thing.mask.sum()),
        "bbox": box(thing.mask),
        "iscrowd": int(crowd),
    }


def _ref(
    ref_id: int, said: list[str], annotation: dict[str, Any], name: str, split: str
) -> dict[str, Any]:
    sentences = [
        {"tokens": s.split(), "raw": f"{s.title()}.", "sent_id": 10 * ref_id + k, "sent": s}
        for k, s in enumerate(said)
    ]
    return {
        "sent_ids": [sentence["sent_id"] for sentence in sentences],
        "file_name": f"{name}_{annotation['id']}.jpg",
        "ann_id": annotation["id"],
        "ref_id": ref_id,
        "image_id": annotation["image_id"],
        "split": split,
        "sentences": sentences,
        "category_id": annotation["category_id"],
    }


def run_lengths(mask: np.ndarray) -> dict[str, Any]:
    """COCO's uncompressed RLE: runs of 0 and 1 in turn, down the columns."""
    flat = mask.ravel(order="F")
    ends = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *ends.tolist(), flat.size]).tolist()
    return {"counts": [0, *runs] if flat[0] else runs, "size": list(mask.shape)}


class _Python2(pickle._Pickler):  # the one that is written in Python and can be told otherwise
    """Pickles a text of ASCII as Python 2 did its `str`: as bytes."""

    dispatch: ClassVar = pickle._Pickler.dispatch.copy()

    def _text(self, text: str) -> None:
        if not text.isascii():
            super().save_str(text)
            return
        short = len(text) < 256
        head = b"U" + bytes([len(text)]) if short else b"T" + struct.pack("<i", len(text))
        self.write(head + text.encode())
        self.memoize(text)

    dispatch[str] = _text


def pickled(content: object) -> bytes:
    """A pickle of protocol 2 as Python 2 would have written it."""
    from io import BytesIO

    file = BytesIO()
    _Python2(file, protocol=2).dump(content)
    return file.getvalue()


# ---------------------------------------------------------------- COCO-Stuff


def _cocostuff(root: Path, rng: np.random.Generator) -> None:
    for split in ("train", "val"):
        maps, images = root / f"stuffthingmaps/{split}2017", root / f"images/{split}2017"
        maps.mkdir(parents=True)
        images.mkdir(parents=True)
        for number in range(COUNTS[split]):
            drawn, name = scene(rng), f"{139 + 1213 * number + len(split):012d}"
            values = np.full(drawn.image.shape[:2], _STUFF[GROUNDS.index(drawn.ground)], np.uint8)
            values[: len(values) // 4] = _STUFF[number % len(_STUFF)]
            for thing in drawn.things:
                values[thing.mask] = _THINGS[SHAPES.index(thing.shape)]
            values[:3] = 255
            Image.fromarray(values).save(maps / f"{name}.png")
            Image.fromarray(drawn.image).save(images / f"{name}.jpg", quality=95)


def _write(path: Path, content: object) -> None:
    path.write_text(json.dumps(content))
