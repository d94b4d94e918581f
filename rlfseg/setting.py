"""What the chapters share: the artefacts of one description, found or made.

Each chapter builds a `Setting` from its parameters and asks it for what it needs; what an earlier
chapter made, or what ships with the repository, is found, and what is missing is made.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, PartialState
from diffusers import UNet2DConditionModel

from rlfseg.backbone.full_size import random_stable_diffusion
from rlfseg.backbone.recipe import backbone
from rlfseg.cache import LatentCache
from rlfseg.config import OptimiserConfig
from rlfseg.data import FlowBatch, flow_batch
from rlfseg.description import RANDOM, RANDOM_SAM, Description
from rlfseg.latent import Frozen, load_frozen
from rlfseg.launch import launch
from rlfseg.model import ATTENTION, EVERYTHING, add_lora, load_trained, load_unet, save_trained
from rlfseg.objective import RectifiedFlowObjective
from rlfseg.pack import Pack, Record, write_pack
from rlfseg.pack.schema import index_path
from rlfseg.preview import Watch
from rlfseg.record import Step
from rlfseg.refine import PromptedSam, load_sam, random_sam, save_sam
from rlfseg.refine.recipe import trained_sam
from rlfseg.relabel import relabel
from rlfseg.sources import by_image
from rlfseg.sources.masks import rasterise
from rlfseg.sources.mini.write import SPLITS, read_truth, write_phrasecut
from rlfseg.sources.phrasecut import read
from rlfseg.stage import read_record, repository, run
from rlfseg.train import fit, fit_in_stage

_WORKERS = min(8, os.cpu_count() or 1)
_PREVIEWED, _PREVIEWS = 4, 8  # validation phrases, and how often they are looked at


@dataclass(frozen=True)
class Setting(Description):
    """A description whose artefacts can be had.

    Raises:
        FileNotFoundError: if the data's source is neither `mini` nor a folder.
    """

    def __post_init__(self) -> None:
        if self.data.source != "mini":
            self.source()

    def backbone_location(self) -> Path | str:
        """The backbone's folder, trained or built if it is ours and missing, or its hub id."""
        if self.backbone == "mini":
            return backbone(self.recipe, profile=self.profile)
        if self.backbone == RANDOM:
            return random_stable_diffusion(profile=self.profile)
        local = repository() / self.backbone
        return local if local.is_dir() else self.backbone

    def source(self) -> Path:
        """The folder in PhraseCut's format: the given one, or the drawn scenes."""
        if self.data.source != "mini":
            folder = repository() / self.data.source
            if not folder.is_dir():
                raise FileNotFoundError(
                    f"data source {folder} is no folder: give PhraseCut's folder, or 'mini'"
                )
            return folder
        counts = {split: getattr(self.data, split) for split in SPLITS}

        def make(folder: Path) -> None:
            write_phrasecut(folder, seed=self.data.seed, counts=counts, pixels=self.data.pixels)

        return run(self.source_stage, make, profile=self.profile)

    def pack(self, split: str) -> Pack:
        """A split's packed file (A.3.2), with exact masks where the world is ours."""

        def make(folder: Path) -> dict[str, Any]:
            root = self.source()
            exact = read_truth(root) if self.data.source == "mini" else {}
            reports = {}
            for name in SPLITS:
                records = (
                    Record(
                        sample.image_id,
                        sample.image_path,
                        sample.caption,
                        partial(rasterise, sample),
                        exact[sample.ids["task_id"]].mask if exact else None,
                        (sample.ids["task_id"],),
                    )
                    for sample in by_image(read(root, name))
                )
                path = folder / f"{name}.h5"
                report = write_pack(records, path, size=self.data.pixels, workers=_WORKERS)
                reports[name] = asdict(report)
            return reports

        return Pack(run(self.data_stage, make, profile=self.profile) / f"{split}.h5")

    def pack_report(self) -> dict[str, Any]:
        """What packing counted, by split."""
        return dict(read_record(self.pack("test").path.parent)["figures"])

    def predictor(self) -> PromptedSam:
        """The SAM that refines labels, on this machine's device; trained if ours is missing."""
        if self.sam.kind == "mini":
            checkpoint = trained_sam(self.sam.recipe, profile=self.profile)
        elif self.sam.checkpoint == RANDOM_SAM:

            def make(folder: Path) -> None:
                save_sam(random_sam(self.sam.kind), folder / "sam.safetensors")

            checkpoint = run(self.sam_stage, make, profile=self.profile) / "sam.safetensors"
        else:
            checkpoint = repository() / self.sam.checkpoint
        return load_sam(self.sam.kind, checkpoint, device=PartialState().device)

    def refined(self, split: str) -> Path:
        """A folder: the split's packed file with refined masks beside the annotations.

        In `relabel/` lie the records and the report of `rlfseg.relabel`.
        """

        def make(folder: Path) -> dict[str, Any]:
            packed = self.pack(split).path
            for source in (index_path(packed), packed):
                copy = folder / source.name
                if not copy.exists():
                    shutil.copy(source, folder / "copy.tmp")
                    os.replace(folder / "copy.tmp", copy)
            path, out = folder / packed.name, folder / "relabel"
            return asdict(relabel(path, self.predictor(), self.refine, out))

        return run(self.refined_stage(split), make, profile=self.profile)

    def frozen(self) -> Frozen:
        """Autoencoder and text encoder on this machine's device."""
        frozen = load_frozen(self.backbone_location(), device=PartialState().device)
        return replace(frozen, decoding=torch.bfloat16)

    def cache(self, split: str, frozen: Frozen, *, refined: bool = False) -> LatentCache:
        """The latent cache of a split, over the packed file with refined masks if asked for."""
        stage = self.latents_stage(split)
        folder = repository() / "runs" / self.profile / "stages" / f"{stage.name}-{stage.hash}"
        pack = Pack(self.refined(split) / f"{split}.h5") if refined else self.pack(split)
        return LatentCache(folder, pack, frozen)

    def fill_latents(self) -> int:
        """Encodes what training reads, before it; returns how many latents were missing here.

        Training fills the cache too, as it goes. Done beforehand, in the processes of a launch or
        of several, it keeps the autoencoder out of the training's time.
        """
        state, count = PartialState(), 0
        frozen, share = self.frozen(), (state.process_index, state.num_processes)
        for split in ("train", "val"):
            refined = split == "train" and self.train.selection != "original"
            with state.main_process_first():  # which makes the cache's files
                cache = self.cache(split, frozen, refined=refined)
            count += cache.fill(share=share)
        state.wait_for_everyone()
        return count

    def untrained(self) -> UNet2DConditionModel:
        """The backbone's UNet, ready to train: with adapters, or all parameters free."""
        unet = load_unet(self.backbone_location())
        if self.train.rank == 0:
            return unet.requires_grad_(True)
        targets = ATTENTION if self.train.targets == "attention" else EVERYTHING
        add_lora(unet, rank=self.train.rank, targets=targets, seed=self.train.seed)
        return unet

    def training(self, unet: UNet2DConditionModel, *, until: int) -> Iterator[Step]:
        """The first steps of the training run on a UNet from `untrained`, one by one."""
        accelerator = Accelerator(mixed_precision="bf16")
        return fit(*self._run(unet), accelerator=accelerator, until=until)

    def trained(self, *, processes: int = 1) -> Path:
        """The folder of the trained adapter or UNet, its record `steps.jsonl` and its previews.

        Args:
            processes: how many train together, a GPU each; with one, it is this process. In a
                process of a launch it stays at 1.

        Raises:
            RuntimeError: if the processes fail.
        """
        if processes > 1:
            self._prepare()
            launch(self.parameters(), processes=processes)

        def make(folder: Path) -> dict[str, Any]:
            unet = self.untrained()
            with PartialState().main_process_first():  # which makes the cache's files
                cache = self.cache("val", self.frozen())
            places = np.linspace(0, len(cache.pack) - 1, _PREVIEWED)
            items = np.unique(places.round().astype(int)).tolist()
            every = max(1, self.train.steps // _PREVIEWS)
            watch = Watch(folder, unet, cache, items, every=every)

            def save() -> None:
                watch.finish()
                save_trained(unet, folder)

            title = f"training {self.train_stage.name}"
            return fit_in_stage(*self._run(unet), folder, title=title, save=save, watch=watch)

        main = PartialState().is_main_process
        return run(self.train_stage, make, profile=self.profile, main=main)

    def _prepare(self) -> None:
        """Makes what training reads, so that the processes of a launch find it."""
        self.backbone_location()
        for split in ("train", "val"):
            self.pack(split)
        if self.train.selection != "original":
            self.refined("train")

    def _run(
        self, unet: UNet2DConditionModel
    ) -> tuple[RectifiedFlowObjective, Callable[[int], FlowBatch], OptimiserConfig]:
        """Objective, batches and optimiser of the training run."""
        train, state = self.train, PartialState()
        with state.main_process_first():  # which makes the cache's files
            cache = self.cache("train", self.frozen(), refined=train.selection != "original")
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
        return RectifiedFlowObjective(unet, selection=train.selection), batch, optimiser

    def trained_unet(self, device: torch.device) -> UNet2DConditionModel:
        """The trained UNet, frozen, on a device."""
        return load_trained(self.backbone_location(), self.trained()).to(device)
