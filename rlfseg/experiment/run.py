"""What is trained on what: a run, its variants, and the stages that it leads to."""

import textwrap
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import cached_property
from typing import Annotated, Any, Self

from pydantic import Field
from pydantic.dataclasses import dataclass

from rlfseg.config import (
    STRICT,
    Count,
    DataConfig,
    MachineConfig,
    RefineConfig,
    SamplerConfig,
    Seeds,
    TrainConfig,
    merged,
    read_yaml,
    validated,
)
from rlfseg.data.catalogue import DATASETS, REFERRING
from rlfseg.data.packed.schema import VERSION as PACK_VERSION
from rlfseg.experiment.relabelling import VERSION as RELABEL_VERSION
from rlfseg.stage import Stage, hashed, repository
from rlfseg.stand_ins.backbone import RANDOM, BackboneConfig, autoencoder_stage, backbone_stage
from rlfseg.stand_ins.full_size import random_stage
from rlfseg.stand_ins.mini_sam import SamConfig, sam_stage


@dataclass(frozen=True, config=STRICT)
class Scoring:
    """How a trained model is scored phrase by phrase.

    Attributes:
        split: of the packed data.
        phrases: how many, evenly spaced; all if there are fewer, or for None.
        truth: whether the exact masks are scored against too.
        boundary: whether boundary F is measured too.
        on: other data than those it was trained on.
        sampler: that makes the masks.
    """

    split: Annotated[str, Field(min_length=1)]
    phrases: Count | None = None
    truth: bool = False
    boundary: bool = False
    on: DataConfig | None = None
    sampler: SamplerConfig = SamplerConfig()

    def by(self, sampler: SamplerConfig) -> Self:
        """Return the same with another sampler."""
        return replace(self, sampler=sampler)


@dataclass(frozen=True, config=STRICT)
class ClosedSet:
    """How a trained model is scored among a closed set of names.

    Attributes:
        images: how many pictures of the validation split, evenly spaced.
        on: the closed set's data.
        sampler: that makes the masks.
    """

    images: Count
    on: DataConfig
    sampler: SamplerConfig = SamplerConfig()


@dataclass(frozen=True, config=STRICT)
class GivenWeights:
    """Weights that were trained elsewhere.

    Attributes:
        folder: in which they lie.
        sha256: over the names and contents of its files, hexadecimal.
    """

    folder: str
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

    @property
    def provenance(self) -> dict[str, str]:
        """What identifies them, without a machine's path."""
        return {"folder": self.folder.rstrip("/").rsplit("/", 1)[-1], "sha256": self.sha256}


@dataclass(frozen=True, config=STRICT)
class Run:
    """One experiment: a value, which touches no disk; `rlfseg.experiment` makes what it leads to.

    Attributes:
        profile: a folder of `params/`, as `mini`; where artefacts are looked for.
        backbone: whose UNet is trained.
        data: that it is trained on.
        train: how.
        sam: refines labels, where training asks for refined ones.
        refine: how it does.
        start: the training of all parameters whose UNet this one goes on from; None starts from
            the backbone's.
        seeds: with which it is repeated where several runs are compared.
        sampler: that makes its masks where nothing else is said.
        threshold: of its scores, above which a pixel is in the mask, where nothing else is said.
        choose: how many phrases of the validation split, evenly spaced, a threshold is chosen on
            that the tables' scores are read at too; None chooses none.
        machine: how training uses the machine. This and the four before are in no stage's
            identity.
        given: weights in the place of what training would end in.
    """

    profile: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=40)]
    backbone: BackboneConfig
    data: DataConfig
    train: TrainConfig
    sam: SamConfig = SamConfig()
    refine: RefineConfig = RefineConfig()
    start: TrainConfig | None = None
    seeds: Seeds = (42,)
    sampler: SamplerConfig = SamplerConfig()
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.3
    choose: Count | None = None
    machine: MachineConfig = MachineConfig()
    given: GivenWeights | None = None

    def __post_init__(self) -> None:
        if self.start is not None and self.start.rank:
            raise ValueError(
                f"start: a run goes on from one of all parameters (rank 0), not {self.start.rank}"
            )
        if self.start is not None and self.train.weights == "random":
            raise ValueError("start: with `weights: random` in train nothing goes on from it")
        self.check_shared(self.train.batch, "train")

    def check_shared(self, batch: int, what: str) -> None:
        """Check that `machine.processes` can share a batch.

        Raises:
            ValueError: if they can't, which begins with `what` it is the batch of.
        """
        if batch % self.machine.processes:
            raise ValueError(
                f"{what}: a batch of {batch} can't be shared equally by "
                f"{self.machine.processes} processes (machine.processes)"
            )

    def variant(self, changes: Mapping[str, Any]) -> Self:
        """Return the same with some fields of `train` changed; ValueError names a wrong one."""
        train = validated(TrainConfig, {**asdict(self.train), **changes}, where="train")
        return replace(self, train=train)

    def variants(self, changes: Mapping[str, Mapping[str, Any]]) -> dict[str, Self]:
        """Return a variant for each of some changes, by their name."""
        return {name: self.variant(each) for name, each in changes.items()}

    def seeded(self, variants: Mapping[str, Mapping[str, Any]]) -> dict[tuple[str, int], Self]:
        """Return each variant with each of the seeds, by name and seed."""
        return {
            (name, seed): self.variant({**changes, "seed": seed})
            for name, changes in variants.items()
            for seed in self.seeds
        }

    def on(self, data: DataConfig | None) -> Self:
        """Return the same on other data; itself for None."""
        return self if data is None else replace(self, data=data)

    def first(self) -> Self | None:
        """Return the run that this one goes on from, if any, on the same backbone and data."""
        return replace(self, train=self.start, start=None, given=None) if self.start else None

    @property
    def photographed(self) -> bool:
        """Whether its pictures have sizes of their own, at which scores are counted too."""
        return self.data.source != "mini"

    @property
    def uses_refined(self) -> bool:
        """Whether training reads refined labels."""
        return self.train.selection != "original"

    def choosing(self, scoring: Scoring) -> Scoring | None:
        """Return how a threshold for scores is chosen: on the validation split of its own data.

        None where none is asked for, or that split is what is scored.
        """
        if self.choose is None or (scoring.split == "val" and scoring.on is None):
            return None
        return Scoring("val", self.choose, sampler=scoring.sampler)

    def method(self, sampler: SamplerConfig) -> str:
        """Say which of the paper's parts a score has: RDS in its training, AOS in its sampling.

        And that its t was not the paper's, if so.
        """
        labels = {"exact": "RDS", "original": "no RDS", "refined": "refined labels, no choice"}
        ways = {"aos": "AOS", "hss": "HSS", "aos_signed": "signed AOS"}
        how = labels.get(self.train.selection, "RDS by a probe")
        where = ", trained at t = 1" if self.train.time == "one" else ""
        return f"{how}, {ways.get(sampler.name, 'no AOS')}{where}"

    @property
    def splits(self) -> dict[str, str]:
        """The splits that are packed, and what the data set calls them (`val2017` for `val`).

        PhraseCut's `miniv` is left out, a validation split in miniature that no table uses.
        """
        names = DATASETS[self.data.dataset].splits
        return {name.removesuffix("2017"): name for name in names if name != "miniv"}

    def describe(self) -> str:
        """Return all values that matter here, a line for each part, for a reader."""
        mini, sam = self.backbone.name == "mini", self.sam.kind == "mini"
        parts: dict[str, Any] = {"backbone": self.backbone if mini else self.backbone.name}
        parts |= {"data": self.data, "train": self.train}
        if self.start is not None:
            parts |= {"start": self.start}
        if self.uses_refined:
            parts |= {"sam": self.sam if sam else self.sam.kind, "refine": self.refine}
        return "\n".join(f"{name:9}{_values(part)}" for name, part in parts.items())

    # What it leads to, each identified by a stage.

    @cached_property
    def backbone_stage(self) -> Stage:
        """Identify the backbone; an outside one by its name."""
        if self.backbone.name == "mini":
            return backbone_stage(self.backbone)
        if self.backbone.name == RANDOM:
            return random_stage()
        return Stage("outside-backbone", 1, {"name": self.backbone.name})

    @cached_property
    def source_stage(self) -> Stage:
        """Identify the data, however they are packed; training depends on nothing more.

        Version 4 has an item for each sentence of a ref. Version 3 united the masks of two refs of
        an image with one sentence; drawn files have no such pair, so both are the same there.
        """
        sentences = self.data.dataset in REFERRING and self.data.source != "mini"
        return Stage.of("scenes", 4 if sentences else 3, self.data)

    @cached_property
    def data_stage(self) -> Stage:
        """Identify the packed data, all splits of them; what is made is each one's own stage."""
        return Stage("data", PACK_VERSION, {}, {"source": self.source_stage})

    def packed_stage(self, split: str) -> Stage:
        """Identify the packed file of a split.

        Raises:
            ValueError: if the data set has no such split.
        """
        if split not in self.splits:
            known = ", ".join(self.splits)
            raise ValueError(f"{self.data.dataset} has no split {split!r} to pack; it has {known}")
        return Stage(f"data-{split}", 1, {}, {"data": self.data_stage})

    def latents_stage(self, split: str) -> Stage:
        """Identify a split's latents: made of the data by the autoencoder, whatever the UNet."""
        mini = self.backbone.name == "mini"
        encoder = autoencoder_stage(self.backbone) if mini else self.backbone_stage
        return Stage(f"latents-{split}", 2, {}, {"data": self.data_stage, "autoencoder": encoder})

    @cached_property
    def sam_stage(self) -> Stage:
        """Identify the SAM; an outside one by its kind and the name of its checkpoint."""
        if self.sam.kind == "mini":
            return sam_stage(self.sam)
        name = self.sam.checkpoint.rsplit("/", 1)[-1]
        return Stage("outside-sam", 1, {"kind": self.sam.kind, "checkpoint": name})

    def refined_stage(self, split: str) -> Stage:
        """Identify a split's packed file with refined masks.

        The next version shows SAM the photographs as they are. Drawn ones are packed as they are,
        so that both are the same there.
        """
        inputs = {"data": self.data_stage, "sam": self.sam_stage}
        version = RELABEL_VERSION + (self.data.source != "mini")
        return Stage.of(f"refined-{split}", version, self.refine, inputs)

    def labels_stage(self, split: str) -> Stage:
        """Identify a split's refined masks alone."""
        return Stage(f"labels-{split}", 1, {}, {"refined": self.refined_stage(split)})

    @cached_property
    def train_stage(self) -> Stage:
        """Identify what training ends in, or the weights that are given in its place."""
        if self.given is not None:
            first = self.first()
            under = self.backbone_stage if first is None else first.train_stage
            sha256 = {"sha256": self.given.sha256}
            return Stage("given", 1, sha256, {"backbone": under}, self.given.provenance)
        inputs = {"backbone": self.backbone_stage, "data": self.source_stage}
        if (first := self.first()) is not None:
            inputs["start"] = first.train_stage
        train, full = self.train, "scratch" if self.train.weights == "random" else "full"
        name = f"lora{train.rank}-{train.targets}" if train.rank else full
        name += f"-{train.time}"
        if train.objective != "plain":
            name += f"-{train.objective}"
        if self.uses_refined:
            inputs["labels"] = self.refined_stage("train")
            name += f"-{train.selection}"
        if train.seed != TrainConfig(steps=1).seed:
            name += f"-seed{train.seed}"
        return Stage.of(name, 1, train, inputs)

    def scores_stage(self, scoring: Scoring) -> Stage:
        """Identify the scores of the trained model."""
        config: dict[str, Any] = {"split": scoring.split, "phrases": scoring.phrases}
        config |= {"sampler": hashed(scoring.sampler)}
        config |= {name: True for name in ("truth", "boundary") if getattr(scoring, name)}
        if self.on(scoring.on).photographed:
            config["native"] = True
        inputs = {"training": self.train_stage, "data": self.on(scoring.on).data_stage}
        settings = asdict(scoring) | ({"weights": self.given.provenance} if self.given else {})
        return Stage(f"scores-{self.train_stage.name}", 1, config, inputs, settings)

    def closed_stage(self, closed: ClosedSet) -> Stage:
        """Identify the confusions of the trained model among a closed set of names."""
        config = {"images": closed.images, "sampler": hashed(closed.sampler)}
        inputs = {"training": self.train_stage, "data": self.on(closed.on).data_stage}
        return Stage(f"closed-{self.train_stage.name}", 1, config, inputs, asdict(closed))


def read_run(profile: str, changes: Mapping[str, Any] | None = None, *, where: str = "") -> Run:
    """Read what the run of a profile is, `params/<profile>/run.yml`, with changes on top.

    Args:
        profile: a folder of `params/`.
        changes: fields of `Run`, nested; what is a mapping on both sides is merged.
        where: the file that says profile and changes, for the message.

    Raises:
        ValueError: in one line, if there is no such profile, or a value is wrong.
    """
    folder = repository() / "params"
    known = sorted(path.parent.name for path in folder.glob("*/run.yml"))
    if profile not in known:
        said = f"there is no profile {profile!r}: choose from {', '.join(known)}"
        raise ValueError(f"{where}: {said}" if where else said)
    file = folder / profile / "run.yml"
    values = merged(read_yaml(file), changes or {})
    place = f"{where}: changes of {file}".removeprefix(": ") if changes else str(file)
    if "profile" in values:
        raise ValueError(f"{place}: profile is unknown here: it is the folder of run.yml")
    return validated(Run, {"profile": profile, **values}, where=place)


def _values(part: Any) -> str:
    """A part as `key=value` words, wrapped."""
    if isinstance(part, str):
        return part
    words = ", ".join(f"{key}={value}" for key, value in asdict(part).items())
    return textwrap.fill(words, 72, subsequent_indent=" " * 9)
