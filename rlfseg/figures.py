"""Every picture of the book; the only module that imports matplotlib."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import PIL.Image
import torch
from matplotlib.figure import Figure

from rlfseg.metrics import Counts
from rlfseg.sources import Sample
from rlfseg.sources.masks import rasterise
from rlfseg.types import Image

#: Readable in print and by colour-blind readers (Okabe and Ito).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def as_picture(image: Image) -> np.ndarray:
    """Turns one picture (3, H, W) in [-1, 1] into (H, W, 3) in [0, 1]."""
    return ((image.detach().cpu().float().clamp(-1, 1) + 1) / 2).permute(1, 2, 0).numpy()


def pictures(
    rows: Sequence[Sequence[np.ndarray | torch.Tensor]],
    *,
    columns: Sequence[str] = (),
    labels: Sequence[str] = (),
    outlines: Mapping[tuple[int, int], Sequence[np.ndarray]] | None = None,
    size: float = 1.5,
) -> Figure:
    """A grid of pictures.

    Args:
        rows: images (H, W, 3), uint8 or in [0, 1], or score maps (H, W), shown from 0 to 1.
        columns: titles over the first row.
        labels: texts left of the rows.
        outlines: masks to outline, by (row, column); the first in orange, the second in blue.
        size: of one picture, in inches.
    """
    wide = max(len(row) for row in rows)
    margin = 1.3 if labels else 0.1
    figure, axes = plt.subplots(
        len(rows),
        wide,
        figsize=(size * wide + margin, size * len(rows) + 0.3),
        squeeze=False,
        layout="constrained",
    )
    for r, row in enumerate(rows):
        for c in range(wide):
            axis = axes[r][c]
            axis.set_xticks([])
            axis.set_yticks([])
            axis.spines[:].set_visible(False)
            if c >= len(row):
                continue
            picture = np.asarray(row[c])
            grey = {"cmap": "gray", "vmin": 0, "vmax": 1} if picture.ndim == 2 else {}
            axis.imshow(picture, interpolation="nearest", **grey)
            for mask, colour in zip((outlines or {}).get((r, c), ()), COLOURS[1::-1], strict=False):
                axis.contour(mask, levels=[0.5], colors=[colour], linewidths=1.4)
            if r == 0 and c < len(columns):
                axis.set_title(columns[c], fontsize=9)
        if r < len(labels):
            axes[r][0].set_ylabel(
                labels[r], fontsize=9, rotation=0, ha="right", va="center", wrap=True
            )
    return _finished(figure)


def sample_pictures(samples: Sequence[Sample], *, shown: int, size: float = 1.7) -> Figure:
    """Evenly spaced samples of a data set: the phrase above the picture, the mask outlined."""
    some = samples[:: max(1, len(samples) // shown)][:shown]
    opened = [np.asarray(PIL.Image.open(sample.image_path).convert("RGB")) for sample in some]
    captions = [textwrap.fill(sample.caption, 20) for sample in some]
    outlines = {(0, k): [rasterise(sample)] for k, sample in enumerate(some)}
    return pictures([opened], columns=captions, outlines=outlines, size=size)


def sample_histograms(samples: Sequence[Sample], *, most: int = 1000) -> Figure:
    """Phrases a picture, words a phrase, and the area of the first `most` masks."""
    pictured = Counter(sample.image_id for sample in samples)
    return histograms(
        {
            "phrases per picture": list(pictured.values()),
            "words per phrase": [len(sample.caption.split()) for sample in samples],
            "mask area, % of the picture": [100 * rasterise(s).mean() for s in samples[:most]],
        },
        y="count",
    )


def lines(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    x: str,
    y: str,
    log: bool = False,
    markers: bool = False,
) -> Figure:
    """Curves with a legend; `series` maps a name to its x and y values."""
    figure, axis = plt.subplots(figsize=(6.4, 3.2), layout="constrained")
    marker = "o" if markers else ""
    for number, (name, (across, up)) in enumerate(series.items()):
        axis.plot(
            across, up, color=COLOURS[number % len(COLOURS)], label=name, lw=1.5, marker=marker
        )
    axis.set_xlabel(x)
    axis.set_ylabel(y)
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    if log:
        axis.set_yscale("log")
    if len(series) > 1:
        axis.legend(frameon=False)
    return _finished(figure)


def histograms(values: Mapping[str, Sequence[float]], *, y: str, bins: int = 20) -> Figure:
    """One histogram beside the other, each titled by its key."""
    figure, axes = plt.subplots(
        1, len(values), figsize=(3.2 * len(values), 2.6), squeeze=False, layout="constrained"
    )
    for axis, (name, numbers) in zip(axes[0], values.items(), strict=True):
        axis.hist(numbers, bins=bins, color=COLOURS[0])
        axis.set_xlabel(name)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_ylabel(y)
    return _finished(figure)


def bars(values: Mapping[str, tuple[float, tuple[float, float]]], *, x: str) -> Figure:
    """Horizontal bars with intervals; `values` maps a name to its value and (low, high)."""
    figure, axis = plt.subplots(figsize=(6.4, 0.4 * len(values) + 0.8), layout="constrained")
    at = np.arange(len(values))
    means = np.array([value for value, _ in values.values()])
    ends = np.array([interval for _, interval in values.values()])
    off = np.abs(ends - means[:, None]).T
    axis.barh(at, means, xerr=off, color=COLOURS[0], ecolor="#555555", capsize=3, height=0.6)
    for y, mean, high in zip(at, means, ends[:, 1], strict=True):
        axis.annotate(f"{mean:.1f}", (high, y), (5, 0), textcoords="offset points", va="center")
    axis.set_yticks(at, list(values))
    axis.invert_yaxis()
    axis.margins(x=0.1)
    axis.set_xlabel(x)
    axis.spines[["top", "right"]].set_visible(False)
    return _finished(figure)


def miou_bars(counts: Mapping[str, Counts]) -> Figure:
    """Best mIoU of each, with 95 % intervals over images; groups without phrases are left out."""
    return bars(
        {
            f"{name} ({len(each)})": (
                100 * each.miou().value,
                each.bootstrap(lambda drawn: 100 * drawn.miou().value, seed=0),
            )
            for name, each in counts.items()
            if len(each)
        },
        x="best mIoU, % (phrases in brackets)",
    )


def smoothed(values: Sequence[float], width: int = 25) -> list[float]:
    """Running mean over the last `width` values."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    first = np.maximum(np.arange(1, len(values) + 1) - width, 0)
    last = np.arange(1, len(values) + 1)
    return list((total[last] - total[first]) / (last - first))


def _finished(figure: Figure) -> Figure:
    """Closed for pyplot, so that a notebook shows it once."""
    plt.close(figure)
    return figure
