"""What a chapter asks for: runs to be trained and scored, baselines, and all stages on the way."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Self

from rlfseg.baselines import phrases, semflow
from rlfseg.experiment import (
    ClosedSet,
    Run,
    Scoring,
    check_there,
    class_names,
    curve_stage,
    outside,
    predictor,
)
from rlfseg.stage import Stage, found

#: More phrases than any split has.
ALL = 10**9


@dataclass(frozen=True)
class Rival:
    """One baseline.

    Attributes:
        training: the stage that ends in its weights, or names outside ones.
        scores: the stage that ends in its counts.
        make: trains and scores it, or finds it so; in the processes of a launch, by all of them.
            Where outside weights or data to train on are missing it says so and leaves it out.
        samples: that it sees in training.
        data: runs whose data it reads; the first is what it is scored on.
        split: of that.
        scored: phrases or pictures of the split, all if there are fewer.
        passes: that each of these takes through its network.
        outside: the folder or hub id of weights that are not trained here, or nothing.
        curve: the stage that ends in its learning curve, if it has one.
        like: a run whose training costs as much, where it trains all of the backbone's UNet.
        there: tells whether what it takes from elsewhere is there, if it takes anything; where it
            isn't, the row stays empty.
    """

    training: Stage
    scores: Stage
    make: Callable[[], object]
    samples: int
    data: tuple[Run, ...]
    split: str
    scored: int
    passes: int = 1
    outside: str = ""
    curve: Stage | None = None
    like: Run | None = None
    there: Callable[[], bool] | None = None


@dataclass(frozen=True)
class Also:
    """One stage more.

    Attributes:
        stage: to be found.
        make: makes it, or finds it, in one process.
        ships: whether it ships with a profile, or is made by the page.
    """

    stage: Stage
    make: Callable[[], object]
    ships: bool = True

    @classmethod
    def refiner(cls, run: Run) -> Self:
        """Return a run's SAM."""
        return cls(run.sam_stage, partial(predictor, run))


@dataclass(frozen=True)
class Asks:
    """What one chapter asks for.

    Attributes:
        runs: whose weights the page reads.
        scored: how which runs are scored, whose weights it needs only if they aren't.
        closed: the same in a closed set.
        learned: runs whose learning curves are read.
        rivals: the baselines.
        data: runs whose data or latents are read besides.
        refined: runs and the splits of them whose labels are refined besides.
        also: other stages: SAM, a tiny decoder, pixel neural fields.
        segmented: phrases that the page itself segments, beyond what is kept.
        outside: folders or hub ids of weights, beside the baselines', that the page does without
            where they are missing.
    """

    runs: tuple[Run, ...] = ()
    scored: tuple[tuple[Run, Scoring], ...] = ()
    closed: tuple[tuple[Run, ClosedSet], ...] = ()
    learned: tuple[Run, ...] = ()
    rivals: tuple[Rival, ...] = ()
    data: tuple[Run, ...] = ()
    refined: tuple[tuple[Run, str], ...] = ()
    also: tuple[Also, ...] = ()
    segmented: int = 0
    outside: tuple[str, ...] = ()

    @property
    def trained(self) -> list[Run]:
        """All runs, each once and after what it goes on from."""
        every = [*self.runs, *(run for run, _ in (*self.scored, *self.closed)), *self.learned]
        first = [each for run in every for each in (run.first(), run) if each is not None]
        return list({run.train_stage.hash: run for run in first}.values())

    @property
    def packed(self) -> list[Run]:
        """Runs whose packed data are read, one for each data set."""
        others = [run.on(scoring.on) for run, scoring in self.scored]
        others += [run.on(closed.on) for run, closed in self.closed]
        rivals = [run for rival in self.rivals for run in rival.data]
        every = [*self.trained, *self.data, *others, *rivals]
        return list({(run.data, run.backbone): run for run in every}.values())

    def stages(self) -> dict[str, Stage]:
        """Return all stages that the chapter may look for, and what they are made of, by folder."""
        found: dict[str, Stage] = {}

        def add(stage: Stage) -> None:
            found[stage.folder] = stage
            for each in stage.inputs.values():
                add(each)

        for stage in self._asked():
            add(stage)
        return found

    def _asked(self) -> Iterator[Stage]:
        for run in self.packed:
            yield run.backbone_stage
            for split in run.splits:
                yield from (run.packed_stage(split), run.latents_stage(split))
        yield from (run.train_stage for run in self.trained)
        yield from (run.scores_stage(scoring) for run, scoring in self.scored)
        yield from (run.closed_stage(closed) for run, closed in self.closed)
        yield from (curve_stage(run.train_stage) for run in self.learned)
        for rival in self.rivals:
            yield from (rival.training, rival.scores)
            yield from [rival.curve] if rival.curve else []
        with_both = [(run, "train") for run in self.trained if run.uses_refined]
        for run, split in (*self.refined, *with_both):
            yield run.labels_stage(split)
        yield from (each.stage for each in self.also)

    @property
    def backbones(self) -> list[Stage]:
        """The backbones of ours that the page reads; runs that are read by numbers need none."""
        read = (*self.runs, *self.data)
        return [run.backbone_stage for run in read if run.backbone.name == "mini"]

    def ships(self) -> dict[str, Stage]:
        """Return the stages that spare the chapter all that takes long, by folder.

        Those are the weights that the page reads, those that they stand on, and the numbers that it
        shows: not what these are made of, such as packed files, latents, and runs that are read by
        their scores alone.
        """
        found = self.backbones
        found += [run.train_stage for run in self.runs]
        found += [first.train_stage for run in self.runs if (first := run.first()) is not None]
        found += [run.scores_stage(scoring) for run, scoring in self.scored]
        found += [run.closed_stage(closed) for run, closed in self.closed]
        found += [curve_stage(run.train_stage) for run in self.learned]
        found += [rival.scores for rival in self.rivals]
        found += [rival.curve for rival in self.rivals if rival.curve]
        found += [each.stage for each in self.also if each.ships]
        return {stage.folder: stage for stage in found}


def as_rows(scored: Iterable[tuple[Run, Scoring]]) -> tuple[tuple[Run, Scoring], ...]:
    """Return the scorings of a table's rows, and after them those that choose their thresholds."""
    rows = tuple(scored)
    chosen: dict[str, tuple[Run, Scoring]] = {}
    for run, scoring in rows:
        if (choosing := run.choosing(scoring)) is not None:
            chosen[run.scores_stage(choosing).hash] = (run, choosing)
    return (*rows, *chosen.values())


def phrase_rivals(
    run: Run, baselines: Mapping[str, phrases.Baseline], on: phrases.PhraseSet
) -> tuple[Rival, ...]:
    """Return what phrase-by-phrase baselines, by name, ask for.

    Raises:
        ValueError: if the processes can't share the batch of one.
    """
    return tuple(_phrase_rival(run, name, each, on) for name, each in baselines.items())


def _phrase_rival(run: Run, name: str, baseline: phrases.Baseline, on: phrases.PhraseSet) -> Rival:
    run.check_shared(baseline.batch if baseline.steps else 0, name)
    training = phrases.train_stage(run, baseline)
    weights = str(baseline.outside.config["name"]) if baseline.outside else ""
    return Rival(
        training=training,
        scores=phrases.scores_stage(run, baseline, on),
        make=partial(_made, run, name, baseline, on),
        samples=baseline.steps * baseline.batch,
        data=(run,),
        split=on.split,
        scored=on.phrases,
        outside=weights,
        curve=curve_stage(training) if baseline.curve else None,
        there=partial(_is_there, weights) if weights else None,
    )


def _is_there(weights: str) -> bool:
    return outside(weights) is not None


def _made(run: Run, name: str, baseline: phrases.Baseline, on: phrases.PhraseSet) -> bool:
    there = phrases.scored_if_there(run, {name: baseline}, on)
    if baseline.curve:
        phrases.learned(run, baseline)
    return bool(there)


def semflow_rival(run: Run, config: semflow.SemflowConfig, *, images: int) -> Rival:
    """Return what the baseline after SemFlow asks for.

    Raises:
        ValueError: if the processes can't share its batch.
    """
    run.check_shared(config.batch, "semflow")
    return Rival(
        training=semflow.train_stage(run, config),
        scores=semflow.scores_stage(run, config, images=images),
        make=partial(semflow.named_if_there, run, config, class_names(run), images=images),
        samples=config.steps * config.batch,
        data=(run, semflow.to_learn(run, config)),
        split="val",
        scored=images,
        passes=config.euler,
        like=run.variant({"rank": 0, "selection": "original", "batch": config.batch}),
        there=partial(_can_be_learned, run, config),
    )


def _can_be_learned(run: Run, config: semflow.SemflowConfig) -> bool:
    if found(semflow.train_stage(run, config), profile=run.profile) is not None:
        return True
    try:
        check_there(semflow.to_learn(run, config), "train")
    except FileNotFoundError:
        return False
    return True
