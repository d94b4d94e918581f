"""The appendix on what stands in for the great models: its parameters, and what it asks for."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Annotated

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from rlfseg.chapters.asks import Also, Asks
from rlfseg.chapters.starts import OTHER, OWN, Other, Worth
from rlfseg.chapters.values import having
from rlfseg.config import STRICT, Count
from rlfseg.experiment import Run, backbone_folder, learned
from rlfseg.experiment.curves import Curve
from rlfseg.stage import Stage, found
from rlfseg.stand_ins.clip_scores import Right
from rlfseg.stand_ins.lengths import (
    QuizConfig,
    backbone_of_length,
    clip_of_length,
    right_among,
    right_stage,
)
from rlfseg.stand_ins.mini_clip import ClipConfig, clip_stage, trained_clip
from rlfseg.stand_ins.recognition import (
    DRAWN,
    Recognised,
    RecognitionConfig,
    kept_pictures,
    recognition,
    recognition_stage,
)

_Lengths = list[Annotated[float, Field(gt=0, le=100)]]


@dataclass(frozen=True, config=STRICT)
class ByMuon:
    """The peak learning rate of Muon, and in how many times its steps the CLIP is trained by it."""

    rate: Annotated[float, Field(gt=0, le=1)]
    clip: _Lengths


@dataclass(frozen=True, config=STRICT)
class Lengths:
    """In how many times its steps each is trained too; nothing is asked where none are given.

    The CLIP may be trained by Muon besides.
    """

    clip: _Lengths
    backbone: _Lengths
    muon: ByMuon | None = None


@dataclass(frozen=True, config=STRICT)
class Backbone:
    """The backbone: `masks` go through its autoencoder, and it draws `captions`; and a mini
    `clip`, if given, asked about the phrases of `scenes` of the test split. A backbone of ours
    has a CLIP of its own, that says what it recognises in what is drawn, as `recognise` says. What
    pretraining is `worth`, if that is asked. CLIP and backbone, trained for other `lengths` with
    schedules of their own, are asked the same. Another `recipe` of the backbone may stand beside
    it. What is expected `at_least`: of the masks' IoU, how often CLIP is right among 32
    phrases, and colour and shape recognised, in [0, 1]; in points, of what pretraining gains where
    least is trained; and of colour and shape in what the other draws.
    """

    run: Run
    masks: Count
    captions: Annotated[list[str], Field(min_length=1)]
    clip: ClipConfig | None
    scenes: Count
    recognise: RecognitionConfig
    worth: Worth | None
    lengths: Lengths
    recipe: Other | None
    at_least: Annotated[dict[str, float], having("mask", "clip", "drawn", "worth", "other")]

    @property
    def worth_runs(self) -> dict[str, list[Run]]:
        """The runs that tell what pretraining is worth, by what they start from."""
        return self.worth.runs(self.run) if self.worth else {}

    @property
    def _longer(self) -> dict[str, Run]:
        return self.worth.longer_runs(self.run) if self.worth else {}

    def longer(self) -> dict[str, Curve]:
        """Return the learning curves of the longer runs, by what they start from."""
        return {name: learned(run) for name, run in self._longer.items()}

    def recognition(self) -> dict[str, Recognised]:
        """Return what is recognised; nothing of a backbone that isn't ours."""
        if self.run.backbone.name != "mini":
            return {}
        return recognition(self.recognise, self.run.backbone, profile=self.run.profile)

    @property
    def _another(self) -> tuple[Run, RecognitionConfig] | None:
        """A run on the other backbone, and how that is asked."""
        if self.recipe is None:
            return None
        return self.recipe.on(self.run), replace(self.recognise, kept=self.recipe.shown)

    def of_another(self) -> tuple[Recognised, list[tuple[str, np.ndarray]]] | None:
        """Return what is recognised in what the other backbone draws, and some of it.

        As `kept_pictures`; None if there is no other. It is trained, by as many processes as the
        run's, if it wasn't asked yet.
        """
        if self._another is None:
            return None
        run, asked = self._another
        if found(recognition_stage(asked, run.backbone), profile=run.profile) is None:
            backbone_folder(run)
        told = recognition(asked, run.backbone, profile=run.profile)[DRAWN]
        return told, kept_pictures(asked, run.backbone, profile=run.profile)

    @property
    def _both(self) -> dict[str, dict[str, list[Run]]]:
        """The same runs on the run's own backbone and on the other, by variant."""
        if self.recipe is None:
            return {}
        own, there = (self.recipe.runs(run) for run in (self.run, self.recipe.on(self.run)))
        return {name: {OWN: own[name], OTHER: there[name]} for name in own}

    def on_both(self) -> dict[str, dict[str, list[Curve]]]:
        """Return the learning curves of the same runs, by variant and backbone, for each seed."""
        return {
            name: {which: [learned(run) for run in runs] for which, runs in both.items()}
            for name, both in self._both.items()
        }

    def _by_length(self) -> Iterator[tuple[int, Stage, Callable[[], dict[str, Right]]]]:
        """Yield the pictures seen, and what answers and where that is kept, by rising length."""
        own, profile = self.run.backbone, self.run.profile
        if self.clip is not None:
            quiz = QuizConfig(self.scenes, self.run.data.seed)
            lengths = {"CLIP": (self.clip, _with_the_own(self.lengths.clip))}
            if self.lengths.muon:
                by_muon = replace(self.clip, muon=self.lengths.muon.rate)
                lengths["CLIP by Muon"] = (by_muon, sorted(self.lengths.muon.clip))
            for name, (config, parts) in lengths.items():
                for clip in (clip_of_length(config, length) for length in parts):
                    ask = partial(_picked, quiz, clip, profile, name)
                    yield clip.steps * clip.batch, right_stage(quiz, clip), ask
        if own.name == "mini":
            for length in _with_the_own(self.lengths.backbone):
                run = replace(self.run, backbone=backbone_of_length(own, length))
                stage = recognition_stage(self.recognise, run.backbone)
                pictures = run.backbone.unet_steps * run.backbone.unet_batch
                yield pictures, stage, partial(self._drawn, run)

    def _drawn(self, run: Run) -> dict[str, Right]:
        """Return how often colour, shape and both are recognised in what a run's backbone draws.

        The backbone is trained for it, by as many processes as the run's, if it wasn't asked yet.
        """
        stage = recognition_stage(self.recognise, run.backbone)
        if found(stage, profile=run.profile) is None:
            backbone_folder(run)
        each = recognition(self.recognise, run.backbone, profile=run.profile)[DRAWN]
        return {f"backbone, {what}": right for what, right in vars(each).items()}

    def by_length(self) -> dict[str, dict[int, Right]]:
        """Return how often CLIP and backbone are right, by the pictures they have seen.

        By increasing length, the backbone by `Recognised`'s names; nothing where no other length
        is asked for.
        """
        asked: dict[str, dict[int, Right]] = {}
        for pictures, _, ask in self._by_length():
            for name, right in ask().items():
                asked.setdefault(name, {})[pictures] = right
        return asked

    def asks(self) -> Asks:
        """Ask for backbone, data, SAM and CLIP, and the runs that tell its worth, scored."""
        also = [Also.refiner(self.run)]
        if self.clip is not None:
            made = partial(trained_clip, self.clip, profile=self.run.profile)
            also.append(Also(clip_stage(self.clip), made))
        if self.run.backbone.name == "mini":
            stage = recognition_stage(self.recognise, self.run.backbone)
            also.append(Also(stage, self.recognition))
        also += [Also(stage, ask) for _, stage, ask in self._by_length()]
        if self._another is not None:
            run, asked = self._another
            also.append(Also(recognition_stage(asked, run.backbone), self.of_another))
        runs = [run for each in self.worth_runs.values() for run in each]
        scored = tuple((run, self.worth.scoring) for run in runs if self.worth)
        both = [run for each in self._both.values() for runs in each.values() for run in runs]
        curves = (*self._longer.values(), *both)
        return Asks(scored=scored, learned=curves, data=(self.run,), also=tuple(also))


def _with_the_own(lengths: _Lengths) -> list[float]:
    return sorted({*lengths, 1.0}) if lengths else []


def _picked(quiz: QuizConfig, clip: ClipConfig, profile: str, name: str) -> dict[str, Right]:
    return {name: right_among(quiz, clip, profile=profile)}
