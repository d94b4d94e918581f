"""Pictures in rows: scenes, masks, decoded latents."""

import textwrap
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor

from rlfseg.book.figures.charts import COLOURS, finished
from rlfseg.data.images import read_rgb
from rlfseg.data.masks import rasterise
from rlfseg.data.packed.read import Item
from rlfseg.data.sample import Sample
from rlfseg.evaluation.predict import spaced
from rlfseg.method.refinement import Refined
from rlfseg.method.types import Image


def as_picture(image: Image) -> np.ndarray:
    """Turn one picture [3, H, W] in [-1, 1] into [H, W, 3] in [0, 1]."""
    return ((image.detach().cpu().float().clamp(-1, 1) + 1) / 2).permute(1, 2, 0).numpy()


def pictures(
    rows: Sequence[Sequence[np.ndarray | torch.Tensor]],
    *,
    columns: Sequence[str] = (),
    labels: Sequence[str] = (),
    outlines: Mapping[tuple[int, int], Sequence[np.ndarray | None]] | None = None,
    size: float = 1.5,
) -> Figure:
    """Draw a grid of pictures.

    Args:
        rows: images [H, W, 3], uint8 or in [0, 1], or score maps [H, W], shown from 0 to 1.
        columns: titles over the first row.
        labels: texts left of the rows.
        outlines: masks to outline, by (row, column); the first in orange, the second in blue;
            None, an empty and a full one are not drawn.
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
            seen = row[c]
            picture = np.asarray(seen.detach().cpu() if isinstance(seen, torch.Tensor) else seen)
            grey = {"cmap": "gray", "vmin": 0, "vmax": 1} if picture.ndim == 2 else {}
            axis.imshow(picture, interpolation="nearest", **grey)
            for mask, colour in zip((outlines or {}).get((r, c), ()), COLOURS[1::-1], strict=False):
                if mask is not None and mask.any() and not mask.all():
                    axis.contour(mask, levels=[0.5], colors=[colour], linewidths=1.4)
            if r == 0 and c < len(columns):
                axis.set_title(columns[c], fontsize=9)
        if r < len(labels):
            axes[r][0].set_ylabel(
                labels[r], fontsize=9, rotation=0, ha="right", va="center", wrap=True
            )
    return finished(figure)


def sample_pictures(samples: Sequence[Sample], *, shown: int) -> Figure:
    """Draw evenly spaced samples of a data set: the phrase above the picture, the mask outlined."""
    some = [samples[k] for k in spaced(len(samples), shown)]
    opened = [read_rgb(sample.image_path, upright=False) for sample in some]
    captions = [textwrap.fill(sample.caption, 20) for sample in some]
    outlines = {(0, k): [rasterise(sample)] for k, sample in enumerate(some)}
    return pictures([opened], columns=captions, outlines=outlines, size=1.7)


def refinement(items: Sequence[Item], results: Sequence[Refined]) -> Figure:
    """Draw Algorithm 1 on some phrases, a row each: annotation and anchors, first, last, error.

    The error is drawn where the exact mask is known: what is missing in orange, what is too much
    in blue.
    """
    truths = [item.truth for item in items]
    columns = ["annotation, anchors", "iteration 1", "last iteration"]
    columns += ["still wrong"] if all(truth is not None for truth in truths) else []
    rows: list[list[np.ndarray]] = []
    outlines: dict[tuple[int, int], list[np.ndarray | None]] = {}
    for r, (item, result) in enumerate(zip(items, results, strict=True)):
        steps = result.steps or (item.mask,)
        rows.append([item.image] * 3)
        for c, mask in enumerate((item.mask, steps[0], result.mask)):
            outlines[r, c] = [mask] if c == 0 else [None, mask]
        if item.truth is not None and len(columns) == 4:
            rows[-1].append(_error(item.truth, result.mask))
    labels = [textwrap.fill(item.caption, 14) for item in items]
    figure = pictures(rows, columns=columns, labels=labels, outlines=outlines, size=1.7)
    for axis, result in zip(figure.axes[:: len(columns)], results, strict=True):
        x, y = result.anchors.T
        axis.scatter(x, y, s=14, color="white", edgecolors="black", linewidths=0.8)
    return figure


def segmentations(items: Sequence[Item], scores: Tensor, *, threshold: float) -> Figure:
    """Draw phrases side by side: the picture with both outlines, the score, the mask.

    Args:
        items: what was asked; the annotation is outlined in orange.
        scores: of each item [n, H, W]; the mask is where they exceed `threshold`, outlined in blue.
        threshold: in [0, 1].
    """
    masks = [np.asarray(score > threshold) for score in scores]
    rows = [[item.image for item in items], list(scores.clamp(0, 1)), masks]
    outlines = {
        (0, k): [item.mask, mask] for k, (item, mask) in enumerate(zip(items, masks, strict=True))
    }
    captions = [textwrap.fill(item.caption, 20) for item in items]
    names = ["picture", "score", "mask"]
    return pictures(rows, columns=captions, labels=names, outlines=outlines, size=1.6)


def class_maps(
    images: Sequence[np.ndarray], maps: Mapping[str, Sequence[np.ndarray]], names: Sequence[str]
) -> Figure:
    """Draw pictures over maps of classes, a colour for each name; pixels of no class are white.

    Args:
        images: [H, W, 3], uint8.
        maps: by what they are, a map [H, W] of class numbers for each image.
        names: of the classes; those that occur stand in the legend.
    """
    palette = (255 * plt.get_cmap("nipy_spectral")(np.linspace(0.06, 0.96, len(names)))).astype(int)
    colours = np.full((256, 3), 255, np.uint8)
    colours[: len(names)] = palette[:, :3]
    rows = [list(images), *([colours[each] for each in some] for some in maps.values())]
    figure = pictures(rows, labels=["picture", *maps], size=1.6)
    used = np.unique([each for some in maps.values() for each in some])
    handles = [Patch(color=colours[k] / 255, label=names[k]) for k in used if k < len(names)]
    figure.legend(handles=handles, loc="outside lower center", ncols=6, frameon=False, fontsize=8)
    return figure


def _error(truth: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Draw agreement in grey, what the mask misses in orange, what it has too much in blue."""
    drawn = np.where(truth[..., None], 0.75, 0.93) * np.ones(3)
    for wrong, colour in ((truth & ~mask, COLOURS[1]), (mask & ~truth, COLOURS[0])):
        drawn[wrong] = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return drawn
