"""What the chapters share: the artefacts of one description, found or made.

Each chapter builds a `Setting` from its parameters and asks it for what it needs; what an earlier
chapter made, or what ships with the repository, is found, and what is missing is made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, PartialState
from diffusers import UNet2DConditionModel

from rlfseg.config import OptimiserConfig, SamplerConfig
from rlfseg.data import FlowBatch, flow_batch
from rlfseg.evaluate import Evaluation, boundaries, evaluate, spaced
from rlfseg.inputs import Inputs
from rlfseg.launch import launch
from rlfseg.metrics import Counts
from rlfseg.model import (
    ATTENTION,
    EVERYTHING,
    add_lora,
    as_velocity,
    fresh_unet,
    load_trained,
    load_unet,
    save_trained,
)
from rlfseg.objective import RectifiedFlowObjective
from rlfseg.paper import Results, save_results
from rlfseg.pipeline import RLFSegPipeline
from rlfseg.preview import Watch
from rlfseg.record import Step
from rlfseg.stage import found, provenance, repository, run
from rlfseg.tracking import Tracked
from rlfseg.train import fit, fit_in_stage

_PREVIEWED, _PREVIEWS = 4, 8  # validation phrases, and how often they are looked at


@dataclass(frozen=True)
class Setting(Inputs):
    """A description whose training can be had too."""

    def base(self) -> Path | str:
        """Where the UNet lies that training starts from: the backbone, or what `start` ends in."""
        first = self.started()
        return self.backbone_location() if first is None else first.trained()

    def untrained(self) -> UNet2DConditionModel:
        """The UNet of `base`, ready to train: with adapters, or all parameters free.

        With random weights it is of the same make.
        """
        unet = load_unet(self.base())
        if self.train.weights == "random":
            unet = fresh_unet(unet, seed=self.train.seed)
        if self.train.rank == 0:
            unet.requires_grad_(True)
        else:
            targets = ATTENTION if self.train.targets == "attention" else EVERYTHING
            add_lora(unet, rank=self.train.rank, targets=targets, seed=self.train.seed)
        if self.machine.recompute:
            unet.enable_gradient_checkpointing()
        if self.machine.compile:
            unet.compile(backend=self.machine.compile)
        return unet

    def training(self, unet: UNet2DConditionModel, *, until: int) -> Iterator[Step]:
        """The first steps of the training run on a UNet from `untrained`, one by one."""
        accelerator = Accelerator(mixed_precision="bf16")
        return fit(*self._run(unet), accelerator=accelerator, until=until)

    def trained(self) -> Path:
        """The folder of the trained adapter or UNet, its record `steps.jsonl` and its previews.

        It is trained by `machine.processes` processes, or, in a process of a launch, by those.

        Raises:
            RuntimeError: if the processes fail.
        """
        alone = PartialState().num_processes == 1
        if self.machine.processes > 1 and alone and not self.is_trained:
            self._prepare()
            launch(self.parameters(), processes=self.machine.processes)

        def make(folder: Path) -> dict[str, Any]:
            unet = self.untrained()
            with PartialState().main_process_first():  # which makes the cache's files
                cache = self.cache("val", self.frozen())
            places = np.linspace(0, len(cache.pack) - 1, _PREVIEWED)
            items = np.unique(places.round().astype(int)).tolist()
            every = max(1, self.train.steps // _PREVIEWS)
            watches: list[Watch | Tracked] = [Watch(folder, unet, cache, items, every=every)]
            if self.machine.tracker:
                watches.append(Tracked(folder))

            def watch(step: Step) -> None:
                for each in watches:
                    each(step)

            def save() -> None:
                for each in watches:
                    each.finish()
                save_trained(unet, folder)

            title = f"training {self.train_stage.name}"
            return fit_in_stage(*self._run(unet), folder, title=title, save=save, watch=watch)

        main = PartialState().is_main_process
        return run(self.train_stage, make, profile=self.profile, main=main)

    @property
    def is_trained(self) -> bool:
        """Whether `trained` would find what it is asked for rather than train it."""
        return found(self.train_stage, profile=self.profile) is not None

    def _prepare(self) -> None:
        """Makes what training reads, so that the processes of a launch find it."""
        self.base()
        for split in ("train", "val"):
            self.pack(split)
        if self.train.selection != "original":
            self.refined("train")

    def _run(
        self, unet: UNet2DConditionModel
    ) -> tuple[RectifiedFlowObjective, Callable[[int], FlowBatch], OptimiserConfig]:
        """Objective, batches and optimiser of the training run."""
        train, state, frozen = self.train, PartialState(), self.frozen()
        with state.main_process_first():  # which makes the cache's files
            cache = self.cache("train", frozen, refined=train.selection != "original")
        optimiser = OptimiserConfig(
            steps=train.steps, lr=train.lr, warmup=train.warmup, schedule=train.schedule
        )
        batch = partial(
            flow_batch,
            cache,
            size=train.batch,
            time=train.time,
            selection=train.selection,
            seed=train.seed,
            share=(state.process_index, state.num_processes),
        )
        mu = None
        if train.objective == "reshaped":
            mu = torch.cat([frozen.black(cache.pixels), frozen.white(cache.pixels)])
        objective = RectifiedFlowObjective(
            unet, selection=train.selection, objective=train.objective, mu=mu
        )
        return objective, batch, optimiser

    def trained_unet(self, device: torch.device) -> UNet2DConditionModel:
        """The trained UNet, frozen, on a device."""
        return load_trained(self.base(), self.trained()).to(device)

    def scored(
        self,
        *,
        split: str,
        phrases: int,
        truth: bool = False,
        boundary: bool = False,
        **sampler: Any,
    ) -> Evaluation:
        """Scores the trained model on evenly spaced phrases of a split, or finds it scored.

        The counts are kept, so that any number can be read off them later, without the weights.
        Arguments as for `scores_stage`.

        Raises:
            ValueError: if the truth is asked for and isn't known.
        """
        stage = self.scores_stage(
            split=split, phrases=phrases, truth=truth, boundary=boundary, **sampler
        )

        def make(folder: Path) -> None:
            frozen = self.frozen()
            cache, v = self.cache(split, frozen), as_velocity(self.trained_unet(frozen.device))
            items = spaced(len(cache.pack), phrases)
            scores = evaluate(v, cache, items, SamplerConfig(**sampler))
            scores.annotation.save(folder / "counts.npz")
            if truth and scores.truth is None:
                raise ValueError(f"{cache.pack.path} has no exact masks: leave truth away")
            if truth and scores.truth is not None:
                scores.truth.save(folder / "truth.npz")
            if boundary:
                level = scores.annotation.miou().threshold
                f = boundaries(v, cache, items, SamplerConfig(**sampler), threshold=level)
                np.save(folder / "boundary.npy", f.astype(np.float32))

        folder = run(stage, make, profile=self.profile)
        exact = Counts.load(folder / "truth.npz") if truth else None
        edges = np.load(folder / "boundary.npy") if boundary else None
        return Evaluation(Counts.load(folder / "counts.npz"), exact, edges)

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
