"""The index beside a packed file: which items it holds, in order, as flat arrays."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from rlfseg.data.packed.schema import PackError
from rlfseg.stage import DAMAGE, of_the_system


@dataclass(frozen=True, eq=False)
class Texts:
    """A list of texts as one UTF-8 byte array, so that one long text doesn't widen the others.

    Attributes:
        data: uint8, all texts one after another.
        ends: int64, where each text ends in `data`.
    """

    data: np.ndarray
    ends: np.ndarray

    @classmethod
    def of(cls, texts: Sequence[str]) -> Self:
        """Encode a list of texts."""
        encoded = [text.encode("utf-8") for text in texts]
        ends = np.cumsum([len(text) for text in encoded], dtype=np.int64)
        return cls(np.frombuffer(b"".join(encoded), np.uint8), ends)

    def __len__(self) -> int:
        """Return the number of texts."""
        return len(self.ends)

    def __iter__(self) -> Iterator[str]:
        """Give the texts in order, without a NumPy operation for each."""
        data, ends = self.data.tobytes(), self.ends.tolist()
        starts = [0, *ends[:-1]]
        return (data[i:j].decode("utf-8") for i, j in zip(starts, ends, strict=True))

    def __getitem__(self, number: int) -> str:
        """Return one text; `number` counts from 0."""
        start = self.ends[number - 1] if number else 0
        return self.data[start : self.ends[number]].tobytes().decode("utf-8")


@dataclass(frozen=True, eq=False)
class Index:
    """The items of a packed file.

    Attributes:
        content_hash: of the packed file that this index was written with.
        image_ids: the images, in the file's order.
        captions: of all items; the items of an image follow each other.
        first: int64 [images + 1]: image k has the items `first[k]` to `first[k + 1] - 1`.
    """

    content_hash: str
    image_ids: Texts
    captions: Texts
    first: np.ndarray

    def save(self, path: Path) -> None:
        """Write the index as plain arrays."""
        np.savez(
            path,
            content_hash=np.array(self.content_hash),
            image_text=self.image_ids.data,
            image_ends=self.image_ids.ends,
            caption_text=self.captions.data,
            caption_ends=self.captions.ends,
            first=self.first,
        )

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read an index.

        Raises:
            PackError: if it is missing, broken, or contradicts itself.
            OSError: if the system can't read it.
        """
        try:
            with np.load(path) as arrays:
                index = cls(
                    content_hash=str(arrays["content_hash"]),
                    image_ids=Texts(arrays["image_text"], arrays["image_ends"]),
                    captions=Texts(arrays["caption_text"], arrays["caption_ends"]),
                    first=arrays["first"],
                )
            if (
                len(index.first) != len(index.image_ids) + 1
                or index.first[0] != 0
                or index.first[-1] != len(index.captions)
                or (np.diff(index.first) < 1).any()
            ):
                raise ValueError("it contradicts itself")
        except FileNotFoundError as error:
            raise PackError(
                f"the index {path} is missing: copy it together with its packed file, or pack again"
            ) from error
        except DAMAGE as error:
            if of_the_system(error):
                raise
            raise PackError(f"the index {path} can't be read ({error}): pack again") from error
        return index
