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
    folder = checkout / "artefacts" / "mini" / f"{name}-{digest}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "stage.json").write_text(json.dumps({"name": name, "hash": digest}))


def test_all_chapters_of_a_profile_ask_for_the_same_artefacts(checkout: Path) -> None:
    shared = ("autoencoder", "backbone", "sam", "lora64-attention-uniform")
    for profile in ("smoke", "mini", "preflight"):
        names = list(wanted(profile).values())
        for name in shared[:3]:  # none of these is asked for in two ways
            assert names.count(name) <= 1, (profile, name)
    every = set(wanted("mini").values())
    assert {"full-one", *shared} <= every
    assert {f"lora4-everything-one-exact-seed{seed}" for seed in range(3)} <= every
    assert {"scores-lora256-attention-one", "scores-full-one"} <= every


def test_a_current_artefact_passes(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for digest, name in wanted("mini").items():
        ship(checkout, name, digest)
    assert stale("mini") == []
    assert main(["mini"]) == 0
    assert "shipped artefacts, none stale" in capsys.readouterr().out


def test_a_stale_artefact_is_named(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ship(checkout, "backbone", "0" * 16)
    assert main(["mini"]) == 1
    message = capsys.readouterr().out
    current = next(digest for digest, name in wanted("mini").items() if name == "backbone")
    assert "backbone" in message and current in message


def test_changed_parameters_make_it_stale(checkout: Path) -> None:
    names = ("backbone", "lora64-attention-uniform")
    for digest in [d for d, name in wanted("mini").items() if name in names]:
        ship(checkout, wanted("mini")[digest], digest)
    for path in (checkout / "params" / "mini").glob("*.yml"):
        path.write_text(path.read_text().replace("rank: 64", "rank: 32"))
    (message,) = stale("mini")
    assert "lora64-attention-uniform" in message
