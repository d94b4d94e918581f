"""The chapters on data, refinement, training and sampling: their parameters, what they ask for."""

from functools import partial
from typing import Annotated, Any

from pydantic import AfterValidator, Field
from pydantic.dataclasses import dataclass

from rlfseg.chapters.asks import Also, Asks, as_rows
from rlfseg.chapters.values import Samplers, Variants, having
from rlfseg.config import (
    STRICT,
    Count,
    DataConfig,
    Positive,
    RefineConfig,
    SamplerConfig,
    validated,
)
from rlfseg.experiment import Run, Scoring, labels, source_folder
from rlfseg.stand_ins.plane import Plane


def _of_refinement(given: dict[str, list[Any]]) -> dict[str, list[Any]]:
    for name, values in given.items():
        for value in values:
            validated(RefineConfig, {name: value}, where="sweep")
    return given


@dataclass(frozen=True, config=STRICT)
class Idea:
    """The idea on a plane: `worlds` of pairs, `walked` in each of these numbers of steps; a field
    of `short` times its length, and AOS with the tolerance `tol`; and a network that learns the
    field in `updates`, each on pairs of this `size`.
    """

    run: Run
    worlds: Annotated[dict[str, Plane], having("crossing", "two answers")]
    walked: Annotated[list[Count], Field(min_length=2)]
    short: Annotated[float, Field(gt=0, lt=1)]
    tol: Positive
    updates: Count
    size: Count

    def asks(self) -> Asks:
        """Ask for nothing."""
        return Asks()


@dataclass(frozen=True, config=STRICT)
class Data:
    """Packed files; `shown` samples are drawn."""

    run: Run
    shown: Count

    def asks(self) -> Asks:
        """Ask for the run's data."""
        return Asks(data=(self.run,))


@dataclass(frozen=True, config=STRICT)
class Datasets:
    """The data sets' own files: `data` says where each is, `shown` samples of each are drawn."""

    run: Run
    data: dict[str, DataConfig]
    shown: Count

    def asks(self) -> Asks:
        """Ask for the files of each data set."""
        return Asks(
            also=tuple(
                Also(run.source_stage, partial(source_folder, run), ships=False)
                for run in self.runs.values()
            )
        )

    @property
    def runs(self) -> dict[str, Run]:
        """The run on each data set, for its files alone."""
        return {name: self.run.on(data) for name, data in self.data.items()}


@dataclass(frozen=True, config=STRICT)
class Refinement:
    """Algorithm 1 on `items` masks, and with each value of `sweep`; what is gained, `at_least`."""

    run: Run
    items: Count
    sweep: Annotated[dict[str, list[Any]], AfterValidator(_of_refinement)]
    at_least: Annotated[dict[str, float], having("iou", "boundary")]

    def asks(self) -> Asks:
        """Ask for SAM, and the refined validation split."""
        refined = ((self.run, "val"),)
        return Asks(data=(self.run,), refined=refined, also=(Also.refiner(self.run),))


@dataclass(frozen=True, config=STRICT)
class Training:
    """The run, its first `live_steps` trained in the page, whose losses agree up to `agreement`."""

    run: Run
    live_steps: Count
    shown: Count
    agreement: Positive

    def asks(self) -> Asks:
        """Ask for the trained run, and, of drawn scenes, the labels that the live steps need."""
        drawn = self.run.uses_refined and not self.run.photographed
        kept = Also(self.run.labels_stage("train"), partial(labels, self.run, "train"))
        return Asks(runs=(self.run,), also=(kept,) if drawn else ())


@dataclass(frozen=True, config=STRICT)
class Labels:
    """Table 5: runs that differ in their labels (`original`, `refined`, `exact`), with each seed
    and by each of `samplers` (`plain`, `AOS`); what `exact` gains `at_least`, in [0, 1].
    """

    run: Run
    variants: Variants
    scoring: Scoring
    samplers: Annotated[Samplers, having("plain", "AOS")]
    shown: Count
    at_least: float

    def asks(self) -> Asks:
        """Ask for all runs scored by all samplers, where they start, and labels to choose from."""
        runs, first = self.run.seeded(self.variants), self.run.first()
        ways = [self.scoring.by(way) for way in self.samplers.values()]
        firsts = tuple(runs[name, self.run.seeds[0]] for name in self.variants)
        rows = as_rows((run, way) for run in firsts for way in ways)
        others = [(run, way) for run in runs.values() if run not in firsts for way in ways]
        if first is not None:
            others.append((first, self.scoring.by(self.samplers["AOS"])))
        return Asks(
            runs=firsts,
            scored=(*rows, *others),
            refined=((self.run, "val"),) if any(run.uses_refined for run in firsts) else (),
            segmented=_third(self.scoring) * len(self.variants),
        )


@dataclass(frozen=True, config=STRICT)
class Sampling:
    """Tables 7 and 9: the run with each seed, by each of `samplers`, of which those named by steps
    are asked on `others` too; AOS and its signed variant at each of `tols`.
    """

    run: Run
    scoring: Scoring
    samplers: Annotated[Samplers, having("AOS")]
    others: dict[str, DataConfig]
    shown: Count
    tols: list[Positive]

    @property
    def runs(self) -> dict[int, Run]:
        """The run with each seed."""
        return {seed: self.run.variant({"seed": seed}) for seed in self.run.seeds}

    @property
    def stepped(self) -> list[str]:
        """The samplers of Table 9."""
        return [name for name in self.samplers if "step" in name]

    def elsewhere(self, other: str, sampler: str) -> Scoring:
        """Return how the run is scored on another data set."""
        way = self.samplers[sampler]
        return Scoring("val", self.scoring.phrases, on=self.others[other], sampler=way)

    def swept(self, name: str) -> list[Scoring]:
        """Return how the run is scored by a sampler at each of `tols`."""
        ways = [SamplerConfig(name=name, tol=tol) for tol in self.tols]  # type: ignore[arg-type]
        return [self.scoring.by(way) for way in ways]

    def asks(self) -> Asks:
        """Ask for all seeds by all samplers; the first on other data, and at each tolerance."""
        ways = [self.scoring.by(way) for way in self.samplers.values()]
        away = [self.elsewhere(other, name) for other in self.others for name in self.stepped]
        swept = [way for name in ("aos", "aos_signed") for way in self.swept(name)]
        first, *again = self.runs.values()
        rows = as_rows([(first, way) for way in ways] + [(self.run, way) for way in away])
        others = [(run, way) for run in again for way in ways] + [(self.run, way) for way in swept]
        return Asks(runs=(self.run,), scored=(*rows, *others), segmented=4 * self.shown)


def _third(scored: Scoring) -> int:
    return -(-(scored.phrases or 0) // 3)
