"""The latent cache: what the frozen autoencoder makes of a packed file, computed once.

Flat float16 arrays on disk: `images.npy` (images, c, h, w), `masks.npy` (items, c, h, w), and
whether each row is filled. Rows are filled when first asked for, so a short run encodes no more
than it uses, and an interrupted one keeps what it had.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.lib.format import open_memmap

from rlfseg.latent import Frozen
from rlfseg.pack import Pack
from rlfseg.types import Latent

_BATCH = 32


class LatentCache:
    """Latents of a packed file's images and masks; made for one pack and one autoencoder."""

    def __init__(self, folder: Path, pack: Pack, frozen: Frozen) -> None:
        """Opens or creates the arrays.

        Args:
            folder: a folder of its own for this pack and this autoencoder.
            pack: square images of one size.
            frozen: whose autoencoder encodes.

        Raises:
            ValueError: if the arrays there were made for data of another shape.
        """
        self.pack = pack
        self.frozen = frozen
        self.pixels = pack.image(0).shape[0]
        side = self.pixels // frozen.factor
        shape = (int(frozen.vae.config.latent_channels), side, side)
        folder.mkdir(parents=True, exist_ok=True)
        self._images = _array(folder / "images.npy", (len(pack.image_ids), *shape), np.float16)
        self._masks = _array(folder / "masks.npy", (len(pack), *shape), np.float16)
        self._has_image = _array(folder / "has_image.npy", (len(pack.image_ids),), np.bool_)
        self._has_mask = _array(folder / "has_mask.npy", (len(pack),), np.bool_)

    def z1(self, items: Sequence[int] | np.ndarray) -> Latent:
        """Image latents (b, c, h, w) of some items, scaled, float32."""
        images = self.pack.item_image[np.asarray(items)]
        return self._rows(self._images, self._has_image, images, self._encode_images)

    def z0(self, items: Sequence[int] | np.ndarray) -> Latent:
        """Latents (b, c, h, w) of the items' annotated masks, scaled, float32."""
        return self._rows(self._masks, self._has_mask, np.asarray(items), self._encode_masks)

    def _rows(
        self,
        array: np.memmap,
        filled: np.memmap,
        rows: np.ndarray,
        encode: Callable[[np.ndarray], Latent],
    ) -> Latent:
        missing = np.unique(rows[~filled[rows]])
        for start in range(0, len(missing), _BATCH):
            some = missing[start : start + _BATCH]
            array[some] = encode(some).cpu().numpy().astype(np.float16)
            filled[some] = True  # after the row itself, so that a filled row is a whole one
        return torch.from_numpy(array[rows].astype(np.float32)).to(self.frozen.device)

    def _encode_images(self, images: np.ndarray) -> Latent:
        stack = np.stack([self.pack.image(int(k)) for k in images])
        return self.frozen.encode(torch.from_numpy(stack).permute(0, 3, 1, 2) / 127.5 - 1)

    def _encode_masks(self, items: np.ndarray) -> Latent:
        stack = np.stack([self.pack.masks(int(i))[0] for i in items])
        return self.frozen.encode_mask(torch.from_numpy(stack))


def _array(path: Path, shape: tuple[int, ...], dtype: type) -> np.memmap:
    """Opens a `.npy` file for reading and writing, or makes it, full of zeros."""
    if not path.exists():
        return open_memmap(path, "w+", dtype=dtype, shape=shape)
    array = open_memmap(path, "r+")
    if array.shape != shape or array.dtype != dtype:
        raise ValueError(f"{path}: {array.shape} {array.dtype}, not {shape}; delete its folder")
    return array
