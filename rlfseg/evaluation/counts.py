"""The numbers of the tables, read from counts."""

import copy
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Self
from zipfile import ZIP_BZIP2, ZipFile

import numpy as np
from numpy.typing import NDArray

from rlfseg.evaluation import average_precision
from rlfseg.evaluation.grid import BINS, EDGES, THRESHOLD_BINS, THRESHOLDS
from rlfseg.stage import readable, replaced


@dataclass(frozen=True)
class BestIoU:
    """An IoU at the threshold that makes it largest, chosen on the very set it is read from.

    Attributes:
        value: in [0, 1].
        threshold: the lowest of the best thresholds.
    """

    value: float
    threshold: float


@dataclass(frozen=True, eq=False)
class Counts:
    """Pixels of n scored samples by score, and every reading of them.

    `+` puts the samples of two sets together. Everything is kept for each sample, so that any
    subset and any resample can be read like the whole; rows of several batches, processes or nodes
    add up in any order. The readings are fractions in [0, 1]; they raise ValueError if there is no
    sample, and where a threshold is asked for, if it is not one of THRESHOLDS.

    Attributes:
        image_id: image of each sample [n], str.
        histogram: pixels of each sample by score [n, 2, BINS], int32; [:, 0] background, [:, 1]
            foreground. 16 kB a sample.
        ap: exact step-wise average precision of each sample [n]; nan without foreground.
        weight: how often each sample counts [n], int64; 1, except within `bootstrap`.
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
            limits: ascending shares; a sample at a limit goes to the larger class.

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
            ValueError: if there is no sample.
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
        arrays = {field.name: getattr(self, field.name) for field in fields(self)}
        with replaced(path) as draft, ZipFile(draft, "w", ZIP_BZIP2) as file:
            for name, array in {"edges": EDGES, **arrays}.items():
                with file.open(f"{name}.npy", "w") as entry:
                    np.lib.format.write_array(entry, array, allow_pickle=False)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            ValueError: if the file is not such a file, or was counted on other bins.
        """
        with readable(path), np.load(path, allow_pickle=False) as file:
            edges = file["edges"]
            rows = cls(**{field.name: file[field.name] for field in fields(cls)})
        if not np.array_equal(edges, EDGES):
            raise ValueError(f"{path} was counted on other bins than this version's; count again")
        return rows

    def miou(self) -> BestIoU:
        """Return the CLIPSeg protocol's best mIoU: max over t of mean TP / (1 + TP + FP + FN)."""
        return _best(self.mean(self.iou_clipseg))

    def miou_of_all_ones(self) -> float:
        """Return the protocol's mIoU of masks that mark every pixel: mean P / (1 + pixels).

        What does no better has learned nothing; it is the mean area, about.
        """
        return float(self.mean(self.positives / (1 + self.pixels)))

    def above_all_ones(self, *, seed: int = 0) -> tuple[float, float]:
        """Return the 95% interval, over images, of the best mIoU less that of all-ones masks."""
        return self.bootstrap(lambda c: c.miou().value - c.miou_of_all_ones(), seed=seed)

    def miou_at(self, threshold: float) -> float:
        """Return the mIoU of the CLIPSeg protocol at one of THRESHOLDS."""
        return float(self.mean(self.iou_clipseg[:, _index(threshold)]))

    def iou_fg(self) -> BestIoU:
        """Return the best pooled IoU: max over t of sum TP / (1 + sum (TP + FP + FN))."""
        return _best(self.total(self.tp) / (1 + self.total(self.union)))

    def iou_bin(self) -> BestIoU:
        """Return the best mean of `iou_fg` and the same for the background, at one threshold."""
        union = self.total(self.union)
        wrong = union - self.total(self.tp)
        true_negatives = self.total(self.pixels) - union
        foreground = self.total(self.tp) / (1 + union)
        return _best((foreground + true_negatives / (1 + true_negatives + wrong)) / 2)

    def oiou(self, threshold: float) -> float:
        """Return the overall IoU at a threshold: sum of intersections / sum of unions, or 0."""
        at = _index(threshold)
        return float(self.total(self.tp[:, at]) / np.maximum(self.total(self.union[:, at]), 1))

    def miou_lavt(self, threshold: float) -> float:
        """Return the mean over samples of I / U at a threshold, without the + 1; 0 where U = 0."""
        return float(self.mean(self.iou[:, _index(threshold)]))

    def pr_at(self, threshold: float, k: float, *, strict: bool = False) -> float:
        """Return the share of samples with I / U >= k at a threshold.

        Args:
            threshold: one of THRESHOLDS.
            k: the IoU to reach, such as 0.5.
            strict: ask for I / U > k, as PhraseCut's evaluator does; LAVT's takes >=.
        """
        iou = self.iou[:, _index(threshold)]
        return float(self.mean(iou > k if strict else iou >= k))

    def ap_clipseg(self) -> float:
        """Return the CLIPSeg protocol's AP, pooled; see `average_precision.clipseg`."""
        positives = float(self.total(self.positives))
        return average_precision.clipseg(self.total(self.tp), self.total(self.fp), positives)

    def ap_pooled(self) -> float:
        """Return the step-wise AP of all the set's pixels, scores rounded to their bin."""
        pooled = self.total(self.histogram.reshape(len(self), -1))
        return average_precision.binned(pooled.reshape(2, BINS))

    def ap_mean(self) -> float:
        """Return the mean of the samples' exact average precisions.

        Samples without foreground have none and are left out; nan if that leaves nothing.
        """
        defined = ~np.isnan(self.ap)
        n = self.total(defined)
        return float(self.total(np.nan_to_num(self.ap)) / n) if n else float("nan")

    def bootstrap(
        self, read: Callable[[Self], float], *, n: int = 1000, seed: int
    ) -> tuple[float, float]:
        """Return the 95% interval of a reading over images drawn with replacement.

        All samples of a drawn image come with it. The tables behind the readings are shared by all
        resamples, so that one of them costs a weighted sum.

        Args:
            read: for example `lambda c: c.miou().value`.
            n: resamples, at least 1.
            seed: of NumPy's default generator; the same seed gives the same interval.

        Returns:
            The 2.5% and 97.5% quantiles of the reading.

        Raises:
            ValueError: n is below 1.
        """
        values = [read(each) for each in self._resampled(read, n, seed)]
        low, high = np.quantile(values, (0.025, 0.975))
        return float(low), float(high)

    def gain_over(
        self, base: Self, read: Callable[[Self], float], *, n: int = 1000, seed: int
    ) -> tuple[float, tuple[float, float]]:
        """Return by how much a reading exceeds that of other counts of the same samples.

        Both are resampled alike, so that what makes a sample hard for both drops out.

        Args:
            base: counts of the same samples, in the same order.
            read: for example `lambda c: c.miou().value`.
            n: resamples, at least 1.
            seed: as for `bootstrap`.

        Returns:
            The gain, and its 95% interval over images.

        Raises:
            ValueError: if the samples' images differ, or n is below 1.
        """
        if not np.array_equal(self.image_id, base.image_id):
            raise ValueError("the counts are not of the same samples in the same order")
        pairs = zip(self._resampled(read, n, seed), base._resampled(read, n, seed), strict=True)
        low, high = np.quantile(
            [read(ours) - read(theirs) for ours, theirs in pairs], (0.025, 0.975)
        )
        return read(self) - read(base), (float(low), float(high))

    def _resampled(self, read: Callable[[Self], float], n: int, seed: int) -> Iterator[Self]:
        """Yield counts over images drawn with replacement; `read` fills the tables they share."""
        if n < 1:
            raise ValueError(f"n must be at least 1 resample, got {n}")
        read(self)
        images, member = np.unique(self.image_id, return_inverse=True)
        rng = np.random.default_rng(seed)
        for _ in range(n):
            drawn = np.bincount(rng.integers(len(images), size=len(images)), minlength=len(images))
            resample = copy.copy(self)
            object.__setattr__(resample, "weight", self.weight * drawn[member])
            yield resample


def _best(iou: NDArray[np.float64]) -> BestIoU:
    at = int(np.argmax(iou))
    return BestIoU(value=float(iou[at]), threshold=float(THRESHOLDS[at]))


def _index(threshold: float) -> int:
    at = int(np.argmin(np.abs(THRESHOLDS - threshold)))
    if not np.isclose(THRESHOLDS[at], threshold, rtol=0, atol=1e-9):
        raise ValueError(f"threshold {threshold} was not counted; take one of 0.02, 0.04, ... 0.98")
    return at
