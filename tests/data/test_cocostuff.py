"""COCO-Stuff's classes are the published ones, and maps and JSON give each class its pixels."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from rlfseg.data import cocostuff
from rlfseg.data.cocostuff import read_json, read_maps, train_id
from rlfseg.data.cocostuff_names import COCO_STUFF, PROMPTS, Label
from rlfseg.data.masks import rasterise
from rlfseg.data.sample import by_image

GONE = {11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90}  # raw ids of the things COCO gave up
RLE = {"size": [4, 6], "counts": [4, 8, 12]}
LEFT = [0, 0, 1, 0, 1, 4, 0, 4]  # the first column


def test_there_are_171_classes_numbered_without_a_gap() -> None:
    assert set(COCO_STUFF) == set(range(182)) - GONE
    assert sorted(map(train_id, COCO_STUFF)) == list(range(171))
    assert [train_id(raw) for raw in (0, 10, 12, 89, 91, 181)] == [0, 10, 11, 79, 80, 170]
    assert {train_id(raw) for raw in (*GONE, *range(182, 256))} == {255}
    for raw in (-1, 256):
        with pytest.raises(ValueError, match=rf"raw id {raw} "):
            train_id(raw)


def test_prompts_are_words_and_tell_the_classes_apart() -> None:
    prompts = [label.prompt for label in COCO_STUFF.values()]
    assert len(set(prompts)) == len(prompts)
    assert all(p == p.lower().strip() and p and "-" not in p for p in prompts)
    assert set(PROMPTS) <= {label.name for label in COCO_STUFF.values()}
    assert COCO_STUFF[172] == Label("wall-other", "wall")
    assert COCO_STUFF[156] == Label("sky-other", "sky")
    assert COCO_STUFF[168] == Label("tree", "tree")


@pytest.mark.inputs
@pytest.mark.parametrize(
    ("name", "ids"),
    [
        ("cocostuff/stuff_examples.json", range(92, 183)),
        ("coco_train2017/instances_train2017.json", range(1, 92)),
    ],
)
def test_names_are_those_of_the_real_files(inputs: Path, name: str, ids: range) -> None:
    theirs = {c["id"]: c["name"] for c in json.loads((inputs / name).read_text())["categories"]}
    ours = {raw + 1: label.name for raw, label in COCO_STUFF.items() if raw + 1 in ids}
    assert ours == {number: theirs[number] for number in theirs if number in ids}


# --- pixel maps -------------------------------------------------------------------------------


def put(root: Path, name: str, values: np.ndarray, *, suffix: str = "") -> None:
    """A map and its picture."""
    for folder in ("stuffthingmaps", "images"):
        (root / folder / "val2017").mkdir(parents=True, exist_ok=True)
    path = root / "stuffthingmaps" / "val2017" / f"{name}{suffix}.png"
    Image.fromarray(values.astype(np.uint8)).save(path)
    Image.new("RGB", values.shape[::-1]).save(root / "images" / "val2017" / f"{name}.jpg")


def test_each_class_of_a_map_is_a_sample(tmp_path: Path) -> None:
    values = np.array([[172, 0, 0], [255, 11, 12]])  # 11: a thing that COCO gave up
    put(tmp_path, "000000000139", values)
    put(tmp_path, "000000000009", np.full((2, 3), 181))
    put(tmp_path, "000000000139", values, suffix="_labelTrainIds")
    (wood, person, sign, wall) = read_maps(tmp_path, "val2017")
    assert [s.image_id for s in (wood, person, sign, wall)] == ["9", "139", "139", "139"]
    assert [s.caption for s in (wood, person, sign, wall)] == [
        "wood",
        "person",
        "stop sign",
        "wall",
    ]
    assert (wall.width, wall.height, wall.split) == (3, 2, "val2017")
    assert wall.ids == {"category_id": 173, "train_id": 161, "name": "wall-other"}
    assert wall.image_path == tmp_path / "images" / "val2017" / "000000000139.jpg"
    for sample, raw in ((person, 0), (sign, 12), (wall, 172)):
        np.testing.assert_array_equal(rasterise(sample), values == raw)


def test_a_map_is_read_when_its_samples_are_asked_for(tmp_path: Path) -> None:
    for name in ("1", "2"):
        put(tmp_path, name, np.array([[0, 12]]))
    (tmp_path / "stuffthingmaps" / "val2017" / "3.png").write_bytes(b"no map")
    stream = by_image(read_maps(tmp_path, "val2017"))
    assert [next(stream).image_id for _ in range(4)] == ["1", "1", "2", "2"]
    with pytest.raises(FileNotFoundError, match=r"3\.jpg"):
        next(stream)


def test_the_other_usual_folders_are_found(tmp_path: Path) -> None:
    put(tmp_path, "1", np.zeros((2, 2)))
    (tmp_path / "stuffthingmaps").rename(tmp_path / "annotations")
    (tmp_path / "images" / "val2017").rename(tmp_path / "val2017")
    (sample,) = read_maps(tmp_path, "val2017")
    assert sample.image_path == tmp_path / "val2017" / "1.jpg"
    with pytest.raises(FileNotFoundError, match=r"stuffthingmaps.*in their place: val2017$"):
        read_maps(tmp_path, "test2017")


def test_a_table_of_ones_own(tmp_path: Path) -> None:
    put(tmp_path, "1", np.array([[3, 5]]))
    classes = {3: Label("a-other", "a"), 5: Label("b", "b")}
    found = list(read_maps(tmp_path, "val2017", classes=classes))
    assert [(s.caption, s.ids["train_id"]) for s in found] == [("a", 0), ("b", 1)]


def test_broken_maps_are_named(tmp_path: Path) -> None:
    put(tmp_path, "1", np.array([[0, 182]]))
    with pytest.raises(ValueError, match=r"1\.png holds the value 182, over 181"):
        list(read_maps(tmp_path, "val2017"))
    path = tmp_path / "stuffthingmaps" / "val2017" / "1.png"
    Image.new("RGB", (2, 1)).save(path)
    with pytest.raises(ValueError, match=r"1\.png is of mode RGB"):
        list(read_maps(tmp_path, "val2017"))
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ValueError, match=r"1\.png is not a complete image"):
        list(read_maps(tmp_path, "val2017"))
    (tmp_path / "images" / "val2017" / "1.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"1\.jpg is not there, but .*1\.png refers"):
        list(read_maps(tmp_path, "val2017"))
    path.unlink()
    with pytest.raises(FileNotFoundError, match="val2017 holds no pixel map"):
        read_maps(tmp_path, "val2017")


# --- JSON -------------------------------------------------------------------------------------


def stuff() -> dict[str, Any]:
    """What `stuff_val2017.json` holds: two images, the second first; "other" lumps the things."""
    annotation = {"segmentation": RLE, "iscrowd": 0}
    return {
        "images": [
            {"id": n, "file_name": f"{n:012d}.jpg", "width": 6, "height": 4} for n in (7, 8)
        ],
        "annotations": [
            {"id": 1, "image_id": 8, "category_id": 173, **annotation},
            {"id": 2, "image_id": 8, "category_id": 92, **annotation},
            {"id": 3, "image_id": 7, "category_id": 183, **annotation},
            {"id": 4, "image_id": 7, "category_id": 157, **annotation},
            {"id": 5, "image_id": 8, "category_id": 173, "segmentation": [LEFT]},
        ],
        "categories": [
            {"id": 92, "name": "banner"},
            {"id": 157, "name": "sky-other"},
            {"id": 173, "name": "wall-other"},
            {"id": 183, "name": "other"},
        ],
    }


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "stuff_val2017.json").write_text(json.dumps(stuff()))
    (tmp_path / "val2017").mkdir()
    for number in (7, 8):
        Image.new("RGB", (6, 4)).save(tmp_path / "val2017" / f"{number:012d}.jpg")
    return tmp_path


def test_each_class_of_the_json_is_a_sample(root: Path) -> None:
    banner, wall, sky = read_json(root, "val2017")
    assert [s.caption for s in (banner, wall, sky)] == ["banner", "wall", "sky"]
    assert [s.image_id for s in (banner, wall, sky)] == ["8", "8", "7"]
    assert wall.ids == {
        "category_id": 173,
        "train_id": 161,
        "name": "wall-other",
        "ann_ids": (1, 5),
    }
    expected = np.zeros((4, 6), bool)
    expected[:, 1:3] = True
    np.testing.assert_array_equal(rasterise(banner), expected)
    expected[:, 0] = True
    np.testing.assert_array_equal(rasterise(wall), expected)
    assert sky.image_path == root / "val2017" / "000000000007.jpg"


@pytest.mark.parametrize(
    ("part", "number", "changed", "message"),
    [
        ("categories", 1, {"name": "sky"}, "category 157 is 'sky', in the table.*'sky-other'"),
        ("annotations", 3, {"category_id": 184}, "annotation number 3: category_id 184 is not in"),
        ("annotations", 3, {"image_id": 1}, "annotation number 3: image_id 1 is not among"),
        ("annotations", 0, {"segmentation": "a"}, "annotation number 0: 'segmentation' is 'a'"),
        ("images", 1, {"file_name": "../8.jpg"}, "image number 1: .*no plain file name"),
    ],
)
def test_what_does_not_fit_is_named(
    root: Path, part: str, number: int, changed: dict[str, Any], message: str
) -> None:
    content = stuff()
    content[part][number].update(changed)
    path = root / "annotations" / "stuff_val2017.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"stuff_val2017\.json, .*{message}"):
        read_json(root, "val2017")


def test_missing_and_broken_json_is_named(root: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"stuff_test\.json.*splits found: val2017"):
        read_json(root, "test")
    (root / "val2017" / "000000000008.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"0008\.jpg is not there, but .*stuff_val2017"):
        list(read_json(root, "val2017"))
    path = root / "annotations" / "stuff_val2017.json"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"stuff_val2017\.json is not complete JSON"):
        read_json(root, "val2017")


@pytest.mark.inputs
def test_the_real_stuff_annotations_are_read_whole(inputs: Path, tmp_path: Path) -> None:
    """Every annotation but those of "other" is in a sample; masks equal pycocotools'."""
    theirs = COCO(inputs / "cocostuff" / "stuff_examples.json")
    (tmp_path / "annotations").mkdir()
    target = tmp_path / "annotations" / "stuff_example.json"
    shutil.copyfile(inputs / "cocostuff" / "stuff_examples.json", target)
    (tmp_path / "images" / "example").mkdir(parents=True)
    for image in theirs.imgs.values():
        (tmp_path / "images" / "example" / image["file_name"]).touch()
    used: list[int] = []
    for sample in read_json(tmp_path, "example"):
        used += sample.ids["ann_ids"]
        masks = [theirs.annToMask(theirs.anns[number]) for number in sample.ids["ann_ids"]]
        np.testing.assert_array_equal(rasterise(sample), np.any(masks, axis=0))
        assert sample.caption == COCO_STUFF[sample.ids["category_id"] - 1].prompt
    left = {n for n, annotation in theirs.anns.items() if annotation["category_id"] == 183}
    assert sorted(used) == sorted(set(theirs.anns) - left)
    assert len(used) + len(left) == 17
    assert cocostuff.IGNORE == 255
