"""Writes a packed file (A.3.2) from a stream of records."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import h5py
import numpy as np
from PIL import Image

from rlfseg.pack.index import Index, Texts
from rlfseg.pack.schema import (
    FORMAT,
    IMAGE,
    MASK,
    TRUTH,
    VERSION,
    ContentHash,
    PackError,
    index_path,
    key_of,
)


@dataclass(frozen=True, eq=False)
class Record:
    """One phrase of one image, ready to be packed.

    Attributes:
        image_id: the records of an image must follow each other.
        image: uint8 (H, W, 3), or the image file; the same for all records of an image. A file is
            taken as it is stored (no rotation by EXIF), as annotations are.
        caption: not empty; kept exactly.
        mask: bool (H, W), the annotation.
        truth: bool (H, W), the exact mask, where it is known (for all phrases of an image or none).
        ids: the data set's own ids of the annotation.
    """

    image_id: str
    image: np.ndarray | Path
    caption: str
    mask: np.ndarray
    truth: np.ndarray | None = None
    ids: tuple[str, ...] = ()


@dataclass(frozen=True)
class PackReport:
    """What was written.

    Attributes:
        images: number of images.
        phrases: number of items, after merging.
        merged: number of records that were united with an earlier one of the same caption.
        content_hash: SHA-256 of the decoded content, also in the file's attributes.
        bytes: size of the HDF5 file.
    """

    images: int
    phrases: int
    merged: int
    content_hash: str
    bytes: int


@dataclass(frozen=True, eq=False)
class _Phrase:
    """A phrase at its final size; masks are uint8, 0 or 1."""

    mask: np.ndarray
    truth: np.ndarray | None
    ids: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class _Ready:
    """One image and its phrases at their final size, in the order of first appearance."""

    image_id: str
    image: np.ndarray
    phrases: dict[str, _Phrase]
    merged: int


def write_pack(records: Iterable[Record], path: Path | str, *, size: int | None) -> PackReport:
    """Packs records into one HDF5 file and its index, image by image, in constant memory.

    Where several records of an image have the same caption, their masks are united, their exact
    masks too, and their ids are joined; the report counts them.

    Deviation: the paper gives 512 x 512 and not how it gets there. Both sides are scaled to `size`
    without regard to the aspect; the image by antialiased bilinear, masks by nearest neighbour.

    Args:
        records: at least one; the records of an image one after another.
        path: the file to write; it and its index appear only when complete.
        size: side of the stored images and masks in pixels; None keeps each image's own.

    Raises:
        ValueError: if a record can't be stored: see `Record` and `key_of`; if a mask and its image
            differ in size; if an image returns after another; if there is no record.
        PackError: if an image file can't be read.
    """
    if size is not None and size < 1:
        raise ValueError(f"size is {size}; it must be at least 1 pixel, or None")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    image_ids: list[str] = []
    captions: list[str] = []
    first = [0]
    merged = 0
    content = ContentHash()
    with TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        draft = Path(folder) / path.name
        with h5py.File(draft, "w", libver=("v110", "v110")) as file:
            for image_id, group in _images(records):
                ready = _prepare(image_id, group, size)
                _store(file, ready, content)
                image_ids.append(image_id)
                captions.extend(ready.phrases)
                first.append(len(captions))
                merged += ready.merged
            if not captions:
                raise ValueError(f"no record to pack into {path}")
            file.attrs["format"] = FORMAT
            file.attrs["version"] = VERSION
            file.attrs["content_hash"] = content.hexdigest()
        index = Index(
            content_hash=content.hexdigest(),
            image_ids=Texts.of(image_ids),
            captions=Texts.of(captions),
            first=np.array(first, np.int64),
        )
        index.save(index_path(draft))
        report = PackReport(
            len(image_ids), len(captions), merged, index.content_hash, draft.stat().st_size
        )
        os.replace(index_path(draft), index_path(path))
        os.replace(draft, path)
    return report


def _images(records: Iterable[Record]) -> Iterator[tuple[str, list[Record]]]:
    seen: set[str] = set()
    for image_id, group in itertools.groupby(records, key=lambda record: record.image_id):
        if image_id in seen:
            raise ValueError(
                f"image {image_id!r} returns after another image: "
                "the records of an image must follow each other"
            )
        seen.add(image_id)
        yield image_id, list(group)


def _prepare(image_id: str, records: list[Record], size: int | None) -> _Ready:
    """Loads, checks, unites and resizes one image's records; depends on nothing else."""
    image = _load(image_id, records[0].image)
    if any(not _same(record.image, records[0].image) for record in records):
        raise ValueError(f"image {image_id!r}: its records carry different images")
    if len({record.truth is None for record in records}) > 1:
        raise ValueError(f"image {image_id!r}: the exact mask is given for some phrases only")
    united: dict[str, _Phrase] = {}
    for record in records:
        where = f"image {image_id!r}, caption {record.caption!r:.80}"
        mask = _checked(record.mask, image, where)
        truth = None if record.truth is None else _checked(record.truth, image, where)
        earlier = united.get(record.caption)
        if earlier is None:
            united[record.caption] = _Phrase(mask, truth, record.ids)
            continue
        if truth is not None and earlier.truth is not None:
            truth = truth | earlier.truth
        united[record.caption] = _Phrase(mask | earlier.mask, truth, earlier.ids + record.ids)
    nearest = Image.Resampling.NEAREST
    phrases = {}
    for caption, phrase in united.items():
        truth = None if phrase.truth is None else _resize(phrase.truth, size, nearest)
        phrases[caption] = _Phrase(_resize(phrase.mask, size, nearest), truth, phrase.ids)
    image = _resize(image, size, Image.Resampling.BILINEAR)
    return _Ready(image_id, image, phrases, len(records) - len(united))


def _store(file: h5py.File, ready: _Ready, content: ContentHash) -> None:
    group = file.create_group(key_of(ready.image_id, what="image id"))
    group.attrs["image_id"] = ready.image_id
    group.create_dataset(IMAGE, data=ready.image)
    content.add_image(ready.image_id, ready.image)
    for caption, phrase in ready.phrases.items():
        key = key_of(caption)
        for name, mask in ((MASK, phrase.mask), (TRUTH, phrase.truth)):
            if mask is None:
                continue
            dataset = group.require_group(name).create_dataset(
                key, data=mask, chunks=mask.shape, compression="gzip", compression_opts=1
            )
            dataset.attrs["caption"] = caption
            dataset.attrs.create("ids", list(phrase.ids), dtype=h5py.string_dtype())
        content.add_item(caption, phrase.ids, phrase.mask, phrase.truth)


def _load(image_id: str, image: np.ndarray | Path) -> np.ndarray:
    if isinstance(image, Path):
        try:
            with Image.open(image) as opened:
                return np.asarray(opened.convert("RGB"))
        except OSError as error:
            raise PackError(f"image {image_id!r}: {image} can't be read ({error})") from error
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(
            f"image {image_id!r} is {image.dtype} {image.shape}; it must be uint8 (H, W, 3)"
        )
    return image


def _same(a: np.ndarray | Path, b: np.ndarray | Path) -> bool:
    if isinstance(a, Path) or isinstance(b, Path):
        return isinstance(a, Path) and isinstance(b, Path) and a == b
    return a is b or np.array_equal(a, b)


def _checked(mask: np.ndarray, image: np.ndarray, where: str) -> np.ndarray:
    """Returns the mask as uint8 after checking that it lies on its image."""
    if mask.dtype != np.bool_ or mask.ndim != 2:
        raise ValueError(f"{where}: the mask is {mask.dtype} {mask.shape}; it must be bool (H, W)")
    if mask.shape != image.shape[:2]:
        raise ValueError(
            f"{where}: the annotation is {mask.shape[1]} x {mask.shape[0]} pixels, but the image "
            f"is {image.shape[1]} x {image.shape[0]}: leave the image out, or mend its annotation"
        )
    return mask.astype(np.uint8)


def _resize(array: np.ndarray, size: int | None, how: Image.Resampling) -> np.ndarray:
    if size is None or array.shape[:2] == (size, size):
        return array
    return np.asarray(Image.fromarray(array).resize((size, size), how))
