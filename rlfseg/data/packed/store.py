"""Put images and masks into an HDF5 file, by h5py's low-level interface, which is much quicker."""

import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

import h5py
import numpy as np
from h5py import h5a, h5d, h5g, h5p, h5s, h5t

from rlfseg.data.packed.prepare import Ready
from rlfseg.data.packed.schema import (
    FORMAT,
    IMAGE,
    MASK,
    TRUTH,
    VERSION,
    PackError,
    key_of,
    keys_of,
)
from rlfseg.stage import not_written

_GZIP = 1
_ADLER = 65521  # the prime of zlib's checksum


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the failure to write a file or folder into one clear error.

    Raises:
        PackError: naming the file and saying what to do.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        raise PackError(not_written(path, error)) from error


@contextmanager
def created(path: Path) -> Iterator[h5py.File]:
    """Give a new HDF5 file; it is removed if the block is left by an error.

    Raises:
        PackError: if it can't be written.
    """
    with writing(path):
        path.unlink(missing_ok=True)
        file = h5py.File(path, "w", libver=("v110", "v110"))
    try:
        yield file
        with writing(path):
            file.close()
    except BaseException:
        with suppress(OSError, RuntimeError):
            file.close()
        with suppress(OSError):
            path.unlink(missing_ok=True)
        raise


def store(file: h5py.File, ready: Ready) -> None:
    """Write one image's group: see the package's docstring for its form."""
    group = put_group(file.id, key_of(ready.image_id, what="image id"))
    put_text(group, "image_id", ready.image_id)
    _dataset(group, IMAGE, ready.image.shape, None).write(h5s.ALL, h5s.ALL, ready.image)
    has_truth = any(phrase.truth is not None for phrase in ready.phrases)
    masks = put_group(group, MASK)
    truths = put_group(group, TRUTH) if has_truth else None
    keys = keys_of(phrase.caption for phrase in ready.phrases)
    for key, phrase in zip(keys, ready.phrases, strict=True):
        for place, mask in ((masks, phrase.mask), (truths, phrase.truth)):
            if place is None or mask is None:
                continue
            _put_texts(put_mask(place, key, phrase.caption, mask), "ids", phrase.ids)


def put_mask(place: h5g.GroupID, key: str, caption: str, mask: np.ndarray) -> h5d.DatasetID:
    """Write a mask, uint8 [H, W] and contiguous, in one gzipped piece, with its caption."""
    dataset = _dataset(place, key, mask.shape, mask.shape)
    dataset.write_direct_chunk((0, 0), compress(mask))
    put_text(dataset, "caption", caption)
    return dataset


def sign(file: h5py.File, content: str) -> None:
    """Write what a packed file is, and the hash of its content."""
    put_text(file.id, "format", FORMAT)
    put_text(file.id, "content_hash", content)
    file.attrs["version"] = VERSION


def compress(mask: np.ndarray) -> bytes:
    """Make the zlib stream that HDF5's gzip filter expects of a mask.

    A mask fills a part of its rows only, and the blank ones above and below are the same in every
    mask: their compressed form is taken from a table, and their share of the checksum, which is a
    sum, is added by its formula. (Run lengths alone, zlib's Z_RLE, would make the stream less
    than half as long, but inflating takes three times as long.)

    Args:
        mask: uint8 [H, W], contiguous.

    Returns:
        A stream that `zlib.decompress` turns back into the mask's bytes.
    """
    rows = np.flatnonzero(mask.view(np.bool_).any(axis=1))
    first, last = (int(rows[0]), int(rows[-1]) + 1) if rows.size else (0, 0)
    body = mask[first:last]
    before, after = first * mask.shape[1], (len(mask) - last) * mask.shape[1]
    deflate = _deflate()
    parts = (
        b"\x78\x01",
        _blank(before, zlib.Z_SYNC_FLUSH),
        deflate.compress(body.data) + deflate.flush(zlib.Z_SYNC_FLUSH),
        _blank(after, zlib.Z_FINISH),
    )
    checksum = zlib.adler32(body.data, (before % _ADLER) << 16 | 1)
    low, high = checksum & 0xFFFF, checksum >> 16
    checksum = (high + after * low) % _ADLER << 16 | low
    return b"".join(parts) + checksum.to_bytes(4, "big")


@lru_cache(maxsize=8192)
def _blank(count: int, end: int) -> bytes:
    """Return raw deflate blocks of zeros that refer to nothing before and end at a whole byte."""
    deflate = _deflate()
    return deflate.compress(bytes(count)) + deflate.flush(end)


def _deflate() -> "zlib._Compress":
    return zlib.compressobj(_GZIP, zlib.DEFLATED, -zlib.MAX_WBITS)


def put_group(parent: h5g.GroupID, key: str) -> h5g.GroupID:
    """Make a group."""
    return h5g.create(parent, key.encode(), gcpl=_group_form())


def _dataset(
    parent: h5g.GroupID, key: str, shape: tuple[int, ...], chunk: tuple[int, ...] | None
) -> h5d.DatasetID:
    form = _dataset_form(chunk)
    return h5d.create(parent, key.encode(), h5t.STD_U8LE, h5s.create_simple(shape), dcpl=form)


@lru_cache(maxsize=1)
def _group_form() -> h5p.PropGCID:
    """Leave out the time of its making, so that the same content gives the same bytes."""
    form = h5p.create(h5p.GROUP_CREATE)
    form.set_obj_track_times(False)
    return form


@lru_cache(maxsize=64)
def _dataset_form(chunk: tuple[int, ...] | None) -> h5p.PropDCID:
    """Keep it in one piece, gzipped if it has a chunk, without the time of its making."""
    form = h5p.create(h5p.DATASET_CREATE)
    form.set_obj_track_times(False)
    if chunk is not None:
        form.set_chunk(chunk)
        form.set_deflate(_GZIP)
    return form


def put_text(node: h5d.DatasetID | h5g.GroupID, name: str, text: str) -> None:
    """Give an HDF5 object a text as an attribute; `text_of` reads it.

    It has the text's own length: of texts of any length HDF5 makes a heap, and a damaged heap can
    keep its library busy for ever.
    """
    encoded = np.array(text.encode())
    form = _string(encoded.itemsize)
    h5a.create(node, name.encode(), form, h5s.create(h5s.SCALAR)).write(encoded, form)


def _put_texts(node: h5d.DatasetID, name: str, texts: Sequence[str]) -> None:
    encoded = np.array([text.encode() for text in texts], np.bytes_)
    form = _string(encoded.itemsize)
    attribute = h5a.create(node, name.encode(), form, h5s.create_simple(encoded.shape))
    if texts:
        attribute.write(encoded, form)


@lru_cache(maxsize=1024)
def _string(length: int) -> h5t.TypeStringID:
    return h5t.py_create(h5py.string_dtype("utf-8", length), logical=True)
