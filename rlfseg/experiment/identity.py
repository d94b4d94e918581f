"""Which run is which: the stages, and so the hashes, of all that a description leads to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from rlfseg.config import SamplerConfig
from rlfseg.data.packed.schema import VERSION as PACK_VERSION
from rlfseg.experiment.description import RANDOM, Description, build, tiny_config
from rlfseg.experiment.relabelling import VERSION as RELABEL_VERSION
from rlfseg.stage import Stage
from rlfseg.stand_ins.backbone import autoencoder_stage, backbone_stage
from rlfseg.stand_ins.full_size import random_stage
from rlfseg.stand_ins.mini_sam import sam_stage
from rlfseg.stand_ins.tiny_decoder import tiny_stage


@dataclass(frozen=True)
class Identity(Description):
    """A description and the stage of each artefact on its way."""

    @property
    def backbone_stage(self) -> Stage:
        """Identifies the backbone; an outside one by its name."""
        if self.backbone == "mini":
            return backbone_stage(self.recipe)
        if self.backbone == RANDOM:
            return random_stage()
        return Stage("outside-backbone", 1, {"name": self.backbone})

    @property
    def source_stage(self) -> Stage:
        """Identifies the data, however they are packed; training depends on nothing more."""
        return Stage("scenes", 3, _changed(self.data))

    @property
    def data_stage(self) -> Stage:
        """Identifies the packed files."""
        return Stage("data", PACK_VERSION, {}, {"source": self.source_stage})

    def latents_stage(self, split: str) -> Stage:
        """Identifies a split's latents: made of the data by the autoencoder, whatever the UNet."""
        encoder = autoencoder_stage(self.recipe) if self.backbone == "mini" else self.backbone_stage
        return Stage(f"latents-{split}", 2, {}, {"data": self.data_stage, "autoencoder": encoder})

    @property
    def sam_stage(self) -> Stage:
        """Identifies the SAM; an outside one by its kind and the name of its checkpoint."""
        if self.sam.kind == "mini":
            return sam_stage(self.sam.recipe)
        name = self.sam.checkpoint.rsplit("/", 1)[-1]
        return Stage("outside-sam", 1, {"kind": self.sam.kind, "checkpoint": name})

    def tiny_stage(self, choice: Mapping[str, Any]) -> Stage:
        """Identifies the mini backbone's tiny decoder; `choice` as for `Inputs.tiny_decoder`."""
        return tiny_stage(tiny_config(choice), self.recipe)

    def refined_stage(self, split: str) -> Stage:
        """Identifies a split's packed file with refined masks."""
        inputs = {"data": self.data_stage, "sam": self.sam_stage}
        return Stage(f"refined-{split}", RELABEL_VERSION, asdict(self.refine), inputs)

    @property
    def train_stage(self) -> Stage:
        """Identifies what training ends in.

        Fields at their default are left out, so that a field that is added later, and then does
        nothing by default, leaves what was trained before current.
        """
        inputs = {"backbone": self.backbone_stage, "data": self.source_stage}
        if (first := self.started()) is not None:
            inputs["start"] = first.train_stage
        full = "scratch" if self.train.weights == "random" else "full"
        kind = f"lora{self.train.rank}-{self.train.targets}" if self.train.rank else full
        name = f"{kind}-{self.train.time}"
        if self.train.objective != "plain":
            name += f"-{self.train.objective}"
        if self.train.selection != "original":
            inputs["labels"] = self.refined_stage("train")
            name += f"-{self.train.selection}"
        if "seed" in _changed(self.train):
            name += f"-seed{self.train.seed}"
        return Stage(name, 1, _changed(self.train), inputs)

    def scores_stage(
        self,
        *,
        split: str,
        phrases: int | None = None,
        truth: bool = False,
        boundary: bool = False,
        on: Mapping[str, Any] | None = None,
        **sampler: Any,
    ) -> Stage:
        """Identifies the scores of the trained model on evenly spaced phrases of a split.

        Args:
            split: of the packed data.
            phrases: how many; all if there are fewer, or for None.
            truth: whether they are scored against the exact masks too.
            boundary: whether boundary F is measured too.
            on: other data than those it was trained on, as fields of `DataConfig`.
            sampler: fields of `SamplerConfig`.
        """
        way = asdict(build(SamplerConfig, "sampler", sampler))
        inputs = {"training": self.train_stage, "data": self.on(on).data_stage}
        config = {"split": split, "phrases": phrases, "sampler": way}
        if truth:
            config["truth"] = True
        if boundary:
            config["boundary"] = True
        return Stage(f"scores-{self.train_stage.name}", 1, config, inputs)

    def closed_stage(
        self, *, images: int, on: Mapping[str, Any] | None = None, **sampler: Any
    ) -> Stage:
        """Identifies the confusions of the trained model among a closed set of names.

        Args:
            images: how many pictures of the validation split, evenly spaced.
            on: other data than those it was trained on, as fields of `DataConfig`.
            sampler: fields of `SamplerConfig`.
        """
        way = asdict(build(SamplerConfig, "sampler", sampler))
        inputs = {"training": self.train_stage, "data": self.on(on).data_stage}
        return Stage(
            f"closed-{self.train_stage.name}", 1, {"images": images, "sampler": way}, inputs
        )


def _changed(part: Any) -> dict[str, Any]:
    """The fields of a frozen part that differ from their default."""
    return {
        each.name: value
        for each in fields(part)
        if (value := getattr(part, each.name)) != each.default
    }
