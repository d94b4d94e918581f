"""Learning curves: best mIoU against samples seen."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlfseg.book.figures.charts import COLOURS, finished, legend_beside
from rlfseg.experiment import Curve


def learning_curves(
    panels: Mapping[str, Mapping[str, Sequence[Curve]]], *, again: str = ""
) -> Figure:
    """Draw the best mIoU against samples, of the phrase and, dashed, of another of its picture.

    Where there are several panels, each has the others' phrases in grey behind its own.

    Args:
        panels: by title, the curves in it: one of each seed, by what is trained.
        again: what the names end in that are thin lines in the colour of the name before it.
    """
    alone = len(panels) == 1
    figure, axes = plt.subplots(
        1,
        len(panels),
        figsize=(6.8, 4.0) if alone else (3.0 * len(panels), 4.6),
        squeeze=False,
        sharex=True,
        sharey=True,
        layout="constrained",
    )
    for axis, (title, curves) in zip(axes[0], panels.items(), strict=True):
        behind = [c for other, them in panels.items() if other != title for c in them.values()]
        for curve in (each for seeds in behind for each in seeds[:1]):
            axis.plot(curve.samples, 100 * curve.phrase, color="0.85", lw=0.8, zorder=1)
        _learned(axis, curves, again)
        axis.set(xscale="log", xlabel="samples seen", title=title)
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
        if alone:
            legend_beside(axis)
        else:
            axis.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.16), fontsize=9)
    axes[0][0].set_ylabel("best mIoU, %")
    return finished(figure)


def _learned(axis: Axes, curves: Mapping[str, Sequence[Curve]], again: str) -> None:
    """Draw the curves of a panel."""
    ways = list(dict.fromkeys(name.removesuffix(again) for name in curves))
    for name, seeds in curves.items():
        repeated, place = divmod(ways.index(name.removesuffix(again)), len(COLOURS))
        thin = bool(again) and name.endswith(again)
        colour, marker = COLOURS[place], "" if thin else "osD^"[repeated % 4]
        for k, curve in enumerate(seeds):
            axis.plot(
                curve.samples,
                100 * curve.phrase,
                color=colour,
                label=name if k == 0 else None,
                lw=0.9 if thin else 1.8,
                marker=marker,
                ms=3,
            )
            axis.plot(curve.samples, 100 * curve.another, color=colour, ls="--", lw=0.8, alpha=0.7)
