"""Read a packed file (A.3.2): items by number, lazily opened in each process."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import h5py
import numpy as np

from rlfseg.data.packed.check import check
from rlfseg.data.packed.index import Index
from rlfseg.data.packed.schema import (
    FORMAT,
    IMAGE,
    MASK,
    REFINED,
    TRUTH,
    VERSION,
    PackError,
    index_path,
    key_of,
    next_index_path,
    text_of,
)


@dataclass(frozen=True, eq=False)
class Item:
    """One phrase of one image.

    Attributes:
        image_id: the data set's id of the image.
        caption: the phrase, exactly.
        image: uint8 [H, W, 3].
        mask: bool [H, W], the annotation.
        truth: bool [H, W], the exact mask; None where the file has none.
        refined: bool [H, W], the refined annotation; None where the file has none.
    """

    image_id: str
    caption: str
    image: np.ndarray
    mask: np.ndarray
    truth: np.ndarray | None
    refined: np.ndarray | None


class Pack:
    """A packed file.

    It may be pickled and used in forked or spawned workers: every process opens the file for
    itself at its first read.

    Attributes:
        path: the HDF5 file.
        content_hash: SHA-256 of its decoded content, without refined masks.
        image_ids: all images, in the file's order.
        item_image: int64 [items], the number of each item's image.
    """

    def __init__(self, path: Path | str) -> None:
        """Read the index and check that it belongs to the file.

        Raises:
            FileNotFoundError: if there is no such file.
            PackError: if the file or its index is missing, broken, or of another kind.
        """
        self.path = Path(path).absolute()
        self._file: h5py.File | None = None
        self._pid = 0
        if not self.path.is_file():
            raise FileNotFoundError(f"there is no packed file {self.path}: pack the data first")
        with opened(self.path) as file:
            self.content_hash = _identity(self.path, file)
        self._index = _index_of(self.path, self.content_hash)
        self.image_ids = tuple(self._index.image_ids)
        self._numbers = {image_id: number for number, image_id in enumerate(self.image_ids)}
        items = np.diff(self._index.first)
        self.item_image = np.repeat(np.arange(len(items), dtype=np.int64), items)

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self.item_image)

    def __getitem__(self, number: int) -> Item:
        """Return an item; a negative number counts from the end.

        Raises:
            IndexError: if there is no such item.
            PackError: if the file is damaged there.
        """
        number = range(len(self))[number]
        image = int(self.item_image[number])
        return Item(
            self.image_ids[image], self.caption(number), self.image(image), *self.masks(number)
        )

    def caption(self, number: int) -> str:
        """Return an item's caption, exactly."""
        return self._index.captions[number]

    def image(self, number: int) -> np.ndarray:
        """Return an image by its number among the images, uint8 [H, W, 3]."""
        return self._read(self._place(self.image_ids[number], IMAGE))

    def annotation(self, number: int) -> np.ndarray:
        """Return an item's mask alone."""
        return self._mask(number, MASK)

    def refined(self, number: int) -> np.ndarray:
        """Return an item's refined mask alone.

        Raises:
            PackError: if the file has none, or is damaged there.
        """
        return self._mask(number, REFINED)

    def masks(self, number: int) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
        """Return an item's mask, exact mask and refined mask, and leave its image unread."""
        return (
            self.annotation(number),
            self._optional(number, TRUTH),
            self._optional(number, REFINED),
        )

    def ids(self, number: int) -> tuple[str, ...]:
        """Return the data set's own ids of an item's annotation."""
        place = self._item_place(number, MASK)
        with undamaged(f"{self.path}: the ids of {place}"):
            return tuple(map(text_of, self._handle()[place].attrs["ids"]))

    def items(self, image_id: str) -> range:
        """Return the numbers of an image's items.

        Raises:
            KeyError: if there is no such image.
        """
        if image_id not in self._numbers:
            raise KeyError(f"{self.path} has no image {image_id!r}")
        number = self._numbers[image_id]
        return range(int(self._index.first[number]), int(self._index.first[number + 1]))

    def captions(self, image_id: str) -> tuple[str, ...]:
        """Return the captions of an image, in the file's order.

        Raises:
            KeyError: if there is no such image.
        """
        return tuple(self._index.captions[number] for number in self.items(image_id))

    def find(self, image_id: str, caption: str) -> int:
        """Return the number of the first item with this image and this caption.

        Raises:
            KeyError: if there is no such image, or no such caption on it.
        """
        for number in self.items(image_id):
            if self._index.captions[number] == caption:
                return number
        raise KeyError(f"{self.path}: image {image_id!r} has no caption {caption!r:.80}")

    def validate(self) -> None:
        """Read everything and compare it with the schema, the index and the content hash.

        Raises:
            PackError: naming the file and the key where they differ.
        """
        with undamaged(f"{self.path}"):
            check(self.path, self._handle(), self._index)

    def close(self) -> None:
        """Close this process's handle; the next read opens the file again."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __reduce__(self) -> tuple[type[Self], tuple[Path]]:
        """Pickle the path alone: an HDF5 handle doesn't survive."""
        return type(self), (self.path,)

    def _item_place(self, number: int, name: str) -> str:
        number = range(len(self))[number]
        image, captions = self.item_image[number], self._index.captions
        caption, first = captions[number], int(self._index.first[image])
        earlier = sum(captions[other] == caption for other in range(first, number))
        key = key_of(caption, number=1 + earlier)
        return f"{self._place(self.image_ids[image], name)}/{key}"

    @staticmethod
    def _place(image_id: str, name: str) -> str:
        return f"{key_of(image_id, what='image id')}/{name}"

    def _optional(self, number: int, name: str) -> np.ndarray | None:
        """Read a mask of a group that not every file has."""
        place = self._place(self.image_ids[self.item_image[number]], name)
        with undamaged(f"{self.path}: {place}"):
            root = h5py.h5g.open(self._handle().id, b"/")
            there = root.links.exists(place.encode())
        return self._mask(number, name) if there else None

    def _mask(self, number: int, name: str) -> np.ndarray:
        values = self._read(self._item_place(number, name))
        return np.not_equal(values, 0, out=values.view(np.bool_))

    def _read(self, place: str) -> np.ndarray:
        """Read a dataset by h5py's low-level interface, which is twice as quick."""
        file = self._handle()
        with undamaged(f"{self.path}: {place}"):
            dataset = h5py.h5d.open(file.id, place.encode())
            if dataset.dtype != np.uint8:
                raise TypeError(f"it holds {dataset.dtype}, not uint8")
            values = np.empty(dataset.shape, np.uint8)
            dataset.read(h5py.h5s.ALL, h5py.h5s.ALL, values)
            return values

    def _handle(self) -> h5py.File:
        if self._file is None or self._pid != os.getpid():
            self.close()  # in a forked child: drops the parent's handle, here only
            with ExitStack() as on_error:
                file = on_error.enter_context(opened(self.path))
                if _identity(self.path, file) != self.content_hash:
                    raise PackError(f"{self.path} was packed anew since this reader was made")
                on_error.pop_all()
            self._file, self._pid = file, os.getpid()
        return self._file


@contextmanager
def undamaged(place: str) -> Iterator[None]:
    """Make of whatever h5py raises over a damaged file one error that names the place.

    Raises:
        PackError: saying what to do.
    """
    try:
        yield
    except PackError:
        raise
    except (KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise PackError(
            f"{place} can't be read ({error}): copy the file again, or pack again"
        ) from error


def opened(path: Path) -> h5py.File:
    """Open an HDF5 file for reading.

    Raises:
        PackError: naming the file, if that fails.
    """
    try:
        return h5py.File(path, "r", locking="best-effort")
    except OSError as error:
        raise PackError(
            f"{path} is no readable HDF5 file (cut short, or of another kind): {error}; "
            "copy it again, or pack again"
        ) from error


def _index_of(path: Path, content_hash: str) -> Index:
    """Return the index that fits the file, which still waits where packing was killed late."""
    waiting = next_index_path(path)
    if waiting.is_file():
        index = Index.load(waiting)
        if index.content_hash == content_hash:
            return index
    index = Index.load(index_path(path))
    if index.content_hash != content_hash:
        raise PackError(f"{index_path(path)} belongs to another packed file: pack again")
    return index


def _identity(path: Path, file: h5py.File) -> str:
    """Return the content hash that a packed file carries."""
    with undamaged(f"{path}"):
        held = dict(file.attrs)
        known, content = (text_of(held.get(name, "")) for name in ("format", "content_hash"))
    if known != FORMAT or not content:
        raise PackError(f"{path} is an HDF5 file, but not a packed file of this project")
    if held.get("version") != VERSION:
        raise PackError(
            f"{path} has version {held.get('version')} of the format, "
            f"this code reads version {VERSION}: pack again"
        )
    return content
