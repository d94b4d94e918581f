"""Names, keys and the content hash of a packed file (A.3.2)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

import numpy as np

FORMAT = "rlfseg-pack"
VERSION = 1
IMAGE, MASK, TRUTH, REFINED = "image", "mask", "mask_truth", "mask_refined"
#: Longest key in bytes; HDF5 allows more, many viewers don't.
LONGEST_KEY = 255


class PackError(ValueError):
    """A packed file, or its index, is not what it should be."""


def index_path(path: Path) -> Path:
    """Returns where the index of a packed file lies."""
    return path.with_name(f"{path.name}.index.npz")


def key_of(text: str, *, what: str = "caption") -> str:
    """Turns a caption or an image id into its HDF5 key.

    Everything but ASCII letters, digits and `_ - . ~` is percent-encoded as UTF-8; so are the dots
    of a text of dots alone, which HDF5 would read as "this group". A key over `LONGEST_KEY` bytes
    is cut and closed by `#` and the text's SHA-256; `#` occurs in no other key, so different texts
    never share one.

    Deviation: A.3.2 takes the caption itself, with which "/" makes nested groups and "" fails.

    Args:
        text: any text that is not empty, has no NUL and can be written as UTF-8.
        what: what the text is, for the error.

    Raises:
        ValueError: if the text can't be stored exactly.
    """
    if not text:
        raise ValueError(f"empty {what}: HDF5 has no empty key")
    if "\0" in text:
        raise ValueError(f"{what} {text!r:.80} holds a NUL character, at which HDF5 would cut it")
    try:
        encoded = text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"{what} {text!r:.80} is no valid Unicode text: {error.reason}") from error
    key = quote(encoded, safe="")
    if not key.strip("."):
        return key.replace(".", "%2E")
    if len(key) <= LONGEST_KEY:
        return key
    digest = hashlib.sha256(encoded).hexdigest()
    head = re.sub("%.?$", "", key[: LONGEST_KEY - len(digest) - 1])
    return f"{head}#{digest}"


class ContentHash:
    """SHA-256 over what a packed file means: texts and decoded arrays, in the items' order.

    It does not depend on HDF5's layout or on how well zlib compresses; refined masks, which are
    added later, are not part of it.
    """

    def __init__(self) -> None:
        """Starts with nothing but the format's name and version."""
        self._sha = hashlib.sha256(f"{FORMAT} {VERSION}".encode())

    def add_image(self, image_id: str, image: np.ndarray) -> None:
        """Adds an image; the items that follow belong to it."""
        self._text("image", image_id)
        self._array(image)

    def add_item(
        self, caption: str, ids: Sequence[str], mask: np.ndarray, truth: np.ndarray | None
    ) -> None:
        """Adds a phrase of the image that was added last; masks are uint8, 0 or 1."""
        self._text("item", caption, str(len(ids)), *ids)
        self._array(mask)
        if truth is not None:
            self._text("truth")
            self._array(truth)

    def hexdigest(self) -> str:
        """Returns the hash of everything added so far."""
        return self._sha.hexdigest()

    def _text(self, *texts: str) -> None:
        for text in texts:
            data = text.encode("utf-8")
            self._sha.update(len(data).to_bytes(8, "little") + data)

    def _array(self, array: np.ndarray) -> None:
        self._text(array.dtype.str, str(array.shape))
        self._sha.update(np.ascontiguousarray(array).data)
