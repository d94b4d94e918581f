"""Settings: frozen values, checked when they are made, read from YAML with every fault named."""

import json
import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
"""Of all settings: nothing is converted, nothing unknown passes, and numbers are finite."""

Count = Annotated[int, Field(gt=0, le=10**12)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


def _each_once(given: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(given)) < len(given):
        raise ValueError("a seed occurs twice, and would count as another run")
    return given


Seeds = Annotated[tuple[Seed, ...], Field(min_length=1), AfterValidator(_each_once)]
Positive = Annotated[float, Field(gt=0)]

_T = TypeVar("_T")
_FAULTS = 3  # that one message names
_NUMBER = re.compile(r"[-+]?[\d.]+[eE][-+]?\d+")  # of which YAML 1.1 takes some for text
_LARGEST = 1_000_000  # bytes of a file of parameters; ours have a few thousand


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Of plain values alone; libyaml's where it is there, which is quicker. A name stands once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"{twice[0]} stands there twice (line {node.start_mark.line + 1} ff.)")
        return super().construct_mapping(node, deep)


@dataclass(frozen=True, config=STRICT)
class OptimiserConfig:
    """AdamW and its schedule, and Muon beside it.

    Attributes:
        steps: optimiser steps of the whole schedule.
        lr: peak learning rate of AdamW.
        warmup: steps of linear warm-up.
        schedule: `constant` (the paper's) or `cosine` (to 2% of the peak).
        weight_decay: AdamW's, decoupled: by `lr` times this at each step.
        beta2: decay of AdamW's second moment.
        clip: largest gradient norm.
        muon: peak learning rate of Muon, which then trains the weights of linear layers; 0 leaves
            them to AdamW.
    """

    steps: Count
    lr: Positive
    warmup: Annotated[int, Field(ge=0)] = 0
    schedule: Literal["constant", "cosine"] = "constant"
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    beta2: Annotated[float, Field(gt=0, lt=1)] = 0.999
    clip: Positive = 1.0
    muon: Annotated[float, Field(ge=0, le=1)] = 0.0

    @classmethod
    def from_scratch(
        cls, *, steps: int, lr: float, warmup: int, weight_decay: float = 0.01, muon: float = 0.0
    ) -> Self:
        """Return what small models are trained with: cosine, quick moments, a short warm-up."""
        return cls(
            steps=steps,
            lr=lr,
            warmup=min(warmup, steps // 10 + 1),
            schedule="cosine",
            weight_decay=weight_decay,
            beta2=0.99,
            muon=muon,
        )


@dataclass(frozen=True, config=STRICT)
class DataConfig:
    """Which data, and how large.

    Attributes:
        source: `mini` for drawn scenes, or the folder of the data set's own files, absolute or from
            the repository's root.
        dataset: in whose own format the files are.
        pixels: side of the packed images; of the drawn scenes too.
        train: scenes to draw in the training split (`mini` only, as the next three).
        val: scenes in the validation split.
        test: scenes in the test split.
        seed: of the drawing.
        leave_out: ids of images that are not packed (PhraseCut), or `auto` for those whose file
            has another size than its annotation: no mask would lie on them.
    """

    UNHASHED: ClassVar = (
        *("source", "dataset", "pixels", "train", "val", "test"),
        *("seed", "leave_out"),
    )

    source: Annotated[str, Field(min_length=1)] = "mini"
    dataset: Literal["phrasecut", "refcoco", "refcoco+", "refcocog", "cocostuff"] = "phrasecut"
    pixels: Annotated[int, Field(gt=0, le=8192)] = 128
    train: Count = 4000
    val: Count = 100
    test: Count = 300
    seed: Seed = 0
    leave_out: Literal["auto"] | tuple[int, ...] = "auto"


@dataclass(frozen=True, config=STRICT)
class TrainConfig:
    """A rectified flow run; the defaults are the paper's (Table 8), for one process.

    Attributes:
        rank: of the LoRA; 0 trains all parameters.
        targets: `attention` (its projections) or `everything` (feed-forward and convolutions too).
        time: `uniform` on [0, 1] or `one` (only t = 1, where sampling starts).
        objective: `plain` (Eq. 2), `reshaped` (FlowSeg's correction towards the black or the white
            latent) or `l2` (the distance in the place of its square).
        selection: which labels: the `original` or the `refined` ones alone, or of both the easier
            one (Eq. 4), found in the `exact` way or by a `probe` at t = 1.
        batch: global batch size.
        weights: `pretrained`, or `random`: the same UNet as if the backbone had never been trained
            (of all parameters only).
        curve: phrases of the validation split that are scored while it trains, at doubled lengths.
    """

    UNHASHED: ClassVar = (
        *("rank", "targets", "time", "selection", "batch", "lr"),
        *("warmup", "schedule", "seed", "objective", "weights", "curve"),
    )

    steps: Count
    rank: Annotated[int, Field(ge=0, le=4096)] = 64
    targets: Literal["attention", "everything"] = "attention"
    time: Literal["uniform", "one"] = "uniform"
    selection: Literal["original", "refined", "exact", "probe"] = "original"
    batch: Count = 64
    lr: Positive = 1e-4
    warmup: Annotated[int, Field(ge=0)] = 0
    schedule: Literal["constant", "cosine"] = "constant"
    seed: Seed = 42
    objective: Literal["plain", "reshaped", "l2"] = "plain"
    weights: Literal["pretrained", "random"] = "pretrained"
    curve: Annotated[int, Field(ge=0, le=10**6)] = 0

    def __post_init__(self) -> None:
        if self.weights == "random" and self.rank:
            raise ValueError(f"random weights need rank 0 (all parameters), got rank {self.rank}")


@dataclass(frozen=True, config=STRICT)
class MachineConfig:
    """How training uses a machine; what is trained doesn't depend on it, but for rounding.

    The mini backbone is the exception: the words and the noise that it is pretrained on are drawn
    by each process for itself.

    Attributes:
        processes: that train together, a GPU each; without GPUs they share the CPU.
        compile: a backend of `torch.compile` for the UNet (`inductor`), or nothing. The first step
            then takes minutes, the others less than before (mini, 2 CPU cores: two thirds).
        recompute: what the backward pass needs is computed again (gradient checkpointing): a third
            more work, and much less memory.
        accumulate: equal parts of a process's share of a batch, at least so many, that go through
            the network one after the other: as much less memory, and the same work.
        save_minutes: between the checkpoints of a training. What a kill costs at most; a signal
            that announces the end (SIGTERM, SIGUSR1) costs nothing.
        tracker: `tensorboard` (its files lie beside the record), or nothing.
    """

    processes: Count = 1
    compile: str = ""
    recompute: bool = False
    accumulate: Count = 1
    save_minutes: Positive = 10.0
    tracker: Literal["", "tensorboard"] = ""


@dataclass(frozen=True, config=STRICT)
class SamplerConfig:
    """How a velocity field is turned into a mask latent.

    Attributes:
        name: `one` (Eq. 5), `steps` (Eq. 8), `aos` (Eqs. 6-7), `hss` (Eqs. 9-10) or `aos_signed`.
        steps: of `steps` and of the reference in `hss`.
        tol: the epsilon of Eqs. 6 and 9, in scaled latent units.
    """

    name: Literal["one", "steps", "aos", "hss", "aos_signed"] = "aos"
    steps: Count = 5
    tol: Positive = 0.2

    @property
    def passes(self) -> int:
        """How often it goes through the network; the reference of HSS is a walk."""
        return {"steps": self.steps, "hss": 1 + self.steps}.get(self.name, 1)


@dataclass(frozen=True, config=STRICT)
class RefineConfig:
    """Parameters of Eq. 3 and Algorithm 1.

    Deviation: the paper names N, T_max and tau, and gives none of their values.

    Attributes:
        anchors: N, the points that k-means places in a mask.
        iterations: T_max, how often SAM is asked at most.
        tau: the IoU of a mask with its predecessor at which it has converged.
        logit: magnitude of the logits that show SAM the annotation, + inside and - outside.
        seed: of k-means.
    """

    anchors: Count = 5
    iterations: Count = 5
    tau: Annotated[float, Field(gt=0, le=1)] = 0.95
    logit: Positive = 6.0
    seed: Seed = 0


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a file of parameters.

    Raises:
        ValueError: in one line, if it is no YAML or no mapping of names, or has aliases, by which a
            few lines can stand for any number of values.
        FileNotFoundError: if it is not there.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file of parameters")
    if path.stat().st_size > _LARGEST:
        raise ValueError(f"{path} has more than {_LARGEST} bytes: it is no file of parameters")
    try:
        text = path.read_text("utf-8-sig")
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, _Loader)):
            raise ValueError("aliases (*name) are not taken here: write the values out")
        given = yaml.load(text, _Loader)
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(given, dict) or not all(isinstance(name, str) for name in given):
        raise ValueError(f"{path} must hold names and their values, as in `profile: mini`")
    return given


def validated(kind: type[_T], values: Mapping[str, Any], *, where: str) -> _T:
    """Make settings of plain values, as YAML or a notebook gives them.

    Args:
        kind: a dataclass of settings.
        values: by field, nested as the settings are.
        where: the file or parameter that they come from, for the message.

    Raises:
        ValueError: in one line: where, which key, its value, and what is allowed.
    """
    try:
        text = json.dumps(values, default=str)
        adapter: TypeAdapter[_T] = _adapter(kind)  # type: ignore[arg-type]
        return adapter.validate_json(text)
    except ValidationError as error:
        faults = [_said(kind, fault) for fault in error.errors(include_url=False)]
        more = f"; and {len(faults) - _FAULTS} more" if len(faults) > _FAULTS else ""
        raise ValueError(f"{where}: {'; '.join(faults[:_FAULTS])}{more}") from error
    except (TypeError, ValueError, RecursionError) as error:  # no JSON can be made of it
        raise ValueError(f"{where}: not plain values ({error})") from error


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return values with changes on top; what is a mapping in both is merged in turn."""
    out = dict(values)
    for name, change in changes.items():
        both = isinstance(out.get(name), Mapping) and isinstance(change, Mapping)
        out[name] = merged(out[name], change) if both else change
    return out


def _said(kind: Any, fault: Any) -> str:
    """One fault as `key is value: what is allowed`."""
    names, holder = [], kind
    for part in fault["loc"]:
        if not str(part).startswith("function-"):
            holder, kind, named = kind, *_within(kind, part)
            names += [str(part)] if named else []
    wrong, said = fault["input"], fault["msg"].removeprefix("Value error, ")
    if fault["type"].startswith("union_tag"):
        names.append(fault["ctx"]["discriminator"].strip("'"))
        wrong, said = fault["ctx"].get("tag"), f"known are {fault['ctx'].get('expected_tags')}"
    key, given = ".".join(names), repr(wrong)
    given = given if len(given) <= 60 else given[:57] + "..."
    if fault["type"] in ("missing", "union_tag_not_found"):
        said = f"{key} is missing"
    elif fault["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        known = [f.name for f in fields(holder)] if is_dataclass(holder) else []
        said = f"{key} is unknown" + (f"; known are {', '.join(known)}" if known else "")
    elif key:
        said = f"{key} is {given}: {said}"
        if isinstance(wrong, str) and "number" in fault["msg"] and _NUMBER.fullmatch(wrong):
            said += "; YAML takes it for text: write it with a point and a sign, as in 1.0e-4"
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in said)


def _within(kind: Any, part: Any) -> tuple[Any, bool]:
    """The type of what lies at a part of a path, and whether the part is a key and not a type.

    Pydantic's paths name the kind that it took, or tried, of several.
    """
    kind = _bare(kind)
    if isinstance(kind, tuple):
        tagged = [each for each in kind if getattr(each, "kind", None) == part]
        return (tagged[0] if tagged else None), False
    if is_dataclass(kind):
        here = vars(kind)["__pydantic_fields__"]
        return (_bare(here[part].annotation) if part in here else None), True
    arguments = get_args(kind)
    return (_bare(arguments[-1 if get_origin(kind) is dict else 0]) if arguments else None), True


def _bare(kind: Any) -> Any:
    """A type without its constraints and without None; a tuple of types if it may be several."""
    while get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    if get_origin(kind) in (Union, UnionType):
        several = tuple(each for each in get_args(kind) if each is not NoneType)
        return _bare(several[0]) if len(several) == 1 else several
    return kind
