"""Closed-set scoring: every pixel gets one name, and a confusion matrix counts which."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from rlfseg.stage import readable

IGNORED = 255
"""The class number of pixels that are not scored."""


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
        shared = np.diag(self.pixels)
        union = self.pixels.sum(0) + self.pixels.sum(1) - shared
        return np.divide(shared, union, out=np.full(len(shared), np.nan), where=union > 0)

    def miou(self) -> float:
        """Return the mean IoU over the classes that are true or given somewhere (protocol C)."""
        return float(np.nanmean(self.iou()))

    def accuracy(self) -> float:
        """Return the share of the pixels that got their true name."""
        return float(np.trace(self.pixels) / self.pixels.sum())


def pooled(pictures: Sequence[Confusion]) -> Confusion:
    """Add up the confusions of several pictures, which must be at least one."""
    return sum(pictures[1:], start=pictures[0])


def save_confusions(path: Path, pictures: Sequence[Confusion]) -> None:
    """Write the confusions of several pictures, of the same classes, as one .npz."""
    np.savez_compressed(path, pixels=np.stack([each.pixels for each in pictures]))


def load_confusions(path: Path) -> list[Confusion]:
    """Read what `save_confusions` wrote; ValueError names a file that is damaged."""
    with readable(path), np.load(path) as kept:
        return [Confusion(pixels) for pixels in kept["pixels"]]


def miou_interval(
    pictures: Sequence[Confusion], *, n: int = 1000, seed: int
) -> tuple[float, float]:
    """Return the 95% interval of the pooled mIoU over pictures drawn with replacement.

    Args:
        pictures: one confusion each.
        n: resamples.
        seed: of NumPy's default generator.
    """
    stacked = np.stack([each.pixels for each in pictures])
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(n):
        drawn = np.bincount(rng.integers(len(stacked), size=len(stacked)), minlength=len(stacked))
        values.append(Confusion(np.tensordot(drawn, stacked, 1)).miou())
    low, high = np.quantile(values, (0.025, 0.975))
    return float(low), float(high)
