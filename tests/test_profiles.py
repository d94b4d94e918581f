"""The chain of chapters, as `make` asks for it, is one that Snakemake accepts on every machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MACHINES = sorted(folder.name for folder in (ROOT / "profiles").iterdir())


def ran(*command: str) -> str:
    """What a command that must end well says."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("machine", MACHINES)
def test_every_chapter_and_the_book_on_paper_are_planned(machine: str) -> None:
    if machine == "slurm":
        pytest.importorskip("snakemake_executor_plugin_slurm")
    told = ran("make", "--dry-run", "--always-make", "pdf", "PROFILE=smoke", f"MACHINE={machine}")
    (command,) = [line for line in told.splitlines() if line.endswith(" -- pdf")]
    said = ran("bash", "-c", command.replace(" -- pdf", " --forceall --dry-run -- pdf"))
    for notebook in (ROOT / "book").glob("*.ipynb"):
        assert f"chapter_{notebook.stem}" in said
    assert "pdf, site" in said
