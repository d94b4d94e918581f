"""Closed-set scoring: every pixel gets one name, and a confusion matrix counts which."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from rlfseg.stage import readable

IGNORED = 255
"""The class number of pixels that are not scored."""
_RESAMPLES = 1000  # behind an interval


@dataclass(frozen=True, eq=False)
class Confusion:
    """Pixels by true (row) and given (column) class; adds up over pictures and processes.

    Attributes:
        pixels: int64 [k, k].
    """

    pixels: NDArray[np.int64]

    @classmethod
    def of(cls, given: NDArray[np.integer], truth: NDArray[np.integer], *, classes: int) -> Self:
        """Count the pixels of one picture or of many.

        Args:
            given: class numbers, 0 to classes - 1, of any shape.
            truth: the same, or `IGNORED`, of the same shape.
            classes: how many there are.

        Raises:
            ValueError: if the shapes differ, or a number is no class.
        """
        if given.shape != truth.shape:
            raise ValueError(f"given {given.shape} and true classes {truth.shape} differ in shape")
        scored = truth != IGNORED
        rows, columns = truth[scored].astype(np.int64), given[scored].astype(np.int64)
        for name, numbers in (("true", rows), ("given", columns)):
            if len(numbers) and not 0 <= numbers.min() <= numbers.max() < classes:
                span = f"{numbers.min()} to {numbers.max()}"
                raise ValueError(f"{name} classes must be 0 to {classes - 1}, got {span}")
        counted = np.bincount(rows * classes + columns, minlength=classes**2)
        return cls(counted.reshape(classes, classes))

    def __add__(self, other: Self) -> Self:
        return type(self)(self.pixels + other.pixels)

    def iou(self) -> NDArray[np.float64]:
        """Return the IoU of each class [k], pooled over all pixels; NaN if it occurs nowhere."""
        return _iou(*self.areas())

    def areas(self) -> NDArray[np.int64]:
        """Return each class's intersection and union [2, k]; they add up as the pixels do."""
        shared = np.diag(self.pixels)
        return np.stack([shared, self.pixels.sum(0) + self.pixels.sum(1) - shared])

    def miou(self) -> float:
        """Return the mean IoU over the classes that are true or given somewhere (protocol C)."""
        return float(np.nanmean(self.iou()))

    def accuracy(self) -> float:
        """Return the share of the pixels that got their true name."""
        return float(np.trace(self.pixels) / self.pixels.sum())


def pooled(pictures: Sequence[Confusion]) -> Confusion:
    """Add up the confusions of several pictures.

    Raises:
        ValueError: if there is none.
    """
    if not pictures:
        raise ValueError("there are no pictures whose confusions could be added up")
    return sum(pictures[1:], start=pictures[0])


def save_confusions(path: Path, pictures: Sequence[Confusion]) -> None:
    """Write the confusions of several pictures, of the same classes, as one .npz."""
    np.savez_compressed(path, pixels=np.stack([each.pixels for each in pictures]))


def load_confusions(path: Path) -> list[Confusion]:
    """Read what `save_confusions` wrote; ValueError names a file that is damaged."""
    with readable(path), np.load(path) as kept:
        return [Confusion(pixels) for pixels in kept["pixels"]]


def miou_interval(pictures: Sequence[Confusion], *, seed: int) -> tuple[float, float]:
    """Return the 95% interval of the pooled mIoU over pictures drawn with replacement.

    Args:
        pictures: one confusion each.
        seed: of NumPy's default generator.
    """
    count, rng = len(pictures), np.random.default_rng(seed)
    drawn = [
        np.bincount(rng.integers(count, size=count), minlength=count) for _ in range(_RESAMPLES)
    ]
    areas = np.stack([each.areas() for each in pictures])
    sums = np.tensordot(drawn, areas.astype(np.float64), 1)  # quick, and exact up to 2 ** 53
    low, high = np.quantile([np.nanmean(_iou(*each)) for each in sums], (0.025, 0.975))
    return float(low), float(high)


def _iou(shared: NDArray[Any], union: NDArray[Any]) -> NDArray[np.float64]:
    return np.divide(shared, union, out=np.full(len(shared), np.nan), where=union > 0)
