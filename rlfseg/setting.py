"""What the chapters share: one description of backbone, data and training, and its artefacts.

Each chapter builds a `Setting` from its parameters and asks it for what it needs; what an earlier
chapter made, or what ships with the repository, is found, and what is missing is made.
"""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import Accelerator, PartialState
from diffusers import UNet2DConditionModel

from rlfseg.backbone.full_size import random_stable_diffusion, random_stage
from rlfseg.backbone.recipe import BackboneConfig, backbone, backbone_stage
from rlfseg.cache import LatentCache
from rlfseg.config import DataConfig, OptimiserConfig, TrainConfig
from rlfseg.data import flow_batch
from rlfseg.latent import Frozen, load_frozen
from rlfseg.model import ATTENTION, EVERYTHING, add_lora, load_trained, load_unet, save_trained
from rlfseg.objective import RectifiedFlowObjective
from rlfseg.pack import VERSION as PACK_VERSION
from rlfseg.pack import Pack, Record, write_pack
from rlfseg.sources import by_image
from rlfseg.sources.masks import rasterise
from rlfseg.sources.mini.write import SPLITS, read_truth, write_phrasecut
from rlfseg.sources.phrasecut import read
from rlfseg.stage import Stage, read_record, repository, run
from rlfseg.train import Step, fit, read_steps, recorded

_RANDOM = "random-sd15"
_WORKERS = min(8, os.cpu_count() or 1)
_T = TypeVar("_T")


@dataclass(frozen=True)
class Setting:
    """Backbone, data and training of one profile.

    Attributes:
        profile: `smoke`, `mini`, `preflight` or `a100`; where artefacts are looked for.
        backbone: `mini`, `random-sd15`, a folder in the diffusers layout (absolute or from the
            repository's root), or a hub id.
        recipe: of the mini backbone; unused for another.
        data: which data.
        train: the rectified flow run.
    """

    profile: str
    backbone: str
    recipe: BackboneConfig
    data: DataConfig
    train: TrainConfig

    @classmethod
    def from_parameters(
        cls,
        *,
        profile: str,
        backbone: Mapping[str, Any],
        data: Mapping[str, Any],
        train: Mapping[str, Any],
    ) -> Setting:
        """Builds a setting from a chapter's parameters.

        Args:
            profile: name of the profile.
            backbone: `name`, and for `mini` the fields of `BackboneConfig`.
            data: fields of `DataConfig`.
            train: fields of `TrainConfig`.

        Raises:
            ValueError: naming the parameter and the key that is unknown.
            FileNotFoundError: if the data's source is no folder.
        """
        rest = {key: value for key, value in backbone.items() if key != "name"}
        setting = cls(
            profile,
            str(backbone["name"]),
            _build(BackboneConfig, "backbone", rest),
            _build(DataConfig, "data", data),
            _build(TrainConfig, "train", train),
        )
        if setting.data.source != "mini":
            setting.source()
        return setting

    def describe(self) -> str:
        """All values, a line for each part, for a reader."""
        parts: dict[str, Any] = {"backbone": self.backbone}
        if self.backbone == "mini":
            parts["recipe"] = self.recipe
        parts |= {"data": self.data, "train": self.train}
        return "\n".join(f"{name:9}{_values(part)}" for name, part in parts.items())

    # --- stages ---------------------------------------------------------------------------

    @property
    def backbone_stage(self) -> Stage:
        """Identifies the backbone; an outside one by its name."""
        if self.backbone == "mini":
            return backbone_stage(self.recipe)
        if self.backbone == _RANDOM:
            return random_stage()
        return Stage("outside-backbone", 1, {"name": self.backbone})

    @property
    def source_stage(self) -> Stage:
        """Identifies the data, however they are packed; training depends on nothing more."""
        return Stage("scenes", 1, asdict(self.data))

    @property
    def data_stage(self) -> Stage:
        """Identifies the packed files."""
        return Stage("data", PACK_VERSION, {}, {"source": self.source_stage})

    @property
    def train_stage(self) -> Stage:
        """Identifies what training ends in."""
        inputs = {"backbone": self.backbone_stage, "data": self.source_stage}
        kind = f"lora{self.train.rank}" if self.train.rank else "full"
        name = f"{kind}-{self.train.targets}-{self.train.time}"
        return Stage(name, 1, asdict(self.train), inputs)

    # --- artefacts ------------------------------------------------------------------------

    def backbone_location(self) -> Path | str:
        """The backbone's folder, trained or built if it is ours and missing, or its hub id."""
        if self.backbone == "mini":
            return backbone(self.recipe, profile=self.profile)
        if self.backbone == _RANDOM:
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

    def frozen(self) -> Frozen:
        """Autoencoder and text encoder on this machine's device."""
        return load_frozen(self.backbone_location(), device=PartialState().device)

    def cache(self, split: str, frozen: Frozen) -> LatentCache:
        """The latent cache of a split."""
        tie = Stage(
            f"latents-{split}", 1, {}, {"data": self.data_stage, "backbone": self.backbone_stage}
        )
        folder = repository() / "runs" / self.profile / "stages" / f"{tie.name}-{tie.hash}"
        return LatentCache(folder, self.pack(split), frozen)

    def untrained(self) -> UNet2DConditionModel:
        """The backbone's UNet, ready to train: with adapters, or all parameters free."""
        unet = load_unet(self.backbone_location())
        if self.train.rank == 0:
            return unet.requires_grad_(True)
        targets = ATTENTION if self.train.targets == "attention" else EVERYTHING
        add_lora(unet, rank=self.train.rank, targets=targets, seed=self.train.seed)
        return unet

    def training(
        self, unet: UNet2DConditionModel, *, checkpoint: Path | None, until: int | None = None
    ) -> Iterator[Step]:
        """The training run on a UNet from `untrained`, step by step."""
        cache = self.cache("train", self.frozen())
        train = self.train
        optimiser = OptimiserConfig(
            steps=train.steps, lr=train.lr, warmup=train.warmup, schedule=train.schedule
        )
        return fit(
            RectifiedFlowObjective(unet),
            lambda step: flow_batch(
                cache, step, size=train.batch, time=train.time, seed=train.seed
            ),
            optimiser,
            accelerator=Accelerator(mixed_precision="bf16"),
            checkpoint=checkpoint,
            until=until,
        )

    def trained(self) -> Path:
        """The folder of the trained adapter or UNet and its record `steps.jsonl`."""

        def make(folder: Path) -> dict[str, Any]:
            unet = self.untrained()
            checkpoint = folder / "checkpoint.safetensors"
            record = folder / "steps.jsonl"
            title = f"training {self.train_stage.name}"
            steps = self.training(unet, checkpoint=checkpoint)
            for _ in recorded(steps, record, total=self.train.steps, title=title):
                pass
            save_trained(unet, folder)
            checkpoint.unlink()
            recent = [step.loss for step in read_steps(record)[-100:]]
            return {"loss_last_100": sum(recent) / len(recent)}

        return run(self.train_stage, make, profile=self.profile)

    def trained_unet(self, device: torch.device) -> UNet2DConditionModel:
        """The trained UNet, frozen, on a device."""
        return load_trained(self.backbone_location(), self.trained()).to(device)


def _values(part: Any) -> str:
    """A frozen part as `key=value` words, wrapped."""
    if isinstance(part, str):
        return part
    words = ", ".join(f"{key}={value}" for key, value in asdict(part).items())
    return textwrap.fill(words, 72, subsequent_indent=" " * 9)


def _build(kind: type[_T], name: str, values: Mapping[str, Any]) -> _T:
    known = {f.name for f in fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - known)
    if unknown:
        raise ValueError(
            f"{name}: unknown {', '.join(unknown)}; known are {', '.join(sorted(known))}"
        )
    return kind(**values)
