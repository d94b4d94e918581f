"""What is best shown as points in a plane."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from rlfseg.book.figures.charts import COLOURS, finished


def roofline(points: Mapping[str, tuple[float, float]], *, rate: float, slope: float) -> Figure:
    """Draw what the machine allows, and what parts reach.

    Args:
        points: by name, FLOP a byte and FLOP a second; what has none is left out.
        rate: FLOP a second of a matrix product, the roof's flat part.
        slope: bytes a second of a copy, its rising part.
    """
    figure, axis = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
    reach = [intensity for intensity, _ in points.values() if intensity] + [rate / slope]
    across = np.geomspace(min(1.0, min(reach) / 2), 2 * max(reach), 200)
    axis.plot(across, np.minimum(rate, slope * across) / 1e9, color="#555555", label="the machine")
    for number, (name, (intensity, reached)) in enumerate(points.items()):
        if reached:
            axis.scatter(intensity, reached / 1e9, color=COLOURS[number], label=name, zorder=3)
    axis.set(xscale="log", yscale="log", xlabel="FLOP a byte", ylabel="GFLOP a second")
    axis.legend(frameon=False)
    return finished(figure)


def before_after(scores: Mapping[str, np.ndarray]) -> Figure:
    """Draw each mask's score before and after, in [0, 1]; `scores` maps a name to [n, 2]."""
    figure, axes = plt.subplots(
        1, len(scores), figsize=(3.3 * len(scores), 3.2), squeeze=False, layout="constrained"
    )
    for axis, (name, pairs) in zip(axes[0], scores.items(), strict=True):
        axis.scatter(pairs[:, 0], pairs[:, 1], s=9, alpha=0.5, color=COLOURS[0], linewidths=0)
        axis.plot([0, 1], [0, 1], color="#555555", lw=1)
        axis.set(title=name, xlabel="annotation", xlim=(0, 1.02), ylim=(0, 1.02), aspect="equal")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_ylabel("refined")
    return finished(figure)


def clouds(points: Mapping[str, tuple[np.ndarray, np.ndarray]], *, x: str, y: str) -> Figure:
    """Draw clouds of points, each with a cross at its medians; `points` maps a name to x and y."""
    figure, axis = plt.subplots(figsize=(5.6, 3.6), layout="constrained")
    for number, (name, (across, up)) in enumerate(points.items()):
        colour = COLOURS[number]
        axis.scatter(across, up, s=12, alpha=0.45, color=colour, linewidths=0, label=name)
        axis.scatter(np.median(across), np.median(up), s=90, marker="P", color=colour, ec="white")
    axis.axvline(0, color="#555555", lw=1)
    axis.set(xlabel=x, ylabel=y, ylim=(0, None))
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return finished(figure)
