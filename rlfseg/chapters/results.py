"""The chapters that compare: their parameters, and what they ask for."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from rlfseg.baselines import phrases
from rlfseg.baselines.phrases import Baseline, PhraseSet
from rlfseg.baselines.semflow import SemflowConfig
from rlfseg.chapters.asks import ALL, Also, Asks, as_rows, phrase_rivals, semflow_rival
from rlfseg.chapters.values import TrainChanges, Variants, having, rows_of
from rlfseg.config import STRICT, Count, DataConfig
from rlfseg.data.catalogue import REFERRING
from rlfseg.experiment import ClosedSet, Curve, Run, Scoring, learned, loaded_tiny_decoder
from rlfseg.stage import repository
from rlfseg.stand_ins.tiny_decoder import TinyConfig, tiny_stage

Baselines = dict[str, Baseline]
OURS = "the paper's way"
#: What the names of shorter runs end in.
SHORTER = ", shorter"


@dataclass(frozen=True, config=STRICT)
class PhraseCounts:
    """How many test phrases: `shown` in figures, `compared` in other words, by `baselines`."""

    shown: Count
    compared: Count
    baselines: Count


@dataclass(frozen=True, config=STRICT)
class Shorter:
    """Shorter runs, with each seed: what `train` changes of the run, and of those in `also` too.

    The latter are names of others. Discriminative `heads` (by name) are drawn beside them.
    """

    train: TrainChanges
    also: Annotated[tuple[str, ...], Field(strict=False)]
    heads: Baselines

    def variants(self, others: Variants) -> Variants:
        """Return what each changes, by name.

        Raises:
            ValueError: if `also` names none of the others.
        """
        if unknown := [name for name in self.also if name not in others]:
            known = ", ".join(others) or "none"
            raise ValueError(f"shorter.also: there is no run {unknown[0]!r}; there are {known}")
        every: Variants = {OURS: {}, **{name: others[name] for name in self.also}}
        return {name: {**each, **self.train} for name, each in every.items()}


@dataclass(frozen=True, config=STRICT)
class PhraseCut:
    """Table 1: the run on the whole test split, beside `baselines` (by the paper's row), other
    words and `variants`; what is expected `at_least`, in [0, 1].

    Of these, of `longer` runs with one seed and, if given, of `shorter` ones, the learning curves
    are drawn, where their settings ask for one (`curve`).
    """

    run: Run
    phrases: PhraseCounts
    variants: Variants
    longer: Variants
    shorter: Shorter | None
    at_least: Annotated[
        dict[str, float],
        having("miou", "best", "above_other", "above_none", "above_ones"),
    ]
    baselines: Annotated[Baselines, rows_of(1)]

    @property
    def scoring(self) -> Scoring:
        """The headline: the whole test split, and against the truth where it is known."""
        known = self.run.data.source == "mini"
        return Scoring("test", truth=known, sampler=self.run.sampler)

    @property
    def baselines_on(self) -> PhraseSet:
        """The phrases that baselines are scored on."""
        return PhraseSet("test", self.phrases.baselines)

    @property
    def learning(self) -> dict[str, list[Run]]:
        """The runs whose learning curves are drawn, by name, the shorter ones for each seed."""
        runs, others = {OURS: [self.run]}, {**self.variants, **self.longer}
        runs |= {name: [run] for name, run in self.run.variants(others).items()}
        many = self.run.seeded(self.shorter.variants(others) if self.shorter else {})
        for (name, _), run in many.items():
            runs.setdefault(name + SHORTER, []).append(run)
        return {name: each for name, each in runs.items() if each[0].train.curve}

    @property
    def learners(self) -> Baselines:
        """The baselines and heads, by name."""
        return self.baselines | (self.shorter.heads if self.shorter else {})

    def curves(self) -> dict[str, list[Curve]]:
        """Return the learning curves, one for each seed, by the name of the run or baseline."""
        ours = {name: [learned(run) for run in each] for name, each in self.learning.items()}
        theirs = {
            name: [phrases.learned(self.run, each)]
            for name, each in self.learners.items()
            if each.curve
        }
        return ours | theirs

    def panels(self) -> dict[str, dict[str, list[Curve]]]:
        """Return the learning curves by what learns: LoRA layers, all parameters, a classifier."""
        panels: dict[str, dict[str, list[Curve]]] = {}
        for name, curves in self.curves().items():
            run = self.learning.get(name, [None])[0]
            kind = "LoRA" if run and run.train.rank else "all parameters" if run else "classifiers"
            panels.setdefault(kind, {})[name] = curves
        return panels

    def asks(self) -> Asks:
        """Ask for the run scored, the variants trained, the baselines scored, and the curves."""
        return Asks(
            runs=(self.run, *self.run.variants(self.variants).values()),
            scored=as_rows([(self.run, self.scoring)]),
            learned=tuple(run for each in self.learning.values() for run in each),
            rivals=phrase_rivals(self.run, self.learners, self.baselines_on),
            segmented=self.phrases.compared * (2 + 2 * len(self.variants)),
        )


@dataclass(frozen=True, config=STRICT)
class Ask:
    """A page to ask: `shown` pictures with all their phrases, by the run and its `variants`, of
    which one, if it is small, runs in the reader's `browser`.
    """

    run: Run
    variants: Variants
    shown: Count
    browser: str | None

    def __post_init__(self) -> None:
        if self.browser is not None and self.browser not in self.variants:
            raise ValueError(
                f"browser: {self.browser!r} is none of variants: {', '.join(self.variants)}"
            )

    def asks(self) -> Asks:
        """Ask for the runs, trained."""
        runs = (self.run, *self.run.variants(self.variants).values())
        return Asks(runs=runs, segmented=4 * self.shown * (4 + len(self.variants)))


@dataclass(frozen=True, config=STRICT)
class Referring:
    """Table 2: the run on `others`, zero-shot, and `supervised` runs that are trained on them.

    The images of the files `coco_ids` are counted among those trained on. Beside them stand
    `baselines` (by the paper's row), which have released weights: what is trained here would see
    the very data.
    """

    run: Run
    others: dict[str, DataConfig]
    supervised: Variants
    coco_ids: list[str]
    shown: Count
    baselines: Annotated[Baselines, rows_of(2)]

    def __post_init__(self) -> None:
        for name, other in self.others.items():
            if name not in REFERRING or other.dataset != name:
                raise ValueError(
                    f"others: dataset of {name} is {other.dataset}; say the same, one of "
                    f"{', '.join(REFERRING)}"
                )
        if ours := [row for row, baseline in self.baselines.items() if baseline.outside is None]:
            raise ValueError(
                f"baselines: {ours[0]} would be trained here; take one of released weights"
            )
        if unknown := sorted(set(self.supervised) - set(self.others)):
            raise ValueError(
                f"supervised: {unknown[0]} is none of others: {', '.join(self.others)}"
            )

    def scorings(self, name: str) -> dict[str, Scoring]:
        """Return how the run is scored on each split of a data set but the training one."""
        on = self.others[name]
        splits = [split for split in self.run.on(on).splits if split != "train"]
        return {s: Scoring(s, on=on, sampler=self.run.sampler) for s in splits}

    @property
    def own(self) -> dict[str, Run]:
        """The supervised runs, by the data set that each is trained on."""
        return {
            name: self.run.on(self.others[name]).variant(changes)
            for name, changes in self.supervised.items()
        }

    def own_scorings(self, name: str) -> dict[str, Scoring]:
        """Return how the supervised run of a data set is scored, on the same splits."""
        return {split: Scoring(split, sampler=self.run.sampler) for split in self.scorings(name)}

    @property
    def coco_files(self) -> list[Path]:
        """The files of `coco_ids`, which are named from the repository's root, as data are."""
        return [repository() / each for each in self.coco_ids]

    @property
    def baselines_on(self) -> PhraseSet:
        """The phrases that baselines are scored on: those of our rows."""
        return PhraseSet("val", ALL)

    def asks(self) -> Asks:
        """Ask for the run on every split, the supervised runs, and the baselines."""
        scored = [(self.run, way) for name in self.others for way in self.scorings(name).values()]
        scored += [
            (own, way) for name, own in self.own.items() for way in self.own_scorings(name).values()
        ]
        rivals = tuple(
            rival
            for other in self.others.values()
            for rival in phrase_rivals(self.run.on(other), self.baselines, self.baselines_on)
        )
        return Asks(scored=as_rows(scored), rivals=rivals, data=(self.run,))


@dataclass(frozen=True, config=STRICT)
class CocoStuff:
    """Table 3: COCO-Stuff (`other`), asked for classes that are there, and for all of them on
    `images`, beside SemFlow's idea.
    """

    run: Run
    other: DataConfig
    images: Count
    shown: Count
    semflow: SemflowConfig

    def __post_init__(self) -> None:
        if self.other.dataset != "cocostuff":
            raise ValueError(f"other: dataset is {self.other.dataset}; it must be cocostuff")

    @property
    def present(self) -> Scoring:
        """Asked for the classes that are there (protocol A)."""
        return Scoring("val", on=self.other, sampler=self.run.sampler)

    @property
    def closed(self) -> ClosedSet:
        """Asked for all classes (protocol C)."""
        return ClosedSet(self.images, self.other, self.run.sampler)

    def asks(self) -> Asks:
        """Ask for both scorings, and the baseline's."""
        rival = semflow_rival(self.run.on(self.other), self.semflow, images=self.images)
        return Asks(
            runs=(self.run,),
            scored=as_rows([(self.run, self.present)]),
            closed=((self.run, self.closed),),
            rivals=(rival,),
        )


@dataclass(frozen=True, config=STRICT)
class Speed:
    """Table 4: the time of a segmentation and its parts, of each of `dtypes` and `batches`, timed
    in `rounds`, beside a `walk` of so many steps; a `tiny` decoder, if given, compared on `masks`.
    """

    run: Run
    dtypes: Annotated[list[Literal["float32", "bfloat16", "float16"]], Field(min_length=1)]
    batches: Annotated[list[Count], Field(min_length=1)]
    rounds: Count
    walk: Count
    tiny: TinyConfig | None
    masks: Count

    def asks(self) -> Asks:
        """Ask for the trained run, and the tiny decoder: ours as a stage, or an outside one."""
        asks = Asks(runs=(self.run,), segmented=3 * self.masks)
        if self.tiny is None:
            return asks
        if self.tiny.name == "mini":
            made = partial(loaded_tiny_decoder, self.run, self.tiny)
            return replace(asks, also=(Also(tiny_stage(self.tiny, self.run.backbone), made),))
        return replace(asks, outside=(self.tiny.name,))
