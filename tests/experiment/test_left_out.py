"""PhraseCut's images whose file has another size than its annotation are not packed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_run import in_chapter

from rlfseg.book.paper import cells, render
from rlfseg.config import DataConfig, TrainConfig
from rlfseg.data.check import check
from rlfseg.data.drawn.write_phrasecut import write_phrasecut
from rlfseg.evaluation.counting import count
from rlfseg.evaluation.score import Evaluation
from rlfseg.experiment import (
    Run,
    Scoring,
    left_out,
    native_masks,
    pack_report,
    packed,
    packing,
    photographs,
)
from rlfseg.stand_ins.backbone import BackboneConfig


@pytest.fixture
def turned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Run, dict[str, str]]:
    """A run on files in PhraseCut's form, in which one image a split is annotated on its side."""
    for name in ("book", "params"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "cut"
    write_phrasecut(root, seed=3, counts={"train": 4, "val": 2, "test": 3}, pixels=32, workers=1)
    path = root / "image_data_split.json"
    table, chosen = json.loads(path.read_text()), {}
    for split in ("train", "test"):
        image_id = json.loads((root / f"refer_{split}.json").read_text())[-1]["image_id"]
        chosen[split] = str(image_id)
        (entry,) = (each for each in table if each["image_id"] == image_id)
        entry["width"], entry["height"] = 40, 24
    path.write_text(json.dumps(table))
    data = DataConfig(source="cut", pixels=32)
    return Run("smoke", BackboneConfig(name="none/needed"), data, TrainConfig(steps=1)), chosen


def test_they_are_passed_over_and_counted(turned: tuple[Run, dict[str, str]]) -> None:
    run, chosen = turned
    assert len(packed(run, "train").image_ids) == 3 and len(packed(run, "test").image_ids) == 2
    assert len(packed(run, "val").image_ids) == 2
    for split, image_id in chosen.items():
        assert image_id not in packed(run, split).image_ids
    told = {split: pack_report(run, split)["passed_over"] for split in run.splits}
    assert told == {"train": [chosen["train"]], "val": [], "test": [chosen["test"]]}
    assert left_out(run, "test") == "left out: 1 image of another size than annotated"
    assert left_out(run, "val") == ""
    assert check("phrasecut", "cut").ok  # what packing takes, the check takes too


def test_what_packing_passed_over_is_not_looked_for_again(
    turned: tuple[Run, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _ = turned
    pack = packed(run, "test")
    monkeypatch.setattr(packing, "size_mismatches", lambda *_: pytest.fail("headers are read"))
    assert native_masks(run, "test")(0).shape == (32, 32)
    assert set(photographs(run, "test") or {}) == set(pack.image_ids)


def test_the_table_says_what_is_left_out_and_nothing_where_nothing_is(
    turned: tuple[Run, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _ = turned
    scores = torch.rand(4, 8, 8, generator=torch.Generator().manual_seed(0))
    counts = Evaluation(count(scores, scores > 0.4, list("abcd")), None)
    monkeypatch.setattr(cells, "scored", lambda *_: counts)
    told = {}
    for split in ("val", "test"):
        packed(run, split)
        row = cells.run_cells(run, Scoring(split), data=f"all of {split}")
        ours = {("RLFSeg(Ours)", name): row[name] for name in ("mIoU", "AP")}
        here = in_chapter("05_phrasecut", run)
        told[split] = render(here, 1, ours, caption="x", name="table-1").data
    assert "all of test; left out: 1 image of another size than annotated" in told["test"]
    assert "all of val." in told["val"] and "left out" not in told["val"]


def test_ids_may_be_named_instead(turned: tuple[Run, dict[str, str]]) -> None:
    run, chosen = turned
    ids = tuple(map(int, chosen.values()))
    named = replace(run, data=replace(run.data, leave_out=ids))
    assert named.data_stage.hash != run.data_stage.hash  # it is other data
    assert len(packed(named, "train").image_ids) == 3
    assert pack_report(named, "train")["passed_over"] == [chosen["train"]]
    assert left_out(named, "train") == "left out: 1 image that leave_out names"
    Path(f"cut/images/{chosen['test']}.jpg").unlink()  # it may not even be there
    assert pack_report(named, "test")["passed_over"] == [chosen["test"]]
    assert set(photographs(named, "test") or {}) == set(packed(named, "test").image_ids)
    none = replace(run, data=replace(run.data, leave_out=()))
    with pytest.raises(ValueError, match=chosen["train"]):
        packed(none, "train")


def test_an_image_that_is_missing_is_an_error_still(turned: tuple[Run, dict[str, str]]) -> None:
    run, chosen = turned
    Path(f"cut/images/{chosen['test']}.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=chosen["test"]):
        packed(run, "test")
