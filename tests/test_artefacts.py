"""A shipped artefact that no parameters ask for is noticed; a current one is not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from conftest import ROOT

from rlfseg.artefacts import main, stale, wanted


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with the real parameters and no artefacts."""
    shutil.copytree(ROOT / "params", tmp_path / "params")
    (tmp_path / "book").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ship(checkout: Path, name: str, digest: str) -> None:
    folder = checkout / "artefacts" / "mini" / name
    folder.mkdir(parents=True)
    (folder / "stage.json").write_text(json.dumps({"hash": digest}))


def test_all_chapters_of_a_profile_ask_for_the_same_artefacts(checkout: Path) -> None:
    for profile, count in (("smoke", 4), ("mini", 4), ("preflight", 2)):
        assert len(wanted(profile)) == count, profile


def test_a_current_artefact_passes(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for digest, name in wanted("mini").items():
        ship(checkout, name, digest)
    assert stale("mini") == []
    assert main(["mini"]) == 0
    assert "4 shipped artefacts" in capsys.readouterr().out


def test_a_stale_artefact_is_named(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ship(checkout, "backbone", "0" * 16)
    assert main(["mini"]) == 1
    message = capsys.readouterr().out
    current = next(digest for digest, name in wanted("mini").items() if name == "backbone")
    assert "backbone" in message and current in message


def test_changed_parameters_make_it_stale(checkout: Path) -> None:
    for digest, name in wanted("mini").items():
        ship(checkout, name, digest)
    for path in (checkout / "params" / "mini").glob("*.yml"):
        path.write_text(path.read_text().replace("rank: 64", "rank: 32"))
    (message,) = stale("mini")
    assert "lora64-attention-uniform" in message
