"""The recipes of the mini CLIP and the mini backbone in fewer steps, or in more.

Each length has a schedule of its own, so that what more training brings is seen without what a
falling learning rate brings.
"""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pydantic.dataclasses import dataclass

from rlfseg.config import STRICT, Count, Seed
from rlfseg.stage import Stage, made, readable
from rlfseg.stand_ins.backbone import BackboneConfig
from rlfseg.stand_ins.clip_scores import Right, clip_scores, draw_quiz
from rlfseg.stand_ins.mini_clip import ClipConfig, clip_stage, load_clip, trained_clip

_KEPT = "right.json"


def clip_of_length(config: ClipConfig, length: float) -> ClipConfig:
    """Return the CLIP's recipe in `length` > 0 times its steps, of both kinds."""
    steps, alone = (round(length * each) for each in (config.steps, config.alone))
    return replace(config, steps=max(1, steps), alone=alone)


def backbone_of_length(config: BackboneConfig, length: float) -> BackboneConfig:
    """Return the backbone's recipe in `length` > 0 times the steps of its UNet alone."""
    return replace(config, unet_steps=max(1, round(length * config.unet_steps)))


@dataclass(frozen=True, config=STRICT)
class QuizConfig:
    """What a CLIP is asked: about the phrases of the first `scenes` of a test split."""

    scenes: Count
    seed: Seed


def right_stage(config: QuizConfig, of: ClipConfig) -> Stage:
    """Identify how often a CLIP picks the right phrase."""
    return Stage.of("clip-right", 1, config, {"clip": clip_stage(of)})


def right_among(config: QuizConfig, of: ClipConfig, *, profile: str) -> Right:
    """Return how often a CLIP picks the right one of 32 phrases, counted, or found so.

    Raises:
        ValueError: as `clip_scores`.
    """

    def fill(folder: Path) -> dict[str, Any]:
        loaded = load_clip(trained_clip(of, profile=profile))
        quiz = draw_quiz(seed=config.seed, count=config.scenes, pixels=of.pixels)
        among = clip_scores(*loaded, quiz, seed=0).among
        (folder / _KEPT).write_text(json.dumps(asdict(among)) + "\n")
        return asdict(among)

    path = made(right_stage(config, of), fill, profile=profile) / _KEPT
    with readable(path):
        return Right(**json.loads(path.read_text()))
