"""A run of seconds, on the small backbone that lies in the `repo` of the tests."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from rlfseg.chapters import CHAPTERS
from rlfseg.config import read_yaml, validated
from rlfseg.experiment import Run

PARAMETERS = Path(__file__).resolve().parents[1] / "params" / "smoke"

DATA = {"source": "mini", "pixels": 16, "train": 6, "val": 2, "test": 3, "seed": 5}
TRAIN = {"steps": 4, "rank": 2, "batch": 4, "lr": 1e-2}
SAM = {"kind": "mini", "pixels": 16, "scenes": 6, "steps": 2, "images": 2, "prompts": 1}


def given_run(**parts: object) -> Run:
    """The run that parameters describe, by default the tiny one."""
    tiny = {"profile": "smoke", "backbone": {"name": "./tiny"}, "data": DATA, "train": TRAIN}
    return validated(Run, {**tiny, **parts}, where="run")


def with_sam(**train: object) -> Run:
    """The tiny run with a small SAM and changes of its training."""
    refine = {"anchors": 2, "iterations": 2}
    return given_run(train={**TRAIN, **train}, sam=SAM, refine=refine)


def in_chapter(name: str, run: Run) -> Any:
    """A chapter's checked parameters in the smoke profile, but for their run."""
    given = read_yaml(PARAMETERS / f"{name}.yml")
    own = {key: value for key, value in given.items() if key not in ("profile", "changes")}
    return validated(CHAPTERS[name].parameters, {"run": asdict(run), **own}, where=name)
