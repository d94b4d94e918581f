"""The latent cache: what the frozen autoencoder makes of a packed file, computed once.

Flat float16 arrays on disk: `images.npy` [images, c, h, w], `masks.npy` and, for each way that the
labels were refined, `refined-*s.npy` [items, c, h, w], and a checksum of each row. Rows are filled
when first asked for, so a short run encodes no more than it uses, or all at once by `fill`, in any
number of processes; an interrupted one keeps what it had. A row that doesn't fit its checksum, and
what is lost of an array that was cut off, is made again. The space of all rows is taken first.
"""

import json
import math
import os
import warnings
import zlib
from collections.abc import Callable, Sequence
from functools import cached_property
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from numpy.lib.format import open_memmap, write_array_header_1_0
from tqdm.auto import tqdm

from rlfseg.data.images import to_unit
from rlfseg.data.packed.read import Pack
from rlfseg.data.packed.refined import refined_by
from rlfseg.data.packed.schema import PackError
from rlfseg.method.types import Latent, PerSample
from rlfseg.models.latent_codec import LatentCodec
from rlfseg.stage import alone, readable, replaced

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
            OSError: if the disk has no room for all images'; for masks' it is taken when the first
                is asked for, since who scores needs none.
        """
        self.pack = pack
        self.codec = codec
        self.pixels = pack.image(0).shape[0]
        side = self.pixels // codec.factor
        shape = (int(codec.vae.config.latent_channels), side, side)
        folder.mkdir(parents=True, exist_ok=True)
        with alone(folder / ".lock"):  # of several processes one makes the files
            _tie(folder / "made_of.json", data=pack.content_hash, autoencoder=codec.identity)
            self._images = _Rows(folder, "image", (len(pack.image_ids), *shape))
        self._shape = (len(pack), *shape)
        self._folder, self._areas = folder, np.full(len(pack), np.nan, np.float32)

    def z1(self, items: Sequence[int] | np.ndarray) -> Latent:
        """Return image latents [b, c, h, w] of some items, scaled, float32."""
        images = self.pack.item_image[np.asarray(items)]
        return self._filled(self._images, images, self._encode_images)

    def z0(self, items: Sequence[int] | np.ndarray) -> Latent:
        """Return latents [b, c, h, w] of the items' annotated masks, scaled, float32."""
        return self._filled(self._masks, np.asarray(items), self._encode_annotations)

    def z0_refined(self, items: Sequence[int] | np.ndarray) -> Latent:
        """Return latents [b, c, h, w] of the items' refined masks, scaled, float32.

        Raises:
            PackError: if the packed file has no refined masks.
        """
        return self._filled(self._refined, np.asarray(items), self._encode_refined)

    def area(self, items: Sequence[int] | np.ndarray) -> PerSample:
        """Return the share of the picture [b] that the items' annotations take, in [0, 1].

        An annotation is looked at when it is first asked for.
        """
        rows = np.asarray(items)
        for row in np.unique(rows[np.isnan(self._areas[rows])]):
            self._areas[row] = self.pack.annotation(int(row)).mean()
        return torch.from_numpy(self._areas[rows]).to(self.codec.device)

    def fill(self, *, share: tuple[int, int] = (0, 1)) -> int:
        """Encode every row that is missing, of refined masks too if there are any.

        Args:
            share: this process's number and how many there are; together they fill all.

        Returns:
            How many rows this process encoded.
        """
        rank, world = share
        kinds = [(self._images, self._encode_images), (self._masks, self._encode_annotations)]
        if refined_by(self.pack.path) is not None:
            kinds.append((self._refined, self._encode_refined))
        missing = [rank + world * np.flatnonzero(~kept.filled()[rank::world]) for kept, _ in kinds]
        total = sum(map(len, missing))
        with tqdm(total=total, desc="encoding", leave=False, disable=rank > 0) as bar:
            for (kept, encode), rows in zip(kinds, missing, strict=True):
                for start in range(0, len(rows), _BATCH):
                    some = rows[start : start + _BATCH]
                    kept.keep(some, encode(some))
                    bar.update(len(some))
        return total

    @cached_property
    def _masks(self) -> "_Rows":
        with alone(self._folder / ".lock"):
            return _Rows(self._folder, "mask", self._shape)

    @cached_property
    def _refined(self) -> "_Rows":
        made_of = refined_by(self.pack.path)
        if made_of is None:
            raise PackError(
                f"{self.pack.path} has no refined masks: refine them first, or train with "
                "selection 'original'"
            )
        with alone(self._folder / ".lock"):
            return _Rows(self._folder, f"refined-{made_of}", self._shape)

    def _filled(
        self, kept: "_Rows", rows: np.ndarray, encode: Callable[[np.ndarray], Latent]
    ) -> Latent:
        wanted, places = np.unique(rows, return_inverse=True)
        values, whole = kept.read(wanted)
        missing = np.flatnonzero(~whole)
        for start in range(0, len(missing), _BATCH):
            some = missing[start : start + _BATCH]
            values[some] = kept.keep(wanted[some], encode(wanted[some]))
        latents = torch.from_numpy(values[places].astype(np.float32))
        if self.codec.device.type == "cuda":
            latents = latents.pin_memory()
        return latents.to(self.codec.device, non_blocking=True)

    def _encode_images(self, images: np.ndarray) -> Latent:
        stack = np.stack([self.pack.image(int(k)) for k in images])
        return self.codec.encode(to_unit(torch.from_numpy(stack)))

    def _encode_annotations(self, items: np.ndarray) -> Latent:
        return self._encode_masks(self.pack.annotation, items)

    def _encode_refined(self, items: np.ndarray) -> Latent:
        return self._encode_masks(self.pack.refined, items)

    def _encode_masks(self, read: Callable[[int], np.ndarray], items: np.ndarray) -> Latent:
        stack = np.stack([read(int(i)) for i in items])
        return self.codec.encode_mask(torch.from_numpy(stack))


class _Rows:
    """Values on disk, and a checksum of each row, 0 where it is not filled."""

    def __init__(self, folder: Path, name: str, shape: tuple[int, ...]) -> None:
        self.values, whole = _array(folder / f"{name}s.npy", shape, np.float16)
        self._checks, _ = _array(folder / f"{name}_checks.npy", shape[:1], np.uint32)
        self._checks[whole:] = 0

    def filled(self) -> np.ndarray:
        """Tell which rows were filled, bool [rows]."""
        return self._checks != 0

    def read(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return rows, and which of them are as they were written."""
        values = self.values[rows]
        return values, self._checks[rows] == _checksums(values)

    def keep(self, rows: np.ndarray, latents: Latent) -> np.ndarray:
        """Write rows and then their checksums; return the rows as they are kept."""
        values = latents.cpu().numpy().astype(np.float16)
        self.values[rows] = values
        self._checks[rows] = _checksums(values)
        return values


def _checksums(values: np.ndarray) -> np.ndarray:
    """A number above 0 for each row, uint32 [rows]."""
    return np.array([zlib.crc32(row.tobytes()) or 1 for row in values], np.uint32)


def _tie(path: Path, **made_of: str) -> None:
    """Write down what latents are made of, or check that it is the same."""
    if not path.exists():
        with replaced(path) as draft:
            draft.write_text(json.dumps(made_of, indent=1) + "\n")
    with readable(path):
        then = dict(json.loads(path.read_text()))
    if differ := [name for name, value in made_of.items() if then.get(name) != value]:
        raise ValueError(
            f"{path.parent} holds latents of another {' and another '.join(differ)}: delete it, or "
            "give another folder"
        )


def _array(path: Path, shape: tuple[int, ...], dtype: type) -> tuple[np.memmap, int]:
    """Open a `.npy` file for reading and writing, or make it, full of zeros.

    Returns:
        The array, and how many of its rows the file held: the first ones, if it was cut off.
    """
    head, row = BytesIO(), np.dtype(dtype).itemsize * math.prod(shape[1:])
    described = {"shape": shape, "fortran_order": False, "descr": np.dtype(dtype).str}
    write_array_header_1_0(head, described)
    size, whole = len(head.getvalue()) + shape[0] * row, shape[0]
    if not path.exists() or path.stat().st_size < len(head.getvalue()):
        whole = 0
        with replaced(path) as draft:
            draft.write_bytes(head.getvalue())
            _take(draft, size)
    elif path.stat().st_size < size:
        whole = (path.stat().st_size - len(head.getvalue())) // row
        warnings.warn(f"{path} was cut off; what it lost is encoded again", stacklevel=2)
        _take(path, size)
    with readable(path):
        values = open_memmap(path, "r+")
    if (values.shape, values.dtype) != (shape, dtype):
        held = f"{values.dtype} {values.shape}, not {np.dtype(dtype)} {shape}"
        raise ValueError(f"{path} holds {held}: delete {path.parent} and run the same again")
    return values, whole


def _take(path: Path, size: int) -> None:
    """Take a file's space on the disk: one that is full while a mapped row is written kills."""
    try:
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        raise OSError(
            f"{path} can't have its {size / 1e9:.3g} GB ({error}): free some space, or let the "
            "folder lie on another disk, and run the same again"
        ) from error
