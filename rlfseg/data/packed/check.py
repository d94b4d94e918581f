"""Compare a packed file with the schema of A.3.2, with its index and with its content hash."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np

from rlfseg.data.packed.index import Index
from rlfseg.data.packed.schema import (
    IMAGE,
    MASK,
    REFINED,
    TRUTH,
    PackError,
    Stored,
    content_hash,
    image_digest,
    key_of,
    keys_of,
    text_of,
)


def check(path: Path, file: h5py.File, index: Index) -> None:
    """Read a whole packed file and report the first thing that is wrong.

    Raises:
        PackError: naming the file and the key.
    """
    image_ids = list(index.image_ids)
    captions = list(index.captions)
    _same_keys(path, "/", file, [key_of(i, what="image id") for i in image_ids])
    digests = []
    for number, image_id in enumerate(image_ids):
        place = "/" + key_of(image_id, what="image id")
        group = _group(path, place, file)
        _text(path, place, group, "image_id", image_id)
        names = [name for name in (MASK, TRUTH, REFINED) if name == MASK or name in group]
        _same_keys(path, place, group, [IMAGE, *names])
        image = _values(path, f"{place}/{IMAGE}", file)
        if image.ndim != 3 or image.shape[2] != 3:
            raise PackError(f"{path}: {place}/{IMAGE} has shape {image.shape}, not (H, W, 3)")
        own = captions[index.first[number] : index.first[number + 1]]
        keys = keys_of(own)
        for name in names:
            masks = _group(path, f"{place}/{name}", file)
            _same_keys(path, f"{place}/{name}", masks, keys)
        phrases = []
        for key, caption in zip(keys, own, strict=True):
            found = {n: _mask(path, f"{place}/{n}/{key}", file, caption, image) for n in names}
            ids = file[f"{place}/{MASK}/{key}"].attrs.get("ids")
            if ids is None:
                raise PackError(f"{path}: {place}/{MASK}/{key} lacks the attribute ids")
            phrases.append(Stored(caption, tuple(map(text_of, ids)), found[MASK], found.get(TRUTH)))
        digests.append(image_digest(image_id, image, phrases))
    if content_hash(digests) != index.content_hash:
        raise PackError(f"{path}: the content differs from its content_hash: pack again")


def _same_keys(path: Path, place: str, group: h5py.Group, expected: list[str]) -> None:
    found, wanted = set(group), set(expected)
    if found - wanted:
        raise PackError(f"{path}: {place} holds {min(found - wanted)!r}, which has no place there")
    if wanted - found:
        raise PackError(f"{path}: {place} lacks {min(wanted - found)!r}")


def _group(path: Path, place: str, file: h5py.File) -> h5py.Group:
    group = file[place]
    if not isinstance(group, h5py.Group):
        raise PackError(f"{path}: {place} is a dataset, not a group")
    return group


def _values(path: Path, place: str, file: h5py.File) -> np.ndarray:
    """Return a dataset's bytes after checking that it is one of bytes."""
    dataset = file[place]
    if not isinstance(dataset, h5py.Dataset) or dataset.dtype != np.uint8:
        raise PackError(f"{path}: {place} is no dataset of uint8")
    try:
        return dataset[()]
    except OSError as error:
        raise PackError(f"{path}: {place} can't be read ({error})") from error


def _mask(path: Path, place: str, file: h5py.File, caption: str, image: np.ndarray) -> np.ndarray:
    mask = _values(path, place, file)
    if mask.shape != image.shape[:2]:
        raise PackError(f"{path}: {place} has shape {mask.shape}, its image {image.shape}")
    if mask.max(initial=0) > 1:
        raise PackError(f"{path}: {place} holds {mask.max()}; a mask is 0 or 1")
    _text(path, place, file[place], "caption", caption)
    return mask


def _text(path: Path, place: str, node: Any, name: str, expected: str) -> None:
    found = text_of(node.attrs[name]) if name in node.attrs else None
    if found != expected:
        raise PackError(
            f"{path}: {place} has the attribute {name} = {found!r:.80}, not {expected!r:.80}"
        )
