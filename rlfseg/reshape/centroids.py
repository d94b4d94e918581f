"""Where the classes stand: FlowSeg's centroids, and other ways to spread points over a cube."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

Centroids = Float[Tensor, "k c h w"]


def kronecker(count: int) -> Centroids:
    """Centroids of the Kronecker sequence, as FlowSeg is reported to place them.

        c_k = (k sqrt2, k sqrt3, k sqrt5) mod 1,    mu_k = 2 Norm(c_k) - 1

    Ours: k counts from 1, and Norm maps the smallest and largest of each axis to 0 and 1.

    Args:
        count: at least 2.

    Returns:
        mu [count, 3, 1, 1] in [-1, 1], float32.

    Raises:
        ValueError: if there are fewer than 2.
    """
    return _additive(count, (math.sqrt(2), math.sqrt(3), math.sqrt(5)))


def plastic(count: int) -> Centroids:
    """The same with the steps 1/g, 1/g^2, 1/g^3 of M. Roberts' R3 sequence, g^4 = g + 1."""
    g = 1.0
    for _ in range(60):
        g = (1 + g) ** 0.25
    return _additive(count, (1 / g, 1 / g**2, 1 / g**3))


def grid(count: int) -> Centroids:
    """The first points of the smallest cubic grid that has enough, as SemFlow spreads its colours.

    Args and returns as for `kronecker`.
    """
    _enough(count)
    side = math.ceil(round(count ** (1 / 3), 9))
    axis = torch.linspace(-1, 1, side)
    return torch.cartesian_prod(axis, axis, axis)[:count, :, None, None]


def uniform(count: int, *, seed: int) -> Centroids:
    """Centroids drawn at random in the cube; else as `kronecker`."""
    _enough(count)
    drawn = torch.rand(count, 3, generator=torch.Generator().manual_seed(seed))
    return (2 * drawn - 1)[:, :, None, None]


def spacing(mu: Centroids) -> float:
    """The smallest distance between two centroids."""
    return float(torch.pdist(mu.flatten(1).double()).min())


def _additive(count: int, steps: tuple[float, float, float]) -> Centroids:
    """Multiples of three irrational steps modulo 1, spread to the cube's faces."""
    _enough(count)
    k = torch.arange(1, count + 1, dtype=torch.float64)
    c = (k[:, None] * torch.tensor(steps, dtype=torch.float64)) % 1
    low, high = c.min(0).values, c.max(0).values
    return (2 * (c - low) / (high - low) - 1).float()[:, :, None, None]


def _enough(count: int) -> None:
    if count < 2:
        raise ValueError(f"centroids tell classes apart, so at least 2 are needed, got {count}")
