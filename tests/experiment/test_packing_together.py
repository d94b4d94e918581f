"""Packing by the processes of a launch: the bytes of one process, resumed, never cut off."""

from __future__ import annotations

import os
import time
from datetime import timedelta
from pathlib import Path
from typing import Any, Never

import pytest
from accelerate import PartialState
from tiny_run import given_run
from together import run_two
from torch.distributed import distributed_c10d

from rlfseg.data.packed import shard
from rlfseg.data.packed.read import Pack
from rlfseg.experiment import Run, packed, packing
from rlfseg.stage import draft_of

pytestmark = pytest.mark.integration

DATA = {"source": "mini", "pixels": 16, "train": 7, "val": 5, "test": 1, "seed": 5}
CHUNK = 2  # images of a shard


def of(dataset: str) -> Run:
    return given_run(data={**DATA, "dataset": dataset})


def files(path: Path) -> list[bytes]:
    return [each.read_bytes() for each in sorted(path.parent.glob(f"{path.name}*"))]


def work(root: Path) -> None:
    """Pack a split whose writing takes longer than a barrier lasts, then one that is stopped."""
    os.chdir(root)
    distributed_c10d._set_pg_timeout(timedelta(seconds=1), distributed_c10d._get_default_group())
    shard.CHUNK = CHUNK
    share = PartialState().process_index, 2
    shares, make_shards, write_pack = [], packing.make_shards, packing.write_pack

    def noted(*arguments: Any, **said: Any) -> None:
        shares.append(said["share"])
        make_shards(*arguments, **said)

    def slow(*arguments: Any, **said: Any) -> Any:
        time.sleep(1.5)
        return write_pack(*arguments, **said)

    os.cpu_count = lambda: 4  # so that each has workers of its own
    packing.make_shards, packing.write_pack = noted, slow
    path = packed(of("refcoco"), "train").path
    assert packed(of("refcoco"), "train").path == path and shares == [share]  # made once

    packing.make_shards, packing.write_pack = make_shards, write_pack
    stopped(root)


def stopped(root: Path) -> None:
    """Stop when all shards are there, before they are put together, and go on."""
    meet, prepare = packing.meet, shard.prepare

    def stop(*_: Any) -> Never:
        raise InterruptedError

    def again(*_: Any) -> Never:
        raise AssertionError("an image is made ready a second time")

    packing.meet = stop
    with pytest.raises(InterruptedError):
        packed(of("phrasecut"), "val")
    packing.meet, shard.prepare = meet, again
    draft = draft_of(of("phrasecut").packed_stage("val"), profile="smoke")
    while len(list(draft.glob(".val.h5.part/*.h5"))) < 3:
        time.sleep(0.05)
    packed(of("phrasecut"), "val")
    assert not draft.exists()
    shard.prepare = prepare


def test_two_processes_pack_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("book", "params"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(shard, "CHUNK", CHUNK)
    run_two(work, tmp_path)
    for run, split in ((of("refcoco"), "train"), (of("phrasecut"), "val")):
        path = packed(run, split).path
        Pack(path).validate()
        together = files(path)
        assert len(together) == 3  # the file, its index, its report
        path.parent.rename(tmp_path / split)
        assert files(packed(run, split).path) == together
