"""FlowSeg's answer to a discrete question: centroids, their potential, and the reshaped field.

Equations are those of "Rethinking Vector Field Learning for Generative Segmentation" (FlowSeg,
arXiv 2603.19218) as a third party's note on it reports them (ahangchen/spatial_agi,
`papers/2026-03-23_04_Rethinking_Vector_Field.md`): the paper's own text could not be had. What the
note leaves open is marked `Ours`.

Orientation as everywhere: `z1` is the image at t = 1, `z0` the answer at t = 0. FlowSeg runs the
other way; its t is 1 - t here, its x0 our z1, its x1 our z0 and its velocity the negative of ours.
Centroids are `mu` [k, c, h, w], where h and w may be 1; shares of the classes are `y` [b, k, h, w].
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rlfseg.method.types import Latent, Time

Centroids = Float[Tensor, "k c h w"]
Shares = Float[Tensor, "b k h w"]

#: Ours: the note gives neither. At tau = 1 the force near a centroid grows linearly.
EPS, TAU = 1e-2, 1.0
PARTS = ("both", "attraction", "repulsion")


def kronecker(count: int) -> Centroids:
    """Place centroids on the Kronecker sequence, as FlowSeg is reported to do.

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
    """Do the same with the steps 1/g, 1/g^2, 1/g^3 of M. Roberts' R3 sequence, g^4 = g + 1."""
    g = 1.0
    for _ in range(60):
        g = (1 + g) ** 0.25
    return _additive(count, (1 / g, 1 / g**2, 1 / g**3))


def grid(count: int) -> Centroids:
    """Take the first points of the smallest cubic grid that has enough, as SemFlow spreads colours.

    Args and returns as for `kronecker`.
    """
    _enough(count)
    side = math.ceil(round(count ** (1 / 3), 9))
    axis = torch.linspace(-1, 1, side)
    return torch.cartesian_prod(axis, axis, axis)[:count, :, None, None]


def uniform(count: int, *, seed: int) -> Centroids:
    """Draw centroids at random in the cube; else as `kronecker`."""
    _enough(count)
    drawn = torch.rand(count, 3, generator=torch.Generator().manual_seed(seed))
    return (2 * drawn - 1)[:, :, None, None]


def spacing(mu: Centroids) -> float:
    """Return the smallest distance between two centroids."""
    return float(torch.pdist(mu.flatten(1).double()).min())


def _additive(count: int, steps: tuple[float, float, float]) -> Centroids:
    """Spread multiples of three irrational steps, modulo 1, to the cube's faces."""
    _enough(count)
    k = torch.arange(1, count + 1, dtype=torch.float64)
    c = (k[:, None] * torch.tensor(steps, dtype=torch.float64)) % 1
    low, high = c.min(0).values, c.max(0).values
    return (2 * (c - low) / (high - low) - 1).float()[:, :, None, None]


def _enough(count: int) -> None:
    if count < 2:
        raise ValueError(f"centroids tell classes apart, so at least 2 are needed, got {count}")


def nearest(z: Latent, mu: Centroids) -> Int[Tensor, "b h w"]:
    """Decode: return the number of the nearest centroid at each position (FlowSeg's last step)."""
    return _distances(z, mu)[1].argmin(1)


def one_hot(classes: Int[Tensor, "b h w"], count: int) -> Shares:
    """Turn classes into shares: 1 for a position's own class, 0 for the others; float32."""
    return torch.nn.functional.one_hot(classes, count).movedim(-1, 1).float()


def mixture(*, z0: Latent, mu: Centroids) -> Shares:
    """Measure how far a latent lies between two centroids, as shares of the two.

        a = clip(<z0 - mu_0, mu_1 - mu_0> / |mu_1 - mu_0|^2, 0, 1),    y = (1 - a, a)

    Ours: what stands for the classes in RLFSeg, whose centroids are the black and the white latent
    and whose positions at a mask's edge are neither.

    Args:
        z0: mask latents [b, c, h, w], scaled units.
        mu: exactly two centroids.

    Raises:
        ValueError: if there are not two.
    """
    if len(mu) != 2:
        raise ValueError(f"a mixture is of two centroids, got {len(mu)}")
    way = mu[1] - mu[0]
    along = ((z0 - mu[0]) * way).sum(1) / way.square().sum(0).clamp_min(1e-12)
    a = along.clamp(0, 1)
    return torch.stack([1 - a, a], 1)


def potential(
    z0_hat: Latent, *, y: Shares, mu: Centroids, eps: float = EPS, tau: float = TAU
) -> Float[Tensor, "b h w"]:
    """Return the distance-aware potential Phi: cross-entropy on log-distances.

        d_k = |z0_hat - mu_k|^2,    p = softmax(-log(d + eps) / tau),    Phi = -sum_k y_k log p_k

    Args:
        z0_hat: predicted answer zt - t v [b, c, h, w].
        y: shares of the classes, which add up to 1.
        mu: centroids.
        eps: added to squared distances.
        tau: temperature.

    Returns:
        Phi at each position, at least 0.
    """
    logits = -(_distances(z0_hat, mu)[1] + eps).log() / tau
    return -(y * logits.log_softmax(1)).sum(1)


def gradient(
    z0_hat: Latent,
    *,
    y: Shares,
    mu: Centroids,
    eps: float = EPS,
    tau: float = TAU,
    part: str = "both",
) -> Latent:
    """Return the gradient of Phi with respect to z0_hat, in closed form.

        grad Phi = (2 / tau) sum_k (y_k - p_k) (z0_hat - mu_k) / (d_k + eps)

    Terms with y_k > p_k attract, the others repel. Near the true centroid, for eps -> 0, the
    attraction goes as r^(2/tau - 1): linear at tau = 1, constant at tau = 2.

    Args:
        z0_hat: predicted answer [b, c, h, w].
        y: shares of the classes.
        mu: centroids.
        eps: as for `potential`.
        tau: as for `potential`.
        part: `both`, or of the sum only the `attraction` or the `repulsion` (ours).

    Returns:
        [b, c, h, w], like z0_hat.

    Raises:
        ValueError: for another part.
    """
    if part not in PARTS:
        raise ValueError(f"part must be one of {PARTS}, got {part!r}")
    away, d = _distances(z0_hat, mu)
    weight = y - (-(d + eps).log() / tau).softmax(1)
    if part != "both":
        weight = weight.clamp_min(0) if part == "attraction" else weight.clamp_max(0)
    return (2 / tau) * ((weight / (d + eps))[:, :, None] * away).sum(1)


def reshaped(
    *,
    z0: Latent,
    v_pred: Latent,
    zt: Latent,
    t: Time,
    y: Shares,
    mu: Centroids,
    part: str = "both",
    detach: bool = True,
) -> Latent:
    """Return what takes z0's place in the flow's loss, so that its target is the reshaped one.

        v~ = (z1 - z0) + grad Phi(zt - t v_pred) = z1 - (z0 - grad Phi),    L = |v_pred - sg(v~)|^2

    The gradient of L in v_pred is that of `|v_pred - (z1 - z0)|^2 + 2 Phi / t`: flow matching plus
    a cross-entropy weighted by time (squares summed over channels). That holds because of the
    stop-gradient.

    Args:
        z0: true answer [b, c, h, w].
        v_pred: predicted velocity at (zt, t).
        zt: point of the path.
        t: time [b]; 1 is the image.
        y: shares of the classes.
        mu: centroids.
        part: as for `gradient`.
        detach: False leaves the stop-gradient out (ours, to show what it does).

    Returns:
        z0 - sg(grad Phi), [b, c, h, w].

    Raises:
        ValueError: as `gradient`.
    """
    g = gradient(zt - t[:, None, None, None] * v_pred, y=y, mu=mu, part=part)
    return z0 - (g.detach() if detach else g)


def undecided(
    mu: Centroids, pairs: Int[Tensor, "n 2"], *, reshape: bool, odds: float = 0.5
) -> Latent:
    """Find where a network goes that can't tell two classes apart: its expected loss's minimum.

        z0* = argmin_z E_y [|z - mu_y|^2 + 2 Phi_y(z)],    the second term only with `reshape`

    This is the loss at t = 1, by the identity in `reshaped`; without the second term its minimum
    is the mean. With it there are several minima: descent from the mean and from either class's
    centroid ends in three places, of which the lowest is returned.

    Args:
        mu: centroids [k, c, 1, 1].
        pairs: numbers of the two classes.
        reshape: whether the field is reshaped.
        odds: of the first class.

    Returns:
        A point for each pair, [n, c, 1, 1].
    """
    y = odds * one_hot(pairs[:, :1, None], len(mu)) + (1 - odds) * one_hot(
        pairs[:, 1:, None], len(mu)
    )
    mean = (y[:, :, None] * mu[None]).sum(1)
    if not reshape:
        return mean
    ends, losses = [], []
    for z in (mean, *mu[pairs].unbind(1)):
        for step in range(2000):
            rate = 0.02 / (1 + step / 200)
            z = z - rate * (z - mean + gradient(z, y=y, mu=mu))
        ends.append(z)
        losses.append((z - mean).square().sum(1) + 2 * potential(z, y=y, mu=mu))
    lowest = torch.stack(losses).argmin(0)[:, 0, 0]
    return torch.stack(ends)[lowest, torch.arange(len(pairs))]


def _distances(z0_hat: Latent, mu: Centroids) -> tuple[Float[Tensor, "b k c h w"], Shares]:
    """Return the differences from every centroid, and their squares summed over channels."""
    away = z0_hat[:, None] - mu[None]
    return away, away.square().sum(2)
