"""Files that others wrote: read whole or named as broken, each key checked as it is taken."""

import hashlib
import json
import reprlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LARGEST_SIDE = 65_535  # pixels; a JPEG has no larger
#: Tells a value in few words, whatever it holds: lists that share lists have endless texts.
BRIEF = reprlib.Repr()
BRIEF.maxlevel, BRIEF.maxstring, BRIEF.maxother = 2, 60, 60


@dataclass(frozen=True)
class ImageFile:
    """What a data set says of one image: its file, and the size that annotations refer to."""

    path: Path
    width: int
    height: int


def load_json(path: Path, kind: type) -> Any:
    """Read a JSON file.

    Args:
        path: the file.
        kind: what it must hold at the top, list or dict.

    Returns:
        The content.

    Raises:
        FileNotFoundError: if the file is missing.
        ValueError: if it is cut off, no JSON, or holds another kind of thing.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not complete JSON ({error}): fetch the file again") from error
    if not isinstance(content, kind):
        raise ValueError(f"{path} holds a {type(content).__name__}, not a {kind.__name__}")
    return content


def field(entry: Any, key: str, kind: type | tuple[type, ...], where: str) -> Any:
    """Take one value out of a dictionary; a ValueError names the place and the key."""
    if not isinstance(entry, dict) or key not in entry:
        raise ValueError(f"{where}: the key {key!r} is missing")
    value = entry[key]
    if not isinstance(value, kind):
        raise ValueError(f"{where}: {key!r} is {BRIEF.repr(value)}, of type {type(value).__name__}")
    return value


def image_file(entry: Any, key: str, *, folder: Path, suffix: str, where: str) -> ImageFile:
    """Return what an entry with `width` and `height` says of an image.

    Args:
        entry: the dictionary.
        key: the key of the file's name.
        folder: the folder in which the image lies.
        suffix: what the file's name has after that, such as ".jpg", or nothing.
        where: the place of the entry, for errors.

    Raises:
        ValueError: if a key is missing, if a side is no picture's (1 to 65,535), or if the name
            is no plain file name, so that the file could lie outside the folder.
    """
    name = str(field(entry, key, (int, str), where))
    width, height = (field(entry, side, int, where) for side in ("width", "height"))
    if not (1 <= width <= LARGEST_SIDE and 1 <= height <= LARGEST_SIDE):
        raise ValueError(f"{where}: image {name} has size {width} x {height}")
    if name in ("", ".", "..") or any(c in name for c in "/\\:\0"):
        raise ValueError(
            f"{where}: {key} {name!r} is no plain file name, so its file could lie outside {folder}"
        )
    return ImageFile(folder / f"{name}{suffix}", width, height)


def coco_images(content: dict[str, Any], *, folder: Path, where: str) -> dict[int, ImageFile]:
    """Return the `images` of a file in COCO's format, by image id."""
    images = {}
    for number, entry in enumerate(field(content, "images", list, where)):
        at = f"{where}, image number {number}"
        image = image_file(entry, "file_name", folder=folder, suffix="", where=at)
        images[field(entry, "id", int, at)] = image
    return images


def check_there(path: Path, seen: set[Path], where: str) -> None:
    """Look an image file up, once; `seen` holds those found before.

    Raises:
        FileNotFoundError: if it is missing; names the file and what refers to it.
    """
    if path not in seen:
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} is not there, but {where} refers to it: fetch the image again"
            )
        seen.add(path)


def digest(folder: Path) -> str:
    """Return the SHA-256 over the names and contents of a folder's files, hexadecimal."""
    sha = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").digest()
        sha.update(f"{path.relative_to(folder).as_posix()}\0".encode() + content)
    return sha.hexdigest()
