"""Look at image files without decoding them: are they there, how large, are they whole?"""

import os
import struct
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, TypeVar

from PIL import Image

from rlfseg.data.check.report import Line
from rlfseg.data.files import ImageFile
from rlfseg.data.images import taken
from rlfseg.data.phrasecut import SizeMismatch

_THREADS = 16  # they wait for the disk, most of all where it is across a network
_CHUNK = 64  # files a thread takes at once
_TAIL = 64  # bytes in which the end marker is sought first
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"IEND\xaeB`\x82"
_JPEG, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
_JPEG_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # markers that tell the size
_JPEG_BARE = {0x01, *range(0xD0, 0xD8)}  # markers without a segment
_T = TypeVar("_T")
_R = TypeVar("_R")


@dataclass(frozen=True)
class Seen:
    """What the header and the end of a file tell.

    Attributes:
        size: width and height; None where they can't be told.
        fault: what is wrong with the file, or nothing. "cut short" is a JPEG without its end
            marker, a PNG without its last chunk, or either without its header.
    """

    size: tuple[int, int] | None
    fault: Literal["", "missing", "unreadable", "no image", "cut short"] = ""


def look(path: Path) -> Seen:
    """Look at one file; of JPEGs and PNGs the end too, of other images the header alone."""
    try:
        with open(path, "rb") as file:
            return _look(file)
    except FileNotFoundError:
        return Seen(None, "missing")
    except (OSError, ValueError):  # a name that no file can have is a ValueError
        return Seen(None, "unreadable")


def in_threads(work: Callable[[_T], _R], items: Sequence[_T]) -> list[_R]:
    """Apply a function that reads files to each item; results keep their order."""
    chunks = [items[start : start + _CHUNK] for start in range(0, len(items), _CHUNK)]
    with ThreadPoolExecutor(_THREADS) as pool:
        parts = pool.map(lambda chunk: [work(item) for item in chunk], chunks)
        return [result for part in parts for result in part]


@dataclass(frozen=True)
class Survey:
    """What was seen of a data set's image files.

    Attributes:
        lines: on files that are missing or broken, or one that all are whole.
        sized: how many told their size.
        mismatches: the images whose file has another size than annotated.
    """

    lines: list[Line]
    sized: int
    mismatches: list[SizeMismatch]


def survey(files: Mapping[str, ImageFile], root: Path, *, what: str = "image files") -> Survey:
    """Look at the image files of a data set.

    Args:
        files: what the annotations say of each image, by image id.
        root: what examples name the files from.
        what: what the lines call them.
    """
    images = list(files.items())
    seen = in_threads(look, [image.path for _, image in images])
    named = [
        (f"{image.path.relative_to(root)} (image {image_id})", at)
        for (image_id, image), at in zip(images, seen, strict=True)
    ]
    mismatches = [
        SizeMismatch(image_id, (image.width, image.height), at.size)
        for (image_id, image), at in zip(images, seen, strict=True)
        if at.size is not None and at.size != (image.width, image.height)
    ]
    sized = sum(at.size is not None for at in seen)
    return Survey(faults(what, named), sized, mismatches)


def faults(what: str, named: Sequence[tuple[str, Seen]]) -> list[Line]:
    """Return lines on the faults of files, one a kind; or one line that all are whole.

    Args:
        what: the kind of files.
        named: each file's name and what was seen of it.
    """
    lines = []
    for fault in ("missing", "unreadable", "no image", "cut short"):
        names = [name for name, seen in named if seen.fault == fault]
        if names:
            found = f"{len(names):,} of {len(named):,} {fault}"
            lines.append(Line("problem", what, found, examples=names, advice="Fetch them again."))
    level: Literal["ok", "note"] = "ok" if named else "note"
    return lines or [Line(level, what, f"{len(named):,} there and whole")]


def _look(file: BinaryIO) -> Seen:
    head = file.read(26)
    if head.startswith(_PNG):
        size, start = _png(head), len(_PNG)
        end = _PNG_END
    elif head.startswith(_JPEG):
        size, start = _jpeg(file)
        end = _JPEG_END
    else:
        size = _by_pillow(file)
        return Seen(size, "" if size else "no image" if head else "cut short")
    size = size or _by_pillow(file)
    if size and _holds(file, end, start):
        return Seen(size)
    return Seen(size, "cut short")


def _png(head: bytes) -> tuple[int, int] | None:
    if len(head) < 24 or head[12:16] != b"IHDR":
        return None
    width, height = struct.unpack(">II", head[16:24])
    return width, height


def _jpeg(file: BinaryIO) -> tuple[tuple[int, int] | None, int]:
    """Go from marker to marker to the frame; return its size and where it starts."""
    at = len(_JPEG)
    while True:
        file.seek(at)
        segment = file.read(9)
        if len(segment) < 9 or segment[0] != 0xFF:
            return None, at
        marker = segment[1]
        if marker in _JPEG_FRAMES:
            height, width = struct.unpack(">HH", segment[5:9])
            return (width, height), at
        if marker == 0xFF:  # a fill byte
            at += 1
        elif marker in _JPEG_BARE:
            at += 2
        else:
            at += 2 + int.from_bytes(segment[2:4], "big")


def _holds(file: BinaryIO, end: bytes, start: int) -> bool:
    """Tell whether the end marker comes after the header; some programs write more after it.

    Within the compressed pixels of a JPEG the marker can't occur, so that finding it anywhere
    behind the header means that the picture came to its end.
    """
    length = os.fstat(file.fileno()).st_size
    for first in (max(start, length - _TAIL), start):
        file.seek(first)
        if end in file.read():
            return True
    return False


def _by_pillow(file: BinaryIO) -> tuple[int, int] | None:
    file.seek(0)
    try:
        with Image.open(file, formats=taken()) as image:
            return image.size
    except Exception:  # a damaged file fails in any way
        return None
