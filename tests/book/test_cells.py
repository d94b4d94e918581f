"""From runs and baselines to cells, and the file that a table's cells are kept in."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_run import in_chapter

from rlfseg.baselines.clipseg import ClipsegConfig
from rlfseg.baselines.ldznet import LdznetConfig
from rlfseg.baselines.unethead import UnetHeadConfig
from rlfseg.book.paper import (
    Missing,
    Result,
    baseline_cells,
    keep_results,
    load_results,
    run_cells,
    semflow_cell,
)
from rlfseg.chapters.tables import UnknownCellError
from rlfseg.config import SamplerConfig, validated
from rlfseg.evaluation.confusion import Confusion, pooled
from rlfseg.evaluation.counting import count
from rlfseg.evaluation.score import Evaluation
from rlfseg.experiment import Run, Scoring, scored
from rlfseg.stand_ins.backbone import BackboneConfig


def test_a_tables_cells_are_kept_with_what_made_them(repo: Path, run: Run) -> None:
    fixed = {"low": None, "high": None, "protocol": "a setting", "data": "none"}
    ours = {("LoRA Rank", "Value"): Result("2", **fixed, comparable="no: tiny")}
    here = in_chapter("03_train", run)
    path = keep_results(here, 8, ours)
    assert path == repo / "runs" / "smoke" / "changed" / "results" / "table_8.json"
    saved = load_results(path)
    assert saved.results["LoRA Rank", "Value"] == ours["LoRA Rank", "Value"]
    assert isinstance(saved.results["Random Seed", "Value"], Missing)
    plain = json.loads(json.dumps(saved.provenance["parameters"]))
    assert validated(Run, plain, where="kept") == run
    assert saved.provenance["training"] == run.train_stage.hash
    with pytest.raises(UnknownCellError):
        keep_results(here, 8, {("LoRA Rank", "mIoU"): Missing()})


def test_a_baselines_cells_are_never_set_against_the_papers(run: Run) -> None:
    scores = torch.rand(4, 8, 8, generator=torch.Generator().manual_seed(0))
    counts = count(scores, scores > 0.4, list("abcd"))
    released = ClipsegConfig(checkpoint="owner/name", pixels=352)
    for choice, word in (
        (LdznetConfig(steps=3), "ldznet"),
        (ClipsegConfig(steps=3), "clipseg"),
        (UnetHeadConfig(steps=3), "unethead"),
        (released, "owner/name"),
    ):
        cells = baseline_cells(run, counts, choice, data="some")
        assert cells["mIoU"].value == pytest.approx(100 * counts.miou().value)
        assert not any(cell.is_comparable for cell in cells.values())
        assert all(word in cell.note for cell in cells.values())
        assert "step-wise AP" in cells["AP"].protocol and "CLIPSeg" not in cells["AP"].protocol
        assert "CLIPSeg" in cells["mIoU"].protocol
    assert released.source != replace(released, checkpoint="", steps=3).source


def test_semflows_cell_is_pooled_and_ours() -> None:
    rng = np.random.default_rng(1)
    truth = rng.integers(3, size=(30, 6, 6))
    found = np.where(rng.random(truth.shape) < 0.7, truth, rng.integers(3, size=truth.shape))
    each = [Confusion.of(g, t, classes=3) for g, t in zip(found, truth, strict=True)]
    cell = semflow_cell(each)
    assert cell.value == pytest.approx(100 * pooled(each).miou()) and not cell.is_comparable
    assert cell.low < cell.value < cell.high


@pytest.mark.integration
def test_a_runs_cells_are_read_at_the_threshold_that_is_best_on_its_own_val(run: Run) -> None:
    chosen = replace(run, choose=4)
    way = Scoring("test", sampler=SamplerConfig("one"))
    cells = run_cells(chosen, way, data="all")
    counts = scored(run, way).annotation
    best = scored(run, Scoring("val", 4, sampler=way.sampler)).annotation.miou().threshold
    said = {each.name: each for each in cells["mIoU"].readings}
    assert said["mIoU, threshold chosen on validation"].threshold == best
    assert said["mIoU, threshold chosen on validation"].value == pytest.approx(
        100 * counts.miou_at(best)
    )
    here, native = (said[f"LAVT's evaluator{where}: oIoU"] for where in ("", ", native size"))
    assert here.value == native.value == pytest.approx(100 * counts.oiou(best))  # drawn at its size
    assert cells["AP"].readings == cells["mIoU"].readings
    assert not cells["mIoU"].is_comparable  # drawn scenes
    unknown = {
        run: "`choose` in the run",
        replace(run, choose=4): "validation split itself is scored",
    }
    for each, reason in unknown.items():
        own = run_cells(each, replace(way, split="val"), data="val")["mIoU"]
        named = {reading.name: reading for reading in own.readings}
        assert reason in named["mIoU, threshold chosen on validation"].reason
    elsewhere = Scoring("val", on=run.data, sampler=way.sampler)
    assert chosen.choosing(elsewhere) == Scoring("val", 4, sampler=way.sampler)


def test_a_runs_cells_have_the_values_of_its_other_seeds(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = torch.rand(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    counts = {seed: count(scores[seed], scores[0] > 0.4, list("abcd")) for seed in range(3)}
    monkeypatch.setattr(
        "rlfseg.book.paper.cells.scored", lambda run, scoring: Evaluation(counts[run.train.seed])
    )
    first, *again = [run.variant({"seed": seed}) for seed in counts]
    cells = run_cells(first, Scoring("test"), data="some", again=again)
    values = [100 * each.miou().value for each in counts.values()]
    assert cells["mIoU"].seeds == pytest.approx(values) and len(set(values)) == 3


def test_only_the_whole_split_of_the_papers_data_may_be_compared(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = torch.rand(4, 8, 8, generator=torch.Generator().manual_seed(0))
    kept = Evaluation(count(scores, scores > 0.4, list("abcd")))
    monkeypatch.setattr("rlfseg.book.paper.cells.scored", lambda run, scoring: kept)
    for what in ("left_out", "shared_images"):  # of packed files, which there are none of
        monkeypatch.setattr(f"rlfseg.book.paper.cells.{what}", lambda *_: "")
    drawn = replace(run, profile="a100")
    papers = replace(drawn, data=replace(run.data, source="data/VGPhraseCut_v0"))
    refined = replace(run.train, selection="refined")
    for each, phrases, word in (
        (papers, None, "yes: but for the scoring size"),
        (papers, 5, "yes: but for the scoring size"),
        (papers, 4, "no: 4 phrases of the split"),
        (run, None, "no: another world"),
        (drawn, None, "no: drawn scenes"),
        (replace(papers, backbone=BackboneConfig()), None, "no: another backbone (mini)"),
        (replace(papers, train=refined), None, "no: another SAM refined"),
    ):
        cells = run_cells(each, Scoring("test", phrases), data="some")
        assert all(cell.comparable.startswith(word) for cell in cells.values())
