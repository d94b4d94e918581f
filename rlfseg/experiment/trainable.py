"""The training run that a description leads to, found or made."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from diffusers import UNet2DConditionModel

from rlfseg.config import OptimiserConfig
from rlfseg.device import quick_accelerator
from rlfseg.experiment.inputs import Inputs
from rlfseg.experiment.previews import Watch
from rlfseg.models.unet import (
    ATTENTION,
    EVERYTHING,
    add_lora,
    for_sampling,
    fresh_unet,
    load_trained,
    load_unet,
    save_trained,
)
from rlfseg.processes import launch
from rlfseg.stage import found, run
from rlfseg.training.flow_batch import FlowBatch, flow_batch
from rlfseg.training.flow_objective import RectifiedFlowObjective
from rlfseg.training.loop import fit, fit_in_stage
from rlfseg.training.steps import Step, Tracked

_PREVIEWED, _PREVIEWS = 4, 8  # validation phrases, and how often they are looked at


@dataclass(frozen=True)
class Trainable(Inputs):
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
        return fit(*self._run(unet), accelerator=quick_accelerator(), until=until)

    def trained(self) -> Path:
        """The folder of the trained adapter or UNet, its record `steps.jsonl` and its previews.

        It is trained by `machine.processes` processes, or, in a process of a launch, by those.

        Raises:
            RuntimeError: if the processes fail.
        """
        alone = PartialState().num_processes == 1
        if self.machine.processes > 1 and alone and not self.is_trained:
            self._prepare()
            launch("train", self.parameters(), processes=self.machine.processes)

        def make(folder: Path) -> dict[str, Any]:
            unet = self.untrained()
            with PartialState().main_process_first():  # which makes the cache's files
                cache = self.cache("val", self.codec())
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
        train, state, codec = self.train, PartialState(), self.codec()
        with state.main_process_first():  # which makes the cache's files
            cache = self.cache("train", codec, refined=train.selection != "original")
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
            mu = torch.cat([codec.black(cache.pixels), codec.white(cache.pixels)])
        objective = RectifiedFlowObjective(
            unet, selection=train.selection, objective=train.objective, mu=mu
        )
        return objective, batch, optimiser

    def trained_unet(self, device: torch.device) -> UNet2DConditionModel:
        """The trained UNet, as `for_sampling` puts it on a device."""
        return for_sampling(load_trained(self.base(), self.trained()), device)
