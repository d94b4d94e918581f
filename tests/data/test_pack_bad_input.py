"""Bad input to packing: one clear error that names file and key, and earlier work left intact."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rlfseg.data.images import as_rgb
from rlfseg.data.packed.prepare import Example, LeftOut
from rlfseg.data.packed.read import Pack
from rlfseg.data.packed.schema import PackError, report_path
from rlfseg.data.packed.shard import CHUNK
from rlfseg.data.packed.write import write_pack


def some(number: int, height: int = 40, width: int = 40) -> np.ndarray:
    return np.random.default_rng(number).random((height, width)) < 0.4


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.jpg"
    values = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    Image.fromarray(values).save(path)
    return path


def good(photo: Path, count: int) -> Iterator[Example]:
    return (Example(f"{n}", photo, "a thing", partial(some, n)) for n in range(count))


def cut(photo: Path) -> Path:
    photo.with_name("cut.jpg").write_bytes(photo.read_bytes()[:-200])
    return photo.with_name("cut.jpg")


def text(photo: Path) -> Path:
    photo.with_name("text.jpg").write_text("<html>404: not found</html>")
    return photo.with_name("text.jpg")


def empty(photo: Path) -> Path:
    photo.with_name("empty.png").write_bytes(b"")
    return photo.with_name("empty.png")


def spoiled(photo: Path) -> Path:
    path = photo.with_name("spoiled.png")
    Image.open(photo).save(path)
    content = bytearray(path.read_bytes())
    content[60:90] = bytes(30)
    path.write_bytes(content)
    return path


def bright(photo: Path) -> Path:
    path = photo.with_name("bright.tiff")
    Image.fromarray(np.full((40, 40), 7, np.float32)).save(path)
    return path


BAD: list[tuple[Callable[[Path], Example], str]] = [
    (
        lambda p: Example("x", p.with_name("gone.jpg"), "a", some(0)),
        r"image 'x': there is no picture .*gone\.jpg",
    ),
    (
        lambda p: Example("x", cut(p), "a", some(0)),
        r"image 'x': .*cut\.jpg can't be read .*truncat",
    ),
    (lambda p: Example("x", text(p), "a", some(0)), r"image 'x': .*text\.jpg is no picture"),
    (lambda p: Example("x", empty(p), "a", some(0)), r"image 'x': .*empty\.png is no picture"),
    (lambda p: Example("x", spoiled(p), "a", some(0)), r"image 'x': .*spoiled\.png can't be read"),
    (lambda p: Example("x", bright(p), "a", some(0)), r"image 'x': .*bright\.tiff: .* 7 to 7"),
    (lambda p: Example("x", p.parent, "a", some(0)), "image 'x': there is no picture"),
    (
        lambda p: Example("x", p, "a", partial(some, 0, 40, 41)),
        r"image 'x' \(.*photo\.jpg\), caption 'a': the annotation is 41 x 40 .* 40 x 40",
    ),
    (lambda p: Example("x", p, "a", some(0), ids=("1\0",)), "image 'x' .*id '1.x00' holds a NUL"),
]


@pytest.mark.parametrize(
    ("number", "workers"), [*((n, 0) for n in range(len(BAD))), (0, 2), (6, 2), (7, 2)]
)
def test_one_bad_record_is_named_and_spoils_nothing(
    tmp_path: Path, photo: Path, number: int, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlfseg.data.packed.shard.CHUNK", 4)
    make, message = BAD[number]
    path = tmp_path / "a.h5"
    earlier = write_pack(good(photo, 2), path, size=16)
    content = [*good(photo, 4), make(photo)]
    with pytest.raises(ValueError, match=message):
        write_pack(content, path, size=16, workers=workers)
    pack = Pack(path)
    pack.validate()
    assert pack.content_hash == earlier.content_hash
    (shard,) = (tmp_path / ".a.h5.part").glob("*.h5")  # the good chunk before it is kept
    assert write_pack(good(photo, 4), path, size=16).images == 4
    assert not shard.exists()


HARD = ["a/b", "/", ".", "..", "🦊 fox", "الكلب الأسود", "x" * 10_000, "漢" * 10_000, "%2F"]


def test_texts_that_can_be_stored_come_back_through_workers(tmp_path: Path, photo: Path) -> None:
    content = [Example("../a", photo, text, partial(some, 1), ids=(text,)) for text in HARD]
    write_pack(content, tmp_path / "a.h5", size=16, workers=1)
    pack = Pack(tmp_path / "a.h5")
    pack.validate()
    assert pack.captions("../a") == tuple(HARD)
    assert [pack.ids(number) for number in range(len(HARD))] == [(text,) for text in HARD]


def test_empty_masks_are_left_out_and_listed(tmp_path: Path, photo: Path) -> None:
    nothing, speck = np.zeros((40, 40), bool), np.zeros((40, 40), bool)
    speck[0, 0] = True  # nearest neighbour takes pixels 5, 15, 25 and 35
    kept = np.zeros((40, 40), bool)
    kept[5, 5] = True
    content = [
        Example("1", photo, "kept", kept, nothing, ("k",)),
        Example("1", photo, "nothing", nothing, kept, ("n",)),
        Example("1", photo, "speck", speck, kept, ("s", "t")),
        Example("1", photo, "mended", nothing, nothing, ("m",)),
        Example("1", photo, "mended", kept, kept, ("o",)),
        Example("2", photo, "nothing", nothing),
    ]
    report = write_pack(content, tmp_path / "a.h5", size=4)
    assert report.left_out == (
        LeftOut("1", "nothing", ("n",), "empty"),
        LeftOut("1", "speck", ("s", "t"), "vanished"),
        LeftOut("2", "nothing", (), "empty"),
    )
    assert (report.images, report.images_left_out) == (1, 1)
    assert (report.phrases, report.merged) == (2, 1)
    pack = Pack(tmp_path / "a.h5")
    pack.validate()
    assert pack.captions("1") == ("kept", "mended") and pack.image_ids == ("1",)
    told = json.loads(report_path(tmp_path / "a.h5").read_text())
    assert told["left_out"][1] == {
        "image_id": "1",
        "caption": "speck",
        "ids": ["s", "t"],
        "reason": "vanished",
        "why": "",
    }
    assert [one.caption for one in write_pack(content, tmp_path / "b.h5", size=None).left_out] == [
        "nothing",
        "nothing",
    ]


@pytest.mark.parametrize("workers", [0, 1])
def test_captions_that_can_be_no_key_are_left_out_and_listed(
    tmp_path: Path, photo: Path, workers: int
) -> None:
    bad = {"": "empty caption", "a\0b": r"'a\x00b' holds a NUL", "\udc00": "no valid Unicode"}
    content = [Example("1", photo, text, some(0), ids=("i",)) for text in ("good", *bad)]
    content += [Example("1", photo, "", some(0), ids=("j",)), Example("2", photo, "", some(0))]
    report = write_pack(content, tmp_path / "a.h5", size=16, workers=workers)
    assert (report.images, report.phrases, report.images_left_out) == (1, 1, 1)
    pack = Pack(tmp_path / "a.h5")
    pack.validate()
    assert pack.captions("1") == ("good",)
    told = json.loads(report_path(tmp_path / "a.h5").read_text())["left_out"]
    assert [each["caption"] for each in told] == [*bad, ""]
    assert [each["ids"] for each in told] == [["i", "j"], ["i"], ["i"], []]
    assert {each["reason"] for each in told} == {"malformed"}
    assert all(said in each["why"] for each, said in zip(told, bad.values(), strict=False))


def test_nothing_but_empty_masks_is_no_file(tmp_path: Path, photo: Path) -> None:
    nothing = np.zeros((40, 40), bool)
    with pytest.raises(ValueError, match=r"no record to pack into .*a\.h5, 1 left out"):
        write_pack([Example("1", photo, "a", nothing)], tmp_path / "a.h5", size=None)
    assert not (tmp_path / "a.h5").exists()


def message_of(work: Callable[[], Any]) -> str:
    """The error that some work ends in, in a process of its own."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()

    def tell() -> None:
        try:
            work()
        except PackError as error:
            theirs.send(str(error))

    process = context.Process(target=tell)
    process.start()
    process.join()
    assert process.exitcode == 0
    assert ours.poll(), "it went well"
    return ours.recv()


@pytest.mark.parametrize("kilobytes", [20, 400])
def test_a_full_disk_is_named_and_what_was_finished_is_kept(
    tmp_path: Path, photo: Path, kilobytes: int
) -> None:
    """The limit stops a shard in the first case, in the second the file that they are put into."""
    path, count = tmp_path / "a.h5", 3 * CHUNK
    earlier = write_pack(good(photo, 2), path, size=None)
    expected = write_pack(good(photo, count), tmp_path / "b.h5", size=None)
    assert expected.bytes > 500_000

    def work() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (kilobytes * 1000, kilobytes * 1000))
        write_pack(good(photo, count), path, size=None)

    message = message_of(work)
    assert "a.h5.part" in message and "can't be written" in message and "disk full" in message
    pack = Pack(path)
    pack.validate()
    assert pack.content_hash == earlier.content_hash
    shards = list((tmp_path / ".a.h5.part").glob("*")) if kilobytes > 20 else []
    assert bool(shards) == (kilobytes > 20)
    assert write_pack(good(photo, count), path, size=None) == expected
    assert path.read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_a_folder_that_may_not_be_written_is_named(photo: Path) -> None:
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o555)

    def work() -> None:
        if os.geteuid() == 0:
            os.seteuid(65534)  # for root, no folder is read-only
        write_pack(
            [Example("1", np.zeros((4, 4, 3), np.uint8), "a", some(1, 4, 4))],
            folder / "a.h5",
            size=None,
        )

    try:
        message = message_of(work)
    finally:
        shutil.rmtree(folder)
    assert str(folder) in message and "can't be written" in message and "Permission" in message


def test_a_packed_picture_is_what_the_pipeline_sees(tmp_path: Path) -> None:
    """Sixteen bits, and transparency."""
    ramp = np.tile(np.linspace(0, 65535, 16).astype(np.uint16), (16, 1))
    clear = np.zeros((16, 16, 4), np.uint8)
    clear[:, :8] = (200, 10, 10, 255)
    for name, content in (("deep", ramp), ("clear", clear)):
        path = tmp_path / f"{name}.png"
        Image.fromarray(content).save(path)
        target, every = tmp_path / f"{name}.h5", np.ones((16, 16), bool)
        write_pack([Example("1", path, "a", every)], target, size=None)
        packed = Pack(target).image(0)
        assert np.array_equal(packed, as_rgb(Image.open(path)))
        assert len(np.unique(packed)) > 2 or name == "clear"
