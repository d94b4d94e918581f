"""How many pictures of other data were trained on stands beside what is called zero-shot."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from test_malformed import refer_files, run_on
from test_phrasecut import task

from rlfseg.config import DataConfig
from rlfseg.experiment import packed, shared_images

REFERRING = DataConfig(source="files", dataset="refcoco", pixels=12)


def phrasecut_files(root: Path, coco: dict[int, dict[str, Any]]) -> None:
    """Pictures 7 and 8 are trained on; 9 is of another split."""
    (root / "images").mkdir(parents=True, exist_ok=True)
    table = []
    for number, more in coco.items():
        Image.new("RGB", (20, 12)).save(root / "images" / f"{number}.jpg")
        table.append({"image_id": number, "width": 20, "height": 12, **more})
    (root / "image_data_split.json").write_text(json.dumps(table))
    (root / "refer_train.json").write_text(json.dumps([task(7), task(8, 1)]))
    (root / "refer_val.json").write_text(json.dumps([task(9)]))


def test_pictures_of_the_training_split_alone_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of RefCOCO's pictures 5 and 11 one is PhraseCut's 7, and one is its 9, of another split."""
    run = run_on(tmp_path, monkeypatch, "phrasecut")
    refer_files(tmp_path)
    coco = {7: {"coco_id": 11}, 8: {"coco_id": None}, 9: {"coco_id": 5}}
    phrasecut_files(tmp_path / "files", coco)
    assert shared_images(run, REFERRING, "val") == ""  # nothing is packed for it
    packed(run.on(REFERRING), "val")
    assert shared_images(run, REFERRING, "val") == (
        "1 of 2 pictures are in PhraseCut's training split too"
    )
    assert shared_images(run, None, "val") == ""
    assert shared_images(run, DataConfig(dataset="refcoco"), "val") == ""  # drawn
    assert shared_images(replace(run, data=REFERRING), REFERRING, "val") == ""


def test_a_table_that_does_not_tell_is_not_counted_as_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_on(tmp_path, monkeypatch, "phrasecut")
    refer_files(tmp_path)
    packed(run.on(REFERRING), "val")
    told = shared_images(run, REFERRING, "val")
    assert "not counted" in told and "refer_train.json is not there" in told
    phrasecut_files(tmp_path / "files", {7: {}, 8: {}})
    assert "not counted" in shared_images(run, REFERRING, "val")
