"""A whole run is killed, and its disk is full, again and again: what it ends in is the same.

WITHSTANDS=50 is how often it is killed; a nightly job, as these take minutes.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from tiny import tiny_backbone
from tiny_run import in_chapter, with_sam
from tqdm import tqdm

from rlfseg.book.paper import keep_results, run_cells
from rlfseg.config import SamplerConfig
from rlfseg.experiment import Scoring, fill_latents, packed, refined, scored, trained

KILLS = int(os.environ.get("WITHSTANDS", "50"))
CONTEXT = multiprocessing.get_context("fork")  # imports are not made anew each time
LONGEST = 300  # seconds, of a run of some ten
#: What says when or how long, and differs with every run.
TIMES = {"seconds", "stopped", "samples_per_second", "made", "provenance", "commit"}

pytestmark = pytest.mark.slow


def everything() -> None:
    """From drawing scenes to a table's cells: pack, refine, cache, train, score, keep."""
    run = with_sam(selection="exact", steps=6)
    run = replace(run, machine=replace(run.machine, save_minutes=1e-4))  # after each step
    for split in ("train", "val", "test"):
        packed(run, split)
    refined(run, "train")
    fill_latents(run)
    trained(run)
    way = Scoring("test", sampler=SamplerConfig("one"))
    scored(run, way)
    cells = run_cells(run, way, data="all")
    here = in_chapter("05_phrasecut", run)
    keep_results(here, 1, {("RLFSeg(Ours)", column): cell for column, cell in cells.items()})


def timeless(value: Any) -> Any:
    """JSON without what says when or how long."""
    if isinstance(value, dict):
        return {key: timeless(each) for key, each in value.items() if key not in TIMES}
    return [timeless(each) for each in value] if isinstance(value, list) else value


def content(path: Path) -> Any:
    """What is in a file, for comparison."""
    if path.suffix == ".h5":
        found: dict[str, Any] = {}
        with h5py.File(path) as file:
            file.visititems(
                lambda name, node: found.update(
                    {name: node[()].tobytes() if isinstance(node, h5py.Dataset) else ""}
                )
            )
        return found
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            return {name: arrays[name].tobytes() for name in arrays.files}
    if path.suffix == ".json":
        return timeless(json.loads(path.read_text()))
    if path.suffix == ".jsonl":
        return [timeless(json.loads(line)) for line in path.read_text().splitlines()]
    return path.read_bytes()


def made(root: Path) -> dict[str, Any]:
    """The content of all that a run has left, by its place."""
    files = sorted(f for f in (root / "runs").rglob("*") if f.is_file() and f.suffix != ".lock")
    return {f.relative_to(root).as_posix(): content(f) for f in files}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Gives new repositories, of which the last is the working folder."""
    before = Path.cwd()
    tiny_backbone(tmp_path / "tiny")

    def fresh(name: str) -> Path:
        root = tmp_path / name
        for folder in ("book", "params"):
            (root / folder).mkdir(parents=True)
        shutil.copytree(tmp_path / "tiny", root / "tiny")
        os.chdir(root)
        return root

    yield fresh
    os.chdir(before)


def in_a_process(work: Callable[[], None], *, after: float | None = None) -> int:
    """Work in a process that is killed after some seconds; returns its exit status."""

    def alone() -> None:
        os.setpgrp()
        tqdm.set_lock(threading.RLock())  # the one that all share would stay with who is killed
        nothing = os.open(os.devnull, os.O_WRONLY)
        for stream in (1, 2):  # which may be files too, that may not grow
            os.dup2(nothing, stream)
        work()

    process = CONTEXT.Process(target=alone)
    process.start()
    process.join(LONGEST if after is None else after)
    if process.is_alive():
        assert after is not None, f"it hangs: not done after {LONGEST} s"
        os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    assert has_gone(process.pid or 0), "processes that it had started are left"
    return process.exitcode or 0


def has_gone(group: int) -> bool:
    """Whether all processes of a group end within seconds."""
    for _ in range(200):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


@pytest.fixture
def whole(place: Callable[[str], Path]) -> tuple[dict[str, Any], float]:
    """What an undisturbed run leaves, and its seconds."""
    root, started = place("whole"), time.perf_counter()
    assert in_a_process(everything) == 0
    return made(root), time.perf_counter() - started


def test_killed_again_and_again_it_ends_in_the_same(
    place: Callable[[str], Path], whole: tuple[dict[str, Any], float]
) -> None:
    expected, seconds = whole
    chance, kills, repositories = random.Random(0), 0, 0
    while kills < KILLS:
        root = place(f"killed {repositories}")
        repositories += 1
        while in_a_process(everything, after=chance.uniform(0.02, 0.5) * seconds) != 0:
            kills += 1
        assert made(root) == expected
    print(f"{kills} kills of {repositories} runs of {seconds:.1f} s each")


def test_its_disk_full_at_every_size_it_says_so_and_ends_in_the_same(
    place: Callable[[str], Path], whole: tuple[dict[str, Any], float]
) -> None:
    """No file may grow beyond a limit, which is lifted bit by bit: each write fails once."""
    expected, _ = whole
    sizes = sorted({(Path.cwd() / name).stat().st_size for name in expected} - {0})
    root, said = place("full"), CONTEXT.SimpleQueue()

    def limited(most: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        message = ""
        try:
            everything()
        except (OSError, ValueError) as error:  # what a command says in one line
            message = str(error)
        said.put(message)  # after the block, whose error keeps a pool of processes alive

    kept: dict[str, Any] = {}
    for size in sizes:
        assert in_a_process(partial(limited, size - 1)) == 0, f"no file above {size - 1} bytes"
        message = said.get()
        assert "runs" in message and "\n" not in message.strip(), message
        now = {name: each for name, each in made(root).items() if "part" not in name}
        assert kept.items() <= now.items(), "what was there before is lost"
        kept = now
    assert in_a_process(everything) == 0
    assert made(root) == expected
    print(f"the disk was full at {len(sizes)} sizes, from {sizes[0]} to {sizes[-1]} bytes")
