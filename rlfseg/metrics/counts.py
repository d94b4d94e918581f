"""The numbers of the tables, read from counts."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rlfseg.metrics import precision
from rlfseg.metrics.grid import BINS, THRESHOLDS
from rlfseg.metrics.samples import Samples


@dataclass(frozen=True)
class BestIoU:
    """An IoU at the threshold that makes it largest, chosen on the very set it is read from.

    Attributes:
        value: In [0, 1].
        threshold: The lowest of the best thresholds.
    """

    value: float
    threshold: float


class Counts(Samples):
    """Counts of scored samples with every reading of them.

    The readings are fractions in [0, 1]; they raise ValueError if there is no sample, and where a
    threshold is asked for, if it is not one of THRESHOLDS.
    """

    def miou(self) -> BestIoU:
        """Best mIoU of the CLIPSeg protocol: max over t of mean TP / (1 + TP + FP + FN)."""
        return _best(self.mean(self.iou_clipseg))

    def miou_at(self, threshold: float) -> float:
        """mIoU of the CLIPSeg protocol at one of THRESHOLDS."""
        return float(self.mean(self.iou_clipseg[:, _index(threshold)]))

    def iou_fg(self) -> BestIoU:
        """Best IoU of the pooled foreground: max over t of sum TP / (1 + sum (TP + FP + FN))."""
        return _best(self.total(self.tp) / (1 + self.total(self.union)))

    def iou_bin(self) -> BestIoU:
        """Best mean of `iou_fg` and the same for the background, at one threshold."""
        union = self.total(self.union)
        wrong = union - self.total(self.tp)
        true_negatives = self.total(self.pixels) - union
        foreground = self.total(self.tp) / (1 + union)
        return _best((foreground + true_negatives / (1 + true_negatives + wrong)) / 2)

    def oiou(self, threshold: float) -> float:
        """Overall IoU at a threshold: sum of intersections / sum of unions; 0 if all are empty."""
        at = _index(threshold)
        return float(self.total(self.tp[:, at]) / np.maximum(self.total(self.union[:, at]), 1))

    def miou_lavt(self, threshold: float) -> float:
        """Mean over samples of I / U at a threshold, without the + 1; 0 where U = 0."""
        return float(self.mean(self.iou[:, _index(threshold)]))

    def pr_at(self, threshold: float, k: float, *, strict: bool = False) -> float:
        """Share of samples with I / U >= k at a threshold.

        Args:
            threshold: One of THRESHOLDS.
            k: The IoU to reach, such as 0.5.
            strict: Ask for I / U > k, as PhraseCut's evaluator does; LAVT's takes >=.
        """
        iou = self.iou[:, _index(threshold)]
        return float(self.mean(iou > k if strict else iou >= k))

    def ap_clipseg(self) -> float:
        """Average precision of the CLIPSeg protocol, pooled; see `precision.clipseg`."""
        positives = float(self.total(self.positives))
        return precision.clipseg(self.total(self.tp), self.total(self.fp), positives)

    def ap_pooled(self) -> float:
        """Step-wise average precision over all pixels of the set, scores rounded to their bin."""
        pooled = self.total(self.histogram.reshape(len(self), -1))
        return precision.binned(pooled.reshape(2, BINS))

    def ap_mean(self) -> float:
        """Mean of the samples' exact average precisions.

        Samples without foreground have none and are left out; nan if that leaves nothing.
        """
        defined = ~np.isnan(self.ap)
        n = self.total(defined)
        return float(self.total(np.nan_to_num(self.ap)) / n) if n else float("nan")

    def bootstrap(
        self, read: Callable[[Counts], float], *, n: int = 1000, seed: int
    ) -> tuple[float, float]:
        """Return the 95% interval of a reading over images drawn with replacement.

        All samples of a drawn image come with it. The tables behind the readings are shared by all
        resamples, so that one of them costs a weighted sum.

        Args:
            read: For example `lambda c: c.miou().value`.
            n: Resamples, at least 1.
            seed: Of NumPy's default generator; the same seed gives the same interval.

        Returns:
            The 2.5% and 97.5% quantiles of the reading.

        Raises:
            ValueError: n is below 1.
        """
        values = [read(each) for each in self._resampled(read, n, seed)]
        low, high = np.quantile(values, (0.025, 0.975))
        return float(low), float(high)

    def gain_over(
        self, base: Counts, read: Callable[[Counts], float], *, n: int = 1000, seed: int
    ) -> tuple[float, tuple[float, float]]:
        """By how much a reading exceeds that of other counts of the same samples.

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

    def _resampled(self, read: Callable[[Counts], float], n: int, seed: int) -> Iterator[Counts]:
        """Counts over images drawn with replacement; `read` fills the tables that they share."""
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
