"""What the chapters of a profile ask for: runs, and samples to be trained, refined and scored."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from rlfseg.chapters import CHAPTERS
from rlfseg.chapters.asks import Asks, Rival
from rlfseg.chapters.reading import chapters_of
from rlfseg.config import DataConfig
from rlfseg.data.check import phrasecut, refer
from rlfseg.experiment import ClosedSet, Run, Scoring, class_names, read_run
from rlfseg.stage import Stage, found

_A_PICTURE = 4  # phrases of a picture, drawn or not, about
_AN_IMAGE = 8  # classes of a picture of COCO-Stuff, about
_COCO = {"train": 118_287, "val": 5_000}  # pictures
_SENTENCES = 2.84  # of a reference in REFER's sets, about


@dataclass(frozen=True)
class Work:
    """What one chapter adds to those before it.

    Attributes:
        chapter: its name.
        runs: trainings that neither ship nor are found, nor are an earlier chapter's.
        scored: phrases that are segmented, once for each pass of a sampler, about.
        refined: masks that SAM refines, about.
        baselines: samples that baselines are trained on, by one device.
    """

    chapter: str
    runs: tuple[Run, ...]
    scored: int
    refined: int
    baselines: int

    @property
    def table(self) -> str:
        """The paper's tables that the chapter fills, or the chapter."""
        numbers = CHAPTERS[self.chapter].tables
        if not numbers:
            return self.chapter
        said = " and ".join(map(str, numbers))
        return f"Table{'s' * (len(numbers) > 1)} {said} ({self.chapter})"

    @property
    def trained(self) -> int:
        """Samples that the runs see in all."""
        return sum(run.train.steps * run.train.batch for run in self.runs)


@dataclass(frozen=True)
class Plan:
    """All chapters of a profile.

    Attributes:
        profile: its name.
        chapters: their checked parameters, in the registry's order.
    """

    profile: str
    chapters: Mapping[str, Any]

    @cached_property
    def run(self) -> Run:
        """The default run: the profile's, as no chapter changes it."""
        return read_run(self.profile)

    @cached_property
    def asks(self) -> dict[str, Asks]:
        """What each chapter asks for."""
        return {name: given.asks() for name, given in self.chapters.items()}

    @property
    def processes(self) -> int:
        """The most processes that any training asks for."""
        return max(given.run.machine.processes for given in self.chapters.values())

    @cached_property
    def packed(self) -> list[Run]:
        """Runs whose data are packed, one for each packed file."""
        every = [run for asks in self.asks.values() for run in asks.packed]
        return list({run.data_stage.hash: run for run in every}.values())

    @cached_property
    def refining(self) -> Run | None:
        """The first run whose SAM a chapter asks for, if any does."""
        for name, asks in self.asks.items():
            run: Run = self.chapters[name].run
            if run.sam_stage.folder in asks.stages():
                return run
        return None

    def works(self) -> list[Work]:
        """Return what each chapter adds that trains, refines or segments, in the book's order."""
        known: set[str] = set()
        return [
            self._work(name, asks, known)
            for name, asks in self.asks.items()
            if asks.trained or asks.rivals or asks.refined or asks.segmented
        ]

    def _work(self, name: str, asks: Asks, known: set[str]) -> Work:
        """What a chapter adds to the stages that are known to be made; they are known after it."""

        def due(stage: Stage) -> bool:
            if stage.hash in known or found(stage, profile=self.profile) is not None:
                return False
            known.add(stage.hash)
            return True

        scored = tuple(pair for pair in asks.scored if due(pair[0].scores_stage(pair[1])))
        closed = tuple(pair for pair in asks.closed if due(pair[0].closed_stage(pair[1])))
        rivals = [rival for rival in asks.rivals if due(rival.scores)]
        needed = replace(asks, scored=scored, closed=closed).trained
        runs = tuple(run for run in needed if due(run.train_stage))
        labels = [*asks.refined, *((run, "train") for run in runs if run.uses_refined)]
        labels = [(run, split) for run, split in labels if due(run.refined_stage(split))]
        asked = asks.segmented + sum(_scored(*pair) for pair in scored)
        asked += sum(_closed(*pair) for pair in closed) + sum(map(_compared, rivals))
        return Work(
            name,
            runs,
            scored=asked,
            refined=sum(phrases(run.data, split) for run, split in labels),
            baselines=sum(rival.samples for rival in rivals if due(rival.training)),
        )


def read_plan(profile: str) -> Plan:
    """Read a profile's parameters.

    Raises:
        ValueError: if there is no such profile, or a parameter is wrong.
    """
    return Plan(profile, chapters_of(profile))


def phrases(data: DataConfig, split: str) -> int:
    """Return about how many phrases a split has: published, or expected of as many scenes."""
    if data.source == "mini":
        return _A_PICTURE * pictures(data, split)
    if data.dataset == "phrasecut":
        return phrasecut.PUBLISHED[split][0][1]
    if data.dataset == "cocostuff":
        return _AN_IMAGE * pictures(data, split)
    partition = "umd" if data.dataset == "refcocog" else "unc"
    return round(_SENTENCES * refer.PUBLISHED[data.dataset, partition][split])


def pictures(data: DataConfig, split: str) -> int:
    """Return about how many pictures a split has."""
    if data.source == "mini":
        shared = split in ("testA", "testB")  # by the test scenes
        return (data.test + 1) // 2 if shared else int(getattr(data, split))
    if data.dataset == "phrasecut":
        return phrasecut.PUBLISHED[split][0][0]
    return _COCO[split] if data.dataset == "cocostuff" else phrases(data, split) // _A_PICTURE


def _scored(run: Run, scoring: Scoring) -> int:
    every = phrases(run.on(scoring.on).data, scoring.split)
    return min(scoring.phrases or every, every) * scoring.sampler.passes


def _closed(run: Run, closed: ClosedSet) -> int:
    there = run.on(closed.on)
    names = len(class_names(there))
    return min(closed.images, pictures(there.data, "val")) * names * closed.sampler.passes


def _compared(rival: Rival) -> int:
    return min(rival.scored, phrases(rival.data[0].data, rival.split)) * rival.passes
