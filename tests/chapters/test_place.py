"""What was measured with other parameters never stands in the place of the pass's."""

from __future__ import annotations

from dataclasses import replace

import pytest
from conftest import ROOT

from rlfseg.chapters import CHAPTERS
from rlfseg.chapters.minimal import chapters_of_tables
from rlfseg.chapters.place import name_of, place_of
from rlfseg.chapters.reading import chapters_of

SMOKE = ROOT / "runs" / "smoke"


def test_a_chapters_own_parameters_are_the_pass_s() -> None:
    every = chapters_of("smoke")
    assert [name_of(here) for here in every.values()] == list(CHAPTERS)
    assert {place_of(here) for here in every.values()} == {SMOKE}


def test_on_another_machine_they_still_are() -> None:
    here = chapters_of("smoke")["05_phrasecut"]
    machine = replace(here.run.machine, processes=2)
    assert place_of(replace(here, run=replace(here.run, machine=machine))) == SMOKE


def test_others_are_kept_apart() -> None:
    here = chapters_of("smoke")["05_phrasecut"]
    fewer = replace(here, phrases=replace(here.phrases, shown=here.phrases.shown + 1))
    assert place_of(fewer) == SMOKE / "changed"
    assert place_of(replace(here, run=replace(here.run, seeds=(7,)))) == SMOKE / "changed"
    nowhere = replace(here, run=replace(here.run, profile="not-there"))
    assert place_of(nowhere).name == "changed"


def test_the_cheapest_pass_has_parameters_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    full, least = chapters_of("smoke")["03b_labels"], chapters_of_tables("smoke")["03b_labels"]
    assert place_of(least) == SMOKE / "changed"
    monkeypatch.setenv("MINIMAL", "1")
    assert place_of(least) == SMOKE / "minimal"
    assert place_of(full) == SMOKE / "minimal" / "changed"
