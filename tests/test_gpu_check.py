"""The check of a GPU keeps what each part told, however the part ended; its parts say numbers."""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from pathlib import Path
from types import ModuleType

import psutil
import pytest
from conftest import ROOT
from tiny_run import given_run

SLOW = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print('{"a": %d}' % child.pid, flush=True)
time.sleep(60)
"""
BROKEN = "print('{\"b\": 2}', flush=True); raise SystemExit('out of memory')"
FINE = "print('a warning'); print('{\"c\": 3}')"


@pytest.fixture(scope="module")
def check() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_check", ROOT / "benchmarks/gpu.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.integration
def test_a_part_that_is_cut_or_fails_keeps_what_it_told(check: ModuleType, tmp_path: Path) -> None:
    codes = {"slow": SLOW, "broken": BROKEN, "fine": FINE}
    commands = {name: [sys.executable, "-c", code] for name, code in codes.items()}
    limits = {"slow": 1.0, "broken": 30.0, "fine": 30.0}
    out = tmp_path / "gpu.json"
    assert not check.gathered(commands, limits, out)
    found = json.loads(out.read_text())
    (child,) = found["slow"].pop("rows")
    ends = time.monotonic() + 10
    while not gone(child["a"]):
        assert time.monotonic() < ends
    assert [found[name]["rows"] for name in ("broken", "fine")] == [[{"b": 2}], [{"c": 3}]]
    said = [part["status"] for part in found.values()]
    assert said == ["cut", "failed, see gpu_broken.log", "done"]
    assert "out of memory" in (tmp_path / "gpu_broken.log").read_text()
    assert check.gathered({"fine": commands["fine"]}, limits, out)


def test_it_ends_within_ten_minutes(check: ModuleType) -> None:
    assert set(check.LIMITS) == set(check.PARTS) and sum(check.LIMITS.values()) <= 600


@pytest.mark.integration
def test_steps_and_whole_segmentations_say_numbers(
    check: ModuleType, repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "BATCHES", (1,))
    monkeypatch.setattr(check, "ROUNDS", 1)
    (row,) = check.pipeline(given_run())
    assert sum(row["ms_by_part"].values()) == pytest.approx(row["ms_a_picture"])
    assert row["ms_a_picture_called"] > 0
    monkeypatch.setattr(check, "run_file", lambda path: given_run())
    monkeypatch.setattr(check, "STEPS", 4)
    monkeypatch.setattr(check, "TOLD", 2)
    rows = list(check.steps(given_run()))
    assert [row["steps"] for row in rows] == [2, 4]
    assert all(row["not_finite"] == 0 and row["most_grad_norm"] > 0 for row in rows)
