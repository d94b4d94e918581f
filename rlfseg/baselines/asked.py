"""What a chapter's parameters ask for of baselines, so that it can be counted and kept current."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rlfseg.baselines import phrases, semflow
from rlfseg.chapter import run_parameters
from rlfseg.experiment.description import build
from rlfseg.experiment.identity import Identity
from rlfseg.stage import Stage


@dataclass(frozen=True)
class Asked:
    """One baseline of a chapter.

    Attributes:
        training: the stage that ends in its weights, or names outside ones.
        scores: the stage that ends in its counts.
        samples: that it sees in training.
    """

    training: Stage
    scores: Stage
    samples: int


def asked(given: Mapping[str, Any]) -> list[Asked]:
    """The baselines of a chapter: those of its `baselines`, and its `semflow`."""
    found = []
    own = Identity.from_parameters(**run_parameters(given))
    for choice in given.get("baselines", {}).values():
        config = phrases.phrase_config(choice)
        scores = phrases.scores_stage(own, choice, **given["baselines_scored"])
        training = phrases.train_stage(own, choice)
        found.append(Asked(training, scores, config.steps * config.batch))
    if "semflow" in given:
        choice = given["semflow"]
        stuff = Identity.from_parameters(**run_parameters({**given, "data": given["other"]}))
        scores = semflow.scores_stage(stuff, choice, images=given["images"])
        settings = build(semflow.SemflowConfig, "semflow", choice)
        samples = settings.steps * settings.batch
        found.append(Asked(semflow.train_stage(stuff, choice), scores, samples))
    return found
