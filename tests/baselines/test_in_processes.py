"""Every baseline, and the first steps of a run, train in two processes as in one.

What is missing, weights or data, costs its rows there as in one.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from accelerate import Accelerator, PartialState
from test_baselines import CHOICES, LDZNET
from test_semflow import CHOICE, NAMES
from tiny_run import given_run
from together import run_two

from rlfseg.baselines import phrases, semflow
from rlfseg.baselines.clipseg import ClipsegConfig
from rlfseg.chapters.asks import Asks, phrase_rivals, semflow_rival
from rlfseg.chapters.making import make
from rlfseg.config import MachineConfig
from rlfseg.experiment import Run, first_steps, source_folder
from rlfseg.stage import Stage, found, made_at
from rlfseg.training.steps import Step, read_steps

pytestmark = pytest.mark.integration

KINDS = (*CHOICES, "semflow", "first steps")
PARTS = MachineConfig(accumulate=2)


def closed() -> Run:
    data = {"source": "mini", "dataset": "cocostuff", "pixels": 16, "train": 1, "val": 3}
    return given_run(data=data, train={"steps": 1})


def everything(root: Path, machine: MachineConfig) -> None:
    """Trains all of it in float32, in the processes that there are."""
    os.chdir(root)
    run = replace(given_run(), machine=machine)
    with pytest.MonkeyPatch.context() as patch:
        for module in ("rlfseg.training.loop", "rlfseg.experiment.training"):
            patch.setattr(f"{module}.quick_accelerator", Accelerator)
        for choice in CHOICES.values():
            phrases.trained_model(run, choice)
        semflow.trained(closed(), CHOICE, NAMES)
        if steps := first_steps(run, until=3):  # of the first process
            (root / "first").write_text("\n".join(str(step.loss) for step in steps))


def losses(root: Path) -> dict[str, list[float]]:
    """What was recorded of it; it is taken away."""

    def of(stage: Stage) -> list[float]:
        folder = made_at(stage, profile="smoke")
        steps: list[Step] = read_steps(folder / "steps.jsonl")
        shutil.rmtree(folder)
        return [step.loss for step in steps]

    found = {name: of(phrases.train_stage(given_run(), each)) for name, each in CHOICES.items()}
    found["semflow"] = of(semflow.train_stage(closed(), CHOICE))
    found["first steps"] = [float(line) for line in (root / "first").read_text().splitlines()]
    (root / "first").unlink()
    return found


@pytest.fixture(scope="module")
def both(repo: Path) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Losses of one that takes its batches in parts, which makes the data, and of two processes."""
    everything(repo, PARTS)
    one = losses(repo)
    run_two(everything, repo, MachineConfig())
    return losses(repo), one


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_train_as_one(
    both: tuple[dict[str, list[float]], dict[str, list[float]]], kind: str
) -> None:
    two, one = (found[kind] for found in both)
    assert len(one) == asdict(CHOICES.get(kind, CHOICE))["steps"] + (kind == "first steps")
    assert two == pytest.approx(one, rel=1e-4)
    assert len(set(one)) == len(one)


def test_what_is_missing_costs_its_rows_in_two_processes(repo: Path, tmp_path: Path) -> None:
    for name in ("stuffthingmaps", "images"):
        shutil.copytree(source_folder(closed()) / name / "val2017", tmp_path / name / "val2017")
    val_only = closed().on(replace(closed().data, source=str(tmp_path)))
    absent = ClipsegConfig(checkpoint="no/folder/here", pixels=16)  # no hub id either
    some = {"absent": absent, "LD-ZNet": LDZNET}
    released, ours = phrase_rivals(given_run(), some, phrases.PhraseSet("val", 3))
    semflow_too = semflow_rival(val_only, CHOICE, images=2)
    run_two(_made, repo, Asks(rivals=(released, semflow_too, ours)))
    there = [found(each.scores, profile="smoke") for each in (released, semflow_too, ours)]
    assert there[:2] == [None, None]
    assert there[2] is not None


def _made(root: Path, asks: Asks) -> None:
    os.chdir(root)
    make(asks)


def test_what_one_process_leaves_out_all_do(repo: Path) -> None:
    """Of several that ask a hub, some may be refused: the others would wait for ever."""
    absent = ClipsegConfig(checkpoint="no/folder/there", pixels=16)
    (released,) = phrase_rivals(given_run(), {"absent": absent}, phrases.PhraseSet("val", 3))
    run_two(_refused, repo, Asks(rivals=(released,)))
    assert found(released.scores, profile="smoke") is None


def _refused(root: Path, asks: Asks) -> None:
    os.chdir(root)
    if not PartialState().is_main_process:  # whose weights are there
        phrases.trained_model = lambda *_: None
    make(asks)


def test_two_processes_count_semflows_pictures_as_one_does(repo: Path) -> None:
    run_two(_named, repo)
    two = semflow.named(closed(), CHOICE, NAMES, images=3)
    shutil.rmtree(made_at(semflow.scores_stage(closed(), CHOICE, images=3), profile="smoke"))
    one = semflow.named(closed(), CHOICE, NAMES, images=3)
    assert len(one.given) == len(two.given) == 3
    for mine, theirs in zip((*one.given, *one.carried), (*two.given, *two.carried), strict=True):
        assert np.array_equal(mine.pixels, theirs.pixels)


def _named(root: Path) -> None:
    os.chdir(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rlfseg.training.loop.quick_accelerator", Accelerator)
        patch.setattr("rlfseg.evaluation.closed_set.PART", 1)  # picture at a time, to share three
        semflow.named(closed(), CHOICE, NAMES, images=3)
