"""What the registry gives the notebooks: checked parameters, expectations, and what was asked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from conftest import ROOT
from tiny_run import given_run

from rlfseg.__main__ import main
from rlfseg.chapters import chapter, expect, reading, unasked
from rlfseg.chapters.asks import as_rows
from rlfseg.chapters.reading import chapters_of, run_file, run_on
from rlfseg.config import DataConfig, SamplerConfig
from rlfseg.experiment import Scoring
from rlfseg.processes import StoppedError
from rlfseg.stage import Stage, found


@pytest.fixture
def repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "book").mkdir()
    (tmp_path / "params").symlink_to(ROOT / "params")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_notebooks_variables_become_checked_parameters(repo: Path) -> None:
    profile, shown, other = "mini", 3, object()  # what else a notebook holds is passed over
    here = chapter("01_data", vars())
    assert here.shown == 3 and here.run.profile == "mini"
    assert here.run.train.steps == 4000  # of params/mini/run.yml
    changes = {"train": {"steps": 7}}
    here = chapter("01_data", {"profile": "mini", "changes": changes, "shown": 1})
    assert here.run.train.steps == 7 and here.run.train.batch == 64
    with pytest.raises(ValueError, match=r"^chapter 01_data: shown is 0: .*greater than 0$"):
        chapter("01_data", {"profile": "mini", "shown": 0})
    assert profile and shown and other


def test_a_name_that_papermill_only_warns_of_is_refused(repo: Path) -> None:
    given = {"profile": "mini", "shown": 1, "In": ["", "shown = 9", "# Parameters\nshown = 1\n"]}
    assert chapter("01_data", given).shown == 1
    given["In"] = [*given["In"], "# Parameters\nshown = 1\nshow = 2\n"]
    said = r"^chapter 01_data: show is no parameter of it; they are profile, changes, shown$"
    with pytest.raises(ValueError, match=said):
        chapter("01_data", given)


def test_a_shortfall_is_an_error_on_drawn_scenes_and_a_finding_on_real_data(
    repo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here = chapters_of("mini")["05_phrasecut"]
    expect(here, {"mIoU": (0.5, 0.5)})
    with pytest.raises(AssertionError, match=r"\(at_least\): mIoU: 0\.4 < 0\.5"):
        expect(here, {"mIoU": (0.4, 0.5), "best": (0.9, 0.5)})
    with pytest.raises(AssertionError, match="nan"):
        expect(here, {"mIoU": (float("nan"), 0.5)})
    real = replace(here, run=replace(here.run, data=DataConfig(source="data/cut")))
    kept = repo / "runs" / "mini" / "changed" / "findings" / "05_phrasecut.txt"
    expect(real, {"mIoU": (0.4, 0.5), "best": (0.9, 0.5)})
    assert "FINDING" in capsys.readouterr().out
    assert kept.read_text() == "05_phrasecut: mIoU: 0.4 < 0.5\n"
    expect(real, {"mIoU": (0.6, 0.5)})
    assert not kept.exists()  # it is met now


def test_what_is_looked_for_beyond_the_entry_is_named(repo: Path) -> None:
    here = chapters_of("mini")["01_data"]
    for stage in here.asks().stages().values():
        found(stage, profile="mini")
    before = set(unasked(here))
    found(Stage("not-in-any-entry", 1, {}), profile="mini")
    (new,) = set(unasked(here)) - before
    assert new.startswith("not-in-any-entry-")
    again = chapter("01_data", {"profile": "mini", "shown": 1})  # as when its cells are run again
    assert not unasked(again)


def test_a_file_of_profile_and_changes_is_a_run(repo: Path) -> None:
    (repo / "mine.yml").write_text("profile: smoke\nchanges: {data: {train: 9}}\n")
    assert run_file(repo / "mine.yml").data.train == 9
    (repo / "mine.yml").write_text("profile: smoke\nchanged: {}\n")
    with pytest.raises(ValueError, match=r"mine\.yml: changed is unknown"):
        run_file(repo / "mine.yml")


@pytest.mark.parametrize("profile", ["smoke", "preflight", "a100"])
def test_the_papers_method_is_the_headline(profile: str) -> None:
    """Tables 1-3, 6, 7 and 9 are of dynamic selection, all but 9 with AOS; 5 has all four."""
    every = chapters_of(profile)
    for name in ("05_phrasecut", "06_refcoco", "07_cocostuff", "09_ranks", "04_sampling"):
        asks = every[name].asks()
        own = [run for run, _ in asks.scored]
        assert {run.train.selection for run in own} == {"exact"}, name
    assert every["05_phrasecut"].run.method(every["05_phrasecut"].scoring.sampler) == "RDS, AOS"
    labels = every["03b_labels"]
    runs = labels.run.seeded(labels.variants).values()
    said = {run.method(way) for run in runs for way in labels.samplers.values()}
    where = ", trained at t = 1" * (labels.run.train.time == "one")
    parts = ("RDS, AOS", "RDS, no AOS", "no RDS, AOS", "no RDS, no AOS")
    assert {part + where for part in parts} <= said
    steps = every["04_sampling"]
    assert {steps.run.method(steps.samplers[name]) for name in steps.stepped} == {"RDS, no AOS"}


def test_the_released_clipseg_is_asked_for_on_every_set_that_our_row_is(repo: Path) -> None:
    here = chapters_of("a100")["06_refcoco"]
    rivals = here.asks().rivals
    assert [rival.data[0].data for rival in rivals] == list(here.others.values())
    assert {rival.outside for rival in rivals} == {"CIDAS/clipseg-rd64-refined"}
    assert {rival.training.name for rival in rivals} == {"outside-clipseg"}  # nothing is trained
    ours = [scoring.on for _, scoring in here.asks().scored if scoring.split == "val"]
    assert [rival.data[0].data for rival in rivals] == [on for on in ours if on is not None]
    for profile in ("smoke", "mini", "preflight"):
        assert not chapters_of(profile)["06_refcoco"].asks().rivals


def test_a_rows_threshold_is_chosen_by_its_own_sampler_and_asked_for_once() -> None:
    run = given_run(choose=5)
    one, two = (SamplerConfig(name) for name in ("one", "hss"))
    rows = [(run, Scoring("test", sampler=way)) for way in (one, two)]
    rows += [(run, Scoring("val", on=DataConfig(dataset="refcoco"), sampler=one))]
    rows += [(run, Scoring("val", sampler=one))]  # itself the validation split
    chosen = as_rows(rows)[len(rows) :]
    assert chosen == tuple((run, Scoring("val", 5, sampler=way)) for way in (one, two))
    assert as_rows([(given_run(), way) for _, way in rows])[len(rows) :] == ()


def test_predictions_are_scored_on_the_data_that_a_profiles_chapters_have(
    repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = chapters_of("smoke")
    assert run_on("smoke", "phrasecut", changes={}).data == every["05_phrasecut"].run.data
    assert run_on("smoke", "refcoco", changes={}).data == every["06_refcoco"].others["refcoco"]
    assert run_on("smoke", "cocostuff", changes={}).data == every["07_cocostuff"].other
    other = run_on("a100", "refcoco+", changes={"source": "elsewhere", "pixels": 384}).data
    usual = chapters_of("a100")["06_refcoco"].others["refcoco+"]
    assert other == replace(usual, source="elsewhere", pixels=384)
    with pytest.raises(ValueError, match=r"pixels is 0: .*greater than 0"):
        run_on("smoke", "refcoco", changes={"pixels": 0})
    others = {"refcoco": every["06_refcoco"].others["refcoco"]}
    fewer = every | {"06_refcoco": replace(every["06_refcoco"], others=others)}
    monkeypatch.setattr(reading, "chapters_of", lambda _: fewer)
    with pytest.raises(ValueError, match=r"smoke: no chapter has refcoco\+; .*--source FOLDER"):
        run_on("smoke", "refcoco+", changes={})
    assert run_on("smoke", "refcoco+", changes={"source": "there"}).data.source == "there"


def test_the_command_to_score_says_what_is_wrong(
    repo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, message in (
        (["val"], "give the folder of predictions, or --list FILE"),
        (["val", "out", "--row", "SemFlow"], "Table 2 has no row 'SemFlow'"),
        (["val", "out", "--profile", "none"], "there is no profile 'none'"),
    ):
        with pytest.raises(SystemExit):
            main(["score", "refcoco", *arguments])
        assert message in capsys.readouterr().err


def test_a_command_that_a_signal_ended_says_so_in_a_line(
    repo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = "stopped by SIGTERM after step 3 of 9; run the same again to go on"

    def ended(_: Path) -> None:
        raise StoppedError(said)

    monkeypatch.setattr("rlfseg.chapters.reading.run_file", ended)
    with pytest.raises(SystemExit) as left:
        main(["train", "mine.yml"])
    assert left.value.code == 75  # a temporary failure
    assert capsys.readouterr().err == f"{said}\n"
