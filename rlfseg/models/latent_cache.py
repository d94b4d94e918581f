"""The latent cache: what the frozen autoencoder makes of a packed file, computed once.

Flat float16 arrays on disk: `images.npy` [images, c, h, w], `masks.npy` and, for each way that the
labels were refined, `refined-*s.npy` [items, c, h, w], and whether each row is filled. Rows are
filled when first asked for, so a short run encodes no more than it uses, or all at once by `fill`,
in any number of processes; an interrupted one keeps what it had.
"""

import json
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from numpy.lib.format import open_memmap
from tqdm.auto import tqdm

from rlfseg.data.images import to_unit
from rlfseg.data.packed.read import Pack
from rlfseg.data.packed.refined import refined_by
from rlfseg.data.packed.schema import PackError
from rlfseg.method.types import Latent, PerSample
from rlfseg.models.latent_codec import LatentCodec
from rlfseg.stage import replaced

_BATCH = 32


class LatentCache:
    """Latents of a packed file's images and masks; made for one pack and one autoencoder."""

    def __init__(self, folder: Path, pack: Pack, codec: LatentCodec) -> None:
        """Open or create the arrays.

        Args:
            folder: a folder of its own for this pack and this autoencoder.
            pack: square images of one size.
            codec: whose autoencoder encodes.

        Raises:
            ValueError: if the latents there are of other data or another autoencoder.
        """
        self.pack = pack
        self.codec = codec
        self.pixels = pack.image(0).shape[0]
        side = self.pixels // codec.factor
        shape = (int(codec.vae.config.latent_channels), side, side)
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):  # of several processes one makes the files
            _tie(folder / "made_of.json", data=pack.content_hash, autoencoder=codec.identity)
            self._images = _Rows(folder, "image", (len(pack.image_ids), *shape))
            self._masks = _Rows(folder, "mask", (len(pack), *shape))
        self._folder = folder

    def z1(self, items: Sequence[int] | np.ndarray) -> Latent:
        """Return image latents [b, c, h, w] of some items, scaled, float32."""
        images = self.pack.item_image[np.asarray(items)]
        return self._filled(self._images, images, self._encode_images)

    def z0(self, items: Sequence[int] | np.ndarray) -> Latent:
        """Return latents [b, c, h, w] of the items' annotated masks, scaled, float32."""
        return self._filled(self._masks, np.asarray(items), partial(self._encode_masks, which=0))

    def z0_refined(self, items: Sequence[int] | np.ndarray) -> Latent:
        """Return latents [b, c, h, w] of the items' refined masks, scaled, float32.

        Raises:
            PackError: if the packed file has no refined masks.
        """
        encode = partial(self._encode_masks, which=2)
        return self._filled(self._refined, np.asarray(items), encode)

    def area(self, items: Sequence[int] | np.ndarray) -> PerSample:
        """Return the share of the picture [b] that the items' annotations take, in [0, 1]."""
        shares = [float(self.pack.masks(int(i))[0].mean()) for i in items]
        return torch.tensor(shares, device=self.codec.device)

    def fill(self, *, share: tuple[int, int] = (0, 1)) -> int:
        """Encode every row that is missing, of refined masks too if there are any.

        Args:
            share: this process's number and how many there are; together they fill all.

        Returns:
            How many rows this process encoded.
        """
        rank, world = share
        kinds = [(self._images, self._encode_images)]
        kinds.append((self._masks, partial(self._encode_masks, which=0)))
        if refined_by(self.pack.path) is not None:
            kinds.append((self._refined, partial(self._encode_masks, which=2)))
        missing = [rank + world * np.flatnonzero(~kept.filled[rank::world]) for kept, _ in kinds]
        total = sum(map(len, missing))
        with tqdm(total=total, desc="encoding", leave=False, disable=rank > 0) as bar:
            for (kept, encode), rows in zip(kinds, missing, strict=True):
                for start in range(0, len(rows), _BATCH):
                    some = rows[start : start + _BATCH]
                    kept.keep(some, encode(some))
                    bar.update(len(some))
        return total

    @cached_property
    def _refined(self) -> "_Rows":
        made_of = refined_by(self.pack.path)
        if made_of is None:
            raise PackError(
                f"{self.pack.path} has no refined masks: refine them first, or train with "
                "selection 'original'"
            )
        with FileLock(self._folder / ".lock"):
            return _Rows(self._folder, f"refined-{made_of}", self._masks.values.shape)

    def _filled(
        self, kept: "_Rows", rows: np.ndarray, encode: Callable[[np.ndarray], Latent]
    ) -> Latent:
        missing = np.unique(rows[~kept.filled[rows]])
        for start in range(0, len(missing), _BATCH):
            some = missing[start : start + _BATCH]
            kept.keep(some, encode(some))
        return torch.from_numpy(kept.values[rows].astype(np.float32)).to(self.codec.device)

    def _encode_images(self, images: np.ndarray) -> Latent:
        stack = np.stack([self.pack.image(int(k)) for k in images])
        return self.codec.encode(to_unit(torch.from_numpy(stack)))

    def _encode_masks(self, items: np.ndarray, *, which: int) -> Latent:
        masks = [mask for i in items if (mask := self.pack.masks(int(i))[which]) is not None]
        stack = np.stack(masks)
        return self.codec.encode_mask(torch.from_numpy(stack))


class _Rows:
    """Values on disk, and which rows of them are there."""

    def __init__(self, folder: Path, name: str, shape: tuple[int, ...]) -> None:
        self.values = _array(folder / f"{name}s.npy", shape, np.float16)
        self.filled = _array(folder / f"has_{name}.npy", shape[:1], np.bool_)

    def keep(self, rows: np.ndarray, latents: Latent) -> None:
        """Write rows, and only then that they are there."""
        self.values[rows] = latents.cpu().numpy().astype(np.float16)
        self.filled[rows] = True


def _tie(path: Path, **made_of: str) -> None:
    """Write down what latents are made of, or check that it is the same."""
    if not path.exists():
        with replaced(path) as draft:
            draft.write_text(json.dumps(made_of, indent=1) + "\n")
    then = json.loads(path.read_text())
    if differ := [name for name, value in made_of.items() if then.get(name) != value]:
        raise ValueError(
            f"{path.parent} holds latents of another {' and another '.join(differ)}: delete it, or "
            "give another folder"
        )


def _array(path: Path, shape: tuple[int, ...], dtype: type) -> np.memmap:
    """Open a `.npy` file for reading and writing, or make it, full of zeros."""
    if not path.exists():
        with replaced(path) as draft:
            open_memmap(draft, "w+", dtype=dtype, shape=shape)
    return open_memmap(path, "r+")
