"""The cheapest pass: what tables need, once, and all of it a part of the full pass."""

from __future__ import annotations

import pytest
from conftest import ROOT

from rlfseg.chapters import CHAPTERS
from rlfseg.chapters.minimal import chapters_of_tables, minimal
from rlfseg.chapters.reading import chapters_of
from rlfseg.config import read_yaml
from rlfseg.stage import kept

PROFILES = ("smoke", "mini", "preflight", "a100", "rehearsal")


@pytest.mark.parametrize("profile", PROFILES)
def test_it_makes_nothing_that_a_full_pass_does_not(profile: str) -> None:
    full, least = chapters_of(profile), chapters_of_tables(profile)
    assert set(least) == {name for name in CHAPTERS if CHAPTERS[name].tables} | {"01_data"}
    for name, given in least.items():
        assert len(given.run.seeds) == 1 and given.run.seeds[0] == full[name].run.seeds[0]
        assert set(given.asks().stages()) <= set(full[name].asks().stages()), name


def test_of_the_papers_tables_nothing_is_left_out() -> None:
    """Ten runs: Table 5's two, five more of Table 6, and Table 2's three supervised ones."""
    least = chapters_of_tables("a100")
    runs = {run.train_stage.hash: run for each in least.values() for run in each.asks().trained}
    assert len(runs) == 10
    assert list(least["03b_labels"].variants) == ["original", "exact"]
    assert list(least["09_ranks"].variants) == ["16", "32", "64", "128", "256", "Full Params"]
    assert not least["09_ranks"].longer and len(least["06_refcoco"].supervised) == 3
    assert least["05_phrasecut"].baselines == chapters_of("a100")["05_phrasecut"].baselines
    shared = least["03_train"].run.train_stage.hash
    assert shared in {run.train_stage.hash for run in least["09_ranks"].asks().trained}


def test_a_chapters_own_changes_and_file_stay_as_they_are() -> None:
    given = read_yaml(ROOT / "params/mini/03b_labels.yml")
    before = repr(given)
    found = minimal("03b_labels", given)
    assert found["changes"]["train"] == given["changes"]["train"]
    assert found["changes"]["seeds"] == given["changes"]["seeds"][:1]
    assert repr(given) == before


def test_its_results_are_kept_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    for value, folder in (("", "runs/smoke"), ("0", "runs/smoke"), ("1", "runs/smoke/minimal")):
        monkeypatch.setenv("MINIMAL", value)
        assert kept("smoke") == ROOT / folder
