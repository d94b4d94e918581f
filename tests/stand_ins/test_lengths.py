"""The recipes of CLIP and backbone in a part of their steps."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import ROOT

from rlfseg.chapters import stand_ins as appendix
from rlfseg.chapters.reading import chapter_file
from rlfseg.chapters.stand_ins import Backbone
from rlfseg.stand_ins import lengths
from rlfseg.stand_ins.backbone import BackboneConfig, autoencoder_stage, backbone_stage
from rlfseg.stand_ins.clip_scores import Right, clip_scores, draw_quiz
from rlfseg.stand_ins.lengths import (
    QuizConfig,
    part_of_backbone,
    part_of_clip,
    right_among,
    right_stage,
)
from rlfseg.stand_ins.mini_clip import ClipConfig, clip_stage, load_clip, mini_clip
from rlfseg.stand_ins.recognition import DRAWN, Recognised, recognition_stage
from rlfseg.stand_ins.text_to_image import save_tokenizer, small_tokenizer

CLIP = ClipConfig(steps=800, alone=140, pixels=64)


def test_a_part_has_its_share_of_both_kinds_of_steps() -> None:
    half = part_of_clip(CLIP, 0.5)
    assert (half.steps, half.alone) == (400, 70)
    assert part_of_clip(CLIP, 1.0) == CLIP and part_of_clip(CLIP, 1e-9).steps == 1


def test_a_shorter_backbone_has_the_same_autoencoder_and_clip() -> None:
    whole = BackboneConfig(clip=CLIP, unet_steps=1000)
    quarter = part_of_backbone(whole, 0.25)
    assert quarter.unet_steps == 250 and quarter.clip == CLIP
    assert autoencoder_stage(quarter).hash == autoencoder_stage(whole).hash
    assert backbone_stage(quarter).hash != backbone_stage(whole).hash


def test_a_clip_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("book", "params"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    tokenizer = small_tokenizer(("large red circle", "small blue star left of the green moon"))
    mini_clip(tokenizer, pixels=64).save_pretrained(tmp_path / "clip")
    save_tokenizer(tokenizer, tmp_path / "clip")
    monkeypatch.setattr(lengths, "trained_clip", lambda config, profile: tmp_path / "clip")
    asked = QuizConfig(scenes=40, seed=3)
    quiz = draw_quiz(seed=3, count=40, pixels=64)
    told = clip_scores(*load_clip(tmp_path / "clip"), quiz, seed=0).among
    assert right_among(asked, CLIP, profile="smoke") == told and told.asked == len(quiz.phrases)
    monkeypatch.delattr(lengths, "trained_clip")  # it is found, not asked again
    assert right_among(asked, CLIP, profile="smoke") == told
    assert right_stage(asked, CLIP).hash != right_stage(asked, part_of_clip(CLIP, 0.5)).hash


def test_the_appendix_asks_all_lengths_and_the_whole_last(monkeypatch: pytest.MonkeyPatch) -> None:
    here = chapter_file(ROOT / "params" / "mini" / "A1_backbone.yml")
    assert isinstance(here, Backbone) and here.clip is not None
    stages = {stage.folder for stage in here.asks().ships().values()}
    whole = (
        right_stage(QuizConfig(here.scenes, here.run.data.seed), here.clip),
        recognition_stage(here.recognise, here.run.backbone),
    )
    assert {stage.folder for stage in whole} <= stages
    # each of CLIP and backbone, and nothing of what the shorter ones are made of
    shorter = sum(f.startswith(("clip-right", "recognition")) for f in stages)
    assert shorter == 2 * (1 + len(here.parts)) + 1  # and the other recipe's drawings
    assert clip_stage(part_of_clip(here.clip, here.parts[0])).folder not in stages
    asked: list[object] = []

    def count(*what: object, **how: object) -> object:
        asked.append(what)
        return what

    monkeypatch.setattr(appendix, "right_among", count)
    monkeypatch.setattr(Backbone, "_drawn", lambda self, run: {"drawn": count(run.backbone)})
    found = here.lengths()
    clip, own = here.clip, here.run.backbone
    assert list(found) == ["CLIP", "drawn"] and len(asked) == 2 * (1 + len(here.parts))
    assert [*found["CLIP"]][-1] == clip.steps * clip.batch
    assert [*found["drawn"]][-1] == own.unet_steps * own.unet_batch
    for each in found.values():
        seen = [*each]
        assert seen == sorted(seen)
        assert [p / seen[-1] for p in seen[:-1]] == pytest.approx(sorted(here.parts), rel=1e-3)


def test_what_is_recognised_once_needs_no_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    here = chapter_file(ROOT / "params" / "mini" / "A1_backbone.yml")
    trained: list[str] = []
    asked = {DRAWN: Recognised(*(Right(share, 500) for share in (0.5, 0.4, 0.3)))}
    monkeypatch.setattr(appendix, "right_among", lambda *_, **__: Right(0.5, 32))
    monkeypatch.setattr(appendix, "recognition", lambda *_, **__: asked)
    monkeypatch.setattr(
        appendix, "backbone_folder", lambda run: trained.append(run.backbone_stage.folder)
    )
    monkeypatch.setattr(appendix, "found", lambda stage, profile: ROOT)
    shares = {
        name: {right.share for right in each.values()} for name, each in here.lengths().items()
    }
    assert shares == {
        "CLIP": {0.5},
        "backbone, colour": {0.5},
        "backbone, shape": {0.4},
        "backbone, both": {0.3},
    }
    assert not trained
    monkeypatch.setattr(appendix, "found", lambda stage, profile: None)
    here.lengths()
    own = here.run.backbone
    assert trained == [
        backbone_stage(part_of_backbone(own, part)).folder for part in [*sorted(here.parts), 1.0]
    ]
