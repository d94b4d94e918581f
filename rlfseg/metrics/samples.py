"""What is kept of every scored sample, and how sets of samples are put together and stored."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Self
from zipfile import ZIP_BZIP2, BadZipFile, ZipFile

import numpy as np
from numpy.typing import NDArray

from rlfseg.metrics.grid import BINS, EDGES, THRESHOLD_BINS


@dataclass(frozen=True, eq=False)
class Samples:
    """Pixels of n samples by score; `+` puts the samples of two sets together.

    Everything is kept for each sample, so that any subset and any resample can be read like the
    whole. Rows of several batches, processes or nodes add up in any order.

    Attributes:
        image_id: Image of each sample [n], str.
        histogram: Pixels of each sample by score [n, 2, BINS], int32; [:, 0] background, [:, 1]
            foreground. 16 kB a sample.
        ap: Exact step-wise average precision of each sample [n]; nan without foreground.
        weight: How often each sample counts [n], int64; 1, except within `bootstrap`.
    """

    image_id: NDArray[np.str_]
    histogram: NDArray[np.int32]
    ap: NDArray[np.float64]
    weight: NDArray[np.int64]

    def __post_init__(self) -> None:
        n = len(self.image_id)
        wanted = {
            "image_id": ("U", (n,)),
            "histogram": ("i", (n, 2, BINS)),
            "ap": ("f", (n,)),
            "weight": ("i", (n,)),
        }
        for name, (kind, shape) in wanted.items():
            array = getattr(self, name)
            if array.dtype.kind != kind or array.shape != shape:
                got = f"{array.dtype} {array.shape}"
                raise ValueError(f"{name} must be of kind {kind!r} and shape {shape}, got {got}")

    def __len__(self) -> int:
        return len(self.image_id)

    @classmethod
    def empty(cls) -> Self:
        """Return the counts of no sample: the neutral element of `+`."""
        return cls(
            image_id=np.empty(0, np.str_),
            histogram=np.empty((0, 2, BINS), np.int32),
            ap=np.empty(0),
            weight=np.empty(0, np.int64),
        )

    @classmethod
    def concatenate(cls, parts: Iterable[Self]) -> Self:
        """Add up many counts at once, which is cheaper than `+` in a loop."""
        rows = [cls.empty(), *parts]
        names = (field.name for field in fields(cls))
        return cls(**{name: np.concatenate([getattr(r, name) for r in rows]) for name in names})

    def __add__(self, other: Self) -> Self:
        return self.concatenate([self, other])

    def select(self, keep: NDArray[np.bool_]) -> Self:
        """Return the samples where `keep` [n], bool, is true; ValueError for anything else."""
        if keep.dtype != np.bool_ or keep.shape != (len(self),):
            raise ValueError(f"keep must be bool [{len(self)}], got {keep.dtype} {keep.shape}")
        names = (field.name for field in fields(self))
        return type(self)(**{name: getattr(self, name)[keep] for name in names})

    def by_size(self, limits: tuple[float, ...] = (0.005, 0.05)) -> tuple[Self, ...]:
        """Split the samples by their foreground's share of the image.

        Args:
            limits: Ascending shares; a sample at a limit goes to the larger class.

        Returns:
            len(limits) + 1 sets, small masks first; samples without foreground are in the first.
        """
        size = np.digitize(self.positives / self.pixels, limits)
        return tuple(self.select(size == i) for i in range(len(limits) + 1))

    @cached_property
    def _above(self) -> NDArray[np.int64]:
        """Pixels scored above each threshold [n, 2, 49]."""
        falling = np.cumsum(self.histogram[..., ::-1], axis=-1, dtype=np.int64)
        return falling[..., BINS - 1 - THRESHOLD_BINS]

    @property
    def tp(self) -> NDArray[np.int64]:
        """Foreground pixels with score > t [n, 49] for t in THRESHOLDS."""
        return self._above[:, 1]

    @property
    def fp(self) -> NDArray[np.int64]:
        """Background pixels with score > t [n, 49]."""
        return self._above[:, 0]

    @cached_property
    def positives(self) -> NDArray[np.int64]:
        """Foreground pixels [n]."""
        return self.histogram[:, 1].sum(axis=-1, dtype=np.int64)

    @cached_property
    def pixels(self) -> NDArray[np.int64]:
        """Pixels [n]."""
        return self.histogram.sum(axis=(1, 2), dtype=np.int64)

    @cached_property
    def union(self) -> NDArray[np.int64]:
        """TP + FP + FN [n, 49]."""
        return self.positives[:, None] + self.fp

    @cached_property
    def iou_clipseg(self) -> NDArray[np.float64]:
        """TP / (1 + TP + FP + FN) of each sample [n, 49]."""
        return self.tp / (1 + self.union)

    @cached_property
    def iou(self) -> NDArray[np.float64]:
        """TP / (TP + FP + FN) of each sample [n, 49]; 0 where the union is empty."""
        return self.tp / np.maximum(self.union, 1)

    def total(self, rows: NDArray[np.generic]) -> NDArray[np.float64]:
        """Return the weighted sum of rows [n, ...] over the samples; exact for whole numbers.

        Raises:
            ValueError: There is no sample.
        """
        if not len(self):
            raise ValueError("no sample was counted, so there is nothing to read")
        return np.asarray(self.weight.astype(np.float64) @ np.asarray(rows, np.float64))

    def mean(self, rows: NDArray[np.generic]) -> NDArray[np.float64]:
        """Return the weighted mean of rows [n, ...] over the samples; see `total`."""
        return np.asarray(self.total(rows) / self.weight.sum())

    def save(self, path: Path) -> None:
        """Write an .npz at `path`, whole or not at all, with the bin edges and without pickle.

        Its arrays are compressed by bzip2, which makes of histograms little more than half of what
        NumPy's own `savez_compressed` makes; `np.load` reads it all the same.
        """
        draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            arrays = {field.name: getattr(self, field.name) for field in fields(self)}
            with ZipFile(draft, "w", ZIP_BZIP2) as file:
                for name, array in {"edges": EDGES, **arrays}.items():
                    with file.open(f"{name}.npy", "w") as entry:
                        np.lib.format.write_array(entry, array, allow_pickle=False)
            os.replace(draft, path)
        finally:
            draft.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            ValueError: The file is not such a file, or was counted on other bins.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                edges = file["edges"]
                rows = cls(**{field.name: file[field.name] for field in fields(cls)})
        except (BadZipFile, OSError, EOFError, KeyError, TypeError, ValueError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # there is no reading the file at all; bzip2's own error has no number
            raise ValueError(f"{path} does not hold saved counts: {error}; count again") from error
        if not np.array_equal(edges, EDGES):
            raise ValueError(f"{path} was counted on other bins than this version's; count again")
        return rows
