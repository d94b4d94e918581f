"""What a run is: backbone, data and training as frozen values, and their identifying hashes."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Self, TypeVar

from rlfseg.backbone.full_size import random_stage
from rlfseg.backbone.recipe import BackboneConfig, autoencoder_stage, backbone_stage
from rlfseg.backbone.tiny import TinyConfig, tiny_stage
from rlfseg.config import DataConfig, MachineConfig, RefineConfig, SamplerConfig, TrainConfig
from rlfseg.pack import VERSION as PACK_VERSION
from rlfseg.refine import KINDS
from rlfseg.refine.recipe import SamConfig, sam_stage
from rlfseg.relabel import VERSION as RELABEL_VERSION
from rlfseg.stage import Stage

RANDOM, RANDOM_SAM = "random-sd15", "random"
_T = TypeVar("_T")


@dataclass(frozen=True)
class SamChoice:
    """Which SAM refines labels.

    Attributes:
        kind: `mini`, which has a recipe of its own, or `vit_b`, `vit_l` or `vit_h`.
        checkpoint: the weights of the latter three, absolute or from the repository's root, or
            `random`.
        recipe: of the mini SAM.
    """

    kind: str = "mini"
    checkpoint: str = ""
    recipe: SamConfig = field(default_factory=SamConfig)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"sam: kind must be one of {', '.join(KINDS)}, got {self.kind!r}")
        if (self.kind == "mini") == bool(self.checkpoint):
            raise ValueError(
                f"sam: {self.kind} needs " + ("no" if self.checkpoint else "a") + " checkpoint"
            )


@dataclass(frozen=True)
class Description:
    """Backbone, data and training of one profile, and the stages that identify each.

    Attributes:
        profile: `smoke`, `mini`, `preflight` or `a100`; where artefacts are looked for.
        backbone: `mini`, `random-sd15`, a folder in the diffusers layout (absolute or from the
            repository's root), or a hub id.
        recipe: of the mini backbone; unused for another.
        data: which data.
        train: the rectified flow run.
        sam: refines labels, where training asks for refined ones.
        refine: how it does.
        machine: how training uses the machine; in no stage's identity.
        start: the run, of all parameters, whose UNet training goes on from; None starts from the
            backbone's.

    Raises:
        ValueError: if `start` trains an adapter.
    """

    profile: str
    backbone: str
    recipe: BackboneConfig
    data: DataConfig
    train: TrainConfig
    sam: SamChoice
    refine: RefineConfig
    machine: MachineConfig
    start: TrainConfig | None = None

    def __post_init__(self) -> None:
        if self.start is not None and self.start.rank:
            raise ValueError(
                f"start: a run goes on from one of all parameters (rank 0), not {self.start.rank}"
            )

    @classmethod
    def from_parameters(
        cls,
        *,
        profile: str,
        backbone: Mapping[str, Any],
        data: Mapping[str, Any],
        train: Mapping[str, Any],
        sam: Mapping[str, Any] | None = None,
        refine: Mapping[str, Any] | None = None,
        machine: Mapping[str, Any] | None = None,
        start: Mapping[str, Any] | None = None,
    ) -> Self:
        """Builds one from a chapter's parameters.

        Args:
            profile: name of the profile.
            backbone: `name`, and for `mini` the fields of `BackboneConfig`.
            data: fields of `DataConfig`.
            train: fields of `TrainConfig`.
            sam: `kind`, and `checkpoint` or, for `mini`, the fields of `SamConfig`.
            refine: fields of `RefineConfig`.
            machine: fields of `MachineConfig`.
            start: fields of `TrainConfig`.

        Raises:
            ValueError: naming the parameter and the key that is unknown.
        """
        rest = {key: value for key, value in backbone.items() if key != "name"}
        choice = {key: (sam or {})[key] for key in ("kind", "checkpoint") if key in (sam or {})}
        recipe = {key: value for key, value in (sam or {}).items() if key not in choice}
        return cls(
            profile,
            str(backbone["name"]),
            _build(BackboneConfig, "backbone", rest),
            _build(DataConfig, "data", data),
            _build(TrainConfig, "train", train),
            SamChoice(**choice, recipe=_build(SamConfig, "sam", recipe)),
            _build(RefineConfig, "refine", refine or {}),
            _build(MachineConfig, "machine", machine or {}),
            _build(TrainConfig, "start", start) if start else None,
        )

    def parameters(self) -> dict[str, Any]:
        """What `from_parameters` builds it from, as plain values."""
        sam = asdict(self.sam)
        recipe = sam.pop("recipe") if self.sam.kind == "mini" else {}
        backbone = asdict(self.recipe) if self.backbone == "mini" else {}
        return {
            "profile": self.profile,
            "backbone": {"name": self.backbone, **backbone},
            "data": asdict(self.data),
            "train": asdict(self.train),
            "sam": {"kind": self.sam.kind, "checkpoint": self.sam.checkpoint, **recipe},
            "refine": asdict(self.refine),
            "machine": asdict(self.machine),
            "start": asdict(self.start) if self.start else None,
        }

    def variant(self, changes: Mapping[str, Any]) -> Self:
        """The same with some fields of `train` changed.

        Raises:
            ValueError: naming a field that is unknown.
        """
        train = _build(TrainConfig, "train", {**asdict(self.train), **changes})
        return replace(self, train=train)

    def started(self) -> Self | None:
        """What `start` describes, on the same backbone and data."""
        return replace(self, train=self.start, start=None) if self.start else None

    def label_runs(self, seeds: Sequence[int]) -> dict[tuple[str, int], Self]:
        """The same run on each kind of labels, with each seed, by `selection` and seed."""
        return {
            (labels, seed): self.variant({"selection": labels, "seed": seed})
            for labels in ("original", "refined", "exact")
            for seed in seeds
        }

    def describe(self) -> str:
        """All values, a line for each part, for a reader."""
        parts: dict[str, Any] = {"backbone": self.backbone}
        if self.backbone == "mini":
            parts["recipe"] = self.recipe
        parts |= {"data": self.data, "train": self.train}
        if self.start is not None:
            parts |= {"start": self.start}
        if self.train.selection != "original":
            parts |= {"sam": self.sam.recipe if self.sam.kind == "mini" else self.sam.kind}
            parts |= {"refine": self.refine}
        return "\n".join(f"{name:9}{_values(part)}" for name, part in parts.items())

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
        kind = f"lora{self.train.rank}-{self.train.targets}" if self.train.rank else "full"
        name = f"{kind}-{self.train.time}"
        if self.train.selection != "original":
            inputs["labels"] = self.refined_stage("train")
            name += f"-{self.train.selection}"
        if "seed" in _changed(self.train):
            name += f"-seed{self.train.seed}"
        return Stage(name, 1, _changed(self.train), inputs)

    def scores_stage(
        self, *, split: str, phrases: int, truth: bool = False, **sampler: Any
    ) -> Stage:
        """Identifies the scores of the trained model on evenly spaced phrases of a split.

        Args:
            split: of the packed data.
            phrases: how many; all if there are fewer.
            truth: whether they are scored against the exact masks too.
            sampler: fields of `SamplerConfig`.
        """
        way = asdict(_build(SamplerConfig, "sampler", sampler))
        inputs = {"training": self.train_stage, "data": self.data_stage}
        config = {"split": split, "phrases": phrases, "sampler": way}
        if truth:
            config["truth"] = True
        return Stage(f"scores-{self.train_stage.name}", 1, config, inputs)


def tiny_config(choice: Mapping[str, Any]) -> TinyConfig:
    """The recipe of a tiny decoder, from a chapter's `tiny`."""
    return _build(TinyConfig, "tiny", {k: v for k, v in choice.items() if k != "name"})


def _changed(part: Any) -> dict[str, Any]:
    """The fields of a frozen part that differ from their default."""
    return {
        each.name: value
        for each in fields(part)
        if (value := getattr(part, each.name)) != each.default
    }


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
