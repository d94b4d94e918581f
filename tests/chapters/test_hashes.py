"""What is trained keeps its name: the golden hashes, and the defaults that hashes leave out."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import MISSING, asdict, fields, replace
from typing import Any

import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from rlfseg.baselines.clipseg import ClipsegConfig
from rlfseg.baselines.ldznet import LdznetConfig
from rlfseg.baselines.unethead import UnetHeadConfig
from rlfseg.config import DataConfig, TrainConfig
from rlfseg.stage import Stage, hashed
from rlfseg.stand_ins.backbone import BackboneConfig
from rlfseg.stand_ins.mini_sam import SamConfig
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
    },
    BackboneConfig: {"name": "mini"},
    SamConfig: {"kind": "mini", "checkpoint": ""},
    TinyConfig: {"name": "mini"},
    ClipsegConfig: {"kind": "clipseg"},
    LdznetConfig: {"kind": "ldznet"},
    UnetHeadConfig: {"kind": "unethead"},
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
        assert not gone | new, f"{said}; if that is meant: python tests/golden/renew.py"


@pytest.mark.parametrize("kind", LEFT_OUT, ids=lambda kind: kind.__name__)
def test_the_defaults_that_hashes_leave_out_are_these(kind: Any) -> None:
    defaults = {f.name: f.default for f in fields(kind) if f.name in kind.UNHASHED}
    assert defaults == LEFT_OUT[kind]
    assert MISSING not in defaults.values()


def plain(kind: Any) -> Any:
    needed = {"steps": 5} if "steps" in {f.name for f in fields(kind)} else {}
    return kind(**needed)


@pytest.mark.parametrize("kind", LEFT_OUT, ids=lambda kind: kind.__name__)
def test_what_is_left_out_is_so_at_its_default_alone(kind: Any) -> None:
    settings = plain(kind)
    assert hashed(settings) == {
        name: value for name, value in asdict(settings).items() if name not in LEFT_OUT[kind]
    }


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "rank": st.integers(1, 128),
            "targets": st.sampled_from(["attention", "everything"]),
            "time": st.sampled_from(["uniform", "one"]),
            "selection": st.sampled_from(["original", "refined", "exact", "probe"]),
            "batch": st.integers(1, 128),
            "lr": st.floats(1e-6, 1),
            "warmup": st.integers(0, 9),
            "seed": st.integers(0, 99),
            "objective": st.sampled_from(["plain", "reshaped", "l2"]),
        },
    )
)
def test_other_settings_have_another_hash(changes: dict[str, Any]) -> None:
    usual = TrainConfig(steps=5)
    other = replace(usual, **changes)
    one, two = (Stage.of("training", 1, each) for each in (usual, other))
    assert (one.hash == two.hash) == (usual == other)
    assert two.settings == asdict(other)  # of which the record holds all
