"""The appendix on what stands in for the great models: its parameters, and what it asks for."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from rlfseg.chapters.asks import Also, Asks
from rlfseg.chapters.values import TrainChanges, having
from rlfseg.config import STRICT, Count
from rlfseg.experiment import Run, Scoring, backbone_folder
from rlfseg.stage import Stage
from rlfseg.stand_ins.clip_scores import Right
from rlfseg.stand_ins.lengths import (
    QuizConfig,
    part_of_backbone,
    part_of_clip,
    right_among,
    right_stage,
)
from rlfseg.stand_ins.mini_clip import ClipConfig, clip_stage, trained_clip
from rlfseg.stand_ins.recognition import (
    DRAWN,
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
    pretraining is `worth`, if that is asked. CLIP and backbone are asked the same after `parts` of
    their trainings, each with a schedule of its own. What is expected `at_least`: of the masks'
    IoU, how often CLIP is right among 32 phrases, and colour and shape recognised, in [0, 1]; and,
    in points, of what pretraining gains where least is trained.
    """

    run: Run
    masks: Count
    captions: Annotated[list[str], Field(min_length=1)]
    clip: ClipConfig | None
    scenes: Count
    recognise: RecognitionConfig
    worth: Worth | None
    parts: list[Annotated[float, Field(gt=0, lt=1)]]
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

    def _lengths(self) -> Iterator[tuple[str, int, Stage, Callable[[], Right]]]:
        """Yield who is asked, the pictures seen, and what answers, by increasing length."""
        own, profile = self.run.backbone, self.run.profile
        parts = [*sorted(self.parts), 1.0] if self.parts else []
        if self.clip is not None:
            quiz = QuizConfig(self.scenes, self.run.data.seed)
            for part in parts:
                clip = part_of_clip(self.clip, part)
                ask = partial(right_among, quiz, clip, profile=profile)
                yield "CLIP", clip.steps * clip.batch, right_stage(quiz, clip), ask
        if own.name == "mini":
            for part in parts:
                short = part_of_backbone(own, part)
                drawn = partial(self._drawn, replace(self.run, backbone=short))
                stage = recognition_stage(self.recognise, short)
                yield "backbone", short.unet_steps * short.unet_batch, stage, drawn

    def _drawn(self, run: Run) -> Right:
        """Return how often colour and shape are recognised in what a run's backbone draws."""
        backbone_folder(run)
        return recognition(self.recognise, run.backbone, profile=run.profile)[DRAWN].both

    def lengths(self) -> dict[str, dict[int, Right]]:
        """Return how often CLIP and backbone are right, by the pictures they have seen.

        By increasing length; nothing where no shorter training is asked for.
        """
        found: dict[str, dict[int, Right]] = {}
        for name, pictures, _, ask in self._lengths():
            found.setdefault(name, {})[pictures] = ask()
        return found

    def asks(self) -> Asks:
        """Ask for backbone, data, SAM and CLIP, and the runs that tell its worth, scored."""
        also = [Also.refiner(self.run)]
        if self.clip is not None:
            made = partial(trained_clip, self.clip, profile=self.run.profile)
            also.append(Also(clip_stage(self.clip), made))
        if self.run.backbone.name == "mini":
            stage = recognition_stage(self.recognise, self.run.backbone)
            also.append(Also(stage, self.recognition))
        also += [Also(stage, ask) for _, _, stage, ask in self._lengths()]
        runs = [run for each in self.worth_runs.values() for run in each]
        scored = tuple((run, self.worth.scoring) for run in runs if self.worth)
        return Asks(scored=scored, data=(self.run,), also=tuple(also))
