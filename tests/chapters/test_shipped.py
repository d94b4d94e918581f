"""A shipped artefact that no parameters ask for is noticed; a current one is not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from conftest import ROOT

from rlfseg.__main__ import main
from rlfseg.chapters.shipped import shipped_folders, stale, wanted
from rlfseg.stage import Stage


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
    shared = ("autoencoder", "backbone", "sam", "lora64-attention-uniform")
    for profile in ("smoke", "mini", "preflight"):
        names = [stage.name for stage in wanted(profile).values()]
        for name in shared[:3]:  # none of these is asked for in two ways
            assert names.count(name) <= 1, (profile, name)
    every = {stage.name for stage in wanted("mini").values()}
    assert {"full-one", *shared} <= every
    assert {f"lora4-everything-one-exact-seed{seed}" for seed in range(3)} <= every
    assert {"scores-lora256-attention-one", "scores-full-one"} <= every


def test_a_current_artefact_passes(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    every = wanted("mini")
    for stage in every.values():
        ship(checkout, stage)
    assert stale("mini") == [] and len(shipped_folders("mini")) == len(every)
    assert main(["artefacts"]) == 0
    assert f"{len(every)} shipped artefacts, none stale" in capsys.readouterr().out


def test_a_stale_artefact_is_named(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ship(checkout, Old("backbone", 1, {}))
    assert main(["artefacts"]) == 1
    message = capsys.readouterr().out
    (current,) = [stage for stage in wanted("mini").values() if stage.name == "backbone"]
    assert f"backbone-{'0' * 16}" in message and current.hash in message


def test_an_artefact_that_nothing_is_named_like_is_stale_too(checkout: Path) -> None:
    ship(checkout, Stage("forgotten", 1, {}))
    (message,) = stale("mini")
    assert "forgotten" in message and "no artefact of that name" in message


def test_changed_parameters_make_it_stale(checkout: Path) -> None:
    every = wanted("mini").values()
    runs = [stage for stage in every if stage.name == "lora64-attention-uniform"]
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
    assert stale("mini") == [] and shipped_folders("mini")
