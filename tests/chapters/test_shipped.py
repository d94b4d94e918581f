"""A shipped artefact that no parameters ask for is noticed; a current one is not."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from zipfile import ZIP_LZMA

import numpy as np
import pytest
import torch
from conftest import ROOT
from tiny_run import TRAIN, given_run

from rlfseg.__main__ import main
from rlfseg.chapters import shipped
from rlfseg.chapters.asks import Also, Asks
from rlfseg.chapters.reading import chapters_of
from rlfseg.chapters.shipped import lacking, make_artefacts, shipped_folders, stale, wanted
from rlfseg.config import SamplerConfig
from rlfseg.experiment import Scoring
from rlfseg.stage import Stage, found, made
from rlfseg.training.steps import read_steps

SHORTER = "A1_backbone"  # asks for CLIPs and backbones that were trained for less, too


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with the real parameters and no artefacts."""
    shutil.copytree(ROOT / "params", tmp_path / "params")
    (tmp_path / "book").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ship(checkout: Path, stage: Stage) -> None:
    folder = checkout / "artefacts" / "mini" / stage.folder
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "stage.json").write_text(json.dumps({"name": stage.name, "hash": stage.hash}))


class Old(Stage):
    """A stage that was made when parameters were others."""

    hash = "0" * 16


def test_all_chapters_of_a_profile_ask_for_the_same_artefacts(checkout: Path) -> None:
    shared = ("autoencoder", "backbone", "sam", "lora64-attention-uniform-exact")
    for profile in ("smoke", "mini", "preflight"):
        chapters = chapters_of(profile)
        whole = chapters[SHORTER].run.backbone_stage
        names = [stage.name for stage in wanted(profile).values()]
        for name in ("autoencoder", "sam"):  # none of these is asked for in two ways
            assert names.count(name) <= 1, (profile, name)
        for name in set(chapters) - {SHORTER}:  # nor is the backbone
            asked = chapters[name].asks().stages().values()
            assert {s.hash for s in asked if s.name == "backbone"} <= {whole.hash}, (profile, name)
    every = {stage.name for stage in wanted("mini").values()}
    assert {"full-one-exact", *shared} <= every
    assert {f"lora4-everything-one-exact-seed{seed}" for seed in range(3)} <= every
    assert {"scores-lora256-attention-one-exact", "scores-full-one-exact"} <= every


def test_a_current_artefact_passes(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    every = wanted("mini")
    for stage in every.values():
        ship(checkout, stage)
    assert stale("mini") == [] and len(shipped_folders("mini")) == len(every)
    assert main(["artefacts"]) == 0
    assert f"{len(every)} shipped artefacts, none stale" in capsys.readouterr().out


def test_a_missing_artefact_is_named(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert lacking("mini") == []  # where nothing ships
    every = wanted("mini")
    curve = next(stage for stage in every.values() if stage.name.startswith("curve-"))
    for stage in every.values():
        if stage != curve:
            ship(checkout, stage)
    assert main(["artefacts"]) == 1
    told = capsys.readouterr().out.splitlines()
    assert len(told) == 1 and curve.folder in told[0] and "make artefacts" in told[0]
    ship(checkout, curve)
    assert lacking("mini") == [] and main(["artefacts"]) == 0


def test_a_stale_artefact_is_named(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ship(checkout, Old("backbone", 1, {}))
    assert main(["artefacts"]) == 1
    message = capsys.readouterr().out
    current = chapters_of("mini")[SHORTER].run.backbone_stage
    assert f"backbone-{'0' * 16}" in message and current.hash in message


def test_an_artefact_that_nothing_is_named_like_is_stale_too(checkout: Path) -> None:
    ship(checkout, Stage("forgotten", 1, {}))
    (message,) = stale("mini")
    assert "forgotten" in message and "no artefact of that name" in message


def test_changed_parameters_make_it_stale(checkout: Path) -> None:
    every = wanted("mini").values()
    runs = [stage for stage in every if stage.name == "lora64-attention-uniform-exact"]
    for stage in [*runs, *(stage for stage in every if stage.name == "backbone")]:
        ship(checkout, stage)
    assert stale("mini") == []
    file = checkout / "params" / "mini" / "run.yml"
    file.write_text(file.read_text().replace("rank: 64", "rank: 32"))
    messages = stale("mini")  # of every run that has the rank, and not of the backbone
    assert len(messages) == len(runs) > 0
    for stage, message in zip(sorted(runs, key=lambda stage: stage.folder), messages, strict=True):
        assert stage.folder in message


def test_what_ships_is_what_the_chapters_ask_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert stale("mini") == lacking("mini") == [] and shipped_folders("mini")


@pytest.mark.integration
def test_all_that_ships_is_made_and_what_nothing_asks_for_goes(
    repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, live = given_run(train={**TRAIN, "steps": 12}), Stage("live", 1, {})
    scored = (run, Scoring("val", sampler=SamplerConfig("one")))

    def make_live() -> Path:
        return made(live, lambda folder: None, profile="smoke")

    asks = Asks(runs=(run,), scored=(scored,), also=(Also(live, make_live, ships=False),))
    chapter = SimpleNamespace(asks=lambda: asks, run=run)
    monkeypatch.setattr(shipped, "chapters_of", lambda _: {"05_phrasecut": chapter})
    launched: list[int] = []
    monkeypatch.setattr(
        shipped,
        "make_in_processes",
        lambda one, asks: launched.append(one.machine.processes),
    )
    place = repo / "artefacts" / "smoke"
    old = place / "old-0123456789abcdef"
    old.mkdir(parents=True)
    (old / "stage.json").write_text(json.dumps({"name": "old", "hash": "0"}))
    told = list(make_artefacts("smoke"))
    assert launched == [torch.cuda.device_count() or min(2, os.cpu_count() or 1)]
    trained, scores = run.train_stage.folder, run.scores_stage(scored[1]).folder
    assert {path.name for path in place.iterdir()} == {trained, scores}
    assert any(line.startswith("old") for line in told)
    steps = [step.step for step in read_steps(place / trained / "steps.jsonl")]
    assert steps == [1, 5, 10, 12]
    stages = repo / "runs" / "smoke" / "stages"
    with (
        np.load(stages / scores / "counts.npz") as own,
        np.load(place / scores / "counts.npz") as there,
    ):
        assert own.files and {**own}.keys() == {**there}.keys()
        assert all(np.array_equal(own[name], there[name]) for name in own.files)
        assert there.zip is not None
        assert {item.compress_type for item in there.zip.infolist()} == {ZIP_LZMA}
    assert found(live, profile="smoke") is not None

    shutil.rmtree(stages)  # what ships is found, and stays as it is
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    assert not [line for line in make_artefacts("smoke") if "NOT" in line or "ships" in line]
    assert {path: path.read_bytes() for path in place.rglob("*") if path.is_file()} == before
    assert not (stages / trained).exists()


def test_the_weights_that_a_shipped_adapter_stands_on_ship_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    every = [given.asks() for given in chapters_of("mini").values()]
    stand_on = [(run.first(), asks.ships()) for asks in every for run in asks.runs]
    there = [first.train_stage.folder in ships for first, ships in stand_on if first is not None]
    assert there and all(there)


def test_what_ships_stays_small() -> None:
    sizes = [path.stat().st_size for path in (ROOT / "artefacts").rglob("*") if path.is_file()]
    assert sizes and sum(sizes) <= 60e6
