"""What is trained keeps its name: the golden hashes, and the defaults that hashes leave out."""

from __future__ import annotations

import importlib.util
import json
import pkgutil
from contextlib import suppress
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass, replace
from types import NoneType
from typing import Annotated, Any, ClassVar, Literal, get_args, get_origin

import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

import rlfseg
from rlfseg.baselines.clipseg import ClipsegConfig
from rlfseg.baselines.ldznet import LdznetConfig
from rlfseg.baselines.phrases import PhraseSet
from rlfseg.baselines.semflow import SemflowConfig
from rlfseg.baselines.unethead import UnetHeadConfig
from rlfseg.config import DataConfig, RefineConfig, SamplerConfig, TrainConfig
from rlfseg.flowseg.recipe import FieldConfig
from rlfseg.stage import Stage, hashed
from rlfseg.stand_ins.backbone import BackboneConfig
from rlfseg.stand_ins.mini_clip import ClipConfig
from rlfseg.stand_ins.mini_sam import SamConfig
from rlfseg.stand_ins.recognition import RecognitionConfig
from rlfseg.stand_ins.tiny_decoder import TinyConfig

GOLDEN = ROOT / "tests" / "golden"

#: What hashes leave out. A default that changes here would keep what was made with the old one
#: current: give the setting a new name, or raise the stage's version and make it all anew.
LEFT_OUT = {
    DataConfig: {
        "source": "mini",
        "dataset": "phrasecut",
        "pixels": 128,
        "train": 4000,
        "val": 100,
        "test": 300,
        "seed": 0,
        "leave_out": "auto",
    },
    TrainConfig: {
        "rank": 64,
        "targets": "attention",
        "time": "uniform",
        "selection": "original",
        "batch": 64,
        "lr": 1e-4,
        "warmup": 0,
        "schedule": "constant",
        "seed": 42,
        "objective": "plain",
        "weights": "pretrained",
        "curve": 0,
    },
    ClipConfig: {"muon": 0.0},
    BackboneConfig: {"name": "mini", "filled": 0, "min_snr": 0.0},
    RecognitionConfig: {"kept": 0},
    SamConfig: {"kind": "mini", "checkpoint": ""},
    TinyConfig: {"name": "mini"},
    ClipsegConfig: {"kind": "clipseg", "curve": 0, "clip": None},
    LdznetConfig: {"kind": "ldznet", "curve": 0},
    UnetHeadConfig: {"kind": "unethead", "curve": 0},
}


def test_no_stage_has_changed_its_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    spec = importlib.util.spec_from_file_location("renew", GOLDEN / "renew.py")
    assert spec is not None and spec.loader is not None
    renew = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(renew)
    known = json.loads(renew.FILE.read_text())
    for profile, now in renew.stages().items():
        gone, new = set(known[profile]) - set(now), set(now) - set(known[profile])
        said = f"{profile}: no longer {sorted(gone)[:3]}, now {sorted(new)[:3]}"
        assert not gone, (
            f"{said}; a new setting belongs in UNHASHED of its class (and in LEFT_OUT here): else "
            "what ships is stale. If it is to be made anew: python tests/golden/renew.py"
        )
        assert not new, f"{said}: new stages are noted by python tests/golden/renew.py"


@pytest.mark.parametrize("kind", LEFT_OUT, ids=lambda kind: kind.__name__)
def test_the_defaults_that_hashes_leave_out_are_these(kind: Any) -> None:
    defaults = {f.name: f.default for f in fields(kind) if f.name in kind.UNHASHED}
    assert defaults == LEFT_OUT[kind]
    assert MISSING not in defaults.values()


def plain(kind: Any) -> Any:
    needed = {"steps": 5} if "steps" in {f.name for f in fields(kind)} else {}
    return kind(**needed)


def spelled(settings: Any) -> dict[str, Any]:
    """All fields, with those of settings among them, but for what `LEFT_OUT` names."""
    quiet = LEFT_OUT.get(type(settings), {})
    kept = {f.name: getattr(settings, f.name) for f in fields(settings) if f.name not in quiet}
    return {name: spelled(v) if is_dataclass(v) else v for name, v in kept.items()}


@pytest.mark.parametrize("kind", LEFT_OUT, ids=lambda kind: kind.__name__)
def test_what_is_left_out_is_so_at_its_default_alone(kind: Any) -> None:
    assert hashed(plain(kind)) == spelled(plain(kind))


def test_every_class_that_leaves_defaults_out_is_pinned() -> None:
    found = set()
    for module in pkgutil.walk_packages(rlfseg.__path__, "rlfseg."):
        if not module.name.endswith("__main__"):
            every = vars(importlib.import_module(module.name)).values()
            found |= {each for each in every if is_dataclass(each) and hasattr(each, "UNHASHED")}
    assert found == set(LEFT_OUT)


BASES = (
    *map(plain, LEFT_OUT),
    TrainConfig(steps=1, rank=0),
    SamConfig("vit_h", "a.pth"),
    ClipsegConfig(checkpoint="owner/name"),
    SemflowConfig(steps=1),
    FieldConfig(),
    RefineConfig(),
    SamplerConfig(),
    PhraseSet("test", 1),
)


def values(kind: Any) -> st.SearchStrategy[Any]:
    """Values of a field, most of which it takes."""
    if get_origin(kind) is Annotated:
        return values(get_args(kind)[0])
    if get_origin(kind) is Literal:
        return st.sampled_from(get_args(kind))
    if get_origin(kind) is tuple:
        return st.lists(values(get_args(kind)[0]), max_size=3).map(tuple)
    if len(get_args(kind)) > 1:  # one or the other
        return st.one_of([values(each) for each in get_args(kind)])
    if kind is NoneType or is_dataclass(kind):
        return st.builds(kind)
    whole = st.integers(0, 300) | st.integers(1, 9).map(lambda n: 100 * n)
    unit = st.floats(1e-6, 1.0, exclude_max=True)
    return {int: whole, float: unit, str: st.text("ab/é", max_size=4)}[kind]


def another(data: st.DataObject, settings: Any) -> Any:
    """The same with one or two values changed, as far as they can be."""
    for _ in range(data.draw(st.integers(1, 2))):
        name = data.draw(st.sampled_from([f.name for f in fields(settings)]))
        value = data.draw(values(type(settings).__pydantic_fields__[name].annotation))
        with suppress(ValueError):
            settings = replace(settings, **{name: value})
    return settings


@given(st.data())
def test_settings_that_differ_have_hashes_that_differ(data: st.DataObject) -> None:
    usual = data.draw(st.sampled_from(BASES))
    one, two = another(data, usual), another(data, usual)
    stages = [Stage.of("training", 1, each) for each in (usual, one, two)]
    assert (stages[0].hash == stages[1].hash) == (usual == one)
    assert (stages[1].hash == stages[2].hash) == (one == two)
    assert stages[1].settings == asdict(one)  # of which the record holds all


def test_a_whole_number_is_the_number_that_it_is() -> None:
    """YAML's `1` and `1.0` are one value of a rate."""
    one, other = TrainConfig(steps=1, lr=1), TrainConfig(steps=1, lr=1.0)
    assert Stage.of("training", 1, one).hash == Stage.of("training", 1, other).hash


@dataclass(frozen=True)
class Part:
    UNHASHED: ClassVar = ("quiet",)
    told: int = 1
    quiet: int = 2


@dataclass(frozen=True)
class Whole:
    part: Part


def test_a_setting_within_settings_is_left_out_at_its_default_too() -> None:
    assert hashed(Whole(Part())) == {"part": {"told": 1}}
    assert hashed(Whole(Part(quiet=3))) == {"part": {"told": 1, "quiet": 3}}
