"""From runs and baselines to cells, and the file that a table's cells are kept in."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rlfseg.baselines.clipseg import ClipsegConfig
from rlfseg.baselines.ldznet import LdznetConfig
from rlfseg.baselines.unethead import UnetHeadConfig
from rlfseg.book.paper import (
    Missing,
    Result,
    UnknownCellError,
    baseline_cells,
    keep_results,
    load_results,
    semflow_cell,
)
from rlfseg.config import validated
from rlfseg.evaluation.confusion import Confusion, pooled
from rlfseg.evaluation.counting import count
from rlfseg.experiment import Run


def test_a_tables_cells_are_kept_with_what_made_them(repo: Path, run: Run) -> None:
    fixed = {"low": None, "high": None, "protocol": "a setting", "data": "none"}
    ours = {("LoRA Rank", "Value"): Result("2", **fixed, comparable="no: tiny")}
    path = keep_results(run, 8, ours)
    assert path == repo / "runs" / "smoke" / "results" / "table_8.json"
    saved = load_results(path)
    assert saved.results["LoRA Rank", "Value"] == ours["LoRA Rank", "Value"]
    assert isinstance(saved.results["Random Seed", "Value"], Missing)
    plain = json.loads(json.dumps(saved.provenance["parameters"]))
    assert validated(Run, plain, where="kept") == run
    assert saved.provenance["training"] == run.train_stage.hash
    with pytest.raises(UnknownCellError):
        keep_results(run, 8, {("LoRA Rank", "mIoU"): Missing()})


def test_a_baselines_cells_are_never_set_against_the_papers() -> None:
    scores = torch.rand(4, 8, 8, generator=torch.Generator().manual_seed(0))
    counts = count(scores, scores > 0.4, list("abcd"))
    released = ClipsegConfig(checkpoint="owner/name", pixels=352)
    for choice, word in (
        (LdznetConfig(steps=3), "ldznet"),
        (ClipsegConfig(steps=3), "clipseg"),
        (UnetHeadConfig(steps=3), "unethead"),
        (released, "owner/name"),
    ):
        cells = baseline_cells(counts, choice, data="some", profile="a100")
        assert cells["mIoU"].value == pytest.approx(100 * counts.miou().value)
        assert not any(cell.is_comparable for cell in cells.values())
        assert all(word in cell.note for cell in cells.values())
        assert "step-wise AP" in cells["AP"].note
    assert released.source != replace(released, checkpoint="", steps=3).source


def test_semflows_cell_is_pooled_and_ours() -> None:
    rng = np.random.default_rng(1)
    truth = rng.integers(3, size=(30, 6, 6))
    found = np.where(rng.random(truth.shape) < 0.7, truth, rng.integers(3, size=truth.shape))
    each = [Confusion.of(g, t, classes=3) for g, t in zip(found, truth, strict=True)]
    cell = semflow_cell(each)
    assert cell.value == pytest.approx(100 * pooled(each).miou()) and not cell.is_comparable
    assert cell.low < cell.value < cell.high
