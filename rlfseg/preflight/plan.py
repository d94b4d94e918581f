"""What the chapters of a profile ask for: runs, and samples to be trained, refined and scored."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import yaml

from rlfseg.baselines.asked import asked
from rlfseg.chapter import run_parameters, runs, scorings
from rlfseg.config import DataConfig, SamplerConfig
from rlfseg.data.check import phrasecut, refer
from rlfseg.data.cocostuff_names import COCO_STUFF
from rlfseg.data.drawn.write_cocostuff import MINI_CLASSES
from rlfseg.experiment.identity import Identity
from rlfseg.experiment.setting import Setting
from rlfseg.stage import found, repository

#: The chapters that train or score, and the numbers of the paper's tables that they fill.
_TABLES = {
    "03_train": "8",
    "03b_labels": "5",
    "04_sampling": "79",
    "05_phrasecut": "1",
    "05b_ask": "",
    "06_refcoco": "2",
    "07_cocostuff": "3",
    "08_speed": "4",
    "09_ranks": "6",
    "10_protocols": "",
    "11b_objectives": "",
}
_A_SCENE = 4  # phrases of a drawn scene, about
_AN_IMAGE = 8  # classes of a picture of COCO-Stuff, about
_SENTENCES = 2.84  # of a reference in REFER's sets, about


@dataclass(frozen=True)
class Work:
    """What one chapter adds to those before it.

    Attributes:
        chapter: its name.
        runs: trainings that neither ship nor are found, nor are an earlier chapter's.
        scored: phrases that are segmented and scored, about.
        refined: masks that SAM refines, about.
        baselines: samples that baselines are trained on, by one device.
    """

    chapter: str
    runs: tuple[Identity, ...]
    scored: int
    refined: int
    baselines: int

    @property
    def table(self) -> str:
        """The paper's tables that the chapter fills, or the chapter."""
        numbers = _TABLES[self.chapter]
        if not numbers:
            return self.chapter
        return f"Table{'s' * (len(numbers) > 1)} {' and '.join(numbers)} ({self.chapter})"

    @property
    def trained(self) -> int:
        """Samples that the runs see in all."""
        return sum(run.train.steps * run.train.batch for run in self.runs)


@dataclass(frozen=True)
class Plan:
    """All chapters of a profile.

    Attributes:
        profile: its name.
        chapters: parameters by chapter, of those that train or score.
    """

    profile: str
    chapters: Mapping[str, Mapping[str, Any]]

    @cached_property
    def descriptions(self) -> dict[str, Identity]:
        """What each chapter's parameters describe."""
        return {
            name: Identity.from_parameters(**run_parameters(given))
            for name, given in self.chapters.items()
        }

    @cached_property
    def main(self) -> Identity:
        """The default run: chapter 03's."""
        return self.descriptions["03_train"]

    @property
    def processes(self) -> int:
        """The most processes that any training asks for."""
        return max(each.machine.processes for each in self.descriptions.values())

    @property
    def data(self) -> dict[tuple[str, str], DataConfig]:
        """The data sets that are needed, by name and folder."""
        every = [each.data for each in self.descriptions.values()]
        for given in self.chapters.values():
            others = [*given.get("others", {}).values(), given.get("other")]
            every += [DataConfig(**other) for other in others if other]
        return {(data.dataset, data.source): data for data in every}

    def setting(self) -> Setting:
        """The default run on drawn scenes, so that it can be asked for without the data."""
        given = self.main.parameters()
        drawn = {"source": "mini", "pixels": self.main.data.pixels, "train": 1, "val": 1, "test": 1}
        return Setting.from_parameters(**{**given, "data": drawn})

    def works(self) -> list[Work]:
        """What each chapter adds, in the book's order."""
        known: set[str] = set()
        works = []
        for chapter, given in self.chapters.items():
            missing = []
            for run in runs(given):
                stage = run.train_stage
                if stage.hash not in known and not self._done(run, given):
                    missing.append(run)
                known.add(stage.hash)
            refined = 0
            for run in missing:
                if run.train.selection == "original":
                    continue
                stage = run.refined_stage("train")
                if stage.hash not in known and found(stage, profile=self.profile) is None:
                    refined += phrases(run.data, "train")
                known.add(stage.hash)
            scored = self._scored(chapter, given)
            works.append(Work(chapter, tuple(missing), scored, refined, self._baselines(given)))
        return works

    def _baselines(self, given: Mapping[str, Any]) -> int:
        """Samples that a chapter's baselines see, of those that are neither trained nor scored."""
        return sum(
            each.samples
            for each in asked(given)
            if not any(found(stage, profile=self.profile) for stage in (each.training, each.scores))
        )

    def _done(self, run: Identity, given: Mapping[str, Any]) -> bool:
        """Whether a run is trained, or all that is wanted of it are scores, which are there."""
        scores = [run.scores_stage(**way) for way in scorings(given)]
        scored = bool(scores) and all(found(s, profile=self.profile) is not None for s in scores)
        return scored or found(run.train_stage, profile=self.profile) is not None

    def _scored(self, chapter: str, given: Mapping[str, Any]) -> int:
        test = phrases(self.descriptions[chapter].data, "test")
        wanted = min(given.get("scored", {}).get("phrases", 0), test)
        if chapter == "03b_labels":
            return wanted * math.prod(len(given[k]) for k in ("variants", "seeds", "samplers"))
        if chapter == "04_sampling":
            passes = sum(map(_passes, given["samplers"].values()))
            many = len(given["seeds"]) + len(given["others"])
            return wanted * (many * passes + 2 * len(given["tols"]))
        if chapter == "05_phrasecut":
            others = min(given["baselines_scored"]["phrases"], test) * len(given["baselines"])
            some = min(given["compared"], test) * (2 + 2 * len(given["variants"]))
            return 2 * test + some + others
        if chapter == "06_refcoco":
            sets = [DataConfig(**other) for other in given["others"].values()]
            return sum(phrases(each, split) for each in sets for split in ("val", "test"))
        if chapter == "07_cocostuff":
            stuff = DataConfig(**given["other"])
            named = min(given["images"], phrases(stuff, "val") // _AN_IMAGE)
            names = len(MINI_CLASSES if stuff.source == "mini" else COCO_STUFF)
            return phrases(stuff, "val") + named * (names + given["semflow"]["euler"])
        if chapter == "09_ranks":
            several = len(given["variants"]) * len(given["seeds"]) + len(given["longer"])
            return wanted * several
        if chapter == "11b_objectives":
            several = len(given["variants"]) * len(given["seeds"]) + len(given["once"])
            return wanted * several * len(given["samplers"])
        return min(given.get("phrases", 0), test)


def read_plan(profile: str) -> Plan:
    """Reads a profile's parameters.

    Raises:
        ValueError: if there is no such profile.
    """
    folder = repository() / "params" / profile
    if not folder.is_dir():
        known = ", ".join(sorted(path.name for path in folder.parent.iterdir() if path.is_dir()))
        raise ValueError(f"there is no profile {profile!r}: choose from {known}")
    every = {path.stem: yaml.safe_load(path.read_text()) for path in sorted(folder.glob("*.yml"))}
    return Plan(profile, {name: given for name, given in every.items() if name in _TABLES})


def _passes(way: Mapping[str, Any]) -> int:
    """How often a sampler goes through the network; the reference of HSS is a walk."""
    config = SamplerConfig(**way)
    return {"steps": config.steps, "hss": 1 + config.steps}.get(config.name, 1)


def phrases(data: DataConfig, split: str) -> int:
    """About how many phrases a split has: published, or expected of as many drawn scenes."""
    if data.source == "mini":
        return _A_SCENE * int(getattr(data, split))
    if data.dataset == "phrasecut":
        return phrasecut.PUBLISHED[split][0][1]
    if data.dataset == "cocostuff":
        return _AN_IMAGE * {"train": 118_287, "val": 5_000}[split]
    partition = "umd" if data.dataset == "refcocog" else "unc"
    counts = refer.PUBLISHED[data.dataset, partition]
    return round(_SENTENCES * sum(n for name, n in counts.items() if name.startswith(split)))
