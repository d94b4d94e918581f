"""Colours that stand for classes, and what the autoencoder makes of them."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rlfseg.evaluation.confusion import IGNORED
from rlfseg.method.types import Image
from rlfseg.models.latent_codec import LatentCodec

_AT_ONCE, _FLAT = 32, 64  # pictures encoded together, and the side of one of one colour


@dataclass(frozen=True, eq=False)
class Palette:
    """The colours of a closed set of classes.

    Attributes:
        painted: (count + 1, 3) in [-1, 1], float32; the last is for pixels of no class.
        returned: (count, 3), what the autoencoder makes of them; decides which class a pixel is of.
    """

    painted: Tensor
    returned: Tensor

    def paint(self, classes: np.ndarray) -> Image:
        """Paint class maps [b, H, W], `IGNORED` where there is none, as pictures [b, 3, H, W]."""
        known = np.where(classes == IGNORED, len(self.returned), classes).astype(np.int64)
        return self.painted[torch.from_numpy(known)].permute(0, 3, 1, 2)

    def nearest(self, pictures: Image) -> np.ndarray:
        """Return the class [b, H, W], int64, whose returned colour is nearest to each pixel.

        Raises:
            ValueError: if a picture is not finite.
        """
        if not pictures.isfinite().all():
            raise ValueError("a picture that was drawn is not finite; decode it in float32")
        marks, pixels = self.returned.to(pictures), pictures.permute(0, 2, 3, 1)
        # |p - m|^2 = |p|^2 - 2 p m + |m|^2, and the first is the same for all classes
        far = marks.square().sum(1) - 2 * pixels @ marks.T
        return far.argmin(-1).cpu().numpy()


def spread(codec: LatentCodec, count: int) -> Tensor:
    """Pick `count` colours that the autoencoder returns as different as may be, [count, 3].

    Of a regular grid of colours, each filling a picture, those are taken one after the other whose
    returned colour is farthest from all that were taken.

    Deviation: SemFlow takes the grid itself. An autoencoder that has seen few colours, like the
    mini one, returns the corners of the cube as each other.
    """
    levels = 5
    while levels**3 < 2 * count:
        levels += 1
    line = torch.linspace(-1, 1, levels)
    grid = torch.cartesian_prod(line, line, line)
    flat = [
        codec.decode_image(codec.encode(_filled(some))).mean((2, 3)).cpu()
        for some in grid.split(_AT_ONCE)
    ]
    back = torch.cat(flat)
    taken = [int((back - back.mean(0)).square().sum(1).argmax())]
    while len(taken) < count:
        far = torch.cdist(back, back[taken]).amin(1)
        taken.append(int(far.argmax()))
    return grid[taken]


def _filled(some: Tensor) -> Image:
    return some[:, :, None, None].expand(-1, -1, _FLAT, _FLAT)


def calibrated(codec: LatentCodec, painted: Tensor, maps: np.ndarray) -> Palette:
    """Return the palette of some colours and what the autoencoder returns of them in class maps.

    Args:
        codec: whose autoencoder.
        painted: (count + 1, 3), the last for pixels of no class.
        maps: class maps [n, H, W] of the training split; a class that is in none keeps its colour.
    """
    palette = Palette(painted, painted[:-1].clone())
    sums, pixels = torch.zeros_like(palette.returned), torch.zeros(len(painted) - 1)
    for some in np.array_split(maps, max(1, len(maps) // _AT_ONCE)):
        back = codec.decode_image(codec.encode(palette.paint(some))).cpu().permute(0, 2, 3, 1)
        for number in range(len(pixels)):
            inside = torch.from_numpy(some == number)
            sums[number] += back[inside].sum(0)
            pixels[number] += inside.sum()
    seen = pixels > 0
    palette.returned[seen] = sums[seen] / pixels[seen, None]
    return palette
