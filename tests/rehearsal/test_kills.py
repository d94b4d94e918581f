"""The rehearsal is killed at ten random points; the same commands then end in the same tables."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from world import draw

ROOT = Path(__file__).resolve().parents[2]
KILLS = 10
WAITS = (8, 40)  # seconds until one
TABLES = (1, 3, 5)  # packing, refining, training on both labels, scores, classes, baselines


def checkout(root: Path) -> Path:
    """A copy of what git tracks, without what ships for other profiles, and its world."""
    told = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in told.stdout.splitlines():
        if not name.startswith("artefacts/"):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, root / name)
    (root / "runs/rehearsal").mkdir(parents=True)
    draw(root / "runs/rehearsal/world")
    return root


def started(root: Path, mark: str) -> subprocess.Popen[str]:
    """What `make table` starts for each, in a copy; all its processes have `mark` about them."""
    env = {**os.environ, "PYTHONPATH": str(root), "MARK": mark, "CUDA_VISIBLE_DEVICES": ""}
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
    lines = []
    for number in TABLES:
        plan = ["make", "--dry-run", "table", f"N={number}", "PROFILE=rehearsal"]
        told = subprocess.run(plan, cwd=root, env=env, capture_output=True, text=True, check=True)
        lines += [line for line in told.stdout.splitlines() if line.startswith("flock --close")]
    assert len(lines) == len(TABLES)
    out = (root / "log.txt").open("a")
    command = ["bash", "-c", " && ".join(lines)]
    return subprocess.Popen(command, cwd=root, env=env, stdout=out, stderr=out, text=True)


def kill(mark: str) -> int:
    """Kills all processes with a mark outright; tells how many there were."""
    count = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"MARK={mark}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                os.kill(int(folder.name), signal.SIGKILL)
                count += 1
        except (OSError, ProcessLookupError):
            continue
    return count


def tables(root: Path) -> dict[str, Any]:
    """The cells' values of the tables."""
    folder = root / "runs/rehearsal/results"
    return {str(n): values(json.loads((folder / f"table_{n}.json").read_text())) for n in TABLES}


def values(content: Any) -> Any:
    """The numbers in a results file, without what differs from run to run: times, provenance."""
    if isinstance(content, dict):
        return {k: values(v) for k, v in content.items() if k not in ("seconds", "provenance")}
    if isinstance(content, list):
        return [values(each) for each in content]
    return content if isinstance(content, int | float) else None


@pytest.mark.slow
def test_killed_at_ten_points_it_ends_in_the_same_tables(tmp_path: Path) -> None:
    once, often = checkout(tmp_path / "once"), checkout(tmp_path / "often")
    assert started(once, uuid4().hex).wait() == 0, (once / "log.txt").read_text()[-4000:]
    rng = random.Random()
    for _ in range(KILLS):
        mark = uuid4().hex
        process = started(often, mark)
        try:
            process.wait(rng.uniform(*WAITS))
        except subprocess.TimeoutExpired:
            assert kill(mark) >= 3  # between two chapters: the shell, flock and snakemake
            process.wait()
    assert started(often, uuid4().hex).wait() == 0, (often / "log.txt").read_text()[-4000:]
    assert tables(often) == tables(once)
