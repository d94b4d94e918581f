"""What the chapters of a profile ask for: runs, and samples to be trained, refined and scored."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from rlfseg.chapters import CHAPTERS
from rlfseg.chapters.asks import Asks, Rival
from rlfseg.chapters.minimal import chapters_of_tables
from rlfseg.chapters.reading import chapters_of
from rlfseg.experiment import POINTS, ClosedSet, Run, Scoring, class_names, curve_stage, read_run
from rlfseg.preflight.counts import phrases, pictures
from rlfseg.stage import Stage, found

_LARGE = 512  # pixels


@dataclass(frozen=True)
class Task:
    """A piece of work of one kind.

    Attributes:
        kind: `pack`, `encode`, `refine`, `score`, `baseline`, or a kind of training.
        amount: of pictures, of pictures or masks, of masks, phrases or samples, about.
        of: the run that it is for.
        stage: that it ends in; None for what a page does itself, or does on the way.
        split: of the data.
        processes: that share it.
        of_a_baseline: whether a baseline is trained.
        kept: whether what is encoded stays.
    """

    kind: str
    amount: int
    of: Run
    stage: Stage | None = None
    split: str = ""
    processes: int = 1
    of_a_baseline: bool = False
    kept: bool = True


@dataclass(frozen=True)
class Work:
    """What one chapter adds to those before it: only what neither ships nor is found.

    Attributes:
        chapter: its name.
        runs: that are trained.
        tasks: in about the order of the work.
    """

    chapter: str
    runs: tuple[Run, ...]
    tasks: tuple[Task, ...]

    @property
    def table(self) -> str:
        """The paper's tables that the chapter fills, or the chapter."""
        numbers = CHAPTERS[self.chapter].tables
        if not numbers:
            return self.chapter
        said = " and ".join(map(str, numbers))
        return f"Table{'s' * (len(numbers) > 1)} {said} ({self.chapter})"

    @property
    def scored(self) -> int:
        """Phrases that are segmented, once for each pass of a sampler, about."""
        return sum(task.amount for task in self.tasks if task.kind == "score")

    @property
    def refined(self) -> int:
        """Masks that SAM refines, about."""
        return sum(task.amount for task in self.tasks if task.kind == "refine")

    @property
    def baselines(self) -> int:
        """Samples that baselines are trained on."""
        return sum(task.amount for task in self.tasks if task.of_a_baseline)

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

    @property
    def large(self) -> bool:
        """Whether it is of Stable Diffusion's size, which a CPU is too slow for."""
        return self.run.data.pixels >= _LARGE

    @cached_property
    def packed(self) -> list[Run]:
        """Runs whose data are packed, one for each data set and size."""
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

    @cached_property
    def works(self) -> list[Work]:
        """What each chapter adds that has something to pack, train, refine or segment, in order."""
        due = _Due(self.profile)
        works = [(_work(name, asks, due), asks) for name, asks in self.asks.items()]
        return [
            work
            for work, asks in works
            if work.tasks or asks.trained or asks.rivals or asks.refined or asks.segmented
        ]


class _Due:
    """Tells, once for each stage, whether it is still to be made."""

    def __init__(self, profile: str) -> None:
        self._profile = profile
        self._known: set[str] = set()

    def __call__(self, stage: Stage) -> bool:
        return self.first(stage.hash) and found(stage, profile=self._profile) is None

    def first(self, name: str) -> bool:
        """Whether this has not been asked before."""
        new = name not in self._known
        self._known.add(name)
        return new


def _work(name: str, asks: Asks, due: _Due) -> Work:
    """What a chapter adds to the stages that are known to be made; they are known after it."""
    scored = tuple(pair for pair in asks.scored if due(pair[0].scores_stage(pair[1])))
    closed = tuple(pair for pair in asks.closed if due(pair[0].closed_stage(pair[1])))
    learned = tuple(run for run in asks.learned if due(curve_stage(run.train_stage)))
    rivals = [(r, due(r.scores), r.curve is not None and due(r.curve)) for r in asks.rivals]
    needed = replace(asks, scored=scored, closed=closed, learned=learned)
    runs = tuple(run for run in needed.trained if due(run.train_stage))
    read = [(run, split) for run in asks.data for split in run.splits]
    tasks = [task for run, split in read for task in _packing(run, split, 1, due)]
    for run, split in asks.refined:
        several, stage = run.machine.processes, run.refined_stage(split)
        tasks += _packing(run, split, several, due)
        if due(stage):
            tasks.append(Task("refine", phrases(run.data, split), run, stage, split, several))
    for run in runs:
        tasks += _training(run, due)
    tasks += [_watching(run) for run in learned]
    for run, scoring in scored:
        tasks += _scoring(run, scoring, due)
    for run, closed_set in closed:
        several, stage = run.machine.processes, run.closed_stage(closed_set)
        tasks += _packing(run.on(closed_set.on), "val", several, due)
        tasks.append(Task("score", _closed(run, closed_set), run, stage, "val", several))
    tasks += _of_rivals(rivals, due)
    if asks.segmented:
        tasks.append(Task("score", asks.segmented, needed.packed[0]))
    return Work(name, runs, tuple(tasks))


def _packing(run: Run, split: str, processes: int, due: _Due) -> Iterator[Task]:
    if due(stage := run.packed_stage(split)):
        yield Task("pack", pictures(run.data, split), run, stage, split, processes)


def _training(run: Run, due: _Due) -> Iterator[Task]:
    """What a training does: its processes refine and encode on the way, as far as it reads."""
    several, samples = run.machine.processes, run.train.steps * run.train.batch
    for split in ("train", "val"):  # which previews are drawn of
        yield from _packing(run, split, several, due)
    stage = run.refined_stage("train")
    if run.uses_refined and due(stage):
        yield Task("refine", phrases(run.data, "train"), run, stage, "train", several)
    labels = {"original": ["masks"], "refined": [stage.folder]}
    for kind in ("images", *labels.get(run.train.selection, ["masks", stage.folder])):
        yield from _encoding(run, "train", kind, samples, several, due)
    yield Task(training(run), samples, run, run.train_stage, "train", several)


def _watching(run: Run) -> Task:
    """What a learning curve costs beside the training: the first process alone scores."""
    asked = min(run.train.curve, phrases(run.data, "val"))
    return Task("score", asked * POINTS, run, curve_stage(run.train_stage), "val")


def _scoring(run: Run, scoring: Scoring, due: _Due) -> Iterator[Task]:
    there, several = run.on(scoring.on), run.machine.processes
    every = phrases(there.data, scoring.split)
    asked = min(scoring.phrases or every, every)
    yield from _packing(there, scoring.split, several, due)
    yield from _encoding(there, scoring.split, "images", asked, several, due)
    amount = asked * scoring.sampler.passes * (1 + scoring.boundary)  # segmented anew for it
    yield Task("score", amount, run, run.scores_stage(scoring), scoring.split, several)


def _encoding(
    run: Run, split: str, kind: str, most: int, processes: int, due: _Due
) -> Iterator[Task]:
    stage = run.latents_stage(split)
    if due.first(f"{stage.hash} {kind}"):
        every = pictures(run.data, split) if kind == "images" else phrases(run.data, split)
        yield Task("encode", min(most, every), run, None, split, processes)


def _of_rivals(rivals: Iterable[tuple[Rival, bool, bool]], due: _Due) -> Iterator[Task]:
    """What baselines add; of each, whether its scores and its learning curve are due."""
    for rival, scores, curve in rivals:
        if not scores and not curve:
            continue
        run, there, several = rival.data[0], rival.data[-1], rival.data[0].machine.processes
        if rival.samples and not pictures(there.data, "train"):
            continue  # there is nothing to learn from: its row stays empty
        yield from _packing(run, rival.split, several, due)
        if rival.samples:
            yield from _packing(there, "train", several, due)
        if rival.samples and rival.like:  # SemFlow's pictures
            yield from _encoding(there, "train", "images", rival.samples, several, due)
        if rival.samples and due(rival.training):
            if rival.like:  # its maps, painted and encoded at each step
                yield Task("encode", rival.samples, there, None, "train", several, kept=False)
            kind, alike = training(rival.like) if rival.like else "baseline", rival.like or run
            if share(alike) != share(run):
                kind += f", {share(alike)} at a time"
            made = rival.training
            yield Task(kind, rival.samples, alike, made, "train", several, of_a_baseline=True)
        if scores:
            amount = min(rival.scored, phrases(run.data, rival.split)) * rival.passes
            yield Task("score", amount, run, rival.scores, rival.split, several)


def read_plan(profile: str) -> Plan:
    """Read a profile's parameters.

    Raises:
        ValueError: if there is no such profile, or a parameter is wrong.
    """
    return Plan(profile, chapters_of(profile))


def read_minimal(profile: str) -> Plan:
    """Read a profile's parameters for the cheapest pass to all tables, likewise."""
    return Plan(profile, chapters_of_tables(profile))


def share(run: Run) -> int:
    """Return how many samples go through the network of a process at a time."""
    return max(1, run.train.batch // (run.machine.processes * run.machine.accumulate))


def training(run: Run) -> str:
    """Return which kind of training a run is: what it costs by sample depends on these."""
    both = run.train.selection == "exact" and run.train.time == "uniform"
    return "train" + ", all parameters" * (run.train.rank == 0) + ", two labels" * both


def _closed(run: Run, closed: ClosedSet) -> int:
    there = run.on(closed.on)
    names = len(class_names(there))
    return min(closed.images, pictures(there.data, "val")) * names * closed.sampler.passes
