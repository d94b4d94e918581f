"""Names, keys and hashes of a packed file (A.3.2)."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import numpy as np

FORMAT = "rlfseg-pack"
VERSION = 2
IMAGE, MASK, TRUTH, REFINED = "image", "mask", "mask_truth", "mask_refined"
#: Longest key in bytes; HDF5 allows more, many viewers don't.
LONGEST_KEY = 255


class PackError(ValueError):
    """A packed file, or its index, is not what it should be."""


@dataclass(frozen=True, eq=False)
class Stored:
    """A phrase as it stands in the file; masks are uint8 [H, W], 0 or 1."""

    caption: str
    ids: tuple[str, ...]
    mask: np.ndarray
    truth: np.ndarray | None


def index_path(path: Path) -> Path:
    """Return where the index of a packed file lies."""
    return path.with_name(f"{path.name}.index.npz")


def next_index_path(path: Path) -> Path:
    """Return where a new index waits while its file takes the place of an earlier one."""
    return path.with_name(f"{path.name}.index.next.npz")


def report_path(path: Path) -> Path:
    """Return where the report of a packed file lies."""
    return path.with_name(f"{path.name}.report.json")


def key_of(text: str, *, what: str = "caption", number: int = 1) -> str:
    """Turn a caption or an image id into its HDF5 key.

    Everything but ASCII letters, digits and `_ - . ~` is percent-encoded as UTF-8; so are the dots
    of a text of dots alone, which HDF5 would read as "this group". A key over `LONGEST_KEY` bytes
    is cut and closed by `#` and the text's SHA-256. The second item of an image with a caption ends
    in `#2`, the third in `#3`. `#` occurs in no other key, so different texts never share one.

    Deviation: A.3.2 takes the caption itself, with which "/" makes nested groups and "" fails.

    Args:
        text: any text that is not empty, has no NUL and can be written as UTF-8.
        what: what the text is, for the error.
        number: of the item among those of its image that have this caption, from 1.

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
    key, end = quote(encoded, safe=""), "" if number == 1 else f"#{number}"
    if not key.strip("."):
        key = key.replace(".", "%2E")
    if len(key + end) > LONGEST_KEY:
        digest = hashlib.sha256(encoded).hexdigest()
        head = re.sub("%.?$", "", key[: LONGEST_KEY - len(digest) - len(end) - 1])
        key = f"{head}#{digest}"
    return key + end


def keys_of(captions: Iterable[str]) -> list[str]:
    """Return the keys of an image's items, in order; items may have the same caption."""
    seen: Counter[str] = Counter()
    keys = []
    for caption in captions:
        seen[caption] += 1
        keys.append(key_of(caption, number=seen[caption]))
    return keys


def text_of(value: object) -> str:
    """Return a text that stands in an attribute; h5py gives it as bytes if its length is fixed.

    Raises:
        UnicodeDecodeError: if it is damaged.
    """
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)


def image_digest(image_id: str, image: np.ndarray, phrases: Iterable[Stored]) -> bytes:
    """Return the SHA-256 over what a packed file says of one image: texts and decoded arrays.

    It does not depend on HDF5's layout or on how well zlib compresses; refined masks, which are
    added later, are not part of it.

    Args:
        image_id: exactly.
        image: uint8 [H, W, 3].
        phrases: in the items' order; masks of 0 and 1, which enter as packed bits.

    Returns:
        32 bytes.
    """
    sha = hashlib.sha256()
    _add_texts(sha, "image", image_id, str(image.shape))
    sha.update(image.data)
    for phrase in phrases:
        _add_texts(sha, "item", phrase.caption, str(len(phrase.ids)), *phrase.ids)
        for name, mask in ((MASK, phrase.mask), (TRUTH, phrase.truth)):
            if mask is not None:
                _add_texts(sha, name, str(mask.shape))
                sha.update(np.packbits(mask).data)
    return sha.digest()


def content_hash(digests: Iterable[bytes]) -> str:
    """Return the SHA-256 over the digests of all images, in the file's order; hexadecimal."""
    sha = hashlib.sha256(f"{FORMAT} {VERSION}".encode())
    for digest in digests:
        sha.update(digest)
    return sha.hexdigest()


def _add_texts(sha: "hashlib._Hash", *texts: str) -> None:
    for text in texts:
        data = text.encode("utf-8")
        sha.update(len(data).to_bytes(8, "little") + data)
