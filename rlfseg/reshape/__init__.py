"""FlowSeg's answer to a discrete question: centroids, their potential, and the reshaped field.

Equations are those of "Rethinking Vector Field Learning for Generative Segmentation" (FlowSeg,
arXiv 2603.19218) as a third party's note on it reports them (ahangchen/spatial_agi,
`papers/2026-03-23_04_Rethinking_Vector_Field.md`): the paper's own text could not be had. What the
note leaves open is marked `Ours`.

Orientation as everywhere: `z1` is the image at t = 1, `z0` the answer at t = 0. FlowSeg runs the
other way; its t is 1 - t here, its x0 our z1, its x1 our z0 and its velocity the negative of ours.
Centroids are `mu` [k, c, h, w], where h and w may be 1; shares of the classes are `y` [b, k, h, w].
"""

from __future__ import annotations

from rlfseg.reshape.centroids import Centroids, grid, kronecker, plastic, spacing, uniform
from rlfseg.reshape.field import (
    EPS,
    PARTS,
    TAU,
    Shares,
    gradient,
    mixture,
    nearest,
    one_hot,
    potential,
    reshaped,
    undecided,
)

__all__ = [
    "EPS",
    "PARTS",
    "TAU",
    "Centroids",
    "Shares",
    "gradient",
    "grid",
    "kronecker",
    "mixture",
    "nearest",
    "one_hot",
    "plastic",
    "potential",
    "reshaped",
    "spacing",
    "undecided",
    "uniform",
]
