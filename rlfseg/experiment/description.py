"""What a run is: backbone, data, labels and training as frozen values."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Self, TypeVar

from rlfseg.config import DataConfig, MachineConfig, RefineConfig, TrainConfig
from rlfseg.models.sam import KINDS
from rlfseg.stand_ins.backbone import BackboneConfig
from rlfseg.stand_ins.mini_sam import SamConfig
from rlfseg.stand_ins.tiny_decoder import TinyConfig

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
    """Backbone, data and training of one profile.

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
            build(BackboneConfig, "backbone", rest),
            build(DataConfig, "data", data),
            build(TrainConfig, "train", train),
            SamChoice(**choice, recipe=build(SamConfig, "sam", recipe)),
            build(RefineConfig, "refine", refine or {}),
            build(MachineConfig, "machine", machine or {}),
            build(TrainConfig, "start", start) if start else None,
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
        train = build(TrainConfig, "train", {**asdict(self.train), **changes})
        return replace(self, train=train)

    def on(self, data: Mapping[str, Any] | None) -> Self:
        """The same on other data, given as fields of `DataConfig`; itself for None.

        Raises:
            ValueError: naming a field that is unknown.
        """
        return self if data is None else replace(self, data=build(DataConfig, "data", data))

    def started(self) -> Self | None:
        """What `start` describes, on the same backbone and data."""
        return replace(self, train=self.start, start=None) if self.start else None

    def seeded(
        self, variants: Mapping[str, Mapping[str, Any]], seeds: Sequence[int]
    ) -> dict[tuple[str, int], Self]:
        """Each variant with each seed, by name and seed; a variant is what `variant` takes."""
        return {
            (name, seed): self.variant({**changes, "seed": seed})
            for name, changes in variants.items()
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


def tiny_config(choice: Mapping[str, Any]) -> TinyConfig:
    """The recipe of a tiny decoder, from a chapter's `tiny`."""
    return build(TinyConfig, "tiny", {k: v for k, v in choice.items() if k != "name"})


def _values(part: Any) -> str:
    """A frozen part as `key=value` words, wrapped."""
    if isinstance(part, str):
        return part
    words = ", ".join(f"{key}={value}" for key, value in asdict(part).items())
    return textwrap.fill(words, 72, subsequent_indent=" " * 9)


def build(kind: type[_T], name: str, values: Mapping[str, Any]) -> _T:
    """A frozen part from a chapter's parameter; ValueError names it and a key that is unknown."""
    known = {f.name for f in fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - known)
    if unknown:
        raise ValueError(
            f"{name}: unknown {', '.join(unknown)}; known are {', '.join(sorted(known))}"
        )
    return kind(**values)
