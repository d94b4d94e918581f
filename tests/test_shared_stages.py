"""Stages that the processes of a launch make: the first alone, or all of them together."""

from __future__ import annotations

import os
import time
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from accelerate import PartialState
from together import run_two

from rlfseg.processes import by_first, cut, in_parts, together
from rlfseg.stage import PARTS, Stage, draft_of, finished, locked, made_at, read_record

pytestmark = pytest.mark.integration

STAGE = Stage("shared", 1, {"size": 4})


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("book", "params"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def note(line: str) -> None:
    """Writes a line that tells which process did what."""
    with Path("log").open("a") as file:
        file.write(f"{PartialState().process_index} {line}\n")


def halves(folder: Path) -> dict[str, int]:
    """Four squares in two parts; the second process reads them long after the first has."""
    note("fills")
    paths, ranges = [folder / PARTS / f"{k}.npz" for k in range(2)], cut(4, 2)
    in_parts(paths, ranges, lambda some: {"square": np.square(list(some))}, title="squares")
    if PartialState().process_index:
        time.sleep(1)
    found = np.concatenate([np.load(path)["square"] for path in paths])
    if PartialState().is_main_process:
        np.save(folder / "squares.npy", found)
    return {"sum": int(found.sum())}


def shared(root: Path) -> None:
    os.chdir(root)
    folder = together(STAGE, halves, profile="smoke")
    assert np.load(folder / "squares.npy").tolist() == [0, 1, 4, 9]
    assert not (folder / PARTS).exists()
    assert together(STAGE, halves, profile="smoke") == folder  # found


def test_all_make_it_and_its_parts_stay_until_the_last_has_read_them(root: Path) -> None:
    draft = draft_of(STAGE, profile="smoke")
    draft.mkdir(parents=True)
    for number in range(2):  # of a launch that was killed: they must start nothing, and end nothing
        (draft / f".another-launch-{number}.tmp").touch()
    run_two(shared, root)
    assert sorted(Path("log").read_text().splitlines()) == ["0 fills", "1 fills"]
    final = made_at(STAGE, profile="smoke")
    assert read_record(final)["figures"] == {"sum": 14}
    assert {path.name for path in final.iterdir()} == {"squares.npy", "stage.json"}


def asking(root: Path) -> None:
    os.chdir(root)
    note("asks")
    shared(root)


def alone(root: Path) -> None:
    os.chdir(root)

    def fill(folder: Path) -> None:
        note("fills")
        time.sleep(1)
        (folder / "done").touch()

    assert (by_first(STAGE, fill, profile="smoke") / "done").exists()


def test_the_first_alone_makes_it_while_the_other_waits(root: Path) -> None:
    run_two(alone, root)
    assert Path("log").read_text() == "0 fills\n"


def test_what_another_program_makes_meanwhile_is_found(root: Path) -> None:
    """It holds the lock when both processes ask; neither starts on its own."""

    def make() -> None:
        with locked(STAGE, profile="smoke") as draft:
            started.append(time.time())
            draft.mkdir()
            np.save(draft / "squares.npy", np.square(range(4)))
            while not Path("log").exists() or Path("log").read_text().count("asks") < 2:
                time.sleep(0.05)
            time.sleep(0.5)
            finished(STAGE, draft, {}, profile="smoke", attempts=[(started[0], time.time())])

    started: list[float] = []
    other = Thread(target=make)
    other.start()
    while not started:
        time.sleep(0.01)
    run_two(asking, root)
    other.join()
    assert sorted(Path("log").read_text().splitlines()) == ["0 asks", "1 asks"]


def failing(root: Path) -> None:
    os.chdir(root)

    def fill(folder: Path) -> None:
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        together(STAGE, fill, profile="smoke")


def test_what_failed_is_no_artefact(root: Path) -> None:
    run_two(failing, root)
    assert not made_at(STAGE, profile="smoke").exists()
    run_two(shared, root)  # and is made by the next launch, from what there is
