"""A chapter of several processes starts them once, for all that is missing, baselines too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_run import given_run

from rlfseg.baselines.clipseg import ClipsegConfig
from rlfseg.baselines.ldznet import LdznetConfig
from rlfseg.baselines.phrases import PhraseSet
from rlfseg.baselines.semflow import SemflowConfig
from rlfseg.chapters import making
from rlfseg.chapters.asks import Asks, phrase_rivals, semflow_rival
from rlfseg.config import SamplerConfig
from rlfseg.experiment import Scoring, is_trained
from rlfseg.stage import found

WAYS = [Scoring("val", sampler=SamplerConfig(name)) for name in ("one", "aos")]


@pytest.mark.integration
def test_one_launch_makes_what_is_missing_and_none_what_is_there(
    repo: object, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    started: list[tuple[str, int]] = []

    def launch(verb: Callable[..., None], *given: object, processes: int, logs: Path) -> None:
        assert logs.name == run.train_stage.folder
        started.append((verb.__name__, processes))
        verb(*given)

    monkeypatch.setattr(making, "launch", launch)
    relabelled: list[str] = []  # but not by SAM, which would be trained first
    monkeypatch.setattr(making, "refined", lambda _, split: relabelled.append(split))
    monkeypatch.setattr(making, "ready", lambda _: None)
    run = given_run()
    ldznet = {"LD-ZNet": LdznetConfig(steps=1, batch=2, width=8)}
    (rival,) = phrase_rivals(run, ldznet, PhraseSet("val", 2))
    scored = tuple((run, way) for way in WAYS)
    asks = Asks(runs=(run,), scored=scored, refined=((run, "val"),), rivals=(rival,))
    several = given_run(machine={"processes": 2})
    making.make_in_processes(several, asks)
    assert is_trained(run)
    stages = [rival.scores, *(run.scores_stage(way) for way in WAYS)]
    assert all(found(stage, profile=run.profile) for stage in stages)
    assert relabelled == ["val"]
    asks = replace(asks, refined=())
    making.make_in_processes(several, asks)
    assert started == [("make", 2)]
    assert capfd.readouterr().out.count("best mIoU") == len(WAYS)


def test_only_what_something_missing_starts_from_is_made_ready(
    monkeypatch: pytest.MonkeyPatch, repo: object
) -> None:
    """A backbone of which all figures are there takes hours, and nothing would read it."""
    run = given_run(machine={"processes": 2})
    other = replace(run, backbone=replace(run.backbone, name="./another"))
    there = other.scores_stage(WAYS[0]).folder
    monkeypatch.setattr(making, "found", lambda stage, **_: stage.folder == there or None)
    made: list[str] = []
    monkeypatch.setattr(making, "ready", lambda each: made.append(each.backbone.name))
    monkeypatch.setattr(making, "launch", lambda *_, **__: None)
    making.make_in_processes(run, Asks(scored=((run, WAYS[0]), (other, WAYS[0]))))
    assert made == ["./tiny"]


def test_one_process_starts_none(monkeypatch: pytest.MonkeyPatch, repo: object) -> None:
    monkeypatch.setattr(making, "launch", lambda *_, **__: pytest.fail("launched"))
    run = given_run()
    making.make_in_processes(run, Asks(scored=((run, WAYS[0]),)))


@pytest.mark.parametrize(
    ("there", "changes", "refused"),
    [
        (0, {}, True),  # a driver that is too old, for one
        (1, {"machine": {"processes": 2}}, True),
        (2, {"machine": {"processes": 2}}, False),
        (0, {"data": {"source": "photographs", "pixels": 64}}, False),
        (0, {"data": {"source": "mini", "pixels": 512}}, False),
    ],
)
def test_what_is_meant_for_gpus_is_not_begun_without(
    monkeypatch: pytest.MonkeyPatch, there: int, changes: dict[str, object], refused: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: there)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there > 0)
    monkeypatch.setattr(making, "launch", lambda *_, **__: None)
    monkeypatch.setattr(making, "ready", lambda _: None)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    run = given_run(**{"data": {"source": "photographs", "pixels": 512}, **changes})
    asks = Asks(scored=((run, WAYS[0]),))
    if refused:
        with pytest.raises(ValueError, match=rf"want a GPU each, and torch .* can use {there}"):
            making.make_in_processes(run, asks)
    else:
        making.make_in_processes(run, asks)


def test_gpus_of_a_driver_that_is_too_old_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)  # by the driver's own library
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    run = given_run(data={"source": "photographs", "pixels": 512}, machine={"processes": 4})
    with pytest.raises(ValueError, match=r"can use 0 here: .*LOCK=requirements-paper\.lock"):
        making.make_in_processes(run, Asks(scored=((run, WAYS[0]),)))


def test_a_baseline_that_cannot_be_made_here_starts_no_processes(
    repo: object, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Else each drawing of a finished chapter would want its GPUs."""
    launched: list[int] = []
    monkeypatch.setattr(making, "launch", lambda *_, processes, **__: launched.append(processes))
    monkeypatch.setattr(making, "ready", lambda _: None)
    several = given_run(machine={"processes": 2})
    released = {"CLIPSeg": ClipsegConfig(checkpoint="no/where")}
    phrases = phrase_rivals(several, released, PhraseSet("val", 2))
    elsewhere = several.on(replace(several.data, source=str(tmp_path), dataset="cocostuff"))
    semflow = semflow_rival(elsewhere, SemflowConfig(steps=1, batch=2, euler=1, scenes=2), images=2)
    making.make_in_processes(several, Asks(rivals=(*phrases, semflow)))
    assert not launched
    there = replace(phrases[0], there=lambda: True)
    making.make_in_processes(several, Asks(rivals=(there,)))
    assert launched == [2]
