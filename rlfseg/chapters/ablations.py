"""The chapters that take the method apart: their parameters, and what they ask for."""

from functools import partial
from typing import Annotated, Any

from pydantic import Field
from pydantic.dataclasses import dataclass

from rlfseg.baselines.phrases import PhraseSet
from rlfseg.chapters.asks import ALL, Also, Asks, as_rows, phrase_rivals
from rlfseg.chapters.results import Baselines
from rlfseg.chapters.values import Samplers, TrainChanges, Variants, having, rows_of
from rlfseg.config import STRICT, Count, Positive
from rlfseg.experiment import Run, Scoring
from rlfseg.flowseg.recipe import FieldConfig, arm, arm_stage


@dataclass(frozen=True, config=STRICT)
class Ranks:
    """Table 6: `variants` are the rows, with each seed; `longer` runs stand beside them."""

    run: Run
    variants: Annotated[Variants, rows_of(6)]
    longer: Variants
    scoring: Scoring

    def asks(self) -> Asks:
        """Ask for all of them, scored."""
        many, longer = self.run.seeded(self.variants), self.run.variants(self.longer)
        rows = [many[name, self.run.seeds[0]] for name in self.variants]
        runs = [run for run in (*many.values(), *longer.values()) if run not in rows]
        scored = as_rows((run, self.scoring) for run in rows)
        return Asks(scored=(*scored, *((run, self.scoring) for run in runs)))


@dataclass(frozen=True, config=STRICT)
class Protocols:
    """What the tables compare: `phrases` of two splits, their logits times each `sharpness`, scored
    at each of `sides`.
    """

    run: Run
    phrases: Count
    sharpness: list[Positive]
    sides: list[Annotated[int, Field(gt=0, le=4096)]]

    def asks(self) -> Asks:
        """Ask for the trained run."""
        return Asks(runs=(self.run,), segmented=2 * self.phrases)


@dataclass(frozen=True, config=STRICT)
class FlowSeg:
    """FlowSeg's field in every variant: `arms` say what each changes, `early` what short runs do,
    at each of the learning `rates`, and `live` what those in the page do.
    """

    run: Run
    field: FieldConfig
    arms: Annotated[dict[str, dict[str, Any]], having("vanilla", "reshaped")]
    early: dict[str, Any]
    rates: list[Positive]
    live: dict[str, Any]

    @property
    def configs(self) -> dict[str, FieldConfig]:
        """Every variant."""
        return {name: self._arm(self.field, name) for name in self.arms}

    def early_configs(self, rate: float) -> dict[str, FieldConfig]:
        """Return the two short variants at a learning rate."""
        return self._two({**self.early, "lr": rate}, where="early")

    @property
    def live_configs(self) -> dict[str, FieldConfig]:
        """The two that are trained in the page."""
        return self._two(self.live, where="live")

    def _two(self, changes: dict[str, Any], *, where: str) -> dict[str, FieldConfig]:
        field = self.field.with_changes(changes, where=where)
        return {name: self._arm(field, name) for name in ("vanilla", "reshaped")}

    def _arm(self, field: FieldConfig, name: str) -> FieldConfig:
        return field.with_changes(self.arms[name], where=f"arms.{name}")

    def asks(self) -> Asks:
        """Ask for all fields."""
        early = [each for rate in self.rates for each in self.early_configs(rate).values()]
        return Asks(
            also=(
                *(self._also(config) for config in (*self.configs.values(), *early)),
                *(self._also(config, ships=False) for config in self.live_configs.values()),
            )
        )

    def _also(self, config: FieldConfig, *, ships: bool = True) -> Also:
        return Also(arm_stage(config), partial(arm, config, profile=self.run.profile), ships)


@dataclass(frozen=True, config=STRICT)
class Objectives:
    """Which loss and which t: `variants` with each seed, others `once`, beside discriminative
    heads; what is expected `at_least`, in points.
    """

    run: Run
    variants: Variants
    once: dict[str, TrainChanges]
    scoring: Scoring
    samplers: Annotated[Samplers, having("one", "aos")]
    baselines: Baselines
    at_least: Annotated[dict[str, float], having("aos")]

    @property
    def runs(self) -> dict[str, list[Run]]:
        """The runs of each variant, one for each seed, and those that are trained once."""
        seeds, many = self.run.seeds, self.run.seeded(self.variants)
        runs = {name: [many[name, seed] for seed in seeds] for name in self.variants}
        return runs | {name: [run] for name, run in self.run.variants(self.once).items()}

    @property
    def baselines_on(self) -> PhraseSet:
        """The phrases that heads are scored on: the runs'."""
        return PhraseSet(self.scoring.split, self.scoring.phrases or ALL)

    def asks(self) -> Asks:
        """Ask for all runs by all samplers, and the heads."""
        runs = [run for each in self.runs.values() for run in each]
        ways = [self.scoring.by(way) for way in self.samplers.values()]
        rivals = phrase_rivals(self.run, self.baselines, self.baselines_on)
        return Asks(scored=tuple((run, way) for run in runs for way in ways), rivals=rivals)
