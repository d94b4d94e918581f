"""Stages: found when they are there, made when they are not, and told apart by what they mean."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError

import rlfseg
from rlfseg.stage import (
    PARTS,
    Stage,
    alone,
    commit,
    is_current,
    made,
    read_record,
    readable,
    replaced,
    repository,
    shipped,
)

STAGE = Stage("thing", 1, {"a": 1, "b": {"c": [1, 2], "d": None}}, {"x": Stage("x", 1, {})})


@pytest.fixture(autouse=True)
def repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty repository as the working folder."""
    (tmp_path / "book").mkdir()
    (tmp_path / "params").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FRESH", raising=False)
    return tmp_path


class Maker:
    """Makes an artefact and counts how often."""

    def __init__(self, text: str = "made") -> None:
        self.text = text
        self.calls = 0

    def __call__(self, folder: Path) -> dict[str, int]:
        self.calls += 1
        (folder / "result.txt").write_text(self.text)
        return {"calls": self.calls}


def ship(stage: Stage, text: str) -> Path:
    """Puts an artefact where the repository keeps those of the profile `mini`."""
    there = made(stage, Maker(text), profile="elsewhere")
    kept = shipped("mini", stage)
    kept.parent.mkdir(parents=True, exist_ok=True)
    return there.rename(kept)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=4), _json, max_size=5))
def test_the_hash_ignores_the_order_of_keys(config: dict[str, object]) -> None:
    def backwards(value: object) -> object:
        if isinstance(value, dict):
            return {key: backwards(value[key]) for key in reversed(value)}
        return [backwards(v) for v in value] if isinstance(value, list) else value

    turned = backwards(config)
    assert isinstance(turned, dict) and turned == config
    assert Stage("n", 1, turned).hash == Stage("n", 1, config).hash


def test_the_hash_changes_with_everything_that_determines_the_result() -> None:
    others = [
        STAGE,
        replace(STAGE, name="other"),
        replace(STAGE, version=2),
        replace(STAGE, config={**STAGE.config, "a": 2}),
        replace(STAGE, config={**STAGE.config, "b": {"c": [2, 1], "d": None}}),
        replace(STAGE, inputs={}),
        replace(STAGE, inputs={"y": STAGE.inputs["x"]}),
        replace(STAGE, inputs={"x": Stage("x", 2, {})}),
        replace(STAGE, inputs={"x": Stage("x", 1, {}, {"deep": Stage("z", 1, {})})}),
        replace(STAGE, inputs={"x": Stage("x", 1, {}, {"deep": Stage("z", 2, {})})}),
    ]
    assert len({stage.hash for stage in others}) == len(others)
    assert all(len(stage.hash) == 16 and int(stage.hash, 16) >= 0 for stage in others)


def test_the_hash_is_the_same_on_every_day() -> None:
    """Shipped artefacts are found by it: a change here makes all of them stale."""
    assert Stage("backbone", 1, {"seed": 0}, {"x": Stage("x", 1, {})}).hash == "1b82ee04c579bb4e"


def test_what_was_made_is_found(repo: Path) -> None:
    make = Maker()
    first, second = (made(STAGE, make, profile="mini") for _ in range(2))
    assert make.calls == 1 and first == second
    assert first == repo / "runs" / "mini" / "stages" / f"thing-{STAGE.hash}"
    assert (first / "result.txt").read_text() == "made"
    made(replace(STAGE, version=2), make, profile="mini")
    made(STAGE, make, profile="smoke")
    assert make.calls == 3


def test_the_record_says_what_it_is_and_where_it_comes_from() -> None:
    record = read_record(made(STAGE, Maker(), profile="mini"))
    assert record["name"] == "thing" and record["hash"] == STAGE.hash and record["version"] == 1
    assert record["config"] == STAGE.config
    assert record["inputs"] == {"x": STAGE.inputs["x"].hash}
    assert record["figures"] == {"calls": 1} and record["seconds"] >= 0
    assert record["commit"] == commit()
    assert record["libraries"]["torch"].startswith("2.") and record["python"].startswith("3.")
    assert "CPU cores" in record["machine"]
    assert record["device"] == "CPU" or torch.cuda.is_available()


def test_a_shipped_artefact_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = ship(STAGE, "shipped")
    make = Maker("made here")
    assert made(STAGE, make, profile="mini") == kept and make.calls == 0
    monkeypatch.setenv("FRESH", "0")
    assert made(STAGE, make, profile="mini") == kept and make.calls == 0
    monkeypatch.setenv("FRESH", "1")
    fresh = made(STAGE, make, profile="mini")
    assert fresh != kept and (fresh / "result.txt").read_text() == "made here"
    assert made(STAGE, make, profile="mini") == fresh and make.calls == 1
    assert (kept / "result.txt").read_text() == "shipped"


def test_a_stale_shipped_artefact_is_not_used() -> None:
    kept = ship(STAGE, "shipped")
    newer = replace(STAGE, version=2)
    assert is_current(kept, STAGE) and not is_current(kept, newer)
    make = Maker()
    assert made(newer, make, profile="mini") != kept and make.calls == 1


def test_an_interrupted_make_resumes_in_its_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it took is the seconds of both attempts, without those between them."""
    clock = [1000.0]
    monkeypatch.setattr(time, "time", lambda: clock[0])

    def interrupted(folder: Path) -> None:
        clock[0] += 30.0
        (folder / "half.txt").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        made(STAGE, interrupted, profile="mini")

    def rest(folder: Path) -> None:
        clock[0] += 5.0
        (folder / "result.txt").write_text((folder / "half.txt").read_text() + " and half")

    clock[0] += 700.0
    there = made(STAGE, rest, profile="mini")
    assert (there / "result.txt").read_text() == "half and half"
    record = read_record(there)
    assert record["seconds"] == 35.0 and record["stopped"] == [[1000.0, 1030.0]]
    assert not (there / PARTS).exists()
    assert [path.name for path in there.parent.iterdir() if path.is_dir()] == [there.name]


def test_a_checkpoint_goes_when_the_artefact_is_in_its_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Until then it is what hours of work are taken up from."""

    def fill(folder: Path) -> None:
        (folder / PARTS).mkdir(exist_ok=True)
        (folder / PARTS / "checkpoint").touch()

    def failing(*_: object) -> None:
        raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY))

    with monkeypatch.context() as patched, pytest.raises(OSError, match="not empty"):
        patched.setattr("rlfseg.stage.os.replace", failing)
        made(STAGE, fill, profile="mini")
    assert list(Path("runs").rglob("checkpoint"))
    there = made(STAGE, fill, profile="mini")
    assert [path.name for path in there.iterdir()] == ["stage.json"]


def test_drafts_that_a_kill_leaves_are_in_no_artefact(repo: Path) -> None:
    def killed(folder: Path) -> None:
        (folder / "inner").mkdir()
        (folder / "inner" / ".result.txt.0123.tmp").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        made(STAGE, killed, profile="mini")
    there = made(STAGE, Maker(), profile="mini")
    files = {path.name for path in there.rglob("*") if path.is_file()}
    assert files == {"result.txt", "stage.json"}


def test_a_file_is_replaced_whole_or_not_at_all(repo: Path) -> None:
    path = repo / "a.txt"
    path.write_text("old")
    with pytest.raises(KeyError), replaced(path) as draft:
        draft.write_text("half")
        raise KeyError
    assert path.read_text() == "old" and not list(repo.glob(".*"))
    with replaced(path) as one, replaced(path) as other:  # as two nodes with one process id may
        assert one != other and one.parent == other.parent == repo
        one.write_text("first")
        other.write_text("second")
    assert path.read_text() == "first" and not list(repo.glob(".*"))


def test_a_file_that_has_no_folder_is_named_before_any_work(
    repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = repo / "missing" / "out.png"
    said = r"out\.png can't be written: there is no folder .*missing$"
    with pytest.raises(FileNotFoundError, match=said), replaced(path):
        pytest.fail("nothing can be written")
    monkeypatch.setattr("rlfseg.stage.os.access", lambda *_: False)  # root may write anywhere
    said = r"out\.png can't be written: .*read-only$"
    with pytest.raises(PermissionError, match=said), replaced(repo / "out.png"):
        pytest.fail("nothing can be written")


def test_a_folder_without_its_record_is_no_artefact() -> None:
    there = made(STAGE, Maker("old"), profile="mini")
    (there / "stage.json").unlink()
    with pytest.raises(FileNotFoundError, match="no finished artefact"):
        read_record(there)
    again = made(STAGE, Maker("new"), profile="mini")
    assert again == there and (there / "result.txt").read_text() == "new"


@pytest.mark.parametrize("text", ["", '{"name": "thi', "[]", "{}", "\0" * 90])
def test_a_damaged_record_is_named(text: str) -> None:
    there = made(STAGE, Maker(), profile="mini")
    (there / "stage.json").write_text(text)
    for find in (
        lambda: read_record(there),
        lambda: is_current(there, STAGE),
        lambda: made(STAGE, Maker(), profile="mini"),
    ):
        with pytest.raises(ValueError, match=rf"stage\.json can't be read .*; delete {there} and"):
            find()
    shutil.rmtree(there)
    assert made(STAGE, Maker(), profile="mini") == there


def test_reading_names_what_is_damaged_but_not_what_is_missing(repo: Path) -> None:
    path = repo / "a.npz"
    with pytest.raises(FileNotFoundError), readable(path), np.load(path):
        pass
    np.savez(path, a=np.arange(99))
    for keep in (0, 40, 300):
        path.write_bytes(path.read_bytes()[:keep])
        message = rf"a\.npz can't be read .*; delete {repo / 'runs'} and run the same again"
        with (
            pytest.raises(ValueError, match=message),
            readable(path, folder=repo / "runs"),
            np.load(path) as arrays,
        ):
            arrays["b"]
    with pytest.raises(PermissionError), readable(path):
        raise PermissionError(errno.EACCES, "no")


def test_what_is_replaced_is_on_the_disk_before_it_takes_its_place(
    repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    sync, move = os.fsync, os.replace
    monkeypatch.setattr("os.fsync", lambda file: done.append("sync") or sync(file))
    monkeypatch.setattr("os.replace", lambda *names: done.append("move") or move(*names))
    with replaced(repo / "a.txt") as draft:
        draft.write_text("whole")
    assert done == ["sync", "move"]
    made(STAGE, Maker(), profile="mini")
    assert done == ["sync", "move"] * 2 + ["move"]  # its record, then its folder


def test_the_repository_is_found_from_inside_it_only(
    repo: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repo / "book")
    assert repository() == repo
    monkeypatch.chdir(tmp_path_factory.mktemp("outside"))
    with pytest.raises(FileNotFoundError, match="not inside the repository"):
        repository()


def test_the_commit_is_that_of_the_package() -> None:
    root = Path(rlfseg.__file__).parents[1]
    where = ["git", "-C", str(root), "log", "-1", "--format=%H"]
    git = subprocess.run(where, capture_output=True, text=True, check=False)
    commit.cache_clear()  # it may have been asked before a commit was made
    assert commit() == (git.stdout.strip() or "unknown")


def test_without_git_the_commit_is_unknown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    commit.cache_clear()
    assert commit() == "unknown"
    commit.cache_clear()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_named(
    repo: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def none(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", none)
    said = r"x\.lock can't be locked .*no flock; let .* be a link"
    with pytest.raises(OSError, match=said), alone(repo / "x.lock"):
        pytest.fail("nobody else is kept out")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_full_disk_is_named_in_one_line(repo: Path, number: int) -> None:
    long = "Can't write data (file write failed: time = Sun\n, filename = 'a', buf = 0x7fe2)"
    path = repo / "kept.txt"
    path.write_text("before")
    with pytest.raises(OSError) as raised, replaced(path) as draft:
        draft.write_text("half")
        raise OSError(number, long)
    message = str(raised.value)
    assert message.startswith(f"{path} can't be written ({os.strerror(number)}): is the disk full")
    assert "\n" not in message and path.read_text() == "before"
    with pytest.raises(OSError, match=r"^another$"), replaced(path):
        raise OSError("another")


@pytest.mark.parametrize(
    ("said", "kind"),
    [("No space left on device (os error 28)", OSError), ("header too large", SafetensorError)],
)
def test_what_is_damaged_is_not_taken_for_a_full_disk(
    repo: Path, said: str, kind: type[Exception]
) -> None:
    with pytest.raises(kind, match=re.escape(said)) as raised, replaced(repo / "a") as draft:
        draft.touch()
        raise SafetensorError(f"Error while serializing: I/O error: {said}")
    assert ("can't be written" in str(raised.value)) == (kind is OSError)


def test_a_stage_whose_disk_is_full_is_named_and_made_later() -> None:
    def full(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    other = replace(STAGE, name="full")
    with pytest.raises(OSError, match=r"full-\w+\.part can't be written \(No space left"):
        made(other, full, profile="mini")
    assert made(other, Maker("whole"), profile="mini").name.startswith("full-")


def test_waiting_for_another_program_is_said(
    repo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("rlfseg.stage._SOON", 0.1)
    held, may_end = threading.Event(), threading.Event()

    def hold() -> None:
        with alone(repo / "x.lock"):
            held.set()
            assert may_end.wait(20)

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(20)
    threading.Timer(0.5, may_end.set).start()
    with alone(repo / "x.lock"):
        assert may_end.is_set()
    thread.join()
    assert "x.lock is held: waiting for another program to end" in capsys.readouterr().err


def test_of_programs_that_want_the_same_at_once_one_makes_it(repo: Path) -> None:
    """Threads stand for programs: each opens the lock's file for itself, as those do."""
    begun, may_end, other = threading.Event(), threading.Event(), Maker("second")

    def slow(folder: Path) -> None:
        begun.set()
        assert may_end.wait(20)
        (folder / "result.txt").write_text("first")

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(made, STAGE, slow, profile="mini")
        assert begun.wait(20)
        second = pool.submit(made, STAGE, other, profile="mini")
        with pytest.raises(TimeoutError):
            second.result(timeout=0.3)
        may_end.set()
        assert first.result(20) == second.result(20)
    assert other.calls == 0
    assert (second.result() / "result.txt").read_text() == "first"
