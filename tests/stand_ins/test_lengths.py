"""The recipes of CLIP and backbone in fewer steps, or in more."""

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
    backbone_of_length,
    clip_of_length,
    right_among,
    right_stage,
)
from rlfseg.stand_ins.mini_clip import ClipConfig, clip_stage, load_clip, mini_clip
from rlfseg.stand_ins.recognition import DRAWN, Recognised, recognition_stage
from rlfseg.stand_ins.text_to_image import save_tokenizer, small_tokenizer

CLIP = ClipConfig(steps=800, alone=140, pixels=64)


def test_both_kinds_of_steps_are_as_many_times_as_many() -> None:
    half, twice = (clip_of_length(CLIP, length) for length in (0.5, 2))
    assert (half.steps, half.alone) == (400, 70)
    assert (twice.steps, twice.alone) == (1600, 280)
    assert clip_of_length(CLIP, 1.0) == CLIP and clip_of_length(CLIP, 1e-9).steps == 1


def test_a_shorter_backbone_has_the_same_autoencoder_and_clip() -> None:
    whole = BackboneConfig(clip=CLIP, unet_steps=1000)
    quarter = backbone_of_length(whole, 0.25)
    assert quarter.unet_steps == 250 and quarter.clip == CLIP
    assert autoencoder_stage(quarter).hash == autoencoder_stage(whole).hash
    assert backbone_stage(quarter).hash != backbone_stage(whole).hash


@pytest.mark.integration
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
    assert right_stage(asked, CLIP).hash != right_stage(asked, clip_of_length(CLIP, 0.5)).hash


def test_the_appendix_asks_all_lengths_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    here = chapter_file(ROOT / "params" / "mini" / "A1_backbone.yml")
    assert isinstance(here, Backbone) and here.clip is not None
    stages = {stage.folder for stage in here.asks().ships().values()}
    whole = (
        right_stage(QuizConfig(here.scenes, here.run.data.seed), here.clip),
        recognition_stage(here.recognise, here.run.backbone),
    )
    assert {stage.folder for stage in whole} <= stages
    # each of CLIP and backbone, and nothing of what those of other lengths are made of
    by_muon = here.lengths.muon
    assert by_muon is not None
    asked_of = {"clip-right": here.lengths.clip, "recognition": here.lengths.backbone}
    besides = {"clip-right": len(by_muon.clip), "recognition": 1}  # the other recipe's drawings
    for name, others in asked_of.items():
        assert sum(f.startswith(name) for f in stages) == 1 + len(others) + besides[name]
    assert clip_stage(clip_of_length(here.clip, here.lengths.clip[0])).folder not in stages
    asked: list[object] = []

    def count(*what: object, **how: object) -> object:
        asked.append(what)
        return what

    monkeypatch.setattr(appendix, "right_among", count)
    monkeypatch.setattr(Backbone, "_drawn", lambda self, run: {"drawn": count(run.backbone)})
    found = here.by_length()
    clip, own = here.clip, here.run.backbone
    muons = found.pop("CLIP by Muon")
    quick = [of.muon for _, of in asked[len(here.lengths.clip) + 1 :][: len(muons)]]  # type: ignore[misc,attr-defined]
    assert list(muons) == [clip_of_length(here.clip, n).steps * clip.batch for n in by_muon.clip]
    assert quick == [by_muon.rate] * len(muons)
    assert list(found) == ["CLIP", "drawn"]
    assert len(asked) == len(muons) + sum(len(s) for s in found.values())
    whole_of = {"CLIP": clip.steps * clip.batch, "drawn": own.unet_steps * own.unet_batch}
    for (name, each), others in zip(found.items(), asked_of.values(), strict=True):
        seen = [pictures / whole_of[name] for pictures in each]
        assert seen == pytest.approx(sorted([*others, 1.0]), rel=1e-3)


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
        name: {right.share for right in each.values()} for name, each in here.by_length().items()
    }
    assert shares == {
        "CLIP": {0.5},
        "CLIP by Muon": {0.5},
        "backbone, colour": {0.5},
        "backbone, shape": {0.4},
        "backbone, both": {0.3},
    }
    assert not trained
    monkeypatch.setattr(appendix, "found", lambda stage, profile: None)
    here.by_length()
    own = here.run.backbone
    assert trained == [
        backbone_stage(backbone_of_length(own, length)).folder
        for length in [*sorted(here.lengths.backbone), 1.0]
    ]
