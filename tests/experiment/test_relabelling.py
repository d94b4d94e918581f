"""Refinement as a stage: what it writes, over processes, killed and resumed."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Sequence
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import h5py
import numpy as np
import pytest
import torch
from test_pack_resume import everything, kill_at_rename, survives
from torch import Tensor

from rlfseg.config import RefineConfig
from rlfseg.data.packed.prepare import Example
from rlfseg.data.packed.read import Pack
from rlfseg.data.packed.refined import add_refined, refined_by
from rlfseg.data.packed.schema import PackError
from rlfseg.data.packed.write import write_pack
from rlfseg.experiment import relabelling as stage
from rlfseg.experiment.mask_records import read_records
from rlfseg.experiment.relabelling import keep_labels, relabel
from rlfseg.method.refinement import Predicted
from rlfseg.models.sam import PromptedSam, mini_sam

CHUNK = 4  # images; fewer than in earnest
IMAGES = 2 * CHUNK + 3
SIDE = 16
RENAMES = 3 + 3  # of the parts; of the packed file, the records and the report
CONFIG = RefineConfig(anchors=3, iterations=4, tau=0.8)


class Grows:
    """Adds the column to the right; notes in a file how often it was asked to embed."""

    side = SIDE

    def __init__(self, log: Path, identity: str = "grows") -> None:
        self.log = log
        self.identity = identity

    def embed(self, image: np.ndarray) -> np.ndarray:
        with self.log.open("ab") as file:
            file.write(b".")
        return image

    def predict(self, embedding: Any, points: Sequence[np.ndarray], logits: Tensor) -> Predicted:
        masks = logits[:, 0] > 0
        masks = masks | masks.roll(1, -1)
        return Predicted(masks[:, None] * 2.0 - 1, masks, torch.full((len(points),), 0.5))


def box(width: int) -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), bool)
    mask[2:6, 1 : 1 + width] = True
    return mask


def write(path: Path) -> Path:
    """Two phrases an image: a box of width 2 to 5, and a full mask or one of a single pixel."""
    records = []
    for number in range(IMAGES):
        image = np.full((SIDE, SIDE, 3), number, np.uint8)
        odd = np.ones((SIDE, SIDE), bool)
        if number % 3 == 0:
            odd = np.arange(SIDE * SIDE).reshape(SIDE, SIDE) == 5
        records += [
            Example(f"{number}", image, f"box / {number}", box(2 + number % 4), box(4)),
            Example(f"{number}", image, "é", odd, odd),
        ]
    write_pack(records, path, size=None)
    return path


@pytest.fixture(scope="module", autouse=True)
def _small() -> Iterator[None]:
    """Small chunks; one thread, as a forked process can't use those that torch has started."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "CHUNK", CHUNK)
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    relabel(write(folder / "a.h5"), Grows(folder / "log"), CONFIG, folder / "out")
    return folder


def results(folder: Path) -> tuple[Any, ...]:
    """All that a run leaves, decoded."""
    out = folder / "out"
    assert {path.name for path in out.iterdir()} == {"records.jsonl", "report.json"}
    texts = [(out / name).read_text() for name in ("records.jsonl", "report.json")]
    return everything(folder / "a.h5"), *texts


def test_refined_masks_stand_beside_the_annotations(whole: Path) -> None:
    pack = Pack(whole / "a.h5")
    pack.validate()
    with h5py.File(whole / "a.h5") as file:
        for group in file.values():
            assert set(group["mask_refined"]) == set(group["mask"]) == set(group["mask_truth"])
            for key, dataset in group["mask_refined"].items():
                assert dataset.attrs["caption"] == group["mask"][key].attrs["caption"]
                assert (dataset.dtype, dataset.compression) == (np.uint8, "gzip")
    for number, record in enumerate(read_records(whole / "out")):
        item = pack[number]
        assert (record.item, record.image_id, record.caption) == (
            number,
            item.image_id,
            item.caption,
        )
        assert item.refined is not None and record.pixels == item.mask.sum()
        if number % 2:
            assert record.reason == ("full" if item.mask.all() else "tiny")
            assert np.array_equal(item.refined, item.mask)
            assert (record.iterations, record.iou_previous, record.anchors) == (0, None, 0)
        else:
            width = 2 + (number // 2) % 4
            steps = max(1, 5 - width)  # w / (w + 1) reaches 0.8 at w = 4
            assert (record.iterations, record.converged) == (steps, True)
            assert np.array_equal(item.refined, box(width + steps))
            assert record.iou_original == pytest.approx(width / (width + steps))
            assert record.iou_previous == pytest.approx((width + steps - 1) / (width + steps))
            assert (record.score, record.anchors, record.reason) == (0.5, 3, None)


def test_the_report_sums_the_records_up(whole: Path) -> None:
    path, log = whole / "a.h5", whole / "log"
    before = (log.read_bytes(), path.stat().st_ino)
    report = relabel(path, Grows(log), CONFIG, whole / "out")
    assert (log.read_bytes(), path.stat().st_ino) == before  # all was there already
    records = read_records(whole / "out")
    refined = [record for record in records if record.reason is None]
    assert report.masks == len(records) == 2 * IMAGES
    assert report.kept == {"full": 7, "tiny": 4} and report.converged == IMAGES
    assert sum(report.iterations.values()) == report.masks and report.iterations["0"] == IMAGES
    shares = [record.iou_original for record in refined]
    assert report.iou_original["0.5"] == pytest.approx(np.median(shares))
    assert report.score == dict.fromkeys(report.score, 0.5)
    assert [records[item].iou_original for item in report.worst] == sorted(shares)[:12]
    assert refined_by(path) == report.made_of


@pytest.mark.integration
@pytest.mark.parametrize("number", range(RENAMES + 1))
def test_killed_at_any_step_then_resumed(tmp_path: Path, whole: Path, number: int) -> None:
    path, log, out = write(tmp_path / "a.h5"), tmp_path / "log", tmp_path / "out"
    content = Pack(path).content_hash
    work = partial(relabel, path, Grows(log), CONFIG, out)
    assert survives(partial(kill_at_rename, number, work)) == (number == RENAMES)
    now = Pack(path)  # without refined masks, or with all of them: never a broken one
    now.validate()
    assert now.content_hash == content
    assert (now[0].refined is not None) == (number > 3)
    log.unlink()
    work()
    again = log.stat().st_size if log.exists() else 0
    assert again == max(0, IMAGES - number * CHUNK)
    assert results(tmp_path) == results(whole)
    assert {p.name for p in tmp_path.iterdir()} - {"log"} == {
        "a.h5",
        "a.h5.index.npz",
        "a.h5.report.json",
        "out",
    }


def test_another_predictor_or_setting_refines_anew(tmp_path: Path) -> None:
    path, log, out = write(tmp_path / "a.h5"), tmp_path / "log", tmp_path / "out"
    made = {relabel(path, Grows(log), CONFIG, out).made_of}
    for predictor, config in (
        (Grows(log, "another"), CONFIG),
        (Grows(log, "another"), RefineConfig(anchors=3, iterations=1, tau=0.8)),
    ):
        log.unlink()
        made.add(relabel(path, predictor, config, out).made_of)
        assert log.stat().st_size == IMAGES
    assert len(made) == 3
    pack = Pack(path)
    pack.validate()
    refined = pack[0].refined
    assert refined is not None and np.array_equal(refined, box(3))
    spoiled = out / "report.json"
    told = json.loads(spoiled.read_text())
    write(path)  # packed anew: the same content, but no refined masks
    assert refined_by(path) is None
    log.unlink()
    assert relabel(path, predictor, config, out).made_of == told["made_of"]
    assert log.stat().st_size == IMAGES


def test_a_spoiled_part_is_made_again(tmp_path: Path, whole: Path) -> None:
    path, log, out = write(tmp_path / "a.h5"), tmp_path / "log", tmp_path / "out"
    work = partial(relabel, path, Grows(log), CONFIG, out)
    assert not survives(partial(kill_at_rename, 2, work))
    part = sorted((out / "parts").glob("*.npz"))[1]
    part.write_bytes(part.read_bytes()[:100])
    log.unlink()
    work()
    assert log.stat().st_size == IMAGES - CHUNK
    assert results(tmp_path) == results(whole)


def flipped(content: bytes, name: str) -> bytes:
    """An .npz in which a byte of one array's data is another."""
    with ZipFile(BytesIO(content)) as file:
        member = file.getinfo(f"{name}.npy")
    lengths = struct.unpack_from("<HH", content, member.header_offset + 26)
    spoilt = bytearray(content)
    spoilt[member.header_offset + 30 + sum(lengths) + member.compress_size // 2] ^= 255
    return bytes(spoilt)


def test_masks_that_were_kept_are_not_refined_again(tmp_path: Path, whole: Path) -> None:
    kept, log = tmp_path / "labels.npz", tmp_path / "log"
    keep_labels(whole / "a.h5", whole / "out", kept)
    path, out = write(tmp_path / "a.h5"), tmp_path / "out"
    relabel(path, Grows(log), CONFIG, out, known=kept)
    assert not log.exists() and results(tmp_path) == results(whole)
    relabel(path, Grows(log, "another"), CONFIG, out, known=kept)  # made in another way
    assert log.stat().st_size == IMAGES
    good = kept.read_bytes()
    for spoilt in (good[:50], flipped(good, "bits"), flipped(good, "records")):
        kept.write_bytes(spoilt)
        with pytest.raises(ValueError, match=r"labels\.npz can't be read"):
            relabel(write(path), Grows(log), CONFIG, tmp_path / "new", known=kept)


def test_sam_refines_a_packed_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5")
    sam = PromptedSam(mini_sam(pixels=32))
    report = relabel(path, sam, RefineConfig(iterations=2), tmp_path / "out")
    assert report.masks == 2 * IMAGES
    pack = Pack(path)
    pack.validate()
    for record in read_records(tmp_path / "out"):
        mask, _, refined = pack.masks(record.item)
        assert refined is not None and refined.any()
        shared = (mask & refined).sum() / (mask | refined).sum()
        assert record.iou_original == pytest.approx(shared)


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ([box(2)] * (2 * IMAGES - 1), "no refined mask of its size: got None"),
        ([box(2)] * (2 * IMAGES + 1), "more refined masks"),
        ([np.ones((3, 3), bool)], "no refined mask of its size"),
    ],
)
def test_masks_that_do_not_fit_leave_the_file_as_it_was(
    tmp_path: Path, masks: list[np.ndarray], message: str
) -> None:
    path = write(tmp_path / "a.h5")
    before = path.read_bytes()
    with pytest.raises(PackError, match=message):
        add_refined(Pack(path), masks, made_of="x")
    assert path.read_bytes() == before
    assert not list(tmp_path.glob(".*"))


def test_a_missing_packed_file_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="pack the data first"):
        relabel(tmp_path / "none.h5", Grows(tmp_path / "log"), CONFIG, tmp_path / "out")
    assert not (tmp_path / "out").exists()
