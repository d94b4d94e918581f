"""What the chapters share: the artefacts of one description, found or made.

Each chapter builds a `Setting` from its parameters and asks it for what it needs; what an earlier
chapter made, or what ships with the repository, is found, and what is missing is made.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from accelerate import PartialState

from rlfseg.book.paper import Results, save_results
from rlfseg.config import SamplerConfig
from rlfseg.evaluation.closed_set import confusions_in_parts, given_classes
from rlfseg.evaluation.confusion import Confusion, load_confusions, save_confusions
from rlfseg.evaluation.predict import spaced
from rlfseg.evaluation.score import (
    Evaluation,
    boundaries,
    edges_in_parts,
    evaluate,
    scored_in_parts,
)
from rlfseg.experiment.description import build
from rlfseg.experiment.trainable import Trainable
from rlfseg.method.types import Velocity
from rlfseg.models.latent_cache import LatentCache
from rlfseg.models.unet import as_velocity
from rlfseg.pipeline import RLFSegPipeline
from rlfseg.processes import launch
from rlfseg.stage import Stage, found, provenance, repository, run

_PARTS, _CLOSED = "parts", "confusions.npz"


@dataclass(frozen=True)
class Setting(Trainable):
    """A description whose scores can be had too."""

    def scored(
        self,
        *,
        split: str,
        phrases: int | None = None,
        truth: bool = False,
        boundary: bool = False,
        on: Mapping[str, Any] | None = None,
        **sampler: Any,
    ) -> Evaluation:
        """Scores the trained model on evenly spaced phrases of a split, or finds it scored.

        The counts are kept, so that any number can be read off them later, without the weights. It
        is scored by `machine.processes` processes, or, in a process of a launch, by those; what was
        scored before an interruption stays. Arguments as for `scores_stage`.

        Raises:
            ValueError: if the truth is asked for and isn't known.
            RuntimeError: if the processes fail.
        """
        asked: dict[str, Any] = {"split": split, "phrases": phrases, "on": on}
        asked |= {"truth": truth, "boundary": boundary}
        stage = self.scores_stage(**asked, **sampler)

        def make(folder: Path) -> None:
            v, cache, way = self._ready(split, on, sampler)
            items, parts = spaced(len(cache.pack), phrases), folder / _PARTS
            score = partial(evaluate, v, cache, config=way)
            scores = scored_in_parts(parts, cache.pack, items, score, title=stage.name)
            if truth and scores.truth is None:
                raise ValueError(f"{cache.pack.path} has no exact masks: leave truth away")
            edges = None
            if boundary:
                level = scores.annotation.miou().threshold
                measure = partial(boundaries, v, cache, config=way, threshold=level)
                edges = edges_in_parts(parts, cache.pack, items, measure, title=stage.name)
            kept = Evaluation(scores.annotation, scores.truth if truth else None, edges)
            if PartialState().is_main_process:
                kept.save(folder)

        return Evaluation.load(self._shared(stage, {"scored": {**asked, **sampler}}, make))

    def closed(
        self, *, images: int, on: Mapping[str, Any] | None = None, **sampler: Any
    ) -> list[Confusion]:
        """What the trained model makes of a closed set of names, picture by picture.

        Processes share the pictures as those of `scored` do the phrases. Arguments as for
        `closed_stage`.

        Raises:
            RuntimeError: if the processes fail.
        """
        asked: dict[str, Any] = {"images": images, "on": on}
        stage = self.closed_stage(**asked, **sampler)

        def make(folder: Path) -> None:
            v, cache, way = self._ready("val", on, sampler)
            ids, names = cache.pack.image_ids, self.on(on).names
            chosen = [ids[k] for k in spaced(len(ids), images)]
            asking = partial(given_classes, v, cache, names=names, config=way)
            found = confusions_in_parts(folder / _PARTS, cache.pack, chosen, names, asking)
            if PartialState().is_main_process:
                save_confusions(folder / _CLOSED, found)

        return load_confusions(
            self._shared(stage, {"closed": {**asked, **sampler}}, make) / _CLOSED
        )

    def keep_results(self, table: int, results: Results) -> Path:
        """Writes a table's cells to `runs/<profile>/results/table_N.json`, with their provenance.

        Raises:
            UnknownCellError: if a result belongs to no cell of the table.
        """
        path = repository() / "runs" / self.profile / "results" / f"table_{table}.json"
        made_of = {"profile": self.profile, "parameters": self.parameters(), **provenance()}
        save_results(path, table, results, made_of | {"training": self.train_stage.hash})
        return path

    def pipeline(self, *, threshold: float, tol: float) -> RLFSegPipeline:
        """The trained model as what people import, on this machine's device."""
        return RLFSegPipeline.from_backbone(
            self.backbone_location(),
            self.trained(),
            base=self.base(),
            device=PartialState().device,
            threshold=threshold,
            tol=tol,
        )

    def _shared(self, stage: Stage, asked: Mapping[str, Any], make: Callable[[Path], None]) -> Path:
        """The folder of a stage of scores, which several processes make if there are to be."""
        alone = PartialState().num_processes == 1
        if self.machine.processes > 1 and alone and found(stage, profile=self.profile) is None:
            self.trained()
            for of in asked.values():
                self.on(of.get("on")).pack("val")
            launch("evaluate", {**self.parameters(), **asked}, processes=self.machine.processes)
        state = PartialState()

        def share(folder: Path) -> None:
            make(folder)
            state.wait_for_everyone()  # until the others have read the parts too
            if state.is_main_process:
                shutil.rmtree(folder / _PARTS)

        return run(stage, share, profile=self.profile, main=state.is_main_process)

    def _ready(
        self, split: str, on: Mapping[str, Any] | None, sampler: Mapping[str, Any]
    ) -> tuple[Velocity, LatentCache, SamplerConfig]:
        """The field, the data and the sampler of a stage of scores."""
        codec = self.codec()
        with PartialState().main_process_first():  # which makes the cache's files
            cache = self.on(on).cache(split, codec)
        v = as_velocity(self.trained_unet(codec.device))
        return v, cache, build(SamplerConfig, "sampler", sampler)
