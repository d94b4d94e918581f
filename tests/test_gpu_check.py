"""The check of a GPU keeps what each part told, however the part ended; its parts say numbers."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
from conftest import ROOT

SLOW = "import time; print('{\"a\": 1}', flush=True); time.sleep(60)"
BROKEN = "print('{\"b\": 2}', flush=True); raise SystemExit('out of memory')"
FINE = "print('a warning'); print('{\"c\": 3}')"


@pytest.fixture(scope="module")
def check() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_check", ROOT / "benchmarks/gpu.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_part_that_is_cut_or_fails_keeps_what_it_told(check: ModuleType, tmp_path: Path) -> None:
    codes = {"slow": SLOW, "broken": BROKEN, "fine": FINE}
    commands = {name: [sys.executable, "-c", code] for name, code in codes.items()}
    limits = {"slow": 1.0, "broken": 30.0, "fine": 30.0}
    out = tmp_path / "gpu.json"
    assert not check.gathered(commands, limits, out)
    found = json.loads(out.read_text())
    assert [part["rows"] for part in found.values()] == [[{"a": 1}], [{"b": 2}], [{"c": 3}]]
    said = [part["status"] for part in found.values()]
    assert said == ["cut", "failed, see gpu_broken.log", "done"]
    assert "out of memory" in (tmp_path / "gpu_broken.log").read_text()
    assert check.gathered({"fine": commands["fine"]}, limits, out)


def test_it_ends_within_ten_minutes(check: ModuleType) -> None:
    assert set(check.LIMITS) == set(check.PARTS) and sum(check.LIMITS.values()) <= 600
