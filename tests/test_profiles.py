"""The chain of chapters is one that Snakemake accepts, on every kind of machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MACHINES = sorted(folder.name for folder in (ROOT / "profiles").iterdir())


def planned(machine: str, *config: str) -> str:
    """What a dry run says that it would do."""
    options = ["--workflow-profile", f"profiles/{machine}", "--forceall", "--dry-run"]
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", *options, "--config", "profile=smoke", *config],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("machine", MACHINES)
def test_every_chapter_is_planned(machine: str) -> None:
    if machine == "slurm":
        pytest.importorskip("snakemake_executor_plugin_slurm")
    said = planned(machine, "repository=")
    for notebook in (ROOT / "book").glob("*.ipynb"):
        assert f"chapter_{notebook.stem}" in said
