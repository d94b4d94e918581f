"""Runs on another backbone stand beside the same runs on the own one."""

from __future__ import annotations

from dataclasses import replace

import pytest
from conftest import ROOT

from rlfseg.chapters import stand_ins as appendix
from rlfseg.chapters.reading import chapter_file
from rlfseg.chapters.stand_ins import Backbone
from rlfseg.chapters.starts import OTHER, OWN, Other
from rlfseg.experiment import curve_stage
from rlfseg.stand_ins.backbone import autoencoder_stage
from rlfseg.stand_ins.mini_clip import clip_stage
from rlfseg.stand_ins.recognition import DRAWN, recognition_stage


@pytest.fixture
def here() -> Backbone:
    found = chapter_file(ROOT / "params" / "mini" / "A1_backbone.yml")
    assert isinstance(found, Backbone)
    return found


def test_only_the_unets_recipe_is_another(here: Backbone) -> None:
    assert here.recipe is not None
    own, there = here.run, here.recipe.on(here.run)
    assert there.backbone_stage.hash != own.backbone_stage.hash
    assert autoencoder_stage(there.backbone).hash == autoencoder_stage(own.backbone).hash
    assert clip_stage(there.backbone.clip).hash == clip_stage(own.backbone.clip).hash
    for split in ("train", "val"):  # so no picture is encoded twice
        assert there.latents_stage(split).hash == own.latents_stage(split).hash
        assert there.refined_stage(split).hash == own.refined_stage(split).hash


def test_runs_differ_in_what_they_start_from_alone(here: Backbone) -> None:
    assert here.recipe is not None
    own, there = here.recipe.runs(here.run), here.recipe.runs(here.recipe.on(here.run))
    assert list(own) == list(there) == list(here.recipe.variants)
    for way in own:
        assert [run.train.seed for run in own[way]] == list(here.run.seeds)
        for one, two in zip(own[way], there[way], strict=True):
            assert replace(two, backbone=one.backbone) == one
            assert one.train.steps == here.recipe.train["steps"]


def test_its_numbers_ship_and_its_weights_do_not(here: Backbone) -> None:
    assert here.recipe is not None
    asks, there = here.asks(), here.recipe.on(here.run)
    ships, known = asks.ships(), asks.stages()
    assert here.run.backbone_stage.folder in ships
    assert there.backbone_stage.folder in set(known) - set(ships)
    asked = replace(here.recognise, kept=here.recipe.shown)
    assert recognition_stage(asked, there.backbone).folder in ships
    for run in (here.run, there):
        for each in here.recipe.runs(run).values():
            assert {curve_stage(one.train_stage).folder for one in each} <= set(ships)
            assert not {one.train_stage.folder for one in each} & set(ships)


def test_it_is_trained_only_if_it_was_not_asked_yet(
    here: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert here.recipe is not None
    told, trained = object(), []
    monkeypatch.setattr(appendix, "recognition", lambda *_, **__: {DRAWN: told})
    monkeypatch.setattr(appendix, "kept_pictures", lambda *_, **__: ["a picture"])
    monkeypatch.setattr(appendix, "backbone_folder", trained.append)
    monkeypatch.setattr(appendix, "found", lambda stage, profile: ROOT)
    assert here.of_another() == (told, ["a picture"]) and not trained
    monkeypatch.setattr(appendix, "found", lambda stage, profile: None)
    here.of_another()
    assert trained == [here.recipe.on(here.run)]


def test_curves_stand_side_by_side(here: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    assert here.recipe is not None
    monkeypatch.setattr(appendix, "learned", lambda run: (run.backbone_stage.hash, run.train))
    theirs = here.recipe.on(here.run).backbone_stage.hash
    for way, both in here.on_both().items():
        assert list(both) == [OWN, OTHER] and way in here.recipe.variants
        assert {backbone for backbone, _ in both[OWN]} == {here.run.backbone_stage.hash}
        assert {backbone for backbone, _ in both[OTHER]} == {theirs}
        assert [train for _, train in both[OWN]] == [train for _, train in both[OTHER]]


def test_without_another_nothing_is_asked(here: Backbone) -> None:
    alone = replace(here, recipe=None)
    assert alone.of_another() is None and alone.on_both() == {}
    assert len(alone.asks().also) == len(here.asks().also) - 1


def test_a_wrong_change_of_the_recipe_is_named(here: Backbone) -> None:
    wrong = Other(changes={"filed": 3}, shown=1, train={}, variants={"a": {}})
    with pytest.raises(ValueError, match=r"recipe\.changes.*filed"):
        wrong.on(here.run)
