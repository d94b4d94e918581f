"""What the same runs may start from: the backbone, random weights, a backbone of another recipe."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Annotated, Any

from pydantic import Field
from pydantic.dataclasses import dataclass

from rlfseg.chapters.values import TrainChanges, Variants
from rlfseg.config import STRICT, Count, validated
from rlfseg.experiment import Run, Scoring
from rlfseg.stand_ins.backbone import BackboneConfig

#: The two backbones that the same runs start from.
OWN, OTHER = "as shipped", "the other recipe"
_STARTS = {"pretrained": "pretrained", "random weights": "random"}


@dataclass(frozen=True, config=STRICT)
class Worth:
    """Runs of all parameters of so many `steps`, from the backbone and from random weights.

    `train` says what else is changed of the run, and `scoring` how they are scored. What is changed
    of a `longer` run from each, of which the learning curves are shown, stands by itself.
    """

    train: TrainChanges
    steps: Annotated[list[Count], Field(min_length=1)]
    scoring: Scoring
    longer: TrainChanges

    def runs(self, run: Run) -> dict[str, list[Run]]:
        """Return the runs by what they start from, one for each number of steps."""
        each = [self._from_both(run, {**self.train, "steps": steps}) for steps in self.steps]
        return {name: [both[name] for both in each] for name in _STARTS}

    def longer_runs(self, run: Run) -> dict[str, Run]:
        """Return the longer runs by what they start from."""
        return self._from_both(run, self.longer)

    def _from_both(self, run: Run, changes: Mapping[str, Any]) -> dict[str, Run]:
        return {
            name: run.variant({**changes, "rank": 0, "weights": weights})
            for name, weights in _STARTS.items()
        }


@dataclass(frozen=True, config=STRICT)
class Other:
    """Another recipe of the backbone, by what it `changes`, beside the run's own.

    It is asked what it draws, and `shown` pictures of that stay. From either start the same runs,
    with each seed: `variants`, and what `train` changes of them all.
    """

    changes: dict[str, Any]
    shown: Count
    train: TrainChanges
    variants: Annotated[Variants, Field(min_length=1)]

    def on(self, run: Run) -> Run:
        """Return a run on it.

        Raises:
            ValueError: if the recipe's changes are wrong.
        """
        values = {**asdict(run.backbone), **self.changes}
        return replace(run, backbone=validated(BackboneConfig, values, where="recipe.changes"))

    def runs(self, run: Run) -> dict[str, list[Run]]:
        """Return the runs of each variant, one for each seed, on the backbone that is given."""
        every = run.seeded({name: {**each, **self.train} for name, each in self.variants.items()})
        return {name: [every[name, seed] for seed in run.seeds] for name in self.variants}
