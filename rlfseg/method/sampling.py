"""From the image latent to the mask latent: one step, many steps, and one step made longer.

`z1` is the image latent, `z0` the mask latent, `dz` the one-step update, so that z0 = z1 + dz.
All samplers run without gradient. None uses classifier-free guidance.
"""

from dataclasses import dataclass
from typing import assert_never

import torch
from torch import Tensor

from rlfseg.config import SamplerConfig
from rlfseg.method.flow import at_time, euler
from rlfseg.method.types import Latent, PerSample, Text, Velocity


@dataclass(frozen=True)
class Sampled:
    """A sampled mask latent.

    Attributes:
        z0: mask latents [b, c, h, w], scaled units.
        gamma: by how much the one-step update was lengthened [b]; 0 where nothing was rescaled.
    """

    z0: Latent
    gamma: PerSample


def _update(v: Velocity, *, z1: Latent, c: Text) -> Latent:
    """Return dz, the velocity at t = 1 times the time from image to mask, which is -1."""
    return -v(z1, at_time(1.0, like=z1), c)


def _stable(*, z1: Latent, dz: Latent, z_ref: Latent, tol: float) -> tuple[Tensor, Tensor]:
    """Return the residual z_ref - (z1 + dz) and the update, both set to 0 outside the set S.

    Raises:
        ValueError: if `tol` is not positive, or tensors would broadcast into a wrong answer.
    """
    if not tol > 0:
        raise ValueError(f"tol must be positive (scaled latent units), got {tol}")
    if dz.shape != z1.shape or z_ref.shape not in (z1.shape, (1, *z1.shape[1:])):
        shapes = ", ".join(str(tuple(each.shape)) for each in (z1, dz, z_ref))
        raise ValueError(f"z1, dz and z_ref would broadcast into a wrong answer: {shapes}")
    residual = z_ref - (z1 + dz)
    inside = residual.abs() < tol
    return residual.where(inside, 0), dz.where(inside, 0)


def _lengthen(*, z1: Latent, dz: Latent, over: Tensor, under: Tensor) -> tuple[Latent, PerSample]:
    """Return z1 + dz * (1 + gamma) and gamma = over / under, which is 0 where `under` is 0."""
    gamma = torch.where(under > 0, over / under.where(under > 0, 1), 0)
    return z1 + dz * (1 + gamma[:, None, None, None]), gamma


@torch.no_grad()
def rescale(*, z1: Latent, dz: Latent, z_ref: Latent, tol: float) -> tuple[Latent, PerSample]:
    """Lengthen the one-step update by its residual on the stable entries.

    One formula with two references: the black latent (AOS: Eq. 6 and Eq. 7) or the end of a
    multi-step walk (HSS: Eq. 9 and Eq. 10).

        S     = {i : |z_ref[i] - (z1 + dz)[i]| < tol}
        gamma = sum_S |z_ref - z1 - dz| / sum_S |dz|
        z0    = z1 + dz * (1 + gamma)

    If the update is the true one shortened by 1 / (1 + d) and S holds every entry, gamma = d and
    z0 is exact. Since gamma >= 0, an update that is too long is made longer still: there
    `rescale_signed` is right and this is wrong.

    Deviation: i runs over the entries of a latent (the paper leaves open entries or positions), and
    gamma belongs to a sample. gamma = 0 if S is empty, which the paper says for HSS only, and if
    the update vanishes on S, where the ratio has no meaning.

    Args:
        z1: image latents [b, c, h, w], scaled units.
        dz: one-step update [b, c, h, w].
        z_ref: reference latents [b, c, h, w] or [1, c, h, w].
        tol: the paper's epsilon, > 0, in scaled latent units.

    Returns:
        z0 [b, c, h, w] and gamma >= 0 [b].

    Raises:
        ValueError: `tol` is not positive, or shapes differ otherwise than is said.
    """
    residual, update = _stable(z1=z1, dz=dz, z_ref=z_ref, tol=tol)
    over = residual.abs().sum(dim=(1, 2, 3))
    under = update.abs().sum(dim=(1, 2, 3))
    return _lengthen(z1=z1, dz=dz, over=over, under=under)


@torch.no_grad()
def rescale_signed(
    *, z1: Latent, dz: Latent, z_ref: Latent, tol: float
) -> tuple[Latent, PerSample]:
    """Lengthen or shorten the one-step update so that it fits the reference best on S.

        gamma = <dz, z_ref - z1 - dz>_S / <dz, dz>_S

    the least-squares solution of dz * (1 + gamma) = z_ref - z1 on the same set S as `rescale`.

    Deviation: not in the paper. Its ratio of absolute values cannot see the sign of the error; this
    one can, and equals it where residual and update are parallel and point the same way.

    Args:
        z1: image latents [b, c, h, w], scaled units.
        dz: one-step update [b, c, h, w].
        z_ref: reference latents [b, c, h, w] or [1, c, h, w].
        tol: half width of S, > 0, in scaled latent units.

    Returns:
        z0 [b, c, h, w] and gamma of either sign [b]; 0 if S is empty or the update vanishes on it.

    Raises:
        ValueError: `tol` is not positive, or shapes differ otherwise than is said.
    """
    residual, update = _stable(z1=z1, dz=dz, z_ref=z_ref, tol=tol)
    over = (update * residual).sum(dim=(1, 2, 3))
    under = update.square().sum(dim=(1, 2, 3))
    return _lengthen(z1=z1, dz=dz, over=over, under=under)


@torch.no_grad()
def one_step(v: Velocity, *, z1: Latent, c: Text) -> Sampled:
    """Jump from the image to the mask with one evaluation of the field (Eq. 5).

        dz = -v(z1, t=1, c),    z0 = z1 + dz

    Deviation: the paper writes + v(1->0); its trained field is z1 - z0, hence the minus sign.

    Args:
        v: velocity field.
        z1: image latents [b, c, h, w], scaled units.
        c: text states [b, n, d].

    Returns:
        z0, and gamma = 0.
    """
    return Sampled(z0=z1 + _update(v, z1=z1, c=c), gamma=z1.new_zeros(z1.shape[0]))


@torch.no_grad()
def multi_step(v: Velocity, *, z1: Latent, c: Text, steps: int) -> Sampled:
    """Walk from the image to the mask in equal Euler steps (Eq. 8).

        z0 = z1 - sum_k v(z(t_k), t_k, c) / K,    t_k = 1, 1 - 1/K, ..., 1/K

    Deviation: the paper gives no step sizes; they are equal.

    Args:
        v: velocity field.
        z1: image latents [b, c, h, w], scaled units.
        c: text states [b, n, d].
        steps: number K of steps, at least 1; 1 is `one_step`.

    Returns:
        z0, and gamma = 0.

    Raises:
        ValueError: `steps` is below 1.
    """
    return Sampled(z0=euler(v, z1=z1, c=c, steps=steps), gamma=z1.new_zeros(z1.shape[0]))


@torch.no_grad()
def aos(v: Velocity, *, z1: Latent, c: Text, zb: Latent, tol: float) -> Sampled:
    """Take one step, lengthened until the background is black: Adaptive One-Step Sampling.

    Args:
        v: velocity field; evaluated once.
        z1: image latents [b, c, h, w], scaled units.
        c: text states [b, n, d].
        zb: latent of a black image [1, c, h, w] or [b, c, h, w], scaled units.
        tol: entries this close to black are taken for background; > 0, scaled latent units.

    Returns:
        z0 and gamma >= 0 [b]; see `rescale`.

    Raises:
        ValueError: `tol` is not positive, or shapes differ otherwise than is said.
    """
    return Sampled(*rescale(z1=z1, dz=_update(v, z1=z1, c=c), z_ref=zb, tol=tol))


@torch.no_grad()
def aos_signed(v: Velocity, *, z1: Latent, c: Text, zb: Latent, tol: float) -> Sampled:
    """Take one step, lengthened or shortened: Adaptive One-Step Sampling with a sign.

    Deviation: not in the paper; see `rescale_signed`. Arguments and errors are those of `aos`.

    Returns:
        z0 and gamma of either sign [b].
    """
    return Sampled(*rescale_signed(z1=z1, dz=_update(v, z1=z1, c=c), z_ref=zb, tol=tol))


@torch.no_grad()
def hss(v: Velocity, *, z1: Latent, c: Text, tol: float, steps: int = 5) -> Sampled:
    """Take one step, lengthened to the reach of a walk of many: Hybrid Step Sampling.

    Args:
        v: velocity field; evaluated 1 + `steps` times.
        z1: image latents [b, c, h, w], scaled units.
        c: text states [b, n, d].
        tol: entries where both ways agree this closely are trusted; > 0, scaled latent units.
        steps: steps of the walk, at least 1; the paper uses 5.

    Returns:
        z0 and gamma >= 0 [b]; see `rescale`.

    Raises:
        ValueError: as `rescale`, or `steps` is below 1.
    """
    reference = multi_step(v, z1=z1, c=c, steps=steps).z0
    return Sampled(*rescale(z1=z1, dz=_update(v, z1=z1, c=c), z_ref=reference, tol=tol))


def sample(config: SamplerConfig, v: Velocity, *, z1: Latent, c: Text, zb: Latent) -> Sampled:
    """Run the sampler that a configuration names."""
    match config.name:
        case "one":
            return one_step(v, z1=z1, c=c)
        case "steps":
            return multi_step(v, z1=z1, c=c, steps=config.steps)
        case "aos":
            return aos(v, z1=z1, c=c, zb=zb, tol=config.tol)
        case "aos_signed":
            return aos_signed(v, z1=z1, c=c, zb=zb, tol=config.tol)
        case "hss":
            return hss(v, z1=z1, c=c, tol=config.tol, steps=config.steps)
        case _:
            assert_never(config.name)
