"""What a run is: backbone, data and training as frozen values, and their identifying hashes."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Self, TypeVar

from rlfseg.backbone.full_size import random_stage
from rlfseg.backbone.recipe import BackboneConfig, backbone_stage
from rlfseg.config import DataConfig, TrainConfig
from rlfseg.pack import VERSION as PACK_VERSION
from rlfseg.stage import Stage

RANDOM = "random-sd15"
_T = TypeVar("_T")


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
    ) -> Self:
        """Builds one from a chapter's parameters.

        Args:
            profile: name of the profile.
            backbone: `name`, and for `mini` the fields of `BackboneConfig`.
            data: fields of `DataConfig`.
            train: fields of `TrainConfig`.

        Raises:
            ValueError: naming the parameter and the key that is unknown.
        """
        rest = {key: value for key, value in backbone.items() if key != "name"}
        return cls(
            profile,
            str(backbone["name"]),
            _build(BackboneConfig, "backbone", rest),
            _build(DataConfig, "data", data),
            _build(TrainConfig, "train", train),
        )

    def variant(self, changes: Mapping[str, Any]) -> Self:
        """The same with some fields of `train` changed.

        Raises:
            ValueError: naming a field that is unknown.
        """
        train = _build(TrainConfig, "train", {**asdict(self.train), **changes})
        return replace(self, train=train)

    def describe(self) -> str:
        """All values, a line for each part, for a reader."""
        parts: dict[str, Any] = {"backbone": self.backbone}
        if self.backbone == "mini":
            parts["recipe"] = self.recipe
        parts |= {"data": self.data, "train": self.train}
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
        return Stage("scenes", 2, asdict(self.data))

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
        if self.train.selection != "original":
            name += f"-{self.train.selection}"
        return Stage(name, 1, asdict(self.train), inputs)


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
