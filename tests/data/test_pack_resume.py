"""Packing that is killed and run again: the same content, and finished work is not done twice."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image

from rlfseg.data.masks import rasterise
from rlfseg.data.packed.prepare import Example
from rlfseg.data.packed.read import Pack
from rlfseg.data.packed.schema import PackError, report_path
from rlfseg.data.packed.shard import CHUNK, chunks, fingerprint
from rlfseg.data.packed.workers import ordered_map
from rlfseg.data.packed.write import PackReport, write_pack
from rlfseg.data.sample import PixelMap, Polygons, Sample, Segments

IMAGES = 3 * CHUNK + 5
RENAMES = 4 + 4  # of the shards; of index, file, index and report


def drawn(seed: int, log: str) -> np.ndarray:
    """A mask, and a byte in a file for each time that it is drawn."""
    with open(log, "ab") as file:
        file.write(b".")
    return np.random.default_rng(seed).random((6, 8)) < 0.4


def examples(log: Path, count: int = IMAGES) -> Iterator[Example]:
    """One phrase for each image."""
    for number in range(count):
        image = np.full((6, 8, 3), number, np.uint8)
        mask = partial(drawn, number, str(log))
        yield Example(f"{number}", image, f"thing / {number}", mask, ids=(f"id{number}", "é"))


def everything(path: Path) -> dict[str, Any]:
    """All that plain h5py sees in a file."""
    found: dict[str, Any] = {}

    def look(name: str, node: h5py.Group | h5py.Dataset) -> None:
        attributes = {key: np.asarray(value).tolist() for key, value in node.attrs.items()}
        found[name] = attributes
        if isinstance(node, h5py.Dataset):
            found[name] = (attributes, node.dtype, node.compression, node.chunks, node[()].tolist())

    with h5py.File(path) as file:
        look("/", file)
        file.visititems(look)
    return found


def survives(function: Callable[[], Any]) -> bool:
    """Run a function in a process; say whether it came back, rather than being killed."""
    process = multiprocessing.get_context("fork").Process(target=function)
    process.start()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode == 0


def kill_at_rename(number: int, work: Callable[[], Any]) -> None:
    """Work until just before the given rename, counted from 0, and be killed there."""
    done, rename = 0, os.replace

    def replace(*args: Any) -> None:
        nonlocal done
        if done == number:
            os.kill(os.getpid(), signal.SIGKILL)
        done += 1
        rename(*args)

    os.replace = replace
    work()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PackReport]:
    folder = tmp_path_factory.mktemp("whole")
    return folder / "a.h5", write_pack(examples(folder / "log"), folder / "a.h5", size=None)


@pytest.mark.integration
@pytest.mark.parametrize("number", range(RENAMES + 1))
def test_killed_at_any_step_then_resumed(
    tmp_path: Path, whole: tuple[Path, PackReport], number: int
) -> None:
    path, log = tmp_path / "a.h5", tmp_path / "log"
    earlier = write_pack(examples(log, 1), path, size=None)
    work = partial(write_pack, examples(log), path, size=None)
    assert survives(partial(kill_at_rename, number, work)) == (number == RENAMES)
    now = Pack(path)  # the earlier file, or already the new one: never a broken one
    now.validate()
    report = whole[1]
    arrived = number > 5  # four shards and the waiting index come before the file
    assert now.content_hash == (report if arrived else earlier).content_hash
    log.unlink()
    assert write_pack(examples(log), path, size=None) == report
    drawings = log.stat().st_size if log.exists() else 0
    again = number == RENAMES  # nothing was interrupted, so all is packed anew
    assert drawings == (IMAGES if again else max(0, IMAGES - number * CHUNK))
    assert everything(path) == everything(whole[0])
    assert path.read_bytes() == whole[0].read_bytes()
    Pack(path).validate()
    names = {"a.h5", "a.h5.index.npz", "a.h5.report.json", "log"}
    assert {p.name for p in tmp_path.iterdir()} | {"log"} == names


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_change_nothing(
    tmp_path: Path, whole: tuple[Path, PackReport], workers: int
) -> None:
    path = tmp_path / "a.h5"
    assert write_pack(examples(tmp_path / "log"), path, size=None, workers=workers) == whole[1]
    assert path.read_bytes() == whole[0].read_bytes()
    told = json.loads(report_path(path).read_text())
    assert (told["images"], told["content_hash"]) == (IMAGES, whole[1].content_hash)


def killing(seed: int, log: str, marker: str) -> np.ndarray:
    """Kill its process, once; with a number that is left to do its work in peace."""
    if not os.path.exists(marker):
        open(marker, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return drawn(seed, log)


def deadly(log: Path, marker: Path, at: int) -> Iterator[Example]:
    for number, example in enumerate(examples(log)):
        mask = partial(killing, number, str(log), str(marker)) if number == at else example.mask
        yield Example(example.image_id, example.image, example.caption, mask, None, example.ids)


def test_a_killed_worker_is_reported_and_its_work_resumed(
    tmp_path: Path, whole: tuple[Path, PackReport]
) -> None:
    path, log = tmp_path / "a.h5", tmp_path / "log"
    content = partial(deadly, log, tmp_path / "marker", IMAGES - 1)
    with pytest.raises(PackError, match="a worker process was killed"):
        write_pack(content(), path, size=None, workers=1)
    assert not path.exists()
    log.unlink()
    assert write_pack(content(), path, size=None, workers=1) == whole[1]
    assert log.stat().st_size == 5  # the last chunk's
    assert path.read_bytes() == whole[0].read_bytes()


def interrupted(log: Path, how: Callable[[], Any], at: int) -> Iterator[Example]:
    for number, example in enumerate(examples(log)):
        if number == at:
            how()
        yield example


def test_a_killed_writer_ends_its_workers_and_is_resumed(
    tmp_path: Path, whole: tuple[Path, PackReport]
) -> None:
    path, log = tmp_path / "a.h5", tmp_path / "log"

    pids = tmp_path / "pids"

    def stop() -> None:
        pids.write_text(" ".join(str(p.pid) for p in multiprocessing.active_children()))
        os.kill(os.getpid(), signal.SIGKILL)

    def runs(pid: str) -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0] not in "ZX"
        except OSError:
            return False

    def work() -> None:
        write_pack(interrupted(log, stop, IMAGES - 1), path, size=None, workers=2)

    assert not survives(work)
    workers, deadline = pids.read_text().split(), time.monotonic() + 10
    assert len(workers) == 2
    while any(map(runs, workers)):
        assert time.monotonic() < deadline, "a worker outlives its writer"
        time.sleep(0.05)
    pids.unlink()
    assert write_pack(examples(log), path, size=None, workers=2) == whole[1]
    assert path.read_bytes() == whole[0].read_bytes()


def test_leftovers_of_another_run_are_not_taken(tmp_path: Path) -> None:
    path, log = tmp_path / "a.h5", tmp_path / "log"

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_pack(interrupted(log, stop, 2 * CHUNK), path, size=None)
    part = tmp_path / ".a.h5.part"
    assert len(list(part.glob("*.h5"))) == 1  # the chunk after it was not complete
    (spoiled,) = part.glob("000000-*.h5")
    other = write_pack(examples(log, CHUNK), path, size=4)
    assert not part.exists() and Pack(path)[0].mask.shape == (4, 4)
    part.mkdir()
    (part / spoiled.name).write_bytes(b"cut short by a power cut")
    write_pack(examples(log, CHUNK), tmp_path / "b.h5", size=None)
    assert write_pack(examples(log, CHUNK), path, size=None).content_hash != other.content_hash
    assert path.read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_two_packers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    path, log = tmp_path / "a.h5", tmp_path / "log"

    def second() -> None:
        with pytest.raises(PackError, match=r"a\.h5 is being packed by another process"):
            write_pack(examples(log, 1), path, size=None)

    write_pack(interrupted(log, lambda: survives(second) or pytest.fail(), 3), path, size=None)
    Pack(path).validate()


def test_where_files_cannot_be_locked_nothing_is_packed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.lockf", refused)
    with pytest.raises(OSError, match="No locks available"):
        write_pack(examples(tmp_path / "log", 1), tmp_path / "a.h5", size=None)
    assert not (tmp_path / "a.h5").exists()


def test_the_fingerprint_covers_what_a_shard_is_made_of(tmp_path: Path) -> None:
    photo, chart = tmp_path / "p.png", tmp_path / "map.png"
    for file in (photo, chart):
        Image.new("RGB", (8, 6)).save(file)

    def mark(example: Example, size: int | None = 16) -> str:
        (chunk,) = chunks([example])
        return fingerprint(chunk, size)

    def example(
        region: Any, *, image_id: str = "1", caption: str = "c", ids: tuple[str, ...] = ("1",)
    ) -> Example:
        sample = Sample("1", photo, "c", "train", 8, 6, region, {"task_id": "1", "more": {"a": 1}})
        return Example(image_id, photo, caption, partial(rasterise, sample), ids=ids)

    def outline(x: float) -> Polygons:
        return Polygons(((np.array([[0.0, 0], [x, 0], [0, 4]]),),))

    base = example(outline(4))
    assert mark(base) == mark(example(outline(4)))
    marks = {
        mark(base),
        mark(base, None),
        mark(example(outline(5))),
        mark(example(outline(4), image_id="2")),
        mark(example(outline(4), caption="d")),
        mark(example(outline(4), ids=("1", "2"))),
        mark(example(Segments(([[0, 0, 4, 0, 0, 4]],)))),
        mark(example(Segments(([[0, 0, 5, 0, 0, 4]],)))),
        mark(example(PixelMap(chart, (1,)))),
        mark(example(PixelMap(chart, (2,)))),
        mark(Example("1", photo, "c", drawn(0, os.devnull))),
        mark(Example("1", photo, "c", drawn(1, os.devnull))),
        mark(Example("1", photo, "c", drawn(0, os.devnull), drawn(1, os.devnull))),
    }
    os.utime(chart, ns=(5, 5))
    marks.add(mark(example(PixelMap(chart, (2,)))))
    os.utime(photo, ns=(5, 5))
    marks.add(mark(base))
    assert len(marks) == 15


_KNOWN: list[int] = []


def _known(number: int) -> list[int]:
    return [number, *_KNOWN]


def test_workers_start_at_once_in_a_process_of_a_launch_too() -> None:
    """Such a process spawns by default: its workers would import everything anew."""
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method("spawn", force=True)
    _KNOWN.append(7)
    try:
        with ordered_map(1) as run:
            assert list(run(_known, [1, 2])) == [[1, 7], [2, 7]]
    finally:
        _KNOWN.clear()
        multiprocessing.set_start_method(before, force=True)
