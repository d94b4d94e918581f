"""Pictures of every kind become RGB, or are refused by name."""

from __future__ import annotations

import errno
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from bounds import little_memory
from PIL import Image

from rlfseg.data.images import (
    as_rgb,
    as_stored,
    overlay,
    paired,
    read_picture,
    rgb_of,
    taken,
    to_unit,
)

RNG = np.random.default_rng(0)
RGB = RNG.integers(256, size=(5, 7, 3), dtype=np.uint8)


def test_one_picture_in_every_form_is_the_same() -> None:
    unit = (RGB / 255).astype(np.float32)
    forms = [
        RGB,
        unit,
        unit.astype(np.float64),
        (RGB.astype(np.uint16) * 257),
        Image.fromarray(RGB),
        torch.from_numpy(RGB).permute(2, 0, 1),
        torch.from_numpy(unit).permute(2, 0, 1)[None],
        np.asfortranarray(RGB),
        np.dstack([RGB, np.full(RGB.shape[:2], 255, np.uint8)]),
    ]
    for form in forms:
        made = as_rgb(form)
        assert made.dtype == np.uint8 and np.array_equal(made, RGB)


def test_grey_has_three_equal_channels() -> None:
    grey = RGB[..., 0]
    forms = [grey, grey[..., None], Image.fromarray(grey), torch.from_numpy(grey)[None]]
    deep = Image.fromarray(grey.astype(np.uint16) * 257)
    for form in [*forms, deep, Image.fromarray((grey / 255).astype(np.float32))]:
        assert np.array_equal(as_rgb(form), np.repeat(grey[..., None], 3, -1))


def test_transparent_pixels_are_white() -> None:
    alpha = np.zeros((1, 3, 4), np.uint8)
    alpha[0, :, 3] = (0, 128, 255)  # black: invisible, half, opaque
    assert as_rgb(Image.fromarray(alpha))[0, :, 0].tolist() == [255, 127, 0]
    palette = Image.fromarray(np.array([[0, 1]], np.uint8))
    palette.putpalette([10, 20, 30, 200, 100, 50])
    assert as_rgb(palette).tolist() == [[[10, 20, 30], [200, 100, 50]]]
    palette.info["transparency"] = 0
    assert as_rgb(palette).tolist() == [[[255, 255, 255], [200, 100, 50]]]


def test_print_colours_are_converted() -> None:
    made = as_rgb(Image.new("CMYK", (2, 2), (0, 255, 255, 0)))
    assert made[0, 0, 0] > 200 and made[0, 0, 1:].max() < 60  # red


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.zeros((4, 4, 2), np.uint8), r"got \(4, 4, 2\)"),
        (np.zeros((0, 4, 3), np.uint8), r"got \(0, 4, 3\)"),
        (np.zeros(9), r"got \(9,\)"),
        (np.zeros((4, 4, 3), np.int64), "got int64"),
        (np.full((4, 4, 3), np.nan), "not finite"),
        (torch.full((3, 4, 4), float("inf")), "not finite"),
        (np.full((4, 4, 3), 7.0), r"lies in \[0, 1\], got 7 to 7"),
        (torch.zeros(4, 4, 3), r"\(3, H, W\) or \(1, 3, H, W\), got \(4, 4, 3\)"),
    ],
)
def test_what_is_no_picture_is_refused(bad: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        as_rgb(bad)


def test_files_are_turned_upright(tmp_path: Path) -> None:
    path = tmp_path / "turned.png"
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned by a quarter
    Image.fromarray(RGB).save(path, exif=exif)
    assert np.array_equal(as_rgb(read_picture(path)), np.rot90(RGB, -1))
    assert np.array_equal(as_rgb(Image.open(path)), np.rot90(RGB, -1))  # however it is opened
    assert np.array_equal(rgb_of(as_stored(path)), RGB)


def exif_of(entries: list[tuple[int, int, int, bytes]]) -> bytes:
    """A TIFF header with one folder of entries: tag, type, count, four bytes of value."""
    head = b"II*\0" + struct.pack("<IH", 8, len(entries))
    rows = (struct.pack("<HHI", tag, kind, count) + value for tag, kind, count, value in entries)
    return head + b"".join(rows) + struct.pack("<II", 0, 0) + bytes(16)


def with_exif(path: Path, exif: bytes) -> Path:
    file = io.BytesIO()
    Image.fromarray(RGB).save(file, "JPEG", quality=95)
    jpeg, payload = file.getvalue(), b"Exif\0\0" + exif
    marker = b"\xff\xe1" + struct.pack(">H", len(payload) + 2)
    path.write_bytes(jpeg[:2] + marker + payload + jpeg[2:])
    return path


TURN = (0x0112, 3, 1, struct.pack("<HH", 6, 0))


def test_damaged_exif_is_no_traceback(tmp_path: Path) -> None:
    """Either the picture is opened, or one line names it; a whole one is turned."""
    whole = with_exif(tmp_path / "whole.jpg", exif_of([TURN]))
    assert read_picture(whole).size == RGB.shape[:2]
    good = exif_of([TURN, (0x010F, 2, 2, b"C\0\0\0"), (0x011A, 5, 1, struct.pack("<I", 60))])
    rng, refused = np.random.default_rng(1), 0
    for _ in range(600):
        spoilt = bytearray(good)
        for _ in range(int(rng.integers(1, 6))):
            spoilt[int(rng.integers(len(spoilt)))] = int(rng.integers(256))
        try:
            read_picture(with_exif(tmp_path / "spoilt.jpg", bytes(spoilt)))
        except OSError as error:
            assert "spoilt.jpg has EXIF notes that can't be read" in str(error)
            refused += 1
        assert as_stored(tmp_path / "spoilt.jpg").size == RGB.shape[1::-1]
    assert 0 < refused < 600


def test_wide_greys_keep_their_range(tmp_path: Path) -> None:
    ramp = np.tile(np.linspace(0, 65535, 64).astype(np.uint16), (8, 1))
    expected = (ramp / 257).round().astype(np.uint8)
    Image.fromarray(ramp).save(tmp_path / "deep.png")
    for deep in (ramp, ramp.astype(">u2"), Image.open(tmp_path / "deep.png")):
        assert np.array_equal(as_rgb(deep)[..., 0], expected)
    narrow = Image.fromarray(np.arange(256, dtype=np.int32).reshape(16, 16))
    assert as_rgb(narrow).max() == 255  # 8 bits in a wide mode


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no picture .*none\.jpg"):
        read_picture(tmp_path / "none.jpg")
    (tmp_path / "text.jpg").write_text("no picture")
    with pytest.raises(OSError, match=r"text\.jpg is no picture"):
        read_picture(tmp_path / "text.jpg")
    Image.fromarray(RNG.integers(256, size=(64, 64, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:2000])
    with pytest.raises(OSError, match=r"cut\.png can't be read .*is the file whole"):
        read_picture(tmp_path / "cut.png")


def test_a_file_for_which_pillow_starts_a_program_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(RGB).save(tmp_path / "eps.jpg", "EPS")
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_, **__: pytest.fail("it ran"))
    with pytest.raises(OSError, match=r"eps\.jpg is no picture"):
        as_stored(tmp_path / "eps.jpg")


@pytest.mark.parametrize("kind", [*taken(), "MPO"])
def test_pictures_of_common_formats_are_taken(tmp_path: Path, kind: str) -> None:
    more = {"save_all": True, "append_images": [Image.fromarray(RGB)]} if kind == "MPO" else {}
    Image.fromarray(RGB).save(tmp_path / "a", kind, **more)
    opened = as_stored(tmp_path / "a")
    assert (opened.format, opened.size) == (kind, RGB.shape[1::-1])


def test_a_picture_that_is_too_large_is_said_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(RGB).save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(OSError, match=r"large\.png is too large a picture .*: make it smaller"):
        as_stored(tmp_path / "large.png")


def test_an_error_of_the_system_does_not_doubt_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: Path) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    Image.fromarray(RGB).save(tmp_path / "a.png")
    monkeypatch.setattr(Path, "read_bytes", fails)
    with pytest.raises(OSError, match=r"a\.png can't be read \(.*Input/output error\)$"):
        as_stored(tmp_path / "a.png")


@pytest.mark.parametrize("deep", [False, True])
def test_a_picture_that_claims_more_than_its_file_holds_gets_no_memory(
    tmp_path: Path, deep: bool
) -> None:
    path = tmp_path / "bomb.png"
    grey = RGB[..., 0].astype(np.uint16) if deep else RGB
    Image.fromarray(grey).save(path)
    content = bytearray(path.read_bytes())
    content[16:24] = struct.pack(">II", 12_000, 11_000)  # below Pillow's own bound
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    path.write_bytes(content)
    told = pytest.raises(OSError, match=r"bomb.png can't be read .*claims 12000 x 11000 pixels")
    with little_memory(), told:
        as_stored(path)


@pytest.mark.integration
@pytest.mark.parametrize(
    ("mode", "name", "how"),
    [
        ("1", "a.png", {"optimize": True}),
        ("P", "a.png", {"optimize": True, "bits": 1}),
        ("RGB", "a.png", {"optimize": True}),
        ("L", "a.jpg", {"quality": 1, "optimize": True, "progressive": True}),
        ("RGB", "a.jpg", {"quality": 1, "subsampling": 2, "optimize": True}),
        ("1", "a.tif", {"compression": "group4"}),
        ("1", "a.tif", {"compression": "tiff_adobe_deflate"}),
        ("L", "a.tif", {"compression": "tiff_lzw"}),
        ("RGB", "a.webp", {"lossless": True}),
    ],
)
def test_a_blank_page_is_read_however_well_it_is_packed(
    tmp_path: Path, mode: str, name: str, how: dict[str, object]
) -> None:
    Image.new(mode, (4000, 4000)).save(tmp_path / name, **how)
    assert as_rgb(read_picture(tmp_path / name)).max() <= 1  # JPEG rounds


def test_pictures_and_phrases_are_paired_in_order() -> None:
    other = RGB[::-1]
    assert paired(RGB, "a")[1] == [(0, "a")]
    assert paired(RGB, ["a", "b"])[1] == [(0, "a"), (0, "b")]
    arrays, pairs = paired([RGB, other], ["a", ["b", "c"]])
    assert pairs == [(0, "a"), (1, "b"), (1, "c")] and np.array_equal(arrays[1], other)
    assert paired([RGB, other], "a")[1] == [(0, "a"), (1, "a")]  # one for all
    assert paired([RGB], "a")[1] == [(0, "a")]
    assert paired(RGB, (each for each in "ab"))[1] == [(0, "a"), (0, "b")]
    batch = np.stack([RGB, other])
    for several in (batch, torch.from_numpy(batch).permute(0, 3, 1, 2)):
        arrays, pairs = paired(several, ["a", "b"])
        assert pairs == [(0, "a"), (1, "b")] and np.array_equal(arrays[1], other)
        for phrases in ("a", ["a"]):
            arrays, pairs = paired(several[:1], phrases)
            assert pairs == [(0, "a")] and np.array_equal(arrays[0], RGB)


def test_a_file_will_do_in_a_pictures_place(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(RGB).save(path)
    for given in (path, str(path), [path]):
        assert np.array_equal(paired(given, "a")[0][0], RGB)  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError, match=r"there is no picture .*b\.png"):
        paired(tmp_path / "b.png", "a")
    Image.fromarray(np.full((4, 4), 7, np.float32)).save(tmp_path / "f.tif")
    with pytest.raises(ValueError, match=r"picture 1: .*f\.tif: a picture of floats .* got 7 to 7"):
        paired([path, tmp_path / "f.tif"], "a")


@pytest.mark.parametrize(
    ("image", "phrases", "message"),
    [
        (RGB, "", "picture 0: '' is no phrase"),
        (RGB, ["a", "  "], "picture 0: '  ' is no phrase"),
        (RGB, [], "there is no phrase"),
        ([RGB, RGB], ["a"], "2 pictures need as many phrases.* got 1"),
        (RGB, None, "phrases are a text, or several, got NoneType"),
        (RGB, {"a": 1}, "phrases are a text, or several, got dict"),
        ([RGB, RGB], ["a", None], "picture 1: None is no phrase"),
        ([], [], "0 pictures"),
        ([RGB, RGB[..., :2]], ["a", "b"], r"picture 1: a picture is .* got \(5, 7, 2\)"),
    ],
)
def test_what_cannot_be_paired_is_named(image: object, phrases: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        paired(image, phrases)  # type: ignore[arg-type]


def test_the_overlay_shows_where_the_mask_is() -> None:
    mask = np.zeros((5, 7), bool)
    mask[1:3, 2:5] = True
    laid = overlay(RGB, mask).astype(int)
    assert np.array_equal(laid[~mask], (0.75 * RGB[~mask] + 63.75).round())
    assert np.array_equal(laid[mask], (0.45 * RGB[mask] + 0.55 * np.array([38, 115, 235])).round())


def test_the_unit_range() -> None:
    made = to_unit(torch.from_numpy(np.stack([RGB, RGB])))
    assert made.shape == (2, 3, 5, 7)
    assert float(made[1, 2, 3, 4]) == pytest.approx(RGB[3, 4, 2] / 127.5 - 1)
