"""Curves, histograms and bars."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import matplotlib.pyplot as plt
import numpy as np
from IPython import get_ipython
from IPython.core.pylabtools import select_figure_formats
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from rlfseg.data.masks import rasterise
from rlfseg.data.sample import Sample
from rlfseg.evaluation.counts import Counts

#: Readable in print and by colour-blind readers (Okabe and Ito).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def lines(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    x: str,
    y: str,
    log: Literal["", "x", "y", "xy"] = "",
    markers: bool = False,
) -> Figure:
    """Draw curves with a legend; `series` maps a name to its x and y values, `log` names axes.

    From the fifth on they are dashed, so that one that lies on an earlier one hides it in part.
    """
    figure, axis = plt.subplots(figsize=(6.8, 3.2), layout="constrained")
    marker = "o" if markers else ""
    for number, (name, (across, up)) in enumerate(series.items()):
        colour, dashes = COLOURS[number % len(COLOURS)], "-" if number < 4 else "--"
        axis.plot(across, up, color=colour, ls=dashes, label=name, lw=1.5, marker=marker)
    axis.set_xlabel(x)
    axis.set_ylabel(y)
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    for which in log:
        _logarithmic(axis, which)
    if len(series) > 1:
        legend_beside(axis)
    return finished(figure)


def _logarithmic(axis: Axes, which: str) -> None:
    """Make an axis logarithmic, with numbers as one writes them where it has few decades."""
    axis.set(**{f"{which}scale": "log"})
    side = {"x": axis.xaxis, "y": axis.yaxis}[which]
    low, high = side.get_view_interval()
    if high < 100 * low:
        side.set_major_locator(LogLocator(subs=(1, 2, 5)))
        side.set_major_formatter(lambda value, _: f"{value:,.10g}")
        side.set_minor_formatter(NullFormatter())


def histograms(values: Mapping[str, Sequence[float]], *, y: str, bins: int = 20) -> Figure:
    """Draw one histogram beside the other, each titled by its key."""
    figure, axes = plt.subplots(
        1, len(values), figsize=(3.2 * len(values), 2.6), squeeze=False, layout="constrained"
    )
    for axis, (name, numbers) in zip(axes[0], values.items(), strict=True):
        axis.hist(numbers, bins=bins, color=COLOURS[0])
        axis.set_xlabel(name)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_ylabel(y)
    return finished(figure)


def bars(values: Mapping[str, tuple[float, tuple[float, float]]], *, x: str) -> Figure:
    """Draw horizontal bars with intervals; `values` maps a name to its value and (low, high)."""
    figure, axis = plt.subplots(figsize=(6.4, 0.4 * len(values) + 0.8), layout="constrained")
    at = np.arange(len(values))
    means = np.array([value for value, _ in values.values()])
    ends = np.array([interval for _, interval in values.values()]).reshape(-1, 2)
    off = np.abs(ends - means[:, None]).T
    axis.barh(at, means, xerr=off, color=COLOURS[0], ecolor="#555555", capsize=3, height=0.6)
    for y, mean, high in zip(at, means, ends[:, 1], strict=True):
        end = (max(high, 0), y)
        axis.annotate(f"{mean:.1f}", end, (5, 0), textcoords="offset points", va="center")
    axis.set_yticks(at, list(values))
    axis.invert_yaxis()
    axis.margins(x=0.1)
    axis.set_xlabel(x)
    axis.spines[["top", "right"]].set_visible(False)
    return finished(figure)


def paired_bars(
    values: Mapping[str, tuple[float, float]], *, series: tuple[str, str], x: str
) -> Figure:
    """Draw two horizontal bars for each name, such as before and after, and say which is which."""
    figure, axis = plt.subplots(figsize=(6.4, 0.36 * len(values) + 1.0), layout="constrained")
    at = np.arange(len(values))
    for number, label in enumerate(series):
        each = [pair[number] for pair in values.values()]
        axis.barh(at + 0.4 * number - 0.2, each, 0.38, color=COLOURS[number], label=label)
    axis.set_yticks(at, list(values))
    axis.invert_yaxis()
    axis.set_xlabel(x)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)
    return finished(figure)


def stacked(values: Mapping[str, Mapping[str, float]], *, x: str) -> Figure:
    """Draw horizontal bars, each cut into the same parts in the same order."""
    figure, axis = plt.subplots(figsize=(6.4, 0.5 * len(values) + 1.2), layout="constrained")
    start = np.zeros(len(values))
    names = list(next(iter(values.values())))
    for number, name in enumerate(names):
        width = np.array([parts[name] for parts in values.values()])
        axis.barh(list(values), width, left=start, color=COLOURS[number], label=name, height=0.6)
        start += width
    axis.invert_yaxis()
    axis.set_xlabel(x)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(ncols=len(names), loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)
    return finished(figure)


def miou_bars(counts: Mapping[str, Counts]) -> Figure:
    """Draw the best mIoU of each with 95 % intervals over images, without groups of no phrases."""
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


def legend_beside(axis: Axes) -> None:
    """Set the legend to the right of an axis."""
    axis.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))


def smoothed(values: Sequence[float], width: int = 25) -> list[float]:
    """Return the running mean over the last `width` values, of those that are finite."""
    finite = np.isfinite(values)
    total = np.concatenate([[0.0], np.cumsum(np.where(finite, values, 0.0))])
    count = np.concatenate([[0], np.cumsum(finite)])
    last = np.arange(1, len(values) + 1)
    first = np.maximum(last - width, 0)
    with np.errstate(invalid="ignore"):  # where none is: nan
        return list((total[last] - total[first]) / (count[last] - count[first]))


def sample_histograms(samples: Sequence[Sample]) -> Figure:
    """Draw phrases a picture, words a phrase, and the area of the first thousand masks."""
    pictured = Counter(sample.image_id for sample in samples)
    return histograms(
        {
            "phrases per picture": list(pictured.values()),
            "words per phrase": [len(sample.caption.split()) for sample in samples],
            "mask area, % of the picture": [100 * rasterise(s).mean() for s in samples[:1000]],
        },
        y="count",
    )


def sweeps(swept: Mapping[str, Mapping[str, Any]], *, y: str) -> Figure:
    """Draw a panel for each parameter: IoU, boundary F and how often SAM was asked, by value.

    Args:
        swept: maps a parameter to `values`, `iou`, `boundary` and `asked`, all of one length.
        y: what IoU and boundary F are.
    """
    figure, axes = plt.subplots(
        1,
        len(swept),
        figsize=(3.1 * len(swept), 2.9),
        squeeze=False,
        sharey=True,
        layout="constrained",
    )
    for axis, (name, found) in zip(axes[0], swept.items(), strict=True):
        places = range(len(found["values"]))
        for number, (key, label) in enumerate((("iou", "IoU"), ("boundary", "boundary F"))):
            axis.plot(places, found[key], marker="o", color=COLOURS[number], label=label)
        ticks = zip(found["values"], found["asked"], strict=True)
        axis.set_xticks(places, [f"{value}\n({asked:.1f}x)" for value, asked in ticks])
        axis.set_xlabel(f"{name} (times SAM was asked)")
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_ylabel(y)
    axes[0][0].legend(frameon=False)
    return finished(figure)


def finished(figure: Figure) -> Figure:
    """Close a figure for pyplot, so that a notebook shows it once, whatever its backend.

    Jupyter's own backend says how figures become pictures; where `MPLBACKEND` names another one,
    nobody does, and a chapter would end without figures.
    """
    plt.close(figure)
    shell = get_ipython()
    if shell is not None and Figure not in shell.display_formatter.formatters["image/png"]:
        select_figure_formats(shell, {"png"}, bbox_inches="tight")
    return figure
