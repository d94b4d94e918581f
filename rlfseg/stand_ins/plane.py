"""A latent of two entries, where the field that Eq. 2 asks for is known in closed form."""

from typing import Annotated, NamedTuple

import torch
from jaxtyping import Float, Int
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from rlfseg.config import STRICT, Positive
from rlfseg.method.flow import euler
from rlfseg.method.types import Latent, Text, Time, Velocity

_Point = Annotated[tuple[float, float], Field(strict=False)]
_Points = Annotated[tuple[_Point, ...], Field(min_length=1, strict=False)]


class Pairs(NamedTuple):
    """Picture and mask latents [n, 2, 1, 1] that belong together, and the kind of each pair [n]."""

    z1: Latent
    z0: Latent
    kind: Int[Tensor, " n"]


@dataclass(frozen=True, config=STRICT)
class Plane:
    """Pairs of a picture and its mask, of several kinds that are equally frequent.

    Within a kind k, pictures and masks are independent normal clouds around m1 and m0, of the
    widths s1 and s0, so that a point of the path is normal too, and

        E[z1 - z0 | zt, k] = m1 - m0 + (t s1^2 - (1 - t) s0^2) / q^2 (zt - t m1 - (1 - t) m0),
        q^2 = t^2 s1^2 + (1 - t)^2 s0^2

    Over all kinds the mean is weighted by how likely each is at zt. It is what Eq. 2 is smallest
    for among all fields (X. Liu et al., "Flow straight and fast", 2023, Sec. 2).

    Attributes:
        pictures: m1 of each kind: an entry of the latent on the background, one on the thing.
        masks: m0 of each kind.
        widths: s1 and s0.
    """

    pictures: _Points
    masks: _Points
    widths: Annotated[tuple[Positive, Positive], Field(strict=False)] = (0.2, 0.08)

    def __post_init__(self) -> None:
        """Refuse pictures without masks.

        Raises:
            ValueError: if there are not as many masks as pictures.
        """
        if len(self.pictures) != len(self.masks):
            raise ValueError(
                f"each kind has a picture and a mask, got {len(self.pictures)} pictures and "
                f"{len(self.masks)} masks"
            )

    def draw(self, count: int, *, seed: int) -> Pairs:
        """Draw pairs, of the kinds in turn."""
        g = torch.Generator().manual_seed(seed)
        kind = torch.arange(count) % len(self.pictures)
        near = torch.randn(2, count, 2, generator=g)
        means = torch.tensor([self.pictures, self.masks])[:, kind]
        z1, z0 = means + near * torch.tensor(self.widths)[:, None, None]
        return Pairs(z1[:, :, None, None], z0[:, :, None, None], kind)

    def v(self, z: Latent, t: Time, c: Text | None = None) -> Latent:
        """Return E[z1 - z0 | zt = z], the field of lowest loss.

        Args:
            z: points [b, 2, 1, 1].
            t: times [b] in [0, 1].
            c: not looked at: all pairs have one phrase.
        """
        at, times = z[:, None, :, 0, 0], t[:, None, None].to(z)  # [b, kind, entry]
        m1, m0 = (torch.tensor(each).to(z) for each in (self.pictures, self.masks))
        s1, s0 = (each**2 for each in self.widths)
        spread = times**2 * s1 + (1 - times) ** 2 * s0
        off = at - times * m1 - (1 - times) * m0
        likely = torch.softmax(-off.square().sum(-1, keepdim=True) / (2 * spread), dim=1)
        each = m1 - m0 + (times * s1 - (1 - times) * s0) / spread * off
        return (likely * each).sum(1)[:, :, None, None]


def nothing_said(z: Latent) -> Text:
    """Return the text states of a phrase that says nothing, for each of `z` [b, 2, 1, 1]."""
    return z.new_zeros(len(z), 1, 1)


def walk(v: Velocity, *, z1: Latent, steps: int) -> Float[Tensor, "k b 2"]:
    """Return all points of the walk that `euler` takes, from the pictures to its end (Eq. 8).

    Args:
        v: velocity field.
        z1: picture latents [b, 2, 1, 1].
        steps: number K of equal steps; there are K + 1 points.
    """
    seen: list[Latent] = []

    def noted(z: Latent, t: Time, c: Text) -> Latent:
        seen.append(z)
        return v(z, t, c)

    end = euler(noted, z1=z1, c=nothing_said(z1), steps=steps)
    return torch.stack([*seen, end])[..., 0, 0]
