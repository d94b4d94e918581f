"""REFER's files are read sentence by sentence, and what is broken or foreign is named."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_safe_pickle import python2

from rlfseg.data import refer
from rlfseg.data.masks import rasterise
from rlfseg.data.sample import Segments

SQUARE = [1.0, 1.0, 5.0, 1.0, 5.0, 6.0, 1.0, 6.0]
RLE = {"size": [12, 20], "counts": [100, 40, 100]}


def ref(ref_id: int, image_id: int, ann_id: int, split: str, *said: str) -> dict[str, Any]:
    """A ref as REFER has it: the file name is not the image's."""
    sentences = [
        {"sent_id": ref_id * 10 + k, "sent": s, "raw": s.upper(), "tokens": s.split()}
        for k, s in enumerate(said)
    ]
    return {
        "ref_id": ref_id,
        "ann_id": ann_id,
        "category_id": 7,
        "image_id": image_id,
        "file_name": f"COCO_train2014_{image_id:012d}_{ann_id}.jpg",
        "split": split,
        "sent_ids": [s["sent_id"] for s in sentences],
        "sentences": sentences,
    }


REFS = [
    ref(1, 11, 100, "train", "left man"),
    ref(2, 5, 101, "testA", "woman", "lady on the right"),
    ref(3, 11, 102, "train", "boy", "kid", "child"),
]


def image(image_id: int, **changed: Any) -> dict[str, Any]:
    name = f"COCO_train2014_{image_id:012d}.jpg"
    return {"id": image_id, "file_name": name, "width": 20, "height": 12, **changed}


def content() -> dict[str, Any]:
    """What `instances.json` holds."""
    annotations = [
        {"id": 100, "image_id": 11, "segmentation": [SQUARE], "category_id": 7, "iscrowd": 0},
        {"id": 101, "image_id": 5, "segmentation": RLE, "category_id": 7, "iscrowd": 0},
        {"id": 102, "image_id": 11, "segmentation": [SQUARE, SQUARE], "category_id": 7},
    ]
    return {"images": [image(5), image(11), image(99)], "annotations": annotations}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """RefCOCO of two partitions with two images, laid out as upstream has it."""
    (tmp_path / "refcoco").mkdir()
    (tmp_path / "refcoco" / "refs(unc).p").write_bytes(python2(REFS, 2))
    (tmp_path / "refcoco" / "refs(google).p").write_bytes(pickle.dumps(REFS[:1], 2))
    (tmp_path / "refcoco" / "instances.json").write_text(json.dumps(content()))
    folder = tmp_path / refer.IMAGE_FOLDERS[0]
    folder.mkdir(parents=True)
    for image_id in (5, 11):
        Image.new("RGB", (20, 12)).save(folder / image(image_id)["file_name"])
    return tmp_path


def test_each_sentence_is_a_sample(root: Path) -> None:
    found = list(refer.read(root, "refcoco", "train"))
    assert [s.caption for s in found] == ["left man", "boy", "kid", "child"]
    assert {(s.image_id, s.split, s.width, s.height) for s in found} == {("11", "train", 20, 12)}
    assert found[2].ids == {
        "ref_id": 3,
        "ann_id": 102,
        "category_id": 7,
        "sent_id": 31,
        "raw": "KID",
    }
    (other, _) = refer.read(root, "refcoco", "testA")
    assert isinstance(other.region, Segments) and other.region.objects == (RLE,)
    assert rasterise(other).sum() == 40


def test_masks_are_the_annotations_and_the_legacy_rule_empties_twins(root: Path) -> None:
    single, twins, *_ = refer.read(root, "refcoco", "train")
    expected = np.zeros((12, 20), bool)
    expected[1:6, 1:5] = True
    for each in (single, twins):
        np.testing.assert_array_equal(rasterise(each), expected)
    np.testing.assert_array_equal(rasterise(single, overlap="legacy"), expected)
    assert not rasterise(twins, overlap="legacy").any()


def test_the_image_is_the_one_that_instances_name(root: Path) -> None:
    first = next(refer.read(root, "refcoco", "train"))
    assert first.image_path == root / refer.IMAGE_FOLDERS[0] / "COCO_train2014_000000000011.jpg"


@pytest.mark.parametrize("name", refer.IMAGE_FOLDERS[1:])
def test_images_are_found_in_the_usual_places(root: Path, name: str) -> None:
    (root / name).parent.mkdir(exist_ok=True)
    (root / refer.IMAGE_FOLDERS[0]).rename(root / name)
    assert next(refer.read(root, "refcoco", "train")).image_path.parent == root / name
    (root / name).rename(root / "elsewhere")
    with pytest.raises(FileNotFoundError, match=r"looked for .*mscoco.*, .*train2014"):
        refer.read(root, "refcoco", "train")


def test_the_usual_partition_is_read_whatever_lies_beside_it(root: Path) -> None:
    (root / "refcoco").rename(root / "refcocog")
    with pytest.raises(FileNotFoundError, match=r"refs\(umd\)\.p.*refs\(google\)\.p, refs\(unc\)"):
        refer.read(root, "refcocog", "train")
    (root / "refcocog" / "refs(unc).p").rename(root / "refcocog" / "refs(umd).p")
    assert len(list(refer.read(root, "refcocog", "train"))) == 4


def test_wrong_names_are_answered_with_the_right_ones(root: Path) -> None:
    with pytest.raises(ValueError, match=r"'refclef'.*refcoco, refcoco\+, refcocog"):
        refer.read(root, "refclef", "train")
    with pytest.raises(ValueError, match="no split 'test'; splits found: train, testA"):
        refer.read(root, "refcoco", "test")
    with pytest.raises(FileNotFoundError, match=r"refcoco\+.*found beside it: none"):
        refer.read(root, "refcoco+", "train")


def test_missing_and_broken_files_are_named(root: Path) -> None:
    instances = root / "refcoco" / "instances.json"
    whole = instances.read_bytes()
    instances.write_bytes(whole[:-30])
    with pytest.raises(ValueError, match=r"instances\.json is not complete JSON"):
        refer.read(root, "refcoco", "train")
    instances.write_text("[]")
    with pytest.raises(ValueError, match=r"instances\.json holds a list, not a dict"):
        refer.read(root, "refcoco", "train")
    instances.unlink()
    with pytest.raises(FileNotFoundError, match=r"instances\.json"):
        refer.read(root, "refcoco", "train")
    instances.write_bytes(whole)
    (root / refer.IMAGE_FOLDERS[0] / image(5)["file_name"]).unlink()
    with pytest.raises(FileNotFoundError, match=r"0005\.jpg.*refs\(unc\)\.p, ref number 1"):
        next(refer.read(root, "refcoco", "testA"))
    refs = root / "refcoco" / "refs(unc).p"
    refs.write_bytes(refs.read_bytes()[:-5])
    with pytest.raises(ValueError, match=r"refs\(unc\)\.p is not a complete pickle"):
        refer.read(root, "refcoco", "train")
    refs.write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(ValueError, match=r"refs\(unc\)\.p is refused: it asks for os\.system"):
        refer.read(root, "refcoco", "train")
    refs.write_bytes(pickle.dumps({"refs": []}))
    with pytest.raises(ValueError, match=r"refs\(unc\)\.p holds a dict, not a list"):
        refer.read(root, "refcoco", "train")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"ann_id": 999}, "ann_id 999 is not in .*instances"),
        ({"image_id": 42}, "image_id 42 is not in .*instances"),
        ({"image_id": 99}, "image_id is 99, but 11 in .*instances.json, annotation 102"),
        ({"ref_id": "3"}, "'ref_id' is '3', of type str"),
        ({"sentences": None}, "'sentences' is None"),
        ({"sentences": [{"sent_id": 1, "raw": "a"}]}, "sentence number 0: the key 'sent'"),
    ],
)
def test_a_wrong_ref_is_named(root: Path, changed: dict[str, Any], message: str) -> None:
    refs = [*REFS[:2], {**REFS[2], **changed}]
    (root / "refcoco" / "refs(unc).p").write_bytes(pickle.dumps(refs, 2))
    with pytest.raises(ValueError, match=rf"refs\(unc\)\.p, ref number 2.*{message}"):
        list(refer.read(root, "refcoco", "train"))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"file_name": "../../secret.jpg"}, "no plain file name"),
        ({"file_name": "/etc/passwd"}, "no plain file name"),
        ({"file_name": "a\\b.jpg"}, "no plain file name"),
        ({"file_name": ".."}, "no plain file name"),
        ({"width": 0}, "has size 0 x 12"),
        ({"height": "12"}, "'height' is '12'"),
        ({"id": None}, "'id' is None"),
    ],
)
def test_a_wrong_image_is_named(root: Path, changed: dict[str, Any], message: str) -> None:
    instances = content()
    instances["images"][1].update(changed)
    (root / "refcoco" / "instances.json").write_text(json.dumps(instances))
    with pytest.raises(ValueError, match=rf"instances\.json, image number 1: .*{message}"):
        refer.read(root, "refcoco", "train")
