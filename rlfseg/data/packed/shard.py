"""Shards: small HDF5 files of a few images each, of which a packed file is put together.

A worker makes one from a chunk of the examples; the writer copies it into the draft. Shards stay in
the folder `.{file}.part` until the packed file is complete, so that an interrupted run finds them.
"""

import dataclasses
import hashlib
import itertools
import json
import os
import pickle
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import PIL

from rlfseg.data.packed.prepare import Example, LeftOut, Ready, prepare
from rlfseg.data.packed.schema import FORMAT, VERSION, key_of
from rlfseg.data.packed.store import created, store, writing

CHUNK = 32  # images
_HASHED = ("caption", "item", "mask", "truth", "ids")
_CONTENTS = "#contents"  # no key of an image: see key_of


@dataclass(frozen=True, eq=False)
class Chunk:
    """Some images and their examples, and the place of the chunk among all."""

    number: int
    images: tuple[tuple[str, tuple[Example, ...]], ...]


@dataclass(frozen=True)
class Packed:
    """What a shard says of one image.

    Attributes:
        image_id: exactly.
        captions: of the phrases that are stored; without any, the image isn't stored either.
        digest: its part of the content hash, hexadecimal.
        merged: how many examples were united with an earlier one.
        left_out: phrases that are not stored.
    """

    image_id: str
    captions: tuple[str, ...]
    digest: str
    merged: int
    left_out: tuple[LeftOut, ...]


def chunks(examples: Iterable[Example]) -> Iterator[Chunk]:
    """Put the examples of an image together, and images into chunks.

    Raises:
        ValueError: if an image returns after another.
    """
    images = _images(examples)
    for number in itertools.count():
        some = tuple(itertools.islice(images, CHUNK))
        if not some:
            return
        yield Chunk(number, some)


def make_shard(chunk: Chunk, *, folder: Path, size: int | None) -> Path:
    """Make the shard of a chunk, or find the one that an interrupted run left.

    A shard is found if its chunk has the same `fingerprint`. Shards of the same number that were
    made of something else are removed.

    Args:
        chunk: what it is made of.
        folder: where shards lie.
        size: as for `write_pack`.

    Returns:
        The shard; it appears under this name only when complete.

    Raises:
        ValueError: if an example can't be stored.
        PackError: if an image can't be read, or the shard not be written.
    """
    path = folder / f"{chunk.number:06d}-{fingerprint(chunk, size)}.h5"
    if _is_whole(path):
        return path
    with writing(path):
        for stale in folder.glob(f"{chunk.number:06d}-*.h5"):
            if stale != path:
                stale.unlink(missing_ok=True)
    draft = path.with_suffix(f".{os.getpid()}.tmp")
    packed = []
    with created(draft) as file:
        for image_id, examples in chunk.images:
            ready = prepare(image_id, examples, size)
            packed.append(asdict(_packed(ready)))
            with writing(path):
                if ready.phrases:
                    store(file, ready)
        with writing(path):
            file[_CONTENTS] = np.frombuffer(json.dumps(packed).encode(), np.uint8)
    with writing(path):
        os.replace(draft, path)
    return path


def append(shard: Path, file: h5py.File) -> list[Packed]:
    """Copy a shard's images into a file, their masks compressed as they are.

    Raises:
        OSError, RuntimeError: of HDF5, if the shard can't be read or the file not be written.
    """
    with h5py.File(shard, "r") as source:
        contents = _contents(source)
        for image in contents:
            if image.captions:
                key = key_of(image.image_id, what="image id").encode()
                h5py.h5o.copy(source.id, key, file.id, key)
    return contents


def fingerprint(chunk: Chunk, size: int | None) -> str:
    """Hash what a shard is made from, without making it.

    It covers the version of the format and of Pillow, `size`, and of each example caption, item,
    ids, arrays, and of what draws a mask the function's name and all its arguments. A file (the
    image, or a map among the arguments) enters with its path, size and time of change. Not covered:
    a file's bytes, if they change while size and time stay, and the code of the function.

    Args:
        chunk: images and examples.
        size: as for `write_pack`.

    Returns:
        32 hexadecimal digits.
    """
    sha = hashlib.sha256(json.dumps((FORMAT, VERSION, PIL.__version__, size)).encode())
    for image_id, examples in chunk.images:
        told: list[Any] = [image_id, examples[0].image]
        for example in examples:
            image = None if example.image is examples[0].image else example.image
            told.append((image, *(getattr(example, name) for name in _HASHED)))
        sha.update(json.dumps(told, default=_told).encode())
    return sha.hexdigest()[:32]


def _images(examples: Iterable[Example]) -> Iterator[tuple[str, tuple[Example, ...]]]:
    seen: set[str] = set()
    for image_id, group in itertools.groupby(examples, key=lambda example: example.image_id):
        if image_id in seen:
            raise ValueError(
                f"image {image_id!r} returns after another image: "
                "the records of an image must follow each other"
            )
        seen.add(image_id)
        yield image_id, tuple(group)


def _packed(ready: Ready) -> Packed:
    captions = tuple(phrase.caption for phrase in ready.phrases)
    digest = ready.digest().hex() if captions else ""
    return Packed(ready.image_id, captions, digest, ready.merged, ready.left_out)


def _contents(source: h5py.File) -> list[Packed]:
    return [
        Packed(
            image["image_id"],
            tuple(image["captions"]),
            image["digest"],
            image["merged"],
            tuple(LeftOut(**{**one, "ids": tuple(one["ids"])}) for one in image["left_out"]),
        )
        for image in json.loads(source[_CONTENTS][()].tobytes())
    ]


def _is_whole(shard: Path) -> bool:
    """Tell whether a shard is there and can be read; a power cut may have spoiled it."""
    try:
        with h5py.File(shard, "r") as source:
            return bool(_contents(source))
    except (OSError, RuntimeError, KeyError, ValueError):
        return False


def _told(value: Any) -> dict[str, Any]:
    """Say what a value is that JSON has no word for, rather than how it would be pickled."""
    if isinstance(value, np.ndarray) and value.dtype != object:
        data = np.ascontiguousarray(value).tobytes()
        return {f"array {value.dtype.str} {value.shape}": hashlib.sha256(data).hexdigest()}
    if isinstance(value, Path):
        return {f"file {_state(value)}": os.fsencode(value).hex()}
    if isinstance(value, partial):
        return {"call": (value.func, value.args, value.keywords)}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [getattr(value, field.name) for field in dataclasses.fields(value)]
        return {f"{type(value).__module__}.{type(value).__qualname__}": fields}
    return {"pickle": hashlib.sha256(pickle.dumps(value)).hexdigest()}


def _state(path: Path) -> str:
    try:
        status = path.stat()
    except OSError:
        return "missing"
    return f"{status.st_size} {status.st_mtime_ns}"
