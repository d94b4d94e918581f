"""An annotation that can't be drawn is left out and counted, by packing and by the check alike."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_phrasecut import SQUARE, task
from test_refer import content, image, ref
from test_safe_pickle import python2

from rlfseg.config import DataConfig, TrainConfig
from rlfseg.data.check import Report, check
from rlfseg.data.refer import IMAGE_FOLDERS
from rlfseg.experiment import Run, left_out, pack_report, packed
from rlfseg.stand_ins.backbone import BackboneConfig

#: A COCO segmentation of an image of 20 x 12 pixels, and what is said of it.
SEGMENTATIONS: dict[str, tuple[Any, str]] = {
    "4 numbers": ([[5, 5, 15, 15]], "polygon 0 has 4 numbers"),
    "good and 4 numbers": ([[1, 1, 5, 1, 5, 6], [1, 1, 2, 2]], "polygon 1 has 4 numbers"),
    "flat": ([5, 5, 15, 5, 15, 10, 5, 10], "polygon 0 is not a list of numbers"),
    "words": ([["5", "5", "15", "5", "15", "10"]], "polygon 0 is not a list of numbers"),
    "far": ([[5, 5, 1e30, 5, 15, 10]], "a coordinate is no finite number"),
    "swapped size": ({"size": [20, 12], "counts": [100, 40, 100]}, r"size is [20, 12]"),
    "short counts": ({"size": [12, 20], "counts": [100, 40]}, "counts tells of 140 pixels"),
    "cut counts": ({"size": [12, 20], "counts": "d0T"}, "counts is cut off"),
    "nothing": (None, "is a NoneType, not a list or an RLE"),
}
POLYGONS: dict[str, tuple[Any, str]] = {
    "flat": ([SQUARE], "Polygons is not"),
    "three numbers": ([[[[1, 2, 3], [2, 3, 4]]]], "Polygons is not"),
    "no number": ([[[[1, None], [2, 2]]]], "no finite number"),
    "far": ([[[[1, 1e9], [2, 2]]]], "no finite number"),
    "a word": ("polygon", "Polygons is not"),
}


def notes(report: Report) -> str:
    every = [(line.found, *line.examples) for line in report.lines if line.level == "note"]
    return "\n".join(text for texts in every for text in texts)


def run_on(root: Path, monkeypatch: pytest.MonkeyPatch, dataset: str) -> Run:
    for name in ("book", "params"):
        (root / name).mkdir()
    monkeypatch.chdir(root)
    data = DataConfig(source="files", dataset=dataset, pixels=12)  # type: ignore[arg-type]
    return Run("smoke", BackboneConfig(name="none/needed"), data, TrainConfig(steps=1))


def refer_files(root: Path, *bad: Any) -> None:
    """Two good refs, one of them with two sentences, and a bad one of two sentences for each."""
    refs = [ref(1, 11, 100, "val", "man"), ref(2, 5, 101, "val", "woman", "lady")]
    held = content()
    for number, segmentation in enumerate(bad):
        ann_id = 200 + number
        refs.append(ref(10 + number, 11, ann_id, "val", f"thing {number}", f"it {number}"))
        entry = {"id": ann_id, "image_id": 11, "segmentation": segmentation, "category_id": 7}
        held["annotations"].append(entry)
    folder = root / "files" / IMAGE_FOLDERS[0]
    folder.mkdir(parents=True)
    (root / "files" / "refcoco").mkdir()
    (root / "files" / "refcoco" / "refs(unc).p").write_bytes(python2(refs, 2))
    (root / "files" / "refcoco" / "instances.json").write_text(json.dumps(held))
    for image_id in (5, 11):
        Image.new("RGB", (20, 12)).save(folder / image(image_id)["file_name"])


@pytest.mark.integration
@pytest.mark.parametrize("kind", SEGMENTATIONS)
def test_a_segmentation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    segmentation, said = SEGMENTATIONS[kind]
    run = run_on(tmp_path, monkeypatch, "refcoco")
    refer_files(tmp_path, segmentation)
    assert sorted(packed(run, "val").captions("11")) == ["man"] and len(packed(run, "val")) == 3
    told = pack_report(run, "val")["left_out"]
    assert [(each["ids"], each["reason"]) for each in told] == [
        (["100"], "malformed"),
        (["101"], "malformed"),
    ]
    report = check("refcoco", "files", official=False)
    assert report.ok and "2 of 5 can't be drawn" in notes(report), report.as_text()
    assert all(said in each["why"] for each in told) and said in notes(report)
    assert left_out(run, "val") == "left out: 2 phrases whose annotation can't be drawn"


@pytest.mark.parametrize("kind", POLYGONS)
def test_polygons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    polygons, said = POLYGONS[kind]
    run = run_on(tmp_path, monkeypatch, "phrasecut")
    root = tmp_path / "files"
    (root / "images").mkdir(parents=True)
    Image.new("RGB", (20, 12)).save(root / "images" / "5.jpg")
    table = [{"image_id": 5, "width": 20, "height": 12}]
    (root / "image_data_split.json").write_text(json.dumps(table))
    tasks = [task(5, phrase="dog"), task(5, 1, phrase="cat", Polygons=polygons)]
    tasks += [task(5, 2, phrase="cat"), task(5, 3, phrase="nothing", Polygons=[])]
    (root / "refer_val.json").write_text(json.dumps(tasks))
    pack = packed(run, "val")
    assert pack.captions("5") == ("dog",)  # what is known of the cat is not all of it
    ids = {each["reason"]: each["ids"] for each in pack_report(run, "val")["left_out"]}
    assert ids == {
        "malformed": [str(t["task_id"]) for t in tasks[1:3]],
        "empty": [tasks[3]["task_id"]],
    }
    report = check("phrasecut", root, official=False)
    assert report.ok and "1 of 4 can't be drawn" in notes(report), report.as_text()
    assert said in notes(report) and said in pack_report(run, "val")["left_out"][0]["why"]
    assert left_out(run, "val") == (
        "left out: 1 phrase whose annotation can't be drawn, 1 phrase without a marked pixel; "
        "1 united with another of the same caption"
    )


def test_nothing_but_bad_annotations_is_refused_by_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_on(tmp_path, monkeypatch, "refcoco")
    refer_files(tmp_path)
    held = content()
    for each in held["annotations"]:
        each["segmentation"] = [1, 2, 3]
    (tmp_path / "files" / "refcoco" / "instances.json").write_text(json.dumps(held))
    with pytest.raises(ValueError, match=r"no record to pack.*3 left out: .*not a list of numbers"):
        packed(run, "val")
    report = check("refcoco", "files", official=False)
    assert not report.ok and "3 of 3 can't be drawn" in report.as_text()


def test_data_without_a_fault_are_said_to_be_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_on(tmp_path, monkeypatch, "refcoco")
    refer_files(tmp_path)
    assert left_out(run, "val") == ""  # not packed yet
    assert np.array([packed(run, "val").masks(k)[0].any() for k in range(3)]).all()
    assert left_out(run, "val") == ""
