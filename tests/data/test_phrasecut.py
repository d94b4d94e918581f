"""PhraseCut's files are read exactly, and broken files are named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rlfseg.data import phrasecut
from rlfseg.data.masks import rasterise
from rlfseg.data.phrasecut import SizeMismatch
from rlfseg.data.sample import AnnotationError, Polygons, by_image

SQUARE = [[2, 3], [6, 3], [6, 8], [2, 8]]


def task(image_id: int | str, number: int = 0, **changed: Any) -> dict[str, Any]:
    """A task as PhraseCut writes it."""
    return {
        "task_id": f"{image_id}__{number}",
        "image_id": image_id,
        "ann_ids": [70 + number, 90],
        "instance_boxes": [[2, 3, 5, 6]],
        "Polygons": [[SQUARE]],
        "phrase": "tall green tree",
        "phrase_structure": {"name": "tree", "attributes": ["tall", "green"]},
        **changed,
    }


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A small data set: two images of 20 x 12 pixels, three tasks, the first image's apart."""
    (tmp_path / "images").mkdir()
    for image_id in (11, 5):
        Image.new("RGB", (20, 12)).save(tmp_path / "images" / f"{image_id}.jpg")
    entries = [{"image_id": i, "width": 20, "height": 12, "split": "val"} for i in (5, 11)]
    (tmp_path / "image_data_split.json").write_text(json.dumps(entries))
    tasks = [task(11), task(5, 1, phrase="sky"), task(11, 2, Polygons=[[SQUARE], [SQUARE, []]])]
    (tmp_path / "refer_val.json").write_text(json.dumps(tasks))
    return tmp_path


def test_reads_every_field_in_file_order(root: Path) -> None:
    first, second, third = phrasecut.read(root, "val")
    assert [s.image_id for s in (first, second, third)] == ["11", "5", "11"]
    assert (first.caption, second.caption) == ("tall green tree", "sky")
    assert (first.width, first.height, first.split) == (20, 12, "val")
    assert first.image_path == root / "images" / "11.jpg"
    assert first.ids == {
        "task_id": "11__0",
        "ann_ids": (70, 90),
        "phrase_structure": {"name": "tree", "attributes": ["tall", "green"]},
    }
    assert isinstance(third.region, Polygons)
    assert [len(instance) for instance in third.region.instances] == [1, 2]
    np.testing.assert_array_equal(third.region.instances[1][0], SQUARE)
    assert third.region.instances[1][1].shape == (0, 2)


def test_by_image_brings_an_images_samples_together(root: Path) -> None:
    found = [s.ids["task_id"] for s in by_image(phrasecut.read(root, "val"))]
    assert found == ["11__0", "11__2", "5__1"]


def test_the_other_name_of_the_image_table_is_read(root: Path) -> None:
    (root / "image_data_split.json").rename(root / "image_data_split3000.json")
    assert len(list(phrasecut.read(root, "val"))) == 3


def test_images_can_be_left_out(root: Path) -> None:
    (root / "images" / "11.jpg").unlink()  # no one asks for it then
    assert [s.image_id for s in phrasecut.read(root, "val", leave_out=["11", "99"])] == ["5"]
    assert len(phrasecut.CLIPSEG_LEFT_OUT) == 17 and "150417" in phrasecut.CLIPSEG_LEFT_OUT


def test_a_repeated_image_id_takes_its_last_entry(root: Path) -> None:
    entries = json.loads((root / "image_data_split.json").read_text())
    entries.append({**entries[0], "width": 10})
    (root / "image_data_split.json").write_text(json.dumps(entries))
    assert [s.width for s in phrasecut.read(root, "val")] == [20, 10, 20]


def test_images_of_another_size_than_annotated_are_found(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert phrasecut.size_mismatches(root, "val") == []
    picture = root / "images" / "11.jpg"
    Image.effect_noise((12, 20), 90).save(picture)
    assert phrasecut.size_mismatches(root, "val") == [SizeMismatch("11", (20, 12), (12, 20))]
    picture.write_bytes(picture.read_bytes()[:-60])  # the header is there: no pixel is read
    assert phrasecut.size_mismatches(root, "val")[0].stored == (12, 20)
    with monkeypatch.context() as patch:
        patch.setattr(Image, "MAX_IMAGE_PIXELS", 10)  # Pillow refuses twice as many
        assert {each.stored for each in phrasecut.size_mismatches(root, "val")} == {None}
    for broken in (lambda: picture.write_bytes(b"<html>"), picture.unlink):
        broken()
        assert phrasecut.size_mismatches(root, "val") == [SizeMismatch("11", (20, 12), None)]
    tasks = [task(5), task(6)]
    (root / "refer_val.json").write_text(json.dumps(tasks))
    with pytest.raises(ValueError, match=r"task number 1: image_id '6' is not in the table"):
        phrasecut.size_mismatches(root, "val")


def test_missing_parts_are_named(root: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        phrasecut.read(root / "nowhere", "val")
    with pytest.raises(FileNotFoundError, match=r"refer_test\.json.*splits found: val"):
        phrasecut.read(root, "test")
    (root / "images" / "5.jpg").unlink()
    samples = phrasecut.read(root, "val")
    next(samples)
    with pytest.raises(FileNotFoundError, match=r"5\.jpg.*refer_val\.json, task number 1"):
        next(samples)
    (root / "images" / "11.jpg").unlink()
    (root / "images").rmdir()
    with pytest.raises(FileNotFoundError, match="images"):
        phrasecut.read(root, "val")
    (root / "images").mkdir()
    (root / "image_data_split.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"image_data_split\.json"):
        phrasecut.read(root, "val")


@pytest.mark.parametrize("name", ["refer_val.json", "image_data_split.json"])
@pytest.mark.parametrize("spoil", [lambda b: b[:-40], lambda b: b"", lambda b: b"\xff" + b])
def test_broken_json_is_named(root: Path, name: str, spoil: Any) -> None:
    (root / name).write_bytes(spoil((root / name).read_bytes()))
    with pytest.raises(ValueError, match=f"{name} is not complete JSON"):
        phrasecut.read(root, "val")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"image_id": 77}, "'77' is not in the table of images"),
        ({"phrase": None}, "'phrase' is None"),
        ({"ann_ids": 4}, "'ann_ids' is 4"),
    ],
)
def test_a_wrong_task_is_named(root: Path, changed: dict[str, Any], message: str) -> None:
    (root / "refer_val.json").write_text(json.dumps([task(5), {**task(11), **changed}]))
    with pytest.raises(ValueError, match=rf"refer_val\.json, task number 1: .*{message}"):
        list(phrasecut.read(root, "val"))


@pytest.mark.parametrize(
    ("polygons", "message"),
    [
        ([SQUARE], "Polygons is not"),
        ([[[[1, 2, 3]]]], "Polygons is not"),
        (None, "Polygons is not"),
        ([[[[10**400, 1], [2, 2]]]], "Polygons is not"),
        ([[[[1, float("nan")], [2, 2]]]], "no finite number"),
    ],
)
def test_polygons_that_cannot_be_drawn_are_one_samples_fault(
    root: Path, polygons: Any, message: str
) -> None:
    tasks = [task(5), task(11, Polygons=polygons), task(5, 1)]
    (root / "refer_val.json").write_text(json.dumps(tasks))
    good, bad, _ = phrasecut.read(root, "val")
    assert rasterise(good).any()
    with pytest.raises(AnnotationError, match=rf"val, image 11, task_id .*{message}"):
        rasterise(bad)


def test_a_missing_key_and_a_wrong_container_are_named(root: Path) -> None:
    broken = task(5)
    del broken["Polygons"]
    (root / "refer_val.json").write_text(json.dumps([broken]))
    with pytest.raises(ValueError, match="'Polygons' is missing"):
        list(phrasecut.read(root, "val"))
    (root / "refer_val.json").write_text("{}")
    with pytest.raises(ValueError, match=r"refer_val\.json holds a dict"):
        phrasecut.read(root, "val")


@pytest.mark.parametrize("image_id", ["../5", "a/b", "..", "", "a\\b", "c:5"])
def test_an_image_id_that_leaves_the_folder_is_refused(root: Path, image_id: str) -> None:
    entry = {"image_id": image_id, "width": 20, "height": 12}
    (root / "image_data_split.json").write_text(json.dumps([entry]))
    with pytest.raises(ValueError, match="no plain file name"):
        phrasecut.read(root, "val")


def test_an_impossible_size_is_refused(root: Path) -> None:
    entry = {"image_id": 5, "width": 0, "height": 12}
    (root / "image_data_split.json").write_text(json.dumps([entry]))
    with pytest.raises(ValueError, match="image 5 has size 0 x 12"):
        phrasecut.read(root, "val")
