"""The appendix on what stands in for the great models: its parameters, and what it asks for."""

from functools import partial
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from rlfseg.chapters.asks import Also, Asks
from rlfseg.chapters.values import TrainChanges, having
from rlfseg.config import STRICT, Count
from rlfseg.experiment import Run, Scoring
from rlfseg.stand_ins.mini_clip import ClipConfig, clip_stage, trained_clip
from rlfseg.stand_ins.recognition import (
    Recognised,
    RecognitionConfig,
    recognition,
    recognition_stage,
)


@dataclass(frozen=True, config=STRICT)
class Worth:
    """Runs of all parameters of so many `steps`, from the backbone and from random weights.

    `train` says what else is changed of the run, and `scoring` how they are scored.
    """

    train: TrainChanges
    steps: Annotated[list[Count], Field(min_length=1)]
    scoring: Scoring

    def runs(self, run: Run) -> dict[str, list[Run]]:
        """Return the runs by what they start from, one for each number of steps."""
        starts = {"pretrained": "pretrained", "random weights": "random"}
        return {
            name: [
                run.variant({**self.train, "rank": 0, "steps": steps, "weights": weights})
                for steps in self.steps
            ]
            for name, weights in starts.items()
        }


@dataclass(frozen=True, config=STRICT)
class Backbone:
    """The backbone: `masks` go through its autoencoder, and it draws `captions`; and a mini
    `clip`, if given, asked about the phrases of `scenes` of the test split. A backbone of ours
    has a CLIP of its own, that says what it recognises in what is drawn, as `recognise` says. What
    pretraining is `worth`, if that is asked. What is expected `at_least`: of the masks' IoU, how
    often CLIP is right among 32 phrases, and colour and shape recognised, in [0, 1]; and, in
    points, of what pretraining gains where least is trained.
    """

    run: Run
    masks: Count
    captions: Annotated[list[str], Field(min_length=1)]
    clip: ClipConfig | None
    scenes: Count
    recognise: RecognitionConfig
    worth: Worth | None
    at_least: Annotated[dict[str, float], having("mask", "clip", "drawn", "worth")]

    @property
    def worth_runs(self) -> dict[str, list[Run]]:
        """The runs that tell what pretraining is worth, by what they start from."""
        return self.worth.runs(self.run) if self.worth else {}

    def recognition(self) -> dict[str, Recognised]:
        """Return what is recognised; nothing of a backbone that isn't ours."""
        if self.run.backbone.name != "mini":
            return {}
        return recognition(self.recognise, self.run.backbone, profile=self.run.profile)

    def asks(self) -> Asks:
        """Ask for backbone, data, SAM and CLIP, and the runs that tell its worth, scored."""
        also = [Also.refiner(self.run)]
        if self.clip is not None:
            made = partial(trained_clip, self.clip, profile=self.run.profile)
            also.append(Also(clip_stage(self.clip), made))
        if self.run.backbone.name == "mini":
            stage = recognition_stage(self.recognise, self.run.backbone)
            also.append(Also(stage, self.recognition))
        runs = [run for each in self.worth_runs.values() for run in each]
        scored = tuple((run, self.worth.scoring) for run in runs if self.worth)
        return Asks(scored=scored, data=(self.run,), also=tuple(also))
