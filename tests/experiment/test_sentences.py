"""REFER's items are its sentences: equal ones of an image stay apart, each with its own mask."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco
from test_refer import ref
from test_safe_pickle import python2

from rlfseg.config import DataConfig, TrainConfig
from rlfseg.data.packed.read import Pack
from rlfseg.data.packed.refined import add_refined
from rlfseg.data.refer import IMAGE_FOLDERS
from rlfseg.evaluation.predict import other_captions
from rlfseg.experiment import Run, pack_report, packed
from rlfseg.stand_ins.backbone import BackboneConfig

SIDE = 24
#: Image, annotation, split and sentences of each ref.
REFS = (
    (11, 100, "val", ("man", "left man")),
    (11, 101, "val", ("man", "man", "the one behind")),
    (11, 102, "val", ("man",)),
    (12, 103, "val", ("man", "dog")),
    (12, 104, "train", ("cat",)),
)


def box(ann_id: int) -> list[float]:
    x = 2.0 * (ann_id - 99)
    return [x, 3.0, x + 2, 3.0, x + 2, 12.0, x, 12.0]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """RefCOCO's files, in which three refs of an image have the sentence "man"."""
    root = tmp_path_factory.mktemp("repository")
    for name in ("book", "params", "refer/refcoco", f"refer/{IMAGE_FOLDERS[0]}"):
        (root / name).mkdir(parents=True)
    refs = [ref(k, i, a, split, *said) for k, (i, a, split, said) in enumerate(REFS)]
    (root / "refer/refcoco/refs(unc).p").write_bytes(python2(refs, 2))
    images = [
        {"id": k, "file_name": f"{k}.jpg", "width": SIDE, "height": SIDE}
        for k in sorted({i for i, *_ in REFS})
    ]
    for image in images:
        Image.new("RGB", (SIDE, SIDE)).save(root / "refer" / IMAGE_FOLDERS[0] / image["file_name"])
    annotations = [{"id": a, "image_id": i, "segmentation": [box(a)]} for i, a, *_ in REFS]
    content = {"images": images, "annotations": annotations, "categories": []}
    (root / "refer/refcoco/instances.json").write_text(json.dumps(content))
    return root


@pytest.fixture
def run(root: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(root)
    data = DataConfig(source="refer", dataset="refcoco", pixels=SIDE)
    return Run("smoke", BackboneConfig(name="none/needed"), data, TrainConfig(steps=1))


def mask(ann_id: int) -> np.ndarray:
    return coco.decode(coco.frPyObjects([box(ann_id)], SIDE, SIDE))[..., 0] > 0


def test_each_sentence_of_a_ref_is_an_item_with_its_own_mask(run: Run) -> None:
    pack = packed(run, "val")
    pack.validate()
    expected = [
        (str(image), sentence, str(10 * number + place), ann_id)
        for number, (image, ann_id, split, said) in enumerate(REFS)
        for place, sentence in enumerate(said)
        if split == "val"
    ]
    assert len(pack) == len(expected) == 8
    for item, (image_id, sentence, sent_id, ann_id) in enumerate(expected):
        found = pack[item]
        assert (found.image_id, found.caption, pack.ids(item)) == (image_id, sentence, (sent_id,))
        assert np.array_equal(found.mask, mask(ann_id))
    assert pack_report(run, "val")["merged"] == 0
    assert pack.find("11", "man") == 0  # the first of them


def test_plain_h5py_sees_them_beside_each_other(run: Run) -> None:
    with h5py.File(packed(run, "val").path) as file:
        masks = file["11/mask"]
        assert {"man", "man#2", "man#3", "man#4"} < set(masks)
        said = Counter(each.attrs["caption"].decode() for each in masks.values())
        assert said == {"man": 4, "left man": 1, "the one behind": 1}


def test_refined_masks_go_to_their_own_item(run: Run, tmp_path: Path) -> None:
    pack = packed(run, "val")
    target = tmp_path / "val.h5"
    for each in pack.path.parent.glob("val.h5.index.npz"):
        (tmp_path / each.name).write_bytes(each.read_bytes())
    refined = [np.roll(pack.masks(item)[0], 1, 0) for item in range(len(pack))]
    add_refined(pack, refined, made_of="rolled", target=target)
    both = Pack(target)
    both.validate()
    for item, rolled in enumerate(refined):
        assert np.array_equal(both.masks(item)[0], pack.masks(item)[0])
        assert np.array_equal(both.masks(item)[2], rolled)


def test_another_phrase_is_never_the_same_sentence(run: Run) -> None:
    class Cache:
        pack = packed(run, "val")

    kept, said = other_captions(Cache(), range(len(Cache.pack)))  # type: ignore[arg-type]
    assert [Cache.pack.caption(item) for item in kept] == [
        *("man", "left man", "man", "man", "the one behind", "man")
    ]
    assert said == ["the one behind", "man", "left man", "left man", "man", "left man"]


def test_what_was_made_of_united_masks_is_not_found(run: Run) -> None:
    """On REFER's own files; drawn ones, and other data sets, are what they were."""
    drawn = replace(run, data=replace(run.data, source="mini"))
    others = replace(run, data=DataConfig(source="refer", pixels=SIDE))
    assert run.source_stage.version == 4 != drawn.source_stage.version
    assert drawn.source_stage.version == others.source_stage.version == 3
