"""How fast masks are scored: one pass over the pixels beside a loop over the thresholds.

`histogram` counts just what the loop does; `count` gives the exact average precision too.

    python benchmarks/metrics.py

The loop is what the protocol says, word for word: for every mask and threshold, compare, count true
and false positives and misses. All score the same masks, in turns, in one process with one thread,
and must agree. Times are the processor's, so that other work on the machine does not count.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

import rlfseg  # noqa: F401  (first, before anything that imports torchvision)
from rlfseg.evaluation.counting import count, histogram
from rlfseg.evaluation.counts import Counts
from rlfseg.evaluation.grid import THRESHOLDS

BATCH = 50


def scene(count: int, *, pixels: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Smooth random scores (count, pixels, pixels), and masks that they half agree with."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((2, count, pixels, pixels)).astype(np.float32)
    rough = np.stack([gaussian_filter(part, (0, 12, 12)) for part in noise])
    rough /= rough.std()
    return 0.4 + 0.25 * rough[0], 0.7 * rough[0] + 0.7 * rough[1] > 1.0


def loop(scores: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """TP, FP and FN of each mask at each threshold, (b, 49, 3)."""
    out = np.empty((len(scores), len(THRESHOLDS), 3), np.int64)
    for i, (score, mask) in enumerate(zip(scores, masks, strict=True)):
        for k, t in enumerate(THRESHOLDS):
            found = score > t
            out[i, k] = (found & mask).sum(), (found & ~mask).sum(), (~found & mask).sum()
    return out


def main() -> None:
    """Measures and prints both."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--masks", type=int, default=1000)
    parser.add_argument("--pixels", type=int, default=512)
    given = parser.parse_args()
    torch.set_num_threads(1)
    seconds = {"loop": 0.0, "histogram": 0.0, "count": 0.0}
    counts, looped = [], []
    for start in range(0, given.masks, BATCH):
        scores, masks = scene(min(BATCH, given.masks - start), pixels=given.pixels, seed=start)
        flat = scores.reshape(len(scores), -1), masks.reshape(len(masks), -1)
        ids = [str(start + k) for k in range(len(scores))]
        times = [time.thread_time()]
        looped.append(loop(scores, masks))
        times.append(time.thread_time())
        binned = histogram(*flat)
        times.append(time.thread_time())
        counts.append(count(torch.from_numpy(scores), torch.from_numpy(masks), ids))
        times.append(time.thread_time())
        for name, taken in zip(seconds, np.diff(times), strict=True):
            seconds[name] += float(taken)
        if not np.array_equal(binned, counts[-1].histogram):
            raise SystemExit("the histograms do not agree")
    tp, fp, fn = np.moveaxis(np.concatenate(looped), -1, 0)
    plain = (tp / (1 + tp + fp + fn)).mean(0).max()
    both = Counts.concatenate(counts)
    print(f"{given.masks} masks at {given.pixels} x {given.pixels}, one thread")
    for name, spent in seconds.items():
        ratio = seconds["loop"] / spent
        print(f"{name:10}{1e3 * spent / given.masks:9.2f} ms a mask, {ratio:5.1f} times the loop")
    print(f"best mIoU {plain:.6f} and {both.miou().value:.6f}; AP {both.ap_mean():.4f}")
    if not np.isclose(plain, both.miou().value, atol=1e-9):
        raise SystemExit("they do not agree")


if __name__ == "__main__":
    main()
